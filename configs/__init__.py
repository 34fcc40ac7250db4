"""Recipes: one file each, with the command, what it needs and what was measured."""
