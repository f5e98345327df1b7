"""One upload from the outside in: who sends it, what it says it is, its bytes, the segment in them.

Everything is checked in the order in which it gets expensive. The body is bounded before it is read.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from cloud_service.errors import BodyRefused, NotEntitled, SegmentRejected
from cloud_service.pki import Identity
from models.segment import MAX_PAGES, Segment, SegmentError, decode_segment, segment_digest

_EPOCH = re.compile(r"[0-9a-f]{8,64}")
_RANGE = re.compile(r"([0-9]{1,12})-([0-9]{1,12})")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Names become columns, labels and table keys; a longer one is nobody's machine.
NAME_LIMIT = 200


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What an upload's address and headers say of its body."""

    gateway_id: str
    epoch: str
    first_seq: int
    last_seq: int
    digest: str
    size: int


def check_owner(identity: Identity, gateway_id: str) -> None:
    """Raise NotEntitled unless the certificate is *gateway_id*'s own."""
    if identity.gateway_id != gateway_id:
        raise NotEntitled(f"gateway {identity.gateway_id} asked for the pages of {gateway_id}; nothing is done")


def check_epoch(epoch: str) -> None:
    """Raise SegmentRejected unless *epoch* can be one."""
    if not _EPOCH.fullmatch(epoch):
        raise SegmentRejected(f"epoch {epoch[:80]!r} is not 8 to 64 hexadecimal digits; nothing is stored")


def read_claim(gateway_id: str, epoch: str, pages: str, headers: Mapping[str, str], limit: int) -> Claim:
    """Return the claim in an upload's address and *headers*.

    Raises:
        BodyRefused: If the length is unknown or above *limit* bytes.
        SegmentRejected: If range or digest cannot be those of a segment.
    """
    length = headers.get("content-length", "")
    if not length.isdecimal():
        raise BodyRefused("the upload has no Content-Length; its body is not read", 411)
    if int(length) > limit:
        raise BodyRefused(f"the upload has {length} bytes, above the limit of {limit}; its body is not read", 413)
    check_epoch(epoch)
    numbers = _RANGE.fullmatch(pages)
    first, last = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if not 1 <= first <= last < first + MAX_PAGES:
        raise SegmentRejected(f"{pages[:80]!r} is not a range of pages; nothing is stored")
    digest = headers.get("x-segment-sha256", "")
    if not _DIGEST.fullmatch(digest):
        raise SegmentRejected("X-Segment-SHA256 is not a SHA-256 in hexadecimal; nothing is stored")
    return Claim(gateway_id=gateway_id, epoch=epoch, first_seq=first, last_seq=last, digest=digest, size=int(length))


async def receive(body: AsyncIterator[bytes], claim: Claim, deadline_s: float) -> bytes:
    """Return the bytes of *body*, never more than *claim* says.

    Raises:
        BodyRefused: If there are more, fewer, or they take longer than *deadline_s* seconds.
    """
    data = bytearray()
    try:
        async with asyncio.timeout(deadline_s):
            async for chunk in body:
                data += chunk
                if len(data) > claim.size:
                    raise BodyRefused(f"the upload is longer than the {claim.size} bytes it said; it is dropped", 413)
    except TimeoutError as error:
        raise BodyRefused(f"the upload took longer than {deadline_s} s; it is dropped", 408) from error
    if len(data) < claim.size:
        raise BodyRefused(f"the upload ended after {len(data)} of {claim.size} bytes; it is dropped", 400)
    return bytes(data)


def open_segment(data: bytes, claim: Claim) -> Segment:
    """Return the segment in *data*, which is exactly what *claim* says.

    Raises:
        SegmentRejected: If it is not.
    """
    if not hmac.compare_digest(segment_digest(data), claim.digest):
        raise SegmentRejected("the body does not have the SHA-256 of its header: it was changed on the way; not stored")
    try:
        segment = decode_segment(data)
    except SegmentError as error:
        raise SegmentRejected(str(error)) from error
    named = (segment.gateway_id, segment.epoch, segment.first_seq, segment.last_seq)
    if named != (claim.gateway_id, claim.epoch, claim.first_seq, claim.last_seq):
        raise SegmentRejected("the segment is of another gateway, epoch or range than its address; it is not stored")
    _check_names(segment)
    return segment


def _check_names(segment: Segment) -> None:
    """Refuse names and times that no gateway of ours writes, and that later parts could not carry."""
    names = {name for stream in segment.observations.streams for name in stream}
    moments = []
    for _, results in segment.results:
        names.update(description.asset_id for description in results.assets)
        names.update(description.asset_class for description in results.assets)
        names.update(name for advisory in results.advisories for name in (advisory.advisory_id, advisory.asset_id))
        moments += [moment for advisory in results.advisories for moment in (advisory.raised_at, advisory.updated_at)]
    if any(not 0 < len(name) <= NAME_LIMIT for name in names):
        raise SegmentRejected(
            f"a name in the segment is empty or longer than {NAME_LIMIT} characters; it is not stored"
        )
    if any(moment.tzinfo is None for moment in moments):
        raise SegmentRejected("a time in the segment has no zone; it is not stored")
