"""Benchmarks: one file each, one table printed. Timings live here, never in tests."""
