"""The door to `mmjax.synthesis`: `python -m mmjax.synthesize`."""
