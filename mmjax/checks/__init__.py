"""What comes from outside, held against what is expected of it."""
