import errno
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.bundles.slots import BundleSlots, InstallBusy, NoBundle, SlotNotWritten
from gateway.bundles.verification import GatewayTooOld
from gateway.testing import ASSET_CLASS, make_bundle, public_pem
from models.bundle.errors import (
    ArchiveMalformed,
    Expired,
    GoldenMismatch,
    SignatureInvalid,
    VersionNotNewer,
)


def live_version(slots: BundleSlots) -> int | None:
    """Return the version that is live and loads, as a gateway would find it."""
    bundle = slots.live(ASSET_CLASS)
    return None if bundle is None else bundle.manifest.version


def test_an_installed_bundle_is_live(slots: BundleSlots, archives: dict[int, Path]) -> None:
    report = slots.install(archives[1])

    assert (report.version, report.replaced) == (1, None)
    assert live_version(slots) == 1


def test_an_update_replaces_and_a_rollback_goes_back(slots: BundleSlots, archives: dict[int, Path]) -> None:
    slots.install(archives[1])
    assert slots.install(archives[2]).replaced == 1

    assert slots.rollback(ASSET_CLASS).version == 1
    assert live_version(slots) == 1


def test_rollback_goes_to_what_was_live_not_to_what_was_refused_before(
    slots: BundleSlots, archives: dict[int, Path]
) -> None:
    """A version that was rolled back is no place to go back to."""
    for version in (1, 2):
        slots.install(archives[version])
    slots.rollback(ASSET_CLASS)
    slots.install(archives[3])

    assert slots.rollback(ASSET_CLASS).version == 1


def test_without_an_earlier_bundle_rollback_is_refused(slots: BundleSlots, archives: dict[int, Path]) -> None:
    slots.install(archives[1])

    with pytest.raises(NoBundle, match="version 1 stays live"):
        slots.rollback(ASSET_CLASS)
    assert live_version(slots) == 1


def test_the_previous_two_stay_on_disk(slots: BundleSlots, archives: dict[int, Path]) -> None:
    for version in (1, 2, 3, 4):
        slots.install(archives[version])

    assert [(s.version, s.live) for s in slots.listing()] == [(2, False), (3, False), (4, True)]


@pytest.mark.parametrize("version", [1, 2])
def test_a_bundle_that_is_not_newer_is_refused(slots: BundleSlots, archives: dict[int, Path], version: int) -> None:
    slots.install(archives[2])

    with pytest.raises(VersionNotNewer):
        slots.install(archives[version])
    assert live_version(slots) == 2


def refused(slots: BundleSlots, archives: dict[int, Path], archive: Path, error: type[Exception]) -> None:
    slots.install(archives[1])
    with pytest.raises(error):
        slots.install(archive)
    assert live_version(slots) == 1
    assert [s.version for s in slots.listing()] == [1]


def test_a_bundle_signed_by_another_key_is_refused(
    slots: BundleSlots, archives: dict[int, Path], tmp_path: Path
) -> None:
    other = make_bundle(tmp_path, version=2, signing_key=Ed25519PrivateKey.generate())

    refused(slots, archives, other, SignatureInvalid)


def test_the_same_bundle_signed_by_the_trusted_key_is_taken(
    slots: BundleSlots, archives: dict[int, Path], tmp_path: Path, signing_key: Ed25519PrivateKey
) -> None:
    """Control to the refusals: nothing else about such a bundle is wrong."""
    slots.install(archives[1])
    slots.install(make_bundle(tmp_path, version=2, signing_key=signing_key))

    assert live_version(slots) == 2


def test_a_bundle_with_a_changed_byte_is_refused(slots: BundleSlots, archives: dict[int, Path], tmp_path: Path) -> None:
    data = bytearray(archives[2].read_bytes())
    data[len(data) // 2] ^= 1
    broken = tmp_path / "broken.tar"
    broken.write_bytes(data)
    slots.install(archives[1])

    with pytest.raises(Exception, match=r"refused|malformed|not a bundle"):
        slots.install(broken)
    assert live_version(slots) == 1


def test_a_file_that_is_no_archive_is_refused(slots: BundleSlots, archives: dict[int, Path], tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.tar"
    nonsense.write_bytes(b"nonsense" * 1000)

    refused(slots, archives, nonsense, ArchiveMalformed)


def test_an_expired_bundle_is_refused(
    slots: BundleSlots, archives: dict[int, Path], tmp_path: Path, signing_key: Ed25519PrivateKey
) -> None:
    old = make_bundle(tmp_path, version=2, signing_key=signing_key, not_after=datetime(2020, 1, 1, tzinfo=UTC))

    refused(slots, archives, old, Expired)


def test_a_bundle_for_a_newer_gateway_is_refused(
    slots: BundleSlots, archives: dict[int, Path], tmp_path: Path, signing_key: Ed25519PrivateKey
) -> None:
    newer = make_bundle(tmp_path, version=2, signing_key=signing_key, minimum_gateway_version="0.2.0")

    refused(slots, archives, newer, GatewayTooOld)


def test_a_bundle_that_answers_differently_here_is_refused(
    slots: BundleSlots, archives: dict[int, Path], tmp_path: Path, signing_key: Ed25519PrivateKey
) -> None:
    """The golden vectors are computed on this machine."""
    other = make_bundle(tmp_path, version=2, signing_key=signing_key, golden_gain=1.1)

    refused(slots, archives, other, GoldenMismatch)


def test_without_a_trusted_key_nothing_is_installed(tmp_path: Path, archives: dict[int, Path]) -> None:
    with pytest.raises(NoBundle, match="trusted_key_file"):
        BundleSlots(tmp_path / "bundles", None, software_version="0.1.0").install(archives[1])


def test_two_installs_do_not_meet(
    slots: BundleSlots, archives: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits so long, and then says why it has changed nothing."""
    monkeypatch.setattr("gateway.bundles.slots.BUSY_LIMIT_S", 0.0)
    with slots._exclusive(), pytest.raises(InstallBusy, match="another install"):
        slots.install(archives[1])


def test_an_install_waits_for_the_one_before_it(slots: BundleSlots, archives: dict[int, Path]) -> None:
    """Two asset classes are rolled out at the same time."""
    with ThreadPoolExecutor(1) as other:
        with slots._exclusive():
            second = other.submit(slots.install, archives[1])
            with pytest.raises(TimeoutError):
                second.result(timeout=0.5)
        assert second.result().version == 1


def test_a_live_bundle_that_does_not_load_can_be_replaced(slots: BundleSlots, archives: dict[int, Path]) -> None:
    """Neither a damaged file nor a slot that is gone keeps the next release out, or the list from being read."""
    slots.install(archives[1])
    (slots._slot(ASSET_CLASS, 1) / "detector.onnx").write_bytes(b"damaged")
    assert [s.version for s in slots.listing()] == [1]

    assert "does not load" in slots.install(archives[2]).notes[0]
    assert live_version(slots) == 2

    shutil.rmtree(slots._slot(ASSET_CLASS, 2))
    assert slots.token(ASSET_CLASS) == (2, 0)
    slots.install(archives[3])
    assert live_version(slots) == 3


@pytest.mark.parametrize("step", ["rename", "symlink", "fsync"])
def test_a_full_disk_refuses_the_bundle(
    slots: BundleSlots, archives: dict[int, Path], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The reason is said, what was live stays live, and with room again the bundle comes in."""
    slots.install(archives[1])

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(SlotNotWritten, match="No space left"):
            slots.install(archives[2])
    assert live_version(slots) == 1
    slots.install(archives[2])
    assert live_version(slots) == 2


def test_a_disk_that_cannot_be_written_refuses_the_way_back(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    slots = BundleSlots(tmp_path / "file", None, software_version="0.1.0")

    with pytest.raises(SlotNotWritten, match="what is live stays"):
        slots.rollback(ASSET_CLASS)


@pytest.mark.parametrize("damaged", [b'{"archive":"\xff"}', b'{"x":' * 100_000, b""], ids=["text", "nesting", "empty"])
def test_a_damaged_report_loses_the_way_back_and_nothing_else(slots: BundleSlots, damaged: bytes) -> None:
    slot = slots._slot(ASSET_CLASS, 2)
    slot.mkdir(parents=True)
    slots._live(ASSET_CLASS).symlink_to(slot.name)
    slot.with_suffix(".json").write_bytes(damaged)

    assert [(s.version, s.live, s.replaced) for s in slots.listing()] == [(2, True, None)]
    with pytest.raises(NoBundle, match="version 2 stays live"):
        slots.rollback(ASSET_CLASS)


def test_a_bundle_of_a_class_that_is_not_here_says_so(
    tmp_path: Path, archives: dict[int, Path], signing_key: Ed25519PrivateKey
) -> None:
    slots = BundleSlots(
        tmp_path / "bundles", public_pem(signing_key), software_version="0.1.0", assets={"fan-1": "fan"}
    )

    assert "no asset of class" in slots.install(archives[1]).notes[-1]


def test_what_an_interrupted_install_left_is_swept(slots: BundleSlots, archives: dict[int, Path]) -> None:
    left = slots._root / ".incoming-left"
    left.mkdir(parents=True)
    (left / "detector.onnx").write_bytes(b"half")

    slots.install(archives[1])

    assert not left.exists()


# Every call that changes the disk, by which an install can be cut.
_CUTS = ("fsync", "rename", "replace", "symlink", "mkdir", "rmdir", "unlink")


def _install_and_die(root: Path, key: bytes, archive: Path, steps: int, died: int) -> None:
    """Install *archive*, and be killed at the *steps*-th change of the disk."""
    done = 0

    def cutting(change: Callable[..., object]) -> Callable[..., object]:
        def maybe(*arguments: object, **named: object) -> object:
            nonlocal done
            done += 1
            if done == steps:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*arguments, **named)

        return maybe

    for name in _CUTS:
        setattr(os, name, cutting(getattr(os, name)))
    BundleSlots(root, key, software_version="0.1.0").install(archive)
    os._exit(died)


@pytest.mark.slow
def test_whatever_kills_an_install_a_whole_bundle_is_live(
    tmp_path: Path, archives: dict[int, Path], signing_key: Ed25519PrivateKey
) -> None:
    """Killed at each change of the disk in turn: the old bundle is live and loads, or the new one does."""
    key = public_pem(signing_key)
    forked = multiprocessing.get_context("fork")
    before = tmp_path / "before"
    BundleSlots(before, key, software_version="0.1.0").install(archives[1])
    seen: list[int | None] = []
    for steps in range(1, 200):
        root = tmp_path / str(steps)
        shutil.copytree(before, root, symlinks=True)
        slots = BundleSlots(root, key, software_version="0.1.0")
        child = forked.Process(target=_install_and_die, args=(root, key, archives[2], steps, 7))
        child.start()
        child.join()
        seen.append(live_version(slots))
        assert seen[-1] in {1, 2}
        if live_version(slots) == 1 and steps % 5 == 0:
            slots.install(archives[2])  # the next try finds nothing in its way
            assert live_version(slots) == 2
        if child.exitcode == 7:
            break

    assert child.exitcode == 7
    assert seen == [1] * seen.count(1) + [2] * seen.count(2)
    assert {1, 2} == set(seen)
