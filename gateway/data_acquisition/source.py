"""An OPC UA server as a source of batches: for ever, and never quiet.

The supervisor here makes each connection anew, with back-off, and goes on where the last one ended with as little loss
as the server allows: the old session activated over the new channel, or its subscriptions transferred to a new session,
and what was missed asked for again; otherwise everything is created anew and history fills what lies between.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog
from asyncua.client.client import Client
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from gateway.config import GatewayConfig, ServerConfig, server_warnings
from gateway.data_acquisition.batch import AcquisitionCounters, Batch, Stored
from gateway.data_acquisition.certificate import application_uri
from gateway.data_acquisition.clock import ClockGuard
from gateway.data_acquisition.columns import MalformedMessage
from gateway.data_acquisition.connection import Connection, Identity, SavedSession, connect, prepare
from gateway.data_acquisition.live import Live
from gateway.data_acquisition.profiles import MOST, read_profile
from gateway.data_acquisition.publishing import Publishing
from gateway.data_acquisition.reconciler import Members
from gateway.data_acquisition.tags import WantedTags, wanted_tags
from gateway.errors import SourceUnavailable
from models.records import AssetDescription, GatewayEvent, Results

log = structlog.get_logger()

_CONNECT_S = 6.0  # a link that loses what is sent on it keeps an attempt waiting; the next one may find it well
_BACK_OFF_FIRST_S = 0.25
_BACK_OFF_MOST_S = 3.0
_TOLD = 5  # names in one warning
_TOLD_MISSING = 20  # missing channels with a warning of their own
_TOO_LARGE = frozenset(
    {StatusCodes.BadTooManyOperations, StatusCodes.BadRequestTooLarge, StatusCodes.BadResponseTooLarge,
     StatusCodes.BadEncodingLimitsExceeded}
)  # fmt: skip


class OpcuaSource:
    """All tags of one OPC UA server.

    Args:
        server: The server.
        wanted: The tags that are read from it.
        backfill_limit_h: How far back history is fetched for a stream never seen before.
        gateway_id: Names the gateway in its certificate.
        pki_dir: Own certificate and trust list.
        stored: What is stored, and which holes are open.
    """

    def __init__(
        self,
        server: ServerConfig,
        wanted: WantedTags,
        *,
        backfill_limit_h: float = 720.0,
        gateway_id: str,
        pki_dir: Path,
        stored: Stored,
    ) -> None:
        self.server = server
        self.wanted = wanted
        self.counters = AcquisitionCounters()
        self._backfill_limit_h = backfill_limit_h
        self._identity = Identity(
            application_uri=application_uri(gateway_id), common_name=f"Wearsight gateway {gateway_id}", pki_dir=pki_dir
        )
        self._stored = stored
        self._clock = ClockGuard(server)
        self._live: Live | None = None
        self._saved: SavedSession | None = None
        self._server_start: datetime | None = None
        self._described: dict[str, AssetDescription] = {}
        self._members: Members = {}
        self._unreadable = 0  # messages in a row that were none
        self._connections = 0
        self._at_most = MOST

    @property
    def connected(self) -> bool:
        """Whether values are coming in, or would if there were any."""
        return self.counters.connected

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is not as it should be: weaker security, no connection, channels left out; one sentence each."""
        name, counters = self.server.name, self.counters
        found = [*server_warnings(self.server), counters.trouble, counters.budget]
        found += list(counters.missing.values())[:_TOLD_MISSING]
        if (others := len(counters.missing) - _TOLD_MISSING) > 0:
            found.append(f"{name}: {others} more channels are missing; acquisition.{name}.missing has them all")
        if counters.untimed:
            found.append(
                f"{name}: no source time comes with {_some(counters.untimed)}; the server's is taken for when it was "
                "measured"
            )
        if counters.silent:
            found.append(f"{name}: the server has no value of {_some(counters.silent)}; it is asked again")
        if counters.overflows:
            found.append(
                f"{name}: the server's queue was too small for {_some(tuple(counters.overflows))}; see queue_size"
            )
        if counters.replaced_times:
            found.append(f"{name}: {counters.replaced_times} values had no possible source time; see clock_tolerance_s")
        return tuple(warning for warning in found if warning)

    def change(self, wanted: WantedTags) -> None:
        """Read *wanted* from now on; tags that are as they were are not touched."""
        if wanted == self.wanted:
            return
        self.wanted = wanted
        if self._live is not None:
            self._live.change(wanted)

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Yield batches for ever; live ones wait at the server until they are acknowledged.

        Raises:
            ConfigError: If own certificate or password cannot be used at the start.
        """
        await asyncio.to_thread(prepare, self.server, self._identity)
        failures = 0
        while True:
            acknowledged = self.counters.observations
            try:
                async with aclosing(self._over_one_connection()) as batches:
                    async for batch in batches:
                        self._described |= {asset.asset_id: asset for asset in batch.results.assets}
                        yield batch
                trouble = f"{self.server.name}: the connection ended; it is made anew"
            except (SourceUnavailable, MalformedMessage, UaError, OSError) as error:
                trouble = self._ask_for_less(error) or str(error) or type(error).__name__
                self._doubt(error)
            except Exception as error:  # whatever a server's answer sets off in the stack: the others go on
                log.exception("unexpected failure", server=self.server.name)
                trouble = f"{self.server.name}: {error!r}; the connection is made anew"
            if trouble != self.counters.trouble:
                self.counters.trouble = trouble
                log.warning("source unavailable", server=self.server.name, reason=trouble)
                yield Batch(results=self._event("source_unavailable", trouble))
            has_progressed = self.counters.observations > acknowledged
            failures = 0 if has_progressed else failures + 1
            self._unreadable *= not has_progressed
            await asyncio.sleep(_back_off_s(failures))

    async def _over_one_connection(self) -> AsyncGenerator[Batch, None]:
        """Yield what comes over one connection, until it is lost."""
        connection = await self._connect(self._saved)
        is_lost = False
        try:
            is_resumed = await self._resumed(connection)
            if connection.reused and not is_resumed:
                # What is left of the old subscriptions ends with their session.
                await connection.close(kindly=True)
                self._saved = None
                connection = await self._connect(None)
            found = Results() if is_resumed else await self._begin(connection.client)
            yield self._on_connected(found)
            assert self._live is not None
            async with aclosing(self._live.batches()) as batches:
                async for batch in batches:
                    yield batch
        except (SourceUnavailable, MalformedMessage, UaError, OSError):
            is_lost = True
            raise
        finally:
            self.counters.connected = False
            # A lost connection is dropped as it is: the server keeps session and subscriptions for the next one.
            self._saved = connection.saved() if is_lost else None
            if not is_lost and self._live is not None:
                live, self._live = self._live, None
                with suppress(UaError, OSError):
                    await live.close()
            await connection.close(kindly=not is_lost)

    async def _connect(self, saved: SavedSession | None) -> Connection:
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await connect(self.server, self._identity, saved=saved)
        except TimeoutError:
            raise SourceUnavailable(
                f"{self.server.name}: {self.server.endpoint} does not answer within {_CONNECT_S:g} s; it is tried again"
            ) from None

    async def _resumed(self, connection: Connection) -> bool:
        """Have what was live go on over *connection*; return False when everything has to be made anew."""
        # A server that was started anew may give session and subscriptions of the same numbers to others.
        is_same, self._server_start = connection.server_start == self._server_start, connection.server_start
        if self._live is not None and is_same and await self._live.resume(connection.client, reused=connection.reused):
            self.counters.resumed += 1
            return True
        self._live = None
        return False

    async def _begin(self, client: Client) -> Results:
        """Have all tags reported to *client*; return the assets."""
        profile = await read_profile(client, self._at_most)
        self.counters.profile, wanted = profile.name, self.wanted
        live = Live(
            client,
            await Publishing.start(client, self.server.name, profile),
            server=self.server,
            wanted=wanted,
            profile=profile,
            clock=self._clock,
            stored=self._stored,
            backfill_limit_h=self._backfill_limit_h,
            counters=self.counters,
            members=self._members,
        )
        found = await live.begin()
        self._live = live
        if self.wanted is not wanted:  # changed meanwhile
            live.change(self.wanted)
        return found

    def _ask_for_less(self, error: Exception) -> str:
        """Return what is done about a request that was too large for the server; nothing when *error* is another."""
        if not isinstance(error, UaStatusCodeError) or error.code not in _TOO_LARGE or self._at_most == 1:
            return ""
        self._at_most = max(self._at_most // 4, 1)
        self._live = None  # what goes on would ask for as much again
        return f"{self.server.name}: {error}; it is asked for {self._at_most} at a time from now on"

    def _doubt(self, error: Exception) -> None:
        """Have everything made anew when what the server sends again cannot be read again."""
        if isinstance(error, MalformedMessage) or isinstance(error.__cause__, MalformedMessage):
            self._unreadable += 1
            if self._unreadable > 1:
                self._live = None

    def _on_connected(self, found: Results) -> Batch:
        """Take note of the connection; return what the log should know of it."""
        counters = self.counters
        counters.connected, counters.trouble = True, ""
        counters.reconnects += self._connections > 0
        self._connections += 1
        message = f"{self.server.name}: connected, {counters.streams} channels, {len(counters.missing)} left out"
        log.info("source connected", server=self.server.name, streams=counters.streams, missing=len(counters.missing))
        assets = tuple(asset for asset in found.assets if asset != self._described.get(asset.asset_id))
        return Batch(results=Results(assets=assets, events=self._event("source_connected", message).events))

    def _event(self, kind: str, message: str) -> Results:
        # With the clock whose time the values from here on have, since the choice may change and the values stay.
        detail = {"server": self.server.name, "time": self.server.time.value, "profile": self.counters.profile}
        return Results(
            events=(GatewayEvent(kind=kind, gateway_time=datetime.now(UTC), message=message, detail=detail),)
        )


def open_sources(config: GatewayConfig, stored: Stored) -> dict[str, OpcuaSource]:
    """Return the source of each server in *config*, by the server's name."""
    return {
        server.name: OpcuaSource(
            server,
            wanted_tags(config, server.name),
            backfill_limit_h=config.acquisition.backfill_limit_h,
            gateway_id=config.gateway_id,
            pki_dir=config.pki_dir,
            stored=stored,
        )
        for server in config.server
    }


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_TOLD]) + " and others" * (len(names) > _TOLD)


def _back_off_s(failures: int) -> float:
    """Return seconds to wait after so many *failures* in a row: doubling, and spread so that gateways do not march."""
    most = min(_BACK_OFF_FIRST_S * 2.0 ** min(failures, 16), _BACK_OFF_MOST_S)
    return random.uniform(most / 2, most)  # noqa: S311 - no secret hangs on it
