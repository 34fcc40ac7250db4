"""Data: sources, pipelines and caches."""
