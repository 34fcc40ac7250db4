"""Readers of foreign weight formats: a file in, named numpy arrays out. No pickle, no jax."""
