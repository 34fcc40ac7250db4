"""Other projects' checkpoint and data formats."""
