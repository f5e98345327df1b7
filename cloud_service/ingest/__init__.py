"""Ingest: segments come in, once each, and are answered by ledger."""
