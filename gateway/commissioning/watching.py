"""Some nodes watched for some seconds, with what the gateway itself watches with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from gateway.commissioning.server_argument import Session
from gateway.config import Mode
from gateway.data_acquisition.columns import Columns, observed
from gateway.data_acquisition.polling import Polling
from gateway.data_acquisition.publishing import Item, Publishing, Revised
from gateway.progress import Progress

_TURN_S = 0.25
_QUEUED = 64


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """What came in one message.

    Attributes:
        values: The values.
        received_ns: The clock here, ns since 1970 UTC.
    """

    values: Columns
    received_ns: int


@dataclass(kw_only=True)
class Granted:
    """What the server granted, by handle.

    Attributes:
        refused: Items it does not monitor, with the reason.
        revised: Sampling intervals and queue sizes.
        notes: What else it did not grant.
    """

    refused: dict[int, str] = field(default_factory=dict)
    revised: dict[int, Revised] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)


async def watched(
    opened: Session, server: str, items: Sequence[Item], seconds: float, granted: Granted, progress: Progress
) -> AsyncGenerator[Arrived, None]:
    """Yield what *items* tell within *seconds*, subscribed to or polled as their sampling says.

    Args:
        opened: The session.
        server: The server's name, for messages.
        items: What to watch.
        seconds: From when all is watched.
        granted: Filled with what the server granted.
        progress: Told the seconds that passed.

    Raises:
        SourceUnavailable: If the link is lost.
    """
    publishing = await Publishing.start(opened.client, server, opened.profile)
    polled = [item for item in items if item.sampling.mode is Mode.POLL]
    readings: asyncio.Queue[Columns | Exception] = asyncio.Queue(_QUEUED)
    reader = asyncio.create_task(_poll(Polling(opened.client, server, polled, opened.profile.limits), readings))
    try:
        granted.refused |= await publishing.watch([item for item in items if item.sampling.mode is not Mode.POLL])
        granted.revised |= publishing.revised
        granted.notes |= publishing.notes
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            progress(round(seconds - left), round(seconds))
            for values in _taken(readings):
                yield Arrived(values=values, received_ns=time.time_ns())
            message = await publishing.next(min(_TURN_S, left))
            if message is None or message.values is None:
                continue
            publishing.acknowledge(message)
            yield Arrived(values=observed(message.values), received_ns=message.received_time)
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await publishing.close()


async def _poll(polling: Polling, readings: asyncio.Queue[Columns | Exception]) -> None:
    try:
        async with aclosing(polling.readings()) as answers:
            async for values in answers:
                await readings.put(values)
    except Exception as error:  # noqa: BLE001 - raised again where the readings are taken
        await readings.put(error)


def _taken(readings: asyncio.Queue[Columns | Exception]) -> Collection[Columns]:
    taken = []
    while not readings.empty():
        answer = readings.get_nowait()
        if isinstance(answer, Exception):
            raise answer
        taken.append(answer)
    return taken
