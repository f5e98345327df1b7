"""The plant of the demo: simulated or replayed machines behind a real OPC UA server per cell."""
