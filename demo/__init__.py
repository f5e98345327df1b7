"""A simulated plant behind real OPC UA servers, and the one-command demo on it."""
