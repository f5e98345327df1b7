"""Blocks two to six of one gateway, built from the live bundle of each asset class, and rebuilt when it changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime

import msgspec
import structlog

from gateway.adaptation.store import AdaptationStore, Stamp
from gateway.advisory_generation.context import AssetContext
from gateway.bundles.slots import BundleSlots
from gateway.condition_monitoring.class_blocks import ClassBlocks, Unmonitored
from gateway.condition_monitoring.comparison import Comparison, count
from gateway.errors import ModelError
from models.bundle.errors import BundleError
from models.bundle.loaded import LoadedBundle
from models.detection.adaptation import Adaptations
from models.records import (
    OPEN_STATES,
    UNDECODABLE,
    Advisory,
    AssetDescription,
    Channel,
    GatewayEvent,
    Observations,
    Results,
    State,
    Stream,
    Zone,
)

log = structlog.get_logger()

Token = tuple[int, int]


@dataclass(kw_only=True)
class ClassMemory:
    """What is remembered of one asset class beside its models; saved with the journal position.

    Attributes:
        token: Which slot was live (see `BundleSlots.token`), None for none.
        feature_hash: Of the bundle that wrote ``manipulator``.
        manipulator: The open windows, and the features of the last ones.
        activated_at: When the live bundle became live here, by the gateway's clock.
        states: Windows by zone since then.
        comparison: With the bundle it replaced; None where it replaced none, or a newer one.
        contexts: The advisor's, by asset.
        described: Channels of each asset, as its server told them last.
        newest_step: While there is no bundle, the last step each asset was reported unknown for.
    """

    token: Token | None = None
    feature_hash: str = ""
    manipulator: bytes = b""
    activated_at: datetime | None = None
    states: dict[str, int] = field(default_factory=dict)
    comparison: Comparison | None = None
    contexts: dict[str, AssetContext] = field(default_factory=dict)
    described: dict[str, tuple[Channel, ...]] = field(default_factory=dict)
    newest_step: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ActiveBundle:
    """The bundle in use for one asset class, for /health."""

    version: int
    activated_at: datetime
    states: dict[str, int]
    comparison: Comparison | None


class Blocks:
    """What the monitor drives: all asset classes of a gateway.

    Args:
        gateway_id: Goes into the identity of advisories.
        assets: Asset class by asset_id; observations of other assets are passed over.
        slots: Where the live bundles are.
        features_of: Asset classes of which each window's features are told beside its state, for the cloud to learn
            from where raw values stay here.
        in_service_since: When the life of an asset began, ns since 1970, as far as it is known.
        adaptations: Where it is kept how models are fitted to single assets; None: nowhere.
    """

    def __init__(
        self,
        *,
        gateway_id: str,
        assets: Mapping[str, str],
        slots: BundleSlots,
        features_of: Collection[str] = (),
        in_service_since: Mapping[str, int] | None = None,
        adaptations: AdaptationStore | None = None,
    ) -> None:
        self._gateway_id = gateway_id
        self._in_service_since = dict(in_service_since or {})
        self._features_of = frozenset(features_of)
        self._assets = {c: [a for a, of in assets.items() if of == c] for c in sorted(set(assets.values()))}
        self._slots = slots
        self._adaptations = adaptations
        self._stamps: dict[str, Stamp] = {}
        self._memory = {asset_class: ClassMemory() for asset_class in self._assets}
        self._running: dict[str, ClassBlocks | Unmonitored] = {c: self._unmonitored(c) for c in self._assets}
        self._replaced: dict[str, ClassBlocks] = {}
        self._failed: dict[str, Token | None] = {}
        self._anew: set[str] = set()
        self.warnings: dict[str, str] = {}

    def restore(self, saved: bytes | None) -> None:
        """Take up what `state` gave, for the classes that are still configured.

        What another version of this software saved and this one cannot read is left: windows start anew.
        """
        for asset_class, memory in _decode(saved).items():
            if asset_class in self._memory:
                self._memory[asset_class] = memory
                self._running[asset_class] = self._unmonitored(asset_class)
                if memory.token is not None and memory.token == self._slots.token(asset_class):
                    self._load(asset_class)
                    self._load_replaced(asset_class)

    def state(self) -> bytes:
        """Return all that must be known to go on from here as if nothing had happened."""
        for asset_class, running in self._running.items():
            if isinstance(running, ClassBlocks):
                self._memory[asset_class].manipulator = running.manipulator.state()
        for asset_class, replaced in self._replaced.items():
            if (comparison := self._memory[asset_class].comparison) is not None:
                comparison.manipulator = replaced.manipulator.state()
        return msgspec.msgpack.encode(self._memory)

    def follow_bundles(self) -> Results:
        """Take up bundles that became live since the last call; cheap when none did.

        Open windows live on where the features are the same; otherwise windows start anew. After a rollback the
        advisories of the version that is gone are withdrawn.
        """
        events: list[GatewayEvent] = []
        withdrawn: list[Advisory] = []
        for asset_class, memory in self._memory.items():
            token = self._slots.token(asset_class)
            if token in {memory.token, self._failed.get(asset_class)}:
                self._follow_adaptations(asset_class)
                continue
            running = self._running[asset_class]
            if isinstance(running, ClassBlocks):
                memory.manipulator = running.manipulator.state()
            before = memory.token
            memory.token = token
            if not self._load(asset_class):
                memory.token = before
                continue
            memory.activated_at = datetime.now(UTC)
            memory.states = {}
            self._compare_with(asset_class, before)
            events.append(self._event(asset_class, before, token))
            if isinstance(running := self._running[asset_class], ClassBlocks):
                withdrawn += running.withdraw()
        return Results(events=tuple(events), advisories=tuple(withdrawn))

    def _follow_adaptations(self, asset_class: str) -> None:
        """Take up how the live models are fitted to single assets now; windows go on as they were."""
        running, memory = self._running[asset_class], self._memory[asset_class]
        if self._adaptations is None or self._adaptations.stamp(asset_class) == self._stamps.get(asset_class):
            return
        if isinstance(running, ClassBlocks):
            memory.manipulator = running.manipulator.state()
            self._load(asset_class)

    def windows_begun_anew(self) -> list[tuple[tuple[Stream, ...], int]]:
        """Return the streams of each asset whose windows have just begun from nothing, and how many ns of past help.

        Each is told once; `prime` takes what was stored of them.
        """
        begun = [running for name in sorted(self._anew) if isinstance(running := self._running[name], ClassBlocks)]
        self._anew.clear()
        return [(streams, b.manipulator.past_ns) for b in begun for streams in b.streams_of_assets.values()]

    def prime(self, observations: Observations) -> None:
        """Let windows that begin anew know *observations* of the past; nothing is told of those."""
        for running in self._running.values():
            if isinstance(running, ClassBlocks):
                running.manipulator.prime(observations)

    def advance(self, observations: Observations) -> tuple[Results, bytes]:
        """Return what *observations* add to the log, and what to save with the position."""
        return self.results((observations,)), self.state()

    def results(self, contents: Sequence[Observations | Results]) -> Results:
        """Return what the *contents* of pages add to the log; what assets are told to be holds for all of them."""
        for content in contents:
            if isinstance(content, Results):
                self._describe(content.assets)
        observations = Observations.concatenate([c for c in contents if isinstance(c, Observations)])
        parts = []
        for asset_class, running in self._running.items() if len(observations) else ():
            part = running.results(observations)
            count(self._memory[asset_class].states, part.states)
            self._compare(asset_class, observations, part.states)
            parts.append(part)
        return joined(parts)

    def active(self) -> dict[str, ActiveBundle]:
        """Return the bundle in use by asset class."""
        return {
            asset_class: ActiveBundle(
                version=memory.token[0],
                activated_at=memory.activated_at,
                states=by_zone(memory.states),
                comparison=memory.comparison,
            )
            for asset_class, memory in self._memory.items()
            if memory.token is not None and memory.activated_at is not None
        }

    def open_advisories(self) -> int:
        """Return how many advisories are open."""
        contexts = [c for memory in self._memory.values() for c in memory.contexts.copy().values()]
        return sum(o.advisory.state in OPEN_STATES for c in contexts for o in c.opened)

    def _describe(self, assets: Sequence[AssetDescription]) -> None:
        for asset in assets:
            if asset.asset_id in self._assets.get(asset.asset_class, ()):
                self._memory[asset.asset_class].described[asset.asset_id] = asset.channels

    def _load(self, asset_class: str) -> bool:
        """Build the blocks of the live bundle; on failure the ones in use stay, and a warning stands."""
        memory = self._memory[asset_class]
        try:
            bundle = self._slots.live(asset_class)
            if bundle is None:
                self._running[asset_class] = self._unmonitored(asset_class)
                return True
            running, anew = self._blocks_of(asset_class, bundle), True
            if memory.manipulator and memory.feature_hash == bundle.manifest.feature_hash:
                try:
                    running.manipulator.restore(memory.manipulator)
                    anew = False
                except ValueError as error:  # of another version of this software: no reason to go without models
                    log.warning(
                        "saved windows cannot be read; they start anew", asset_class=asset_class, error=str(error)
                    )
                    running = self._blocks_of(asset_class, bundle)
            self._begin_lives(asset_class, running)
        except (OSError, ValueError, BundleError) as error:
            self.warnings[asset_class] = f"bundle of {asset_class} cannot be loaded ({error}); what ran before goes on"
            self._failed[asset_class] = self._slots.token(asset_class)
            log.warning("bundle not loaded", asset_class=asset_class, error=str(error))
            return False
        memory.feature_hash = bundle.manifest.feature_hash
        self._running[asset_class] = running
        if anew:
            self._anew.add(asset_class)
        self.warnings.pop(asset_class, None)
        self._failed.pop(asset_class, None)
        return True

    def _begin_lives(self, asset_class: str, blocks: ClassBlocks) -> None:
        """Tell *blocks* when its assets' lives began; what they know already is not told twice."""
        for asset_id in self._assets[asset_class]:
            if asset_id in self._in_service_since:
                blocks.manipulator.begin_life(asset_id, self._in_service_since[asset_id])

    def _unmonitored(self, asset_class: str) -> Unmonitored:
        return Unmonitored(asset_class, self._assets[asset_class], self._memory[asset_class].newest_step)

    def _compare_with(self, asset_class: str, replaced: Token | None) -> None:
        """Let the bundle that was live in slot *replaced* go on beside what is live, unless this is a way back."""
        memory = self._memory[asset_class]
        memory.comparison = None
        self._replaced.pop(asset_class, None)
        if replaced is not None and memory.token is not None and replaced < memory.token:
            memory.comparison = Comparison(replaced_version=replaced[0], manipulator=memory.manipulator)
            self._load_replaced(asset_class)

    def _compare(self, asset_class: str, observations: Observations, states: tuple[State, ...]) -> None:
        """Count what the replaced bundle says of *observations*, of which the live one says *states*."""
        comparison, replaced = self._memory[asset_class].comparison, self._replaced.get(asset_class)
        running = self._running[asset_class]
        if comparison is None or replaced is None or not isinstance(running, ClassBlocks):
            return
        comparison.add_live(states, running.on_delay_windows)
        comparison.add_replaced(replaced.states(observations), replaced.on_delay_windows)
        if comparison.enough:
            comparison.manipulator = b""
            del self._replaced[asset_class]

    def _load_replaced(self, asset_class: str) -> None:
        """Take up a comparison where it was; when that cannot be done, its counts stay as they are."""
        memory = self._memory[asset_class]
        if memory.comparison is None or not memory.comparison.manipulator:
            return
        version = memory.comparison.replaced_version
        try:
            replaced = self._blocks_of(asset_class, self._slots.load(asset_class, version))
            replaced.manipulator.restore(memory.comparison.manipulator)
            self._begin_lives(asset_class, replaced)
        except (OSError, ValueError, BundleError) as error:
            memory.comparison.manipulator = b""
            log.warning("no more comparison", asset_class=asset_class, replaced=version, error=str(error))
            return
        self._replaced[asset_class] = replaced

    def _adaptations_of(self, asset_class: str) -> Adaptations:
        """Return how models are fitted to single assets; where that cannot be read they are as the bundle says."""
        if self._adaptations is None:
            return Adaptations()
        self._stamps[asset_class] = self._adaptations.stamp(asset_class)
        try:
            return self._adaptations.read(asset_class)
        except ModelError as error:
            self.warnings[f"adaptations of {asset_class}"] = str(error)
            log.warning("adaptations cannot be read", asset_class=asset_class, error=str(error))
            return Adaptations()

    def _blocks_of(self, asset_class: str, bundle: LoadedBundle) -> ClassBlocks:
        self.warnings.pop(f"adaptations of {asset_class}", None)
        return ClassBlocks(
            gateway_id=self._gateway_id,
            bundle=bundle,
            asset_ids=self._assets[asset_class],
            contexts=self._memory[asset_class].contexts,
            described=self._memory[asset_class].described,
            tells_features=asset_class in self._features_of,
            adaptations=self._adaptations_of(asset_class),
        )

    def _event(self, asset_class: str, before: Token | None, token: Token | None) -> GatewayEvent:
        version = "none" if token is None else str(token[0])
        replaced = "none" if before is None else str(before[0])
        log.info("bundle activated", asset_class=asset_class, version=version, replaced=replaced)
        return GatewayEvent(
            kind="bundle_activated",
            gateway_time=datetime.now(UTC),
            message=f"{asset_class}: bundle version {version} is live, in the place of {replaced}",
            detail={"asset_class": asset_class, "version": version, "replaced": replaced},
        )


def by_zone(counts: Mapping[str, int]) -> dict[str, int]:
    """Return *counts* with every zone in it."""
    return {str(zone): counts.get(zone, 0) for zone in Zone}


def joined(parts: Sequence[Results]) -> Results:
    """Return all of *parts* as one, in their order."""
    return Results(
        **{one.name: tuple(record for part in parts for record in getattr(part, one.name)) for one in fields(Results)}
    )


def _decode(saved: bytes | None) -> dict[str, ClassMemory]:
    if saved is None:
        return {}
    try:
        return msgspec.msgpack.decode(saved, type=dict[str, ClassMemory])
    except UNDECODABLE as error:
        log.warning("saved state of monitoring cannot be read; windows and advisories start anew", error=str(error))
        return {}
