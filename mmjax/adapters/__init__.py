"""Adapters: the small trainable modules. Linen modules live here and in `encoders` alone."""
