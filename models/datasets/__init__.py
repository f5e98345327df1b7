"""Readers of public data sets; files are checked as if somebody hostile had written them."""

from models.datasets.files import DatasetError

__all__ = ["DatasetError"]
