"""An archive is taken as it was signed, or not at all."""

import io
import math
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bundle import archive
from models.bundle.archive import archive_name, pack, unpack_verified
from models.bundle.contents import DETECTOR, MANIFEST, SIGNATURE, digest, encode_manifest
from models.bundle.errors import (
    ArchiveMalformed,
    BundleError,
    DigestMismatch,
    Expired,
    ManifestMismatch,
    SignatureInvalid,
)
from models.bundle.manifest import Manifest


def refused(data: bytes, release: Any, into: Path) -> BundleError:
    """Return why *data* is refused, after a look that nothing was written."""
    with pytest.raises(BundleError) as caught:
        unpack_verified(data, release.key.public_key(), into=into)
    assert not into.exists()
    assert "live one stays" in str(caught.value)
    return caught.value


def signed(release: Any, manifest: Manifest | None = None, parts: dict[str, bytes] | None = None) -> bytes:
    """Return an archive whose signature holds, whatever else is wrong: *manifest* is taken as it is."""
    parts = release.parts if parts is None else parts
    manifest = manifest or replace(release.manifest, files={name: digest(data) for name, data in release.parts.items()})
    body = encode_manifest(manifest)
    return archive._tar({MANIFEST: body, SIGNATURE: release.key.sign(body), **parts})


def test_what_was_packed_comes_out(release: Any, tmp_path: Path) -> None:
    """From bytes and from a file, by key and by PEM; the same release packs to the same bytes."""
    pem = release.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    file = tmp_path / archive_name(release.manifest)
    file.write_bytes(release.archive)

    manifest = unpack_verified(file, pem, into=tmp_path / "one")
    unpack_verified(release.archive, release.key.public_key(), into=tmp_path / "two")

    assert file.name == "wearsight-bundle-test_pump-v000007.tar"
    assert replace(manifest, files={}) == release.manifest
    assert release.archive == pack(dict(reversed(release.parts.items())), release.manifest, release.key)
    for folder in ("one", "two"):
        written = {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        assert {name: data for name, data in written.items() if not name.startswith("manifest.")} == release.parts


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 10**9), flip=st.integers(1, 255))
def test_a_changed_byte_anywhere_is_refused(release: Any, place: int, flip: int) -> None:
    """In files, manifest, signature, and in every field and filling of the tar itself."""
    data = bytearray(release.archive)
    data[place % len(data)] ^= flip

    with pytest.raises(BundleError):
        archive.verify(archive._members(bytes(data)), release.key.public_key())


@settings(max_examples=50, deadline=None)
@given(length=st.integers(0, 10**9))
def test_a_cut_archive_is_refused(release: Any, length: int) -> None:
    data = release.archive

    with pytest.raises(BundleError):
        archive.verify(archive._members(data[: length % len(data)]), release.key.public_key())


def test_another_key_is_refused(release: Any, tmp_path: Path) -> None:
    """Control: the right key takes the same archive."""
    forged = pack(release.parts, release.manifest, Ed25519PrivateKey.generate())

    assert isinstance(refused(forged, release, tmp_path / "into"), SignatureInvalid)
    unpack_verified(release.archive, release.key.public_key(), into=tmp_path / "into")


def test_without_a_signature_it_is_refused(release: Any, tmp_path: Path) -> None:
    body = encode_manifest(release.manifest)

    assert isinstance(
        refused(archive._tar({MANIFEST: body, **release.parts}), release, tmp_path / "a"), SignatureInvalid
    )
    assert isinstance(refused(archive._tar(release.parts), release, tmp_path / "b"), SignatureInvalid)
    assert isinstance(
        refused(archive._tar({MANIFEST: body, SIGNATURE: b"", **release.parts}), release, tmp_path / "c"),
        SignatureInvalid,
    )


def test_the_signature_is_checked_before_anything_else(release: Any, tmp_path: Path) -> None:
    """A manifest that does not even decode is reported as not signed."""
    data = archive._tar({MANIFEST: b"\xff", SIGNATURE: b"x" * 64, **release.parts})

    assert isinstance(refused(data, release, tmp_path / "into"), SignatureInvalid)


@pytest.mark.parametrize("key", [b"", b"-----BEGIN PUBLIC KEY-----\n", "x25519"])
def test_a_key_that_is_none_installs_nothing(release: Any, tmp_path: Path, key: bytes | str) -> None:
    if isinstance(key, str):
        key = X25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    with pytest.raises(SignatureInvalid):
        unpack_verified(release.archive, key, into=tmp_path / "into")


def test_files_must_be_those_that_were_signed(release: Any, tmp_path: Path) -> None:
    changed = {**release.parts, DETECTOR: release.parts[DETECTOR] + b"\0"}
    more = {**release.parts, "more.bin": b"1"}
    fewer = {name: data for name, data in release.parts.items() if name != DETECTOR}

    for number, parts in enumerate((changed, more, fewer)):
        assert isinstance(refused(signed(release, parts=parts), release, tmp_path / str(number)), DigestMismatch)
    unpack_verified(signed(release), release.key.public_key(), into=tmp_path / "control")


def test_a_manifest_out_of_range_is_refused(release: Any, tmp_path: Path) -> None:
    files = {name: digest(data) for name, data in release.parts.items()}
    limits = release.manifest.thresholds
    for number, wrong in enumerate(
        (
            replace(release.manifest, files=files, schema_version=3),
            replace(release.manifest, files=files, version=0),
            replace(release.manifest, files=files, thresholds=replace(limits, warning=7.0)),
            replace(release.manifest, files=files, thresholds=replace(limits, warning=0.0)),
            replace(release.manifest, files=files, thresholds=replace(limits, minimum_good_share=1.5)),
            replace(release.manifest, files=files, thresholds=replace(limits, minimum_confidence=math.nan)),
            replace(release.manifest, files=files, thresholds=replace(limits, on_delay_windows=0)),
            replace(release.manifest, files=files, not_after=datetime(2100, 1, 1)),  # noqa: DTZ001 - that is what is wrong
            replace(release.manifest, files=files, minimum_gateway_version="\N{SUPERSCRIPT TWO}"),
            replace(release.manifest, files=files, minimum_gateway_version="9" * 5000),
        )
    ):
        assert isinstance(refused(signed(release, wrong), release, tmp_path / str(number)), ManifestMismatch)


@pytest.mark.parametrize(
    "body", [b'{"schema_version":2,"asset_class":"\xff"}', b'{"x":' * 100_000, b'{"version":NaN}', b""]
)
def test_a_signed_manifest_that_is_none_is_refused(release: Any, tmp_path: Path, body: bytes) -> None:
    """Other text than UTF-8 and endless nesting among them, at which decoders raise errors of their own."""
    data = archive._tar({MANIFEST: body, SIGNATURE: release.key.sign(body), **release.parts})

    assert isinstance(refused(data, release, tmp_path / "into"), ManifestMismatch)


def test_what_no_gateway_could_read_is_not_signed(release: Any) -> None:
    """A figure that is no number has no place in JSON."""
    with pytest.raises(ManifestMismatch, match="metrics"):
        pack(release.parts, replace(release.manifest, metrics={"auc": math.nan}), release.key)


def test_a_bundle_of_an_older_release_says_what_to_do(release: Any, tmp_path: Path) -> None:
    """Its parts are others; nobody guesses at them."""
    files = {name: digest(data) for name, data in release.parts.items()}
    older = replace(release.manifest, files=files, schema_version=1)

    assert "of an older release: train the class again" in str(refused(signed(release, older), release, tmp_path / "a"))


def test_after_its_time_it_is_refused(release: Any, tmp_path: Path) -> None:
    """Control: a moment before, it is taken."""
    until = release.manifest.not_after
    key = release.key.public_key()

    with pytest.raises(Expired):
        unpack_verified(release.archive, key, into=tmp_path / "into", now=until)
    unpack_verified(release.archive, key, into=tmp_path / "into", now=datetime(2099, 12, 31, tzinfo=UTC))


def entry(name: str, data: bytes = b"x", **fields: Any) -> bytes:
    """Return a tar that a friendly tool would write, of one strange entry."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for field, value in fields.items():
            setattr(info, field, value)
        tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "strange",
    [
        entry("../escape.txt"),
        entry("/etc/cron.d/x"),
        entry("folder/file.txt"),
        entry("folder", b"", type=tarfile.DIRTYPE),
        entry("link.txt", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry("link.txt", b"", type=tarfile.LNKTYPE, linkname="manifest.json"),
        entry("device.txt", b"", type=tarfile.CHRTYPE),
        entry("n" * 300 + ".txt"),
        entry("owned.txt", uid=1000),
        entry("late.txt", mtime=1),
        entry("loose.txt", mode=0o4777),
        entry("CON.txt"),
        b"",
        b"not a tar at all",
        b"\0" * 10240,
    ],
)
def test_strange_entries_are_refused(release: Any, tmp_path: Path, strange: bytes) -> None:
    assert isinstance(refused(strange, release, tmp_path / "into"), ArchiveMalformed | SignatureInvalid)


@pytest.mark.parametrize("strange", ["../escape.txt", "/abs.txt", "a/b.txt", "CON", ".hidden.txt", "manifest.json"])
def test_a_strange_name_is_not_packed(release: Any, strange: str) -> None:
    with pytest.raises(ArchiveMalformed):
        pack({**release.parts, strange: b"x"}, release.manifest, release.key)


def test_sizes_are_bounded_before_they_are_read(release: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = archive._tar({f"f{number}.txt": b"" for number in range(archive.MAX_FILES + 1)})
    lying = bytearray(entry("big.txt"))
    lying[124:135] = b"77777777777"
    file = tmp_path / "big.tar"
    file.write_bytes(release.archive)

    assert isinstance(refused(many, release, tmp_path / "many"), ArchiveMalformed)
    assert isinstance(refused(bytes(lying), release, tmp_path / "lying"), ArchiveMalformed)
    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", 1000)
    with pytest.raises(ArchiveMalformed, match="larger than 1000"):
        unpack_verified(file, release.key.public_key(), into=tmp_path / "into")
    with pytest.raises(ArchiveMalformed, match="cannot be read"):
        unpack_verified(tmp_path / "absent.tar", release.key.public_key(), into=tmp_path / "into")


def test_a_file_is_never_written_over(release: Any, folder: Callable[[], Path]) -> None:
    into = folder()

    with pytest.raises(FileExistsError):
        unpack_verified(release.archive, release.key.public_key(), into=into)
