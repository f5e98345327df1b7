from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.journal import Journal


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    """A new journal of gateway gw-1."""
    opened = await Journal.open(tmp_path, "gw-1")
    yield opened
    await opened.close()
