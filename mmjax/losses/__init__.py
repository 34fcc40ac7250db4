"""Losses: pure functions of features; each says over what it averages."""
