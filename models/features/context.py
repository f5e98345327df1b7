"""The former name of ``Histories``."""

from __future__ import annotations

from models.features.history import Histories as Context

__all__ = ["Context"]
