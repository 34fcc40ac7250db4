"""Prompts and adapters for few-shot classification."""
