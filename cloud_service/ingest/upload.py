"""One upload from the outside in: who sends it, what it says it is, its bytes, the segment in them.

Everything is checked in the order in which it gets expensive. The body is bounded before it is read. What is at fault
is named: a header, a part of the address, or a field of the segment's body.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile

from starlette.requests import ClientDisconnect

from cloud_service.errors import BodyRefused, NotEntitled, SegmentRejected
from cloud_service.ingest.content import check_content
from cloud_service.pki import Identity
from models.segment import MAX_PAGES, Segment, SegmentError, decode_segment, segment_digest

_EPOCH = re.compile(r"[0-9a-f]{8,64}")
_RANGE = re.compile(r"([0-9]{1,12})-([0-9]{1,12})")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LENGTH = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What an upload's address and headers say of its body."""

    gateway_id: str
    epoch: str
    first_seq: int
    last_seq: int
    digest: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How slow a sender may be: so long without a byte, and so many bytes a second on average once that is over."""

    idle_s: float
    bytes_per_s: float

    def patience_s(self, received: int, elapsed_s: float) -> float:
        """Return how many seconds from now the next byte may take, after *received* bytes in *elapsed_s* seconds."""
        deadline_s = self.idle_s + received / self.bytes_per_s
        return min(self.idle_s, deadline_s - elapsed_s)


def check_owner(identity: Identity, gateway_id: str) -> None:
    """Raise NotEntitled unless the certificate is *gateway_id*'s own."""
    if identity.gateway_id != gateway_id:
        raise NotEntitled(
            f"gateway {identity.gateway_id} asked for the pages of {gateway_id[:80]!r}; nothing is done", "gateway_id"
        )


def check_epoch(epoch: str) -> None:
    """Raise SegmentRejected unless *epoch* can be one."""
    if not _EPOCH.fullmatch(epoch):
        raise SegmentRejected(f"epoch {epoch[:80]!r} is not 8 to 64 hexadecimal digits; nothing is stored", "epoch")


def read_claim(gateway_id: str, epoch: str, pages: str, headers: Mapping[str, str], limit: int) -> Claim:
    """Return the claim in an upload's address and *headers*.

    Raises:
        BodyRefused: If the length is unknown or above *limit* bytes.
        SegmentRejected: If range or digest cannot be those of a segment.
    """
    length = headers.get("content-length", "")
    if not length:
        raise BodyRefused("the upload has no Content-Length; its body is not read", 411, "Content-Length")
    if not _LENGTH.fullmatch(length):
        raise BodyRefused("Content-Length is not a length; the body is not read", 413, "Content-Length")
    if int(length) > limit:
        message = f"the upload has {int(length)} bytes, above the limit of {limit}; its body is not read"
        raise BodyRefused(message, 413, "Content-Length")
    check_epoch(epoch)
    numbers = _RANGE.fullmatch(pages)
    first, last = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if not 1 <= first <= last < first + MAX_PAGES:
        raise SegmentRejected(f"{pages[:80]!r} is not a range of pages; nothing is stored", "pages")
    digest = headers.get("x-segment-sha256", "")
    if not _DIGEST.fullmatch(digest):
        message = "X-Segment-SHA256 is not a SHA-256 in hexadecimal; nothing is stored"
        raise SegmentRejected(message, "X-Segment-SHA256")
    return Claim(gateway_id=gateway_id, epoch=epoch, first_seq=first, last_seq=last, digest=digest, size=int(length))


async def receive(body: AsyncIterator[bytes], claim: Claim, pace: Pace, file: SpooledTemporaryFile[bytes]) -> None:
    """Write *body* to *file*, never more than *claim* says. A slow link may take its time as long as it gets on.

    Raises:
        BodyRefused: If there are more or fewer bytes, or they come slower than *pace*.
    """
    clock = asyncio.get_running_loop().time
    received, start = 0, clock()
    chunks = aiter(body)
    try:
        while True:
            async with asyncio.timeout(max(0.0, pace.patience_s(received, clock() - start))):
                chunk = await anext(chunks, None)
            if chunk is None:
                break
            received += len(chunk)
            if received > claim.size:
                raise BodyRefused(f"the upload is longer than the {claim.size} bytes it said; it is dropped", 413)
            file.write(chunk)
    except TimeoutError as error:
        message = (
            f"the upload stands at {received} of {claim.size} bytes after {clock() - start:.0f} s, slower than "
            f"{pace.bytes_per_s:.0f} bytes/s or without any for {pace.idle_s:.0f} s; it is dropped"
        )
        raise BodyRefused(message, 408) from error
    except ClientDisconnect as error:
        raise BodyRefused(f"the sender went away after {received} of {claim.size} bytes; it is dropped", 400) from error
    if received < claim.size:
        raise BodyRefused(f"the upload ended after {received} of {claim.size} bytes; it is dropped", 400)


def open_segment(data: bytes, claim: Claim) -> Segment:
    """Return the segment in *data*, which is exactly what *claim* says.

    Raises:
        SegmentRejected: If it is not.
    """
    if not hmac.compare_digest(segment_digest(data), claim.digest):
        message = "the body does not have the SHA-256 of its header: it was changed on the way; not stored"
        raise SegmentRejected(message, "X-Segment-SHA256")
    try:
        segment = decode_segment(data)
    except SegmentError as error:
        raise SegmentRejected(str(error), error.field) from error
    for name in ("gateway_id", "epoch", "first_seq", "last_seq"):
        if getattr(segment, name) != getattr(claim, name):
            raise SegmentRejected(
                f"the segment's {name} is {str(getattr(segment, name))[:80]!r}, another than its address says; "
                "it is not stored", name,
            )  # fmt: skip
    check_content(segment)
    return segment
