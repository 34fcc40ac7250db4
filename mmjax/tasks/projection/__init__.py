"""Small projections of frozen embeddings."""
