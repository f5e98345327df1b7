from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_service.errors import RegistryError
from cloud_service.registry.registry import BundleStatus, Registry
from cloud_service.store import Store

CLASS = "centrifugal_pump"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    store = Store(tmp_path / "cloud.sqlite")
    yield Registry(tmp_path / "registry", store)
    store.close()


def add(registry: Registry, status: BundleStatus = BundleStatus.RELEASED, archive: bytes | None = b"tar") -> int:
    version = registry.next_version(CLASS)
    registry.register(CLASS, version, archive=archive, status=status, metrics={"auc": 0.9}, reason="because")
    return version


def test_versions_count_up_and_refused_ones_use_theirs(registry: Registry) -> None:
    """A number never means two bundles."""
    assert [add(registry), add(registry, BundleStatus.REFUSED, None), add(registry)] == [1, 2, 3]
    with pytest.raises(RegistryError, match="not the next"):
        registry.register(CLASS, 2, archive=None, status=BundleStatus.REFUSED, metrics={}, reason="")
    assert registry.next_version("spindle_drive") == 1


def test_archives_are_kept_by_their_content(registry: Registry) -> None:
    """What comes back is what was registered, and no archive is none."""
    version = registry.version(CLASS, add(registry, archive=b"content"))
    assert version.archive is not None
    assert version.archive.read_bytes() == b"content"
    assert version.archive.stem == version.archive_sha256
    assert registry.version(CLASS, add(registry, BundleStatus.REFUSED, None)).archive is None
    with pytest.raises(RegistryError, match="has no archive"):
        add(registry, BundleStatus.CANDIDATE, None)


def test_going_live_withdraws_the_one_before(registry: Registry) -> None:
    """There is one live version at most, and a roll-back brings the old one back."""
    first, second = add(registry), add(registry)
    assert registry.live(CLASS) is None
    for version in (first, second, first):
        registry.move(CLASS, version, BundleStatus.LIVE)
        statuses = {bundle.version: bundle.status for bundle in registry.versions(CLASS)}
        assert [v for v, status in statuses.items() if status == BundleStatus.LIVE] == [version]
    assert statuses[second] == BundleStatus.WITHDRAWN


@pytest.mark.parametrize(
    ("begin", "target"),
    [
        (BundleStatus.REFUSED, BundleStatus.RELEASED),
        (BundleStatus.CANDIDATE, BundleStatus.LIVE),
        (BundleStatus.REFUSED, BundleStatus.LIVE),
    ],
)
def test_nothing_goes_live_past_the_gate(registry: Registry, begin: BundleStatus, target: BundleStatus) -> None:
    """A refused version stays refused, and a candidate has to be released first."""
    version = add(registry, begin)
    with pytest.raises(RegistryError, match="cannot become"):
        registry.move(CLASS, version, target)
    assert registry.version(CLASS, version).status == begin


def test_nothing_begins_live(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="cannot begin"):
        add(registry, BundleStatus.LIVE)


def test_the_next_roll_out_is_the_newest_released(registry: Registry) -> None:
    """Candidates and refused ones are not offered."""
    released = add(registry)
    add(registry, BundleStatus.CANDIDATE)
    found = registry.released(CLASS)
    assert found is not None
    assert found.version == released
