"""A bundle: a signed release of models for one asset class."""
