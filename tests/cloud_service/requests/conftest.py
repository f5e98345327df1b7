"""A database alone, for what needs no listener."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from cloud_service.store import Store


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A database of which nothing is known."""
    store = Store(tmp_path / "cloud.sqlite")
    with store.writing() as opened:
        yield opened
    store.close()
