"""Fitting the live models to single assets: confirmed by people, bounded by the bundle, taken back at any time."""
