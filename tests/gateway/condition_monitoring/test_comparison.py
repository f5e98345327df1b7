"""The bundle that was replaced goes on beside the live one, so that a release is judged by the same windows."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.bundles.slots import BundleSlots
from gateway.condition_monitoring.blocks import Blocks
from gateway.condition_monitoring.comparison import Comparison
from gateway.testing import ASSET_CLASS, THRESHOLDS, Fault, cut, make_bundle, run_machine
from models.records import EPOCH, Observations, State, Zone

OVERHEATING = Fault(start_h=40, celsius_per_h=3.0)
# Healthy, then for the second half of the time failing: what was counted before speaks for another plant.
BEFORE, AFTER = cut(run_machine("m-1", hours=80, fault=OVERHEATING), 2)
WOLF = replace(THRESHOLDS, warning=0.01, alarm=0.02)


def make_blocks(slots: BundleSlots) -> Blocks:
    return Blocks(gateway_id="gw-1", assets={"m-1": ASSET_CLASS}, slots=slots)


@pytest.fixture
def blocks(live_slots: BundleSlots) -> Blocks:
    """Version 1, live since before the fault."""
    blocks = make_blocks(live_slots)
    blocks.follow_bundles()
    blocks.advance(BEFORE)
    return blocks


def switch(blocks: Blocks, slots: BundleSlots, archive: Path, observations: Observations = AFTER) -> Comparison:
    """Make *archive* live, let *observations* come, and return what came of it."""
    slots.install(archive)
    blocks.follow_bundles()
    blocks.advance(observations)
    return compared(blocks)


def compared(blocks: Blocks) -> Comparison:
    comparison = blocks.active()[ASSET_CLASS].comparison
    assert comparison is not None
    return comparison


def test_the_same_windows_of_a_failing_machine_speak_against_neither(
    blocks: Blocks, slots: BundleSlots, archives: dict[int, Path]
) -> None:
    """A release as good as the one before it finds exactly as many of them in alarm."""
    comparison = switch(blocks, slots, archives[2])

    assert comparison.replaced_version == 1
    assert comparison.live == comparison.replaced
    assert comparison.live["alarm"] > 10


def test_a_release_that_cries_wolf_stands_out(
    blocks: Blocks, slots: BundleSlots, tmp_path: Path, signing_key: Ed25519PrivateKey
) -> None:
    """Control to the one above: the two are different bundles, each asked by itself."""
    wolf = make_bundle(tmp_path, version=2, signing_key=signing_key, thresholds=WOLF)
    comparison = switch(blocks, slots, wolf, run_machine("m-1", start_h=40, hours=40))

    silent = THRESHOLDS.on_delay_windows - 1
    assert silent > 0
    assert comparison.live["alarm"] == sum(comparison.replaced.values()) - silent
    assert comparison.live["normal"] == silent
    assert "alarm" not in comparison.replaced


@pytest.mark.parametrize(
    ("on_delay", "counted"),
    [(3, {"normal": 4, "unknown": 1, "alarm": 1}), (1, {"warning": 2, "unknown": 1, "normal": 1, "alarm": 2})],
)
def test_an_excursion_counts_from_the_on_delay_on(on_delay: int, counted: dict[str, int]) -> None:
    """What is too short to raise an advisory is held against nobody; an unknown window neither ends nor feeds it."""
    zones = [Zone.WARNING, Zone.NORMAL, Zone.WARNING, Zone.UNKNOWN, Zone.ALARM, Zone.ALARM]
    comparison = Comparison(replaced_version=1)
    comparison.add_live([_state(zone) for zone in zones], on_delay)

    assert comparison.live == counted


def _state(zone: Zone) -> State:
    return State(
        asset_id="m-1",
        asset_class=ASSET_CLASS,
        window_start=EPOCH,
        window_end=EPOCH,
        zone=zone,
        score=None,
        good_share=1.0,
        reason="",
        model_version=1,
    )


def test_a_restart_forgets_nothing_of_it(blocks: Blocks, slots: BundleSlots, archives: dict[int, Path]) -> None:
    """Restarted after each page, the gateway counts what it would have counted without."""
    saved = blocks.state()
    steady = switch(blocks, slots, archives[2])
    for piece in cut(AFTER, 7):
        blocks = make_blocks(slots)
        blocks.restore(saved)
        blocks.follow_bundles()
        _, saved = blocks.advance(piece)

    assert (compared(blocks).live, compared(blocks).replaced) == (steady.live, steady.replaced)


def test_a_comparison_that_cannot_go_on_after_a_restart_stands_still(
    blocks: Blocks, slots: BundleSlots, archives: dict[int, Path]
) -> None:
    """Both counts stay as they are, so that they still compare, and monitoring goes on."""
    first, second = cut(AFTER, 2)
    before = switch(blocks, slots, archives[2], first)
    saved = blocks.state()
    shutil.rmtree(slots._slot(ASSET_CLASS, 1))
    blocks = make_blocks(slots)
    blocks.restore(saved)

    assert blocks.advance(second)[0].states
    assert (compared(blocks).live, compared(blocks).replaced) == (before.live, before.replaced)


def test_a_way_back_is_not_compared(blocks: Blocks, slots: BundleSlots, archives: dict[int, Path]) -> None:
    """What was rolled back is not asked again; and the next release is compared from its first window."""
    switch(blocks, slots, archives[2])
    slots.rollback(ASSET_CLASS)
    blocks.follow_bundles()

    assert blocks.active()[ASSET_CLASS].comparison is None
    assert blocks.active()[ASSET_CLASS].states["normal"] == 0
    comparison = switch(blocks, slots, archives[2], run_machine("m-1", start_h=80, hours=20, fault=OVERHEATING))
    assert comparison.live == comparison.replaced
    assert comparison.live["alarm"] > 10


def test_the_replaced_bundle_is_let_go_in_the_end(
    blocks: Blocks, slots: BundleSlots, archives: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scoring twice is for as long as a rollout may look, and no longer."""
    monkeypatch.setattr("gateway.condition_monitoring.comparison.COMPARED_WINDOWS", 10)
    first, second = cut(AFTER, 2)
    before = switch(blocks, slots, archives[2], first)
    counts = dict(before.live)
    blocks.advance(second)

    assert sum(counts.values()) >= 10
    assert compared(blocks).live == counts
    assert compared(blocks).manipulator == b""
