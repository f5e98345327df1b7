from dataclasses import replace
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.bundles.slots import BundleSlots
from gateway.journal import Journal, compact_once
from gateway.testing import ASSET_CLASS, THRESHOLDS, Fault, cut, make_bundle, public_pem, run_machine
from models.bundle.manifest import Thresholds


async def write_history(state_dir: Path) -> None:
    """Keep two days of one overheating machine as the gateway does, in three segments."""
    machine = run_machine("m-1", hours=48, fault=Fault(start_h=30, celsius_per_h=3.0))
    journal = await Journal.open(state_dir, "gw-1")
    for piece in cut(machine, 9):
        await journal.append(piece)
    for _ in range(3):
        await compact_once(journal, max_pages=3)
    await journal.close()


def make_slots(state_dir: Path, signing_key: Ed25519PrivateKey) -> BundleSlots:
    return BundleSlots(
        state_dir / "bundles",
        public_pem(signing_key),
        software_version="0.1.0",
        segments=state_dir / "segments",
        assets={"m-1": ASSET_CLASS},
    )


def deaf() -> Thresholds:
    """Return thresholds that nothing reaches."""
    return replace(THRESHOLDS, warning=1000.0, alarm=2000.0)


async def test_a_release_is_scored_beside_the_live_one(
    tmp_path: Path, archives: dict[int, Path], signing_key: Ed25519PrivateKey
) -> None:
    """The same models agree on every window of local history."""
    await write_history(tmp_path)
    slots = make_slots(tmp_path, signing_key)
    assert slots.install(archives[1]).shadow is None

    shadow = slots.install(archives[2]).shadow

    assert shadow is not None
    assert shadow.windows > 40
    assert shadow.agreement == 1.0
    assert shadow.live_out_of_normal == shadow.candidate_out_of_normal > 0.2


async def test_a_release_that_hears_nothing_shows_in_the_report(
    tmp_path: Path, archives: dict[int, Path], signing_key: Ed25519PrivateKey
) -> None:
    await write_history(tmp_path)
    slots = make_slots(tmp_path, signing_key)
    slots.install(archives[1])

    shadow = slots.install(make_bundle(tmp_path, version=2, signing_key=signing_key, thresholds=deaf())).shadow

    assert shadow is not None
    assert shadow.candidate_out_of_normal == 0.0
    assert np.isclose(shadow.agreement, 1.0 - shadow.live_out_of_normal)


async def test_a_damaged_segment_is_left_out(
    tmp_path: Path, archives: dict[int, Path], signing_key: Ed25519PrivateKey
) -> None:
    """Local history helps to judge a release; where it is damaged, or was just removed, the rest has to do."""
    await write_history(tmp_path)
    (tmp_path / "segments" / "removed.wseg").symlink_to(tmp_path / "nothing")
    first = min((tmp_path / "segments").glob("*.wseg"))
    first.write_bytes(first.read_bytes()[:-10])
    slots = make_slots(tmp_path, signing_key)
    slots.install(archives[1])

    shadow = slots.install(archives[2]).shadow

    assert shadow is not None
    assert 0 < shadow.windows < 40


async def test_without_history_the_report_says_so(
    tmp_path: Path, archives: dict[int, Path], signing_key: Ed25519PrivateKey
) -> None:
    slots = make_slots(tmp_path, signing_key)
    slots.install(archives[1])

    report = slots.install(archives[2])

    assert report.shadow is None
    assert "not scored in shadow" in report.notes[0]
