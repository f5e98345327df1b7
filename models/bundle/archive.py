"""The bytes of a bundle: a plain tar with one valid form, a manifest, and an Ed25519 signature over it.

`pack` writes one form only: the manifest, its signature, then the files by name, with no owner, time or link. Reading
rebuilds that form from what was read and refuses anything else, so no byte of an archive can be changed unseen, and the
tar format's links, devices, paths and extensions never come into play.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from models.bundle.contents import (
    MANIFEST,
    REQUIRED,
    SIGNATURE,
    check_digests,
    decode_manifest,
    digest,
    encode_manifest,
)
from models.bundle.errors import ArchiveMalformed, Expired, ManifestMismatch, SignatureInvalid
from models.bundle.manifest import Manifest

MAX_ARCHIVE_BYTES = 256 * 2**20
MAX_FILES = 32
MAX_MANIFEST_BYTES = 4 * 2**20

_BLOCK = tarfile.BLOCKSIZE
_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,60}\.[a-z0-9]{1,8}")


def archive_name(manifest: Manifest) -> str:
    """Return the file name of the archive of *manifest*."""
    return f"wearsight-bundle-{manifest.asset_class}-v{manifest.version:06d}.tar"


def pack(parts: Mapping[str, bytes], manifest: Manifest, signing_key: Ed25519PrivateKey) -> bytes:
    """Return the signed archive of *parts* by file name. The same arguments give the same bytes.

    Args:
        parts: All files but manifest and signature.
        manifest: What is said of them; its ``files`` are filled in here.
        signing_key: Whose public half the gateways trust.

    Raises:
        ArchiveMalformed: If a name or size is beyond what `unpack_verified` accepts.
        ManifestMismatch: If what is said is not, such as a figure that is no number.
    """
    body = encode_manifest(replace(manifest, files={name: digest(data) for name, data in parts.items()}))
    decode_manifest(body)
    members = {MANIFEST: body, SIGNATURE: signing_key.sign(body), **dict(sorted(parts.items()))}
    if any(not _NAME.fullmatch(name) for name in parts) or {MANIFEST, SIGNATURE} & parts.keys():
        raise _malformed("a file has no plain name")
    archive = _tar(members)
    if len(members) > MAX_FILES or len(body) > MAX_MANIFEST_BYTES or len(archive) > MAX_ARCHIVE_BYTES:
        raise _malformed("it is larger than a bundle may be")
    return archive


def unpack_verified(
    archive: Path | bytes, public_key: bytes | Ed25519PublicKey, *, into: Path, now: datetime | None = None
) -> Manifest:
    """Check *archive* and, when all is well, write its files into the folder *into* and on disk for good.

    Args:
        archive: The bytes or the file they are in.
        public_key: The key that is trusted, or its PEM.
        into: Where the files go; made when absent. Nothing is written before every check has passed.
        now: For the manifest's not-after; default: the clock.

    Raises:
        BundleError: `ArchiveMalformed`, `SignatureInvalid`, `ManifestMismatch`, `DigestMismatch` or `Expired`.
    """
    members = _members(_read(archive))
    manifest = verify(members, public_key, now=now)
    into.mkdir(parents=True, exist_ok=True)
    for name, data in members.items():
        with (into / name).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    folder = os.open(into, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return manifest


def verify(
    members: Mapping[str, bytes], public_key: bytes | Ed25519PublicKey, *, now: datetime | None = None
) -> Manifest:
    """Return the manifest of *members* by file name, once signature, schema, digests and not-after are checked.

    Raises:
        BundleError: As `unpack_verified`.
    """
    if MANIFEST not in members or SIGNATURE not in members:
        raise SignatureInvalid("bundle has no signed manifest; it is refused, the live one stays")
    _check_signature(members[MANIFEST], members[SIGNATURE], public_key)
    manifest = decode_manifest(members[MANIFEST])
    check_digests({name: digest(data) for name, data in members.items() if name not in {MANIFEST, SIGNATURE}}, manifest)
    name = f"{manifest.asset_class} version {manifest.version}"
    missing = [part for part in REQUIRED if part not in members]
    if missing:
        raise ManifestMismatch(f"{name}: {', '.join(missing)} is missing; the bundle is refused, the live one stays")
    if (now or datetime.now(UTC)) >= manifest.not_after:
        raise Expired(f"{name}: not to be installed after {manifest.not_after:%Y-%m-%d}; the live one stays")
    return manifest


def _check_signature(body: bytes, signature: bytes, public_key: bytes | Ed25519PublicKey) -> None:
    try:
        key = load_pem_public_key(public_key) if isinstance(public_key, bytes) else public_key
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureInvalid(f"the trusted key is not a public key in PEM ({error}); nothing is installed") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureInvalid("the trusted key is not an Ed25519 key; nothing is installed")
    try:
        key.verify(signature, body)
    except InvalidSignature:
        raise SignatureInvalid(
            "the manifest is not signed by the trusted key, or was changed; the bundle is refused, the live one stays"
        ) from None


def _read(archive: Path | bytes) -> bytes:
    """Return the bytes, read no further than the limit."""
    if isinstance(archive, bytes):
        data = archive
    else:
        try:
            with archive.open("rb") as file:
                data = file.read(MAX_ARCHIVE_BYTES + 1)
        except OSError as error:
            raise _malformed(f"{archive} cannot be read ({error})") from error
    if len(data) > MAX_ARCHIVE_BYTES:
        raise _malformed(f"it is larger than {MAX_ARCHIVE_BYTES} bytes")
    return data


def _members(archive: bytes) -> dict[str, bytes]:
    """Return the files in *archive* by name."""
    members: dict[str, bytes] = {}
    place = 0
    while any(header := archive[place : place + _BLOCK]):
        name, size = _entry(header)
        place += _BLOCK
        if name in members or len(members) >= MAX_FILES:
            raise _malformed(f"it holds {name!r} twice, or more than {MAX_FILES} files")
        if size > len(archive) - place or (name == MANIFEST and size > MAX_MANIFEST_BYTES):
            raise _malformed(f"{name} of {size} bytes is cut or too large")
        members[name] = archive[place : place + size]
        place += -(-size // _BLOCK) * _BLOCK
    if _tar(members) != archive:
        raise _malformed("its bytes are not those that packing these files gives")
    return members


def _entry(header: bytes) -> tuple[str, int]:
    """Return name and size in the tar *header*; everything else in it is held against the one valid form later."""
    name = header[:100].rstrip(b"\0").decode("ascii", "replace")
    if not _NAME.fullmatch(name):
        raise _malformed(f"{name!r} is not a plain file name")
    digits = header[124:135]
    if not re.fullmatch(rb"[0-7]{11}", digits):
        raise _malformed(f"{name} has no plain size")
    return name, int(digits, 8)


def _tar(members: Mapping[str, bytes]) -> bytes:
    """Return the one valid form of *members*: manifest and signature first, then by name."""
    buffer = io.BytesIO()
    first = [name for name in (MANIFEST, SIGNATURE) if name in members]
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in [*first, *sorted(members.keys() - set(first))]:
            entry = tarfile.TarInfo(name)
            entry.size = len(members[name])
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(members[name]))
    return buffer.getvalue()


def _malformed(why: str) -> ArchiveMalformed:
    return ArchiveMalformed(f"not a bundle archive: {why}; the bundle is refused, the live one stays")
