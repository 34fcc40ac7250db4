"""The door to the benchmarks of a checkout."""
