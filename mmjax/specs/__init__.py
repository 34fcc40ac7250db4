"""Settings as frozen dataclasses, each with its own checks."""
