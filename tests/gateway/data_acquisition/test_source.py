from __future__ import annotations

from collections.abc import Callable

from gateway.data_acquisition import OpcuaSource
from tests.gateway.data_acquisition.small_plant import SmallPlant, Store, collecting, until

MakeSource = Callable[..., OpcuaSource]


async def test_values_arrive_with_time_and_value(plant: SmallPlant, source_of: MakeSource, store: Store) -> None:
    """Every change of a channel arrives once, over an encrypted channel, in order."""
    source = source_of(plant)
    async with collecting(source, store):
        await until(lambda: store.seconds("speed_rpm") == [0.0])
        for second in range(1, 6):
            await plant.write("speed_rpm", second, float(second))
        await until(lambda: len(store.seconds("speed_rpm")) == 6)
    assert store.seconds("speed_rpm") == [0, 1, 2, 3, 4, 5]
    assert store.values("speed_rpm") == [0, 1, 2, 3, 4, 5]
