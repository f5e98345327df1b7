"""What the reconciler tells of tags that are not as configured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gateway.data_acquisition import OpcuaSource
from tests.gateway.data_acquisition.small_plant import SmallPlant, Store, collecting, until

MakeSource = Callable[..., OpcuaSource]
MOVED = "nsu=urn:replaced;s=speed_rpm"


async def test_a_tag_read_by_its_path_is_noted_until_its_id_is_right(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """The values of a node that has another id now are stored, and /health has the note meanwhile."""
    source = source_of(plant, channels=("speed_rpm",))
    right = source.wanted
    source.change(replace(right, tags=tuple(replace(tag, node=MOVED) for tag in right.tags)))
    async with collecting(source, store):
        await until(lambda: store.seconds("speed_rpm") == [0.0])
        assert "no namespace 'urn:replaced'" in source.counters.notes["pump-01/speed_rpm"]
        assert source.counters.missing == {}
        source.change(right)
        await until(lambda: "replaced" not in source.counters.notes.get("pump-01/speed_rpm", ""))
