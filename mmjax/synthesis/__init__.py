"""Domain post-training data: generate tasks from captions, filter them, compose conversations.

Source: Cheng et al. 2025 (AdaMLLM, arXiv 2411.19930).
"""
