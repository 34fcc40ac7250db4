"""Weights of other projects: readers of their files, tables of their names, where they lie."""
