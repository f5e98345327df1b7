"""How good a model is on assets it has not seen, and whether that is good enough to replace what is live."""
