"""Others' code that does the same work: each file is imported in its side's own process."""
