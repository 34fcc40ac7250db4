"""Benchmarks, each beside its peers; `python -m mmjax.bench` runs them in a checkout."""
