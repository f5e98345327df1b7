from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.standard_nodes import standard_nodes_made_once


@pytest.fixture(scope="session", autouse=True)
def _standard_nodes() -> Iterator[None]:
    with standard_nodes_made_once():
        yield
