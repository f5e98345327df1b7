"""A machine that has always run warmer than its class, and one on its way into a fault: only the first is fitted."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.adaptation.store import AdaptationStore
from gateway.bundles.slots import BundleSlots
from gateway.cli import main
from gateway.condition_monitoring.blocks import Blocks
from gateway.journal import Journal
from gateway.testing import ASSET_CLASS, Fault, cut, make_bundle, public_pem, run_machine
from models.detection.adaptation import Adaptation, Adaptations
from models.records import Observations, State, Zone

HOURS = 260
WARMER_CELSIUS = 12.0
CONFIG = f"""
gateway_id = "gw-1"
state_dir = "state"
[[server]]
name = "cell-1"
endpoint = "opc.tcp://127.0.0.1:1/"
[[asset]]
asset_id = "warm"
asset_class = "{ASSET_CLASS}"
server = "cell-1"
path = "Machines/warm"
[[asset]]
asset_id = "failing"
asset_class = "{ASSET_CLASS}"
server = "cell-1"
path = "Machines/failing"
[asset_class.{ASSET_CLASS}]
[bundles]
trusted_key_file = "signing.pub"
"""


def warm_machine(hours: float = HOURS) -> Observations:
    """Return a healthy machine that is warmer than its class by as much at every moment."""
    machine = run_machine("warm", hours=hours)
    return replace(machine, value=np.where(machine.stream == 1, machine.value + WARMER_CELSIUS, machine.value))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gateway's folder with a live bundle, and both machines in its journal; to be copied."""
    folder = tmp_path_factory.mktemp("untouched")
    key = Ed25519PrivateKey.generate()
    (folder / "signing.pub").write_bytes(public_pem(key))
    (folder / "gateway.toml").write_text(CONFIG)
    slots = BundleSlots(folder / "state" / "bundles", public_pem(key), software_version="0.1.0")
    slots.install(make_bundle(folder, version=1, signing_key=key))
    asyncio.run(_stored(folder / "state"))
    return folder


@pytest.fixture
def folder(untouched: Path, tmp_path: Path) -> Path:
    """A gateway's folder of one test alone."""
    return shutil.copytree(untouched, tmp_path / "gateway", symlinks=True)


async def _stored(state_dir: Path) -> None:
    journal = await Journal.open(state_dir, "gw-1")
    failing = run_machine("failing", hours=HOURS, fault=Fault(start_h=10, celsius_per_h=0.1))
    for machine in (warm_machine(), failing):
        for piece in cut(machine, 4):
            await journal.append(piece)
    await journal.close()


def make_blocks(folder: Path) -> Blocks:
    """Return new blocks over the live bundle, with the adaptations of the folder."""
    state = folder / "state"
    slots = BundleSlots(state / "bundles", None, software_version="0.1.0")
    return Blocks(
        gateway_id="gw-1",
        assets={"warm": ASSET_CLASS, "failing": ASSET_CLASS},
        slots=slots,
        adaptations=AdaptationStore(state / "adaptations"),
    )


def states(blocks: Blocks, observations: Observations) -> tuple[State, ...]:
    blocks.follow_bundles()
    return blocks.results((observations,)).states


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        main, ["adaptation", *arguments, "--config", str(folder / "gateway.toml")], catch_exceptions=False
    )


def test_a_confirmed_machine_is_judged_by_its_own_ordinary(folder: Path) -> None:
    """Flagged before, normal after; a fault on top of it is found all the same."""
    before = states(make_blocks(folder), warm_machine())
    assert {state.zone for state in before} & {Zone.WARNING, Zone.ALARM}

    said = run(folder, "confirm", "warm", "--by", "a technician", "--json")
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["confirmed_by"] == "a technician"

    after = states(make_blocks(folder), warm_machine())
    assert {state.zone for state in after} == {Zone.NORMAL}
    worse = replace(warm_machine(), value=warm_machine().value + 3 * WARMER_CELSIUS)
    assert Zone.NORMAL not in {state.zone for state in states(make_blocks(folder), worse)}


def test_a_running_gateway_follows_and_goes_back(folder: Path) -> None:
    """Nothing restarts, windows go on; after the reset every answer is as before, to the last bit."""
    machine = cut(warm_machine(), 3)
    blocks, never = make_blocks(folder), make_blocks(folder)
    first = states(blocks, machine[0])
    assert first == states(never, machine[0])

    run(folder, "confirm", "warm")
    adapted = states(blocks, machine[1])
    assert {state.zone for state in adapted} == {Zone.NORMAL}
    untouched = BundleSlots(folder / "state" / "bundles", None, software_version="0.1.0")
    never = Blocks(gateway_id="gw-1", assets={"warm": ASSET_CLASS}, slots=untouched)
    states(never, machine[0])
    states(never, machine[1])

    assert run(folder, "reset", "warm").exit_code == 0
    assert states(blocks, machine[2]) == states(never, machine[2])


def test_the_way_into_a_fault_is_no_new_ordinary(folder: Path) -> None:
    """Whoever confirms it by mistake is told why nothing was fitted."""
    said = run(folder, "confirm", "failing")

    assert said.exit_code != 0
    assert "temperature_c" in said.output
    assert "nothing is adapted" in said.output
    assert not (folder / "state" / "adaptations").exists()


def test_a_dry_run_changes_nothing(folder: Path) -> None:
    """It tells what would be."""
    said = run(folder, "confirm", "warm", "--dry-run")

    assert said.exit_code == 0
    assert said.stdout.startswith("would be: warm (test_machine version 1): ")
    assert not (folder / "state" / "adaptations").exists()


def test_what_is_fitted_can_be_looked_up(folder: Path) -> None:
    """Who said so, of which windows, and how far the centre moved."""
    assert "no machine has models fitted to it" in run(folder, "show").stdout
    run(folder, "confirm", "warm", "--by", "a technician")

    told = json.loads(run(folder, "show", "--json").stdout)
    assert [(one["asset_id"], one["counts"], one["confirmed_by"]) for one in told] == [("warm", True, "a technician")]
    assert "temperature_c.mean" in told[0]["shift_scales"]


def test_a_damaged_file_changes_no_answer(folder: Path) -> None:
    """Assets are judged as the bundle says, and a warning stands."""
    run(folder, "confirm", "warm", "--by", "a technician")
    file = folder / "state" / "adaptations" / f"{ASSET_CLASS}.json"
    file.write_bytes(file.read_bytes().replace(b"technician", b"\xff\xfe"))

    blocks = make_blocks(folder)
    untouched = BundleSlots(folder / "state" / "bundles", None, software_version="0.1.0")
    never = Blocks(gateway_id="gw-1", assets={"warm": ASSET_CLASS}, slots=untouched)
    assert states(blocks, warm_machine(60)) == states(never, warm_machine(60))
    assert any("without adaptation" in warning for warning in blocks.warnings.values())


def test_two_who_confirm_at_the_same_time_are_both_kept(tmp_path: Path) -> None:
    """Each changes what the other left, and what an interrupted writer left half-written counts for nothing."""
    store = AdaptationStore(tmp_path)
    (tmp_path / f"{ASSET_CLASS}.new").write_bytes(b"[{")

    def confirmed(asset_id: str) -> None:
        def changed(before: Adaptations) -> Adaptations:
            inside.wait(0.05)
            return before.with_(
                Adaptation(
                    asset_id=asset_id,
                    asset_class=ASSET_CLASS,
                    bundle_version=1,
                    feature_hash="abc",
                    shift=((0.0,),),
                    factor=1.0,
                    windows=48,
                    first_end_ns=0,
                    last_end_ns=1,
                    confirmed_by="a technician",
                    confirmed_at=datetime(2026, 11, 22, tzinfo=UTC),
                )
            )

        store.change(ASSET_CLASS, changed)

    inside = threading.Event()
    both = [threading.Thread(target=confirmed, args=(name,)) for name in ("left", "right")]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()

    assert set(store.read(ASSET_CLASS).of) == {"left", "right"}


def test_an_asset_that_is_not_there_is_told(folder: Path) -> None:
    """A typing error confirms nothing."""
    said = run(folder, "confirm", "wram")

    assert said.exit_code != 0
    assert "wram is no asset of this gateway" in said.output


def test_who_confirms_must_be_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have no name: then it is asked for, and nothing is fitted."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    said = run(folder, "confirm", "warm")

    assert said.exit_code != 0
    assert "say it with --by" in said.output
    assert not (folder / "state" / "adaptations").exists()
