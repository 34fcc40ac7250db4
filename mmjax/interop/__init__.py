"""Other projects' adapter formats, both ways."""
