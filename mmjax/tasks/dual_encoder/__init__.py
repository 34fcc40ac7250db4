"""A dual encoder: made of towers, taken as it is, or adapted to a language or a domain."""
