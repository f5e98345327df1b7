"""Blocks two to five, and the monitor that reads the journal through all of them."""
