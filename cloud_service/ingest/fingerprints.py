"""Fingerprints of pages, which have moved to `models.fingerprints`."""

from models.fingerprints import UInt64Array, page_fingerprints

__all__ = ["UInt64Array", "page_fingerprints"]
