"""An OPC UA server as a source of batches: for ever, without loss, each stream in the order of its measurements."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import structlog
from asyncua.client.client import Client
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from gateway.config import (
    AcquisitionConfig,
    AssetClassConfig,
    AssetConfig,
    GatewayConfig,
    ServerConfig,
    server_warnings,
)
from gateway.data_acquisition.batch import AcquisitionCounters, Batch
from gateway.data_acquisition.certificate import application_uri, ensure_application_certificate
from gateway.data_acquisition.columns import MalformedMessage
from gateway.data_acquisition.connection import Identity, connected
from gateway.data_acquisition.limits import MOST, read_limits
from gateway.data_acquisition.live import Live
from gateway.data_acquisition.subscription import Subscription
from gateway.errors import ConfigError, SourceUnavailable
from models.records import AssetDescription, GatewayEvent, Results, Stream

log = structlog.get_logger()

_BACK_OFF_FIRST_S = 0.25
_BACK_OFF_MOST_S = 15.0
_TOO_LARGE = frozenset(
    {StatusCodes.BadTooManyOperations, StatusCodes.BadRequestTooLarge, StatusCodes.BadResponseTooLarge,
     StatusCodes.BadEncodingLimitsExceeded}
)  # fmt: skip


class OpcuaSource:
    """All assets of one OPC UA server.

    `batches` connects, and reconnects for ever. After each connection it subscribes first; the first value of each
    stream tells where live begins, and history fills what lies between the newest stored value and that one, oldest
    first. Only then come the live values, which waited unacknowledged. The first of them may be the newest stored
    one again; the journal knows and drops it.

    Args:
        server: The server.
        assets: The assets that are read from it.
        acquisition: Sampling and publishing.
        gateway_id: Names the gateway in its certificate.
        asset_classes: Which channels the classes have.
        pki_dir: Own certificate and trust list.
        newest: Gives the newest stored source time of a stream, ns, or None when nothing of it is stored.
    """

    def __init__(
        self,
        server: ServerConfig,
        assets: Sequence[AssetConfig],
        acquisition: AcquisitionConfig,
        *,
        gateway_id: str,
        asset_classes: Mapping[str, AssetClassConfig],
        pki_dir: Path,
        newest: Callable[[Stream], int | None],
    ) -> None:
        self.server = server
        self.counters = AcquisitionCounters()
        self._assets = tuple(assets)
        self._acquisition = acquisition
        self._channels = {name: asset_class.channels for name, asset_class in asset_classes.items()}
        self._identity = Identity(
            application_uri=application_uri(gateway_id), common_name=f"Wearsight gateway {gateway_id}", pki_dir=pki_dir
        )
        self._newest = newest
        self._described: tuple[AssetDescription, ...] = ()
        self._connections = 0
        self._at_most = MOST

    @property
    def connected(self) -> bool:
        """Whether values are coming in, or would if there were any."""
        return self.counters.connected

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is not as it should be: weaker security, no connection, channels left out; one sentence each."""
        trouble = (self.counters.trouble,) if self.counters.trouble else ()
        untimed = self.counters.untimed
        names = ", ".join(untimed[:5]) + " and others" * (len(untimed) > 5)
        told = f"{self.server.name}: no source time comes with {names}; the server's is taken for when it was measured"
        timing = (told,) if untimed else ()
        return (*server_warnings(self.server), *trouble, *self.counters.missing.values(), *timing)

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Yield batches for ever; each waits at the server until it is acknowledged.

        Raises:
            ConfigError: If own certificate or password cannot be used.
        """
        identity = self._identity
        await asyncio.to_thread(
            ensure_application_certificate, identity.pki_dir, identity.application_uri, identity.common_name
        )
        failures = 0
        while True:
            acknowledged = self.counters.observations
            try:
                async with connected(self.server, identity) as client, aclosing(self._over(client)) as batches:
                    async for batch in batches:
                        yield batch
                trouble = f"{self.server.name}: the connection ended; it is made anew"
            except ConfigError:
                raise
            except (SourceUnavailable, MalformedMessage, UaError, OSError) as error:
                trouble = self._ask_for_less(error) or str(error) or type(error).__name__
            except Exception as error:  # whatever a server's answer sets off in the stack: the others go on
                log.exception("unexpected failure", server=self.server.name)
                trouble = f"{self.server.name}: {error!r}; the connection is made anew"
            if trouble != self.counters.trouble:
                self.counters.trouble = trouble
                log.warning("source unavailable", server=self.server.name, reason=trouble)
                yield Batch(results=self._event("source_unavailable", trouble))
            failures = 0 if self.counters.observations > acknowledged else failures + 1
            await asyncio.sleep(_back_off_s(failures))

    async def _over(self, client: Client) -> AsyncGenerator[Batch, None]:
        """Yield what comes over one connection, until it is lost."""
        subscription = await Subscription.create(client, self.server.name, self._acquisition)
        try:
            live = Live(
                client,
                subscription,
                server_name=self.server.name,
                assets=self._assets,
                channels=self._channels,
                acquisition=self._acquisition,
                limits=await read_limits(client, self._at_most),
                newest=self._newest,
                counters=self.counters,
            )
            yield self._on_connected(await live.watch())
            async with aclosing(live.batches()) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self.counters.connected = False
            self.counters.untimed = ()
            await subscription.close()

    def _ask_for_less(self, error: Exception) -> str:
        """Return what is done about a request that was too large for the server; nothing when *error* is another."""
        if not isinstance(error, UaStatusCodeError) or error.code not in _TOO_LARGE or self._at_most == 1:
            return ""
        self._at_most = max(self._at_most // 4, 1)
        return f"{self.server.name}: {error}; it is asked for {self._at_most} at a time from now on"

    def _on_connected(self, found: Results) -> Batch:
        """Take note of the connection; return what the log should know of it."""
        counters = self.counters
        counters.connected, counters.trouble = True, ""
        counters.reconnects += self._connections > 0
        self._connections += 1
        message = f"{self.server.name}: connected, {counters.streams} channels, {len(counters.missing)} left out"
        log.info("source connected", server=self.server.name, streams=counters.streams, missing=len(counters.missing))
        assets = found.assets if found.assets != self._described else ()
        self._described = found.assets
        return Batch(results=Results(assets=assets, events=self._event("source_connected", message).events))

    def _event(self, kind: str, message: str) -> Results:
        event = GatewayEvent(
            kind=kind, gateway_time=datetime.now(UTC), message=message, detail={"server": self.server.name}
        )
        return Results(events=(event,))


def open_sources(config: GatewayConfig, newest: Callable[[Stream], int | None]) -> dict[str, OpcuaSource]:
    """Return the source of each server in *config*, by the server's name."""
    return {
        server.name: OpcuaSource(
            server,
            config.assets_of(server.name),
            config.acquisition,
            gateway_id=config.gateway_id,
            asset_classes=config.asset_class,
            pki_dir=config.pki_dir,
            newest=newest,
        )
        for server in config.server
    }


def _back_off_s(failures: int) -> float:
    """Return seconds to wait after so many *failures* in a row: doubling, and spread so that gateways do not march."""
    most = min(_BACK_OFF_FIRST_S * 2.0 ** min(failures, 16), _BACK_OFF_MOST_S)
    return random.uniform(most / 2, most)  # noqa: S311 - no secret hangs on it
