"""Benchmarks: one file each, tables printed. Timings live here, never in tests."""
