"""Tasks: what is trained, on which frozen features, with which objective."""
