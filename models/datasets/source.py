"""A folder and its description: the tables and rows that it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.datasets.description import Description, Patterns
from models.datasets.rows import Picked, Rows, files_of, joined_rows, read_tables
from models.datasets.table import Table

DEFAULT_FOLDS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder and what its description says."""

    folder: Path
    told: Description

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.told.name or self.folder.resolve().name

    def tables(self, patterns: Patterns, key: str) -> tuple[Table, ...]:
        """Return the tables in the files that *patterns* name."""
        named = (patterns,) if isinstance(patterns, str) else patterns
        return read_tables(files_of(self.folder, named, key), self.told)

    def rows(self, tables: Sequence[Table], channels: Sequence[Picked]) -> Rows:
        """Return the rows of *tables* put together."""
        return joined_rows(self.folder, self.told, tables, channels)
