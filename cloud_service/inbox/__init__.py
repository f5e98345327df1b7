"""The inbox: web pages of open advisories."""
