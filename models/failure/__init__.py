"""Health assessment: which failure mode a window shows."""
