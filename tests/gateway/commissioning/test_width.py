"""Tables in narrow terminals."""

from __future__ import annotations

import pytest

from gateway.commissioning.width import fitted, kept, with_text

ROWS = [("a", "nsu=urn:plant;s=one", "x" * 10), ("bb", "nsu=urn:plant;s=two", "y" * 10)]


@pytest.mark.parametrize(
    ("room", "shown"), [(None, [0, 1, 2]), (35, [0, 1, 2]), (34, [0, 2]), (14, [0, 2]), (13, [0]), (1, [0])]
)
def test_columns_give_way_in_order(room: int | None, shown: list[int]) -> None:
    """The least important first, as many as it takes; an empty one is never shown."""
    assert kept([2, 19, 10, 0], (1, 2), room) == shown


@pytest.mark.parametrize(
    ("room", "ids", "note"),
    [
        (35, ("nsu=urn:plant;s=one", "nsu=urn:plant;s=two"), ""),
        (34, ("s=one", "s=two"), "ids begin with nsu=urn:plant;"),
        (20, (), "ids are not shown"),
    ],
)
def test_a_namespace_that_all_share_is_told_once(room: int, ids: tuple[str, ...], note: str) -> None:
    """Before ids are left out altogether, which is told too."""
    rows, shown, told = fitted(ROWS, 1, (1,), room)
    assert tuple(row[1] for row in rows if 1 in shown) == ids
    assert told.startswith(note)
    assert bool(told) == bool(note)


def test_a_text_without_room_goes_on_below() -> None:
    """Each part on lines of its own, no wider than the terminal."""
    parts = ["one two three four five six", "seven"]
    assert with_text("cells  ", parts, 4, None) == ["cells    one two three four five six; seven"]
    lines = with_text("cells", parts, 4, 34)
    assert lines == ["cells", "    one two three four five six", "    seven"]
    assert with_text("cells  ", [], 4, 2) == ["cells"]
