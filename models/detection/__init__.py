"""State detection: how far a window is from ordinary, and what makes it so."""
