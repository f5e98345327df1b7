"""What of a segment is sent: the streams that stay here, by the upload policy of each channel."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from gateway.config import GatewayConfig, Upload
from models.records import Stream

_DAY_S = 86_400.0


class Policies:
    """The upload policy of every stream; the configuration may change while the gateway runs.

    Args:
        config: Returns the configuration as it is now.
    """

    def __init__(self, config: Callable[[], GatewayConfig]) -> None:
        self._config = config

    @property
    def everything(self) -> bool:
        """Whether everything is sent, so that nobody need look."""
        return self._chosen() == {Upload.EVERYTHING}

    @property
    def has_budget(self) -> bool:
        """Whether some channel's raw values are sent within a budget."""
        return Upload.BUDGET in self._chosen()

    def _chosen(self) -> set[Upload]:
        config = self._config()
        chosen = {config.uplink.upload if config.uplink is not None else Upload.EVERYTHING}
        for asset_class in config.asset_class.values():
            chosen |= {upload for upload in (asset_class.upload, *asset_class.channel_upload.values()) if upload}
        return chosen

    def kept_back(self, streams: Collection[Stream]) -> frozenset[Stream]:
        """Return those of *streams* whose raw values are not sent with their segment."""
        return self._with(streams, Upload.FEATURES, Upload.EVENTS)

    def budgeted(self, streams: Collection[Stream]) -> frozenset[Stream]:
        """Return those of *streams* whose raw values are sent while the budget lasts."""
        return self._with(streams, Upload.BUDGET)

    def _with(self, streams: Collection[Stream], *uploads: Upload) -> frozenset[Stream]:
        told = self._config().uploads_of(streams)
        return frozenset(stream for stream in streams if told[stream] in uploads)


class Budget:
    """Bytes of raw values that may be sent, refilled evenly over the day, by running time: a clock step gives nothing.

    Args:
        bytes_per_day: What a day gives, and the most that is saved up.
        left: What was left when the gateway stopped; the whole day's by default.
        clock: Seconds that run evenly.
    """

    def __init__(
        self, bytes_per_day: float, left: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_day = bytes_per_day
        self._clock = clock
        self._left = bytes_per_day if left is None else min(left, bytes_per_day)
        self._as_of = clock()

    @property
    def left(self) -> float:
        """Bytes that may be spent now."""
        now = self._clock()
        self._left = min(self._per_day, self._left + (now - self._as_of) * self._per_day / _DAY_S)
        self._as_of = now
        return self._left

    def spend(self, size: int) -> bool:
        """Take *size* bytes, or nothing when they are not left; return whether they were."""
        if size > self.left:
            return False
        self._left -= size
        return True
