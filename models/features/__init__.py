"""Data manipulation: from observations to the models' inputs. NumPy alone, the same on both sides."""
