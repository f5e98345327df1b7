"""The edge: reads machines, stores every value, runs signed models on the spot."""
