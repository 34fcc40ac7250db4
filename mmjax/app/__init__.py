"""A page in the browser for a trained adapter: search, classify, or chat about a picture."""
