from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.bundles.slots import BundleSlots
from gateway.condition_monitoring.blocks import Blocks, joined
from gateway.condition_monitoring.class_blocks import ClassBlocks
from gateway.testing import (
    ASSET_CLASS,
    BAD,
    SPECIFICATION,
    THRESHOLDS,
    Fault,
    cut,
    encoded,
    make_bundle,
    run_machine,
)
from models.bundle.loaded import LoadedBundle
from models.bundle.scored import score
from models.features.extraction import extract
from models.features.hashing import feature_hash
from models.features.history import Histories
from models.features.windower import windows_of
from models.records import AssetDescription, Observations, Results, State, Zone, to_ns

ASSETS = {"m-1": ASSET_CLASS, "m-2": ASSET_CLASS}
OVERHEATING = Fault(start_h=30, celsius_per_h=3.0)


def make_blocks(slots: BundleSlots) -> Blocks:
    return Blocks(gateway_id="gw-1", assets=ASSETS, slots=slots)


@pytest.fixture
def blocks(live_slots: BundleSlots) -> Blocks:
    """Blocks that follow bundle version 1."""
    blocks = make_blocks(live_slots)
    assert [e.kind for e in blocks.follow_bundles().events] == ["bundle_activated"]
    return blocks


def with_status(observations: Observations, channel: int, status: int) -> Observations:
    """Return *observations* with another status on every value of one channel, the values themselves unchanged."""
    return replace(
        observations, status=np.where(observations.stream == channel, status, observations.status).astype(np.uint32)
    )


def test_a_healthy_machine_is_normal(blocks: Blocks) -> None:
    results, _ = blocks.advance(run_machine("m-1", hours=60))

    assert {s.zone for s in results.states} == {Zone.NORMAL}
    assert len(results.states) == len(results.health) > 50
    assert results.advisories == ()
    assert blocks.active()[ASSET_CLASS].states["normal"] == len(results.states)


def test_a_fault_becomes_an_advisory_with_mode_channel_and_life(blocks: Blocks) -> None:
    results, _ = blocks.advance(run_machine("m-1", hours=60, fault=OVERHEATING))

    advisory = results.advisories[-1]
    assert (advisory.asset_id, advisory.failure_mode) == ("m-1", "overheating")
    assert advisory.top_channels[0].channel == "temperature_c"
    # The model always says 20 and 50 hours; the median of five such answers is two hours old.
    assert (advisory.life_p10_s, advisory.life_p50_s) == (18 * 3600, 48 * 3600)
    assert advisory.model_version == 1
    assert blocks.open_advisories() == 1
    assert {s.zone for s in results.states[:25]} == {Zone.NORMAL}


@pytest.mark.parametrize("status", [BAD, 0x80320000, 0x40920000])
def test_a_bad_value_is_never_scored_as_good(blocks: Blocks, status: int) -> None:
    """A transmitter that says Bad (or Uncertain) while it shows healthy numbers makes no window normal."""
    machine = with_status(with_status(run_machine("m-1", hours=30), 1, status), 0, status)

    results, _ = blocks.advance(machine)

    assert {s.zone for s in results.states} == {Zone.UNKNOWN}
    assert all("of the values are good" in s.reason for s in results.states)
    assert {h.grade for h in results.health} == {"U"}


def test_the_same_values_with_status_good_are_normal(blocks: Blocks) -> None:
    """Control to the one above: it is the status that makes the difference."""
    results, _ = blocks.advance(with_status(run_machine("m-1", hours=30), 1, 0))

    assert {s.zone for s in results.states} == {Zone.NORMAL}


def test_bad_values_do_not_touch_the_score(blocks: Blocks, slots: BundleSlots) -> None:
    """A few wild values with status Bad change nothing but the share of good ones."""
    machine = run_machine("m-1", hours=30)
    wild = machine.stream == 1
    wild &= np.arange(len(machine)) % 9 == 0
    spoiled = replace(
        machine,
        value=np.where(wild, 1e6, machine.value),
        status=np.where(wild, BAD, machine.status).astype(np.uint32),
    )
    dropped = machine.take(~wild)

    with_bad, _ = blocks.advance(spoiled)
    other = make_blocks(slots)
    other.follow_bundles()
    without, _ = other.advance(dropped)

    assert [s.score for s in with_bad.states] == pytest.approx([s.score for s in without.states])
    assert {s.zone for s in with_bad.states} == {Zone.NORMAL}


def test_pages_may_be_cut_anywhere(blocks: Blocks, slots: BundleSlots) -> None:
    """One page or fifty: the same states, health, prognoses and advisories, bit by bit."""
    machines = Observations.concatenate([run_machine("m-1", hours=60, fault=OVERHEATING), run_machine("m-2", hours=60)])
    machines = machines.take(np.argsort(machines.source_time, kind="stable"))
    whole, _ = blocks.advance(machines)
    other = make_blocks(slots)
    other.follow_bundles()
    pieces = joined([other.advance(piece)[0] for piece in cut(machines, 50)])

    def by_asset(results: Results) -> bytes:
        """Order between assets follows the pages; in each asset it must not."""
        return encoded(
            [sorted(kind, key=lambda r: r.asset_id) for kind in (results.states, results.health, results.advisories)]
        )

    assert by_asset(pieces) == by_asset(whole)


def test_saved_blocks_go_on_as_if_nothing_had_happened(blocks: Blocks, slots: BundleSlots) -> None:
    machine = cut(run_machine("m-1", hours=60, fault=OVERHEATING), 20)
    steady = [blocks.advance(piece)[0] for piece in machine]
    saved: bytes | None = None
    restarted = []
    for number, piece in enumerate(machine):
        fresh = make_blocks(slots)
        fresh.restore(saved)
        events = fresh.follow_bundles().events
        assert bool(events) == (number == 0)  # a restart is no activation
        results, saved = fresh.advance(piece)
        restarted.append(results)

    assert encoded(joined(restarted)) == encoded(joined(steady))
    assert fresh.active()[ASSET_CLASS].states == blocks.active()[ASSET_CLASS].states


def test_blocks_that_forget_would_answer_differently(blocks: Blocks, slots: BundleSlots) -> None:
    """Control to the one above: what is saved matters."""
    machine = cut(run_machine("m-1", hours=60, fault=OVERHEATING), 20)
    steady = [blocks.advance(piece)[0] for piece in machine]
    forgetful = []
    for piece in machine:
        fresh = make_blocks(slots)
        fresh.follow_bundles()
        forgetful.append(fresh.advance(piece)[0])

    assert encoded(joined(forgetful)) != encoded(joined(steady))


def test_the_gateway_scores_what_training_would(blocks: Blocks, slots: BundleSlots) -> None:
    """Page by page on the gateway, or all at once from the lake: the same features, so the same scores."""
    machine = run_machine("m-1", hours=60, fault=OVERHEATING)
    live = [state for piece in cut(machine, 30) for state in blocks.advance(piece)[0].states]
    bundle = slots.live(ASSET_CLASS)
    assert bundle is not None
    shuffled = machine.take(np.random.default_rng(1).permutation(len(machine)))
    windows = windows_of(SPECIFICATION, shuffled)
    outputs = score(bundle, Histories(SPECIFICATION), windows).detector_output / bundle.manifest.thresholds.warning

    assert [s.score for s in live] == outputs.tolist()


def test_without_a_bundle_windows_are_unknown_and_say_so(slots: BundleSlots) -> None:
    blocks = make_blocks(slots)
    blocks.follow_bundles()

    results, _ = blocks.advance(run_machine("m-1", hours=10))

    assert {(s.zone, s.reason, s.model_version) for s in results.states} == {(Zone.UNKNOWN, "no bundle", None)}
    assert len(results.states) == 10
    assert results.health == ()
    assert blocks.active() == {}


def test_without_a_bundle_each_step_is_reported_once(slots: BundleSlots) -> None:
    machine = run_machine("m-1", hours=10)
    blocks, saved = make_blocks(slots), None
    states: list[State] = []
    for piece in cut(machine, 37):
        blocks = make_blocks(slots)
        blocks.restore(saved)
        results, saved = blocks.advance(piece)
        states += results.states

    whole, _ = make_blocks(slots).advance(machine)
    assert tuple(states) == whole.states


def test_a_new_bundle_with_the_same_features_goes_on_with_the_open_windows(
    blocks: Blocks, slots: BundleSlots, archives: dict[int, Path]
) -> None:
    first, second = cut(run_machine("m-1", hours=40), 2)
    before, _ = blocks.advance(first)
    slots.install(archives[2])
    events = blocks.follow_bundles().events
    after, _ = blocks.advance(second)

    assert [e.detail["version"] for e in events] == ["2"]
    ends = [s.window_end for s in (*before.states, *after.states)]
    assert len(ends) == len(set(ends))
    assert {b - a for a, b in pairwise(ends)} == {ends[1] - ends[0]}  # no window is missing
    assert {s.model_version for s in after.states} == {2}
    assert blocks.active()[ASSET_CLASS].states["normal"] == len(after.states)


def test_a_new_bundle_with_other_features_starts_its_windows_anew(
    blocks: Blocks, slots: BundleSlots, tmp_path: Path, signing_key: Ed25519PrivateKey
) -> None:
    first, second = cut(run_machine("m-1", hours=40), 2)
    blocks.advance(first)
    wider = replace(SPECIFICATION, window_s=10800.0, expected_counts=(18.0, 18.0, 3.0))
    slots.install(make_bundle(tmp_path, version=2, signing_key=signing_key, specification=wider))
    blocks.follow_bundles()
    after, _ = blocks.advance(second)

    assert {(s.window_end - s.window_start).total_seconds() for s in after.states} == {10800.0}
    assert Zone.NORMAL in {s.zone for s in after.states}


def test_a_rollback_is_followed_too(blocks: Blocks, slots: BundleSlots, archives: dict[int, Path]) -> None:
    slots.install(archives[2])
    blocks.follow_bundles()
    slots.rollback(ASSET_CLASS)

    assert [e.detail["version"] for e in blocks.follow_bundles().events] == ["1"]
    assert not blocks.follow_bundles()


def test_a_rollback_withdraws_what_the_bad_release_raised(
    blocks: Blocks, slots: BundleSlots, tmp_path: Path, signing_key: Ed25519PrivateKey
) -> None:
    """A release that takes everything for a fault, rolled back: its advisories are closed in the same commit."""
    first, second = cut(run_machine("m-1", hours=60), 2)
    wolf = replace(THRESHOLDS, warning=0.01, alarm=0.02)
    slots.install(make_bundle(tmp_path, version=2, signing_key=signing_key, thresholds=wolf))
    blocks.follow_bundles()
    assert blocks.advance(first)[0].advisories
    slots.rollback(ASSET_CLASS)

    results = blocks.follow_bundles()

    assert [a.state for a in results.advisories] == ["closed"]
    assert blocks.open_advisories() == 0
    assert blocks.advance(second)[0].advisories == ()


def test_a_bundle_that_does_not_load_leaves_the_old_one_at_work(
    blocks: Blocks, slots: BundleSlots, archives: dict[int, Path]
) -> None:
    """A slot damaged on disk is a standing warning, not the end of monitoring."""
    slots.install(archives[2])
    detector = slots._slot(ASSET_CLASS, 2) / "detector.onnx"
    detector.write_bytes(detector.read_bytes()[:-1] + b"\0")

    assert not blocks.follow_bundles()
    assert "what ran before goes on" in blocks.warnings[ASSET_CLASS]
    results, _ = blocks.advance(run_machine("m-1", hours=10))
    assert {s.model_version for s in results.states} == {1}


def test_a_model_that_fails_makes_windows_unknown(blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inference that breaks is told, and monitoring goes on."""

    def broken(_bundle: LoadedBundle, _inputs: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("gateway.condition_monitoring.class_blocks.detect", broken)
    results, _ = blocks.advance(run_machine("m-1", hours=10))

    assert {s.zone for s in results.states} == {Zone.UNKNOWN}
    assert all("out of memory" in s.reason for s in results.states)


def test_blocks_are_of_the_class_of_their_bundle(blocks: Blocks) -> None:
    """Assets that are not configured are passed over."""
    results, _ = blocks.advance(run_machine("stranger", hours=30))

    assert not results
    assert isinstance(blocks._running[ASSET_CLASS], ClassBlocks)


@pytest.mark.parametrize(
    "saved",
    [b"\x93\x01\x02\x03", b"\x81\xa1\xff\x80", b"\x81\xa1a\x81\xa1x" + b"\x91" * 5000],
    ids=["other", "text", "deep"],
)
def test_what_another_software_version_saved_does_not_stop_monitoring(slots: BundleSlots, saved: bytes) -> None:
    """State that cannot be read any more, or is damaged, is left behind, with a warning in the log."""
    blocks = make_blocks(slots)
    blocks.restore(saved)

    assert blocks.advance(run_machine("m-1", hours=10))[0].states


def described_as(**changes: object) -> Results:
    """Return what a gateway tells of m-1, whose temperature is another than the models'."""
    load, temperature, vibration = SPECIFICATION.channels
    channels = (load, replace(temperature, **changes), vibration)  # type: ignore[arg-type]  # by the test's own words
    return Results(assets=(AssetDescription(asset_id="m-1", asset_class=ASSET_CLASS, channels=channels),))


def test_a_channel_in_another_unit_is_never_scored(slots: BundleSlots, archives: dict[int, Path]) -> None:
    """Degrees Fahrenheit are no degrees Celsius: unknown, with the reason, also after a restart."""
    slots.install(archives[1])
    blocks = make_blocks(slots)
    blocks.follow_bundles()
    first, second = cut(run_machine("m-1", hours=30), 2)
    states = blocks.results((described_as(unit="°F"), first)).states
    again = make_blocks(slots)
    again.restore(blocks.state())
    states += again.results((second,)).states

    assert len(states) > 20
    assert {(s.zone, s.score) for s in states} == {(Zone.UNKNOWN, None)}
    assert {s.reason for s in states} == {"temperature_c comes in °F, the models need °C"}


@pytest.mark.parametrize("unit", ["°C", ""])
def test_a_channel_in_the_models_unit_is_scored(slots: BundleSlots, archives: dict[int, Path], unit: str) -> None:
    """Control; and a server that tells no unit is taken at the word of whoever named the channel."""
    slots.install(archives[1])
    blocks = make_blocks(slots)
    blocks.follow_bundles()

    states = blocks.results((described_as(unit=unit), run_machine("m-1", hours=30))).states
    assert states[-1].zone is Zone.NORMAL


def test_saved_windows_that_cannot_be_read_do_not_keep_the_bundle_out(
    slots: BundleSlots, archives: dict[int, Path]
) -> None:
    """After an update of the software windows start anew; monitoring goes on."""
    slots.install(archives[1])
    blocks = make_blocks(slots)
    blocks.follow_bundles()
    blocks.advance(run_machine("m-1", hours=10))
    saved = msgspec.msgpack.decode(blocks.state())
    saved[ASSET_CLASS]["manipulator"] = b"of another version"
    again = make_blocks(slots)
    again.restore(msgspec.msgpack.encode(saved))

    assert again.warnings == {}
    assert again.results((run_machine("m-1", hours=30),)).states[-1].zone is Zone.NORMAL


def test_features_are_told_where_raw_values_stay(slots: BundleSlots, archives: dict[int, Path]) -> None:
    """One record a window, as training would compute it from the raw values; by default there is none."""
    slots.install(archives[1])
    observations = run_machine("m-1", hours=20)
    told = Blocks(gateway_id="gw-1", assets=ASSETS, slots=slots, features_of=[ASSET_CLASS])
    told.follow_bundles()
    features = told.results([observations]).features

    windows = windows_of(SPECIFICATION, observations, ["m-1"]).take(np.arange(len(features)))
    assert len(features) > 10
    assert np.array_equal([f.values for f in features], extract(SPECIFICATION, windows), equal_nan=True)
    assert [to_ns(f.window_end) for f in features] == windows.end_ns.tolist()
    assert {(f.feature_hash, f.model_version) for f in features} == {(feature_hash(SPECIFICATION), 1)}

    silent = make_blocks(slots)
    silent.follow_bundles()
    assert silent.results([observations]).features == ()


def test_a_named_failure_mode_says_which_channels_speak_for_it(blocks: Blocks) -> None:
    """Why the classifier says so stands beside why the detector does."""
    results, _ = blocks.advance(run_machine("m-1", hours=60, fault=OVERHEATING))

    named = [health for health in results.health if health.failure_mode == "overheating"]
    assert named
    assert all(health.top_channels for health in named)
    assert sum(share.share for share in named[-1].top_channels) <= 1.0 + 1e-9
    assert all(not health.top_channels for health in results.health if health.failure_mode is None)
