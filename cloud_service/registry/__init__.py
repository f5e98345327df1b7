"""The registry: every version of every asset class's bundle, and which one is live."""
