"""Prognostic assessment: how long the asset will go on."""
