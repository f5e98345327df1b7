"""Uploads that nobody of ours sends: each wrong in one way, made by chance from a seed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any

import msgspec
import numpy as np

from models.records import Advisory, AssetDescription, GatewayEvent, Observations, Page, Results, Stream, from_ns
from models.segment import Expired, cut_segment, encode_segment, express_segment, segment_digest, tombstone
from tests.cloud_service.conftest import EPOCH, make_advisory, make_page

GATEWAY = "gw-storm"
NEW = 20  # a page that the cloud does not hold
_HEAD = 6 + 32  # magic, version and digest in front of the body


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A request: *chunks* are what comes, whatever the headers say. ``cut`` ends it before its end."""

    how: str
    path: str
    headers: dict[str, str]
    chunks: tuple[bytes, ...]
    method: str = "PUT"
    cut: bool = False


def upload_of(data: bytes, pages: tuple[int, int], how: str, *, gateway_id: str = GATEWAY) -> Upload:
    """Return the upload of *data* as a gateway would send it."""
    path = f"/api/v1/segments/{gateway_id}/{EPOCH}/{pages[0]}-{pages[1]}"
    headers = {"Content-Length": str(len(data)), "X-Segment-SHA256": segment_digest(data)}
    return Upload(how=how, path=path, headers=headers, chunks=(data,))


@cache
def held_segments() -> list[tuple[tuple[int, int], bytes]]:
    """Return the segments that the cloud holds before the storm: one of each kind, in one chain."""
    first = [make_page(GATEWAY, seq) for seq in (1, 2)]
    first.append(make_page(GATEWAY, 3, Results(advisories=(make_advisory(),), assets=(described("pump-01"),))))
    full = encode_segment(first)
    whole = encode_segment([make_page(GATEWAY, n) for n in (4, 5, 6)], previous=segment_digest(full))
    gone = tombstone(
        gateway_id=GATEWAY,
        epoch=EPOCH,
        first_seq=7,
        last_seq=8,
        previous=segment_digest(whole),
        stands_for="0" * 64,
        expired=Expired(reason="age_limit", observations=10),
        results=Results(events=(_event(from_ns(0)),)),
    )
    ahead = express_segment(make_page(GATEWAY, 9, Results(events=(_event(from_ns(1)),))))
    cut = cut_segment(whole, [Stream("pump-01", "flow_m3_h")])
    return [((1, 3), full), ((4, 6), cut), ((7, 8), gone), ((9, 9), ahead)]


def _event(moment: datetime) -> GatewayEvent:
    return GatewayEvent(kind="started", gateway_time=moment, message="", detail={"a": "b"})


def described(asset_id: str) -> AssetDescription:
    """Return the description of an asset without channels."""
    return AssetDescription(asset_id=asset_id, asset_class="centrifugal_pump", channels=())


def storm(seed: int, count: int) -> Iterator[Upload]:
    """Yield *count* uploads."""
    chance = random.Random(seed)
    held = held_segments()
    for _ in range(count):
        way = chance.choice(WAYS)
        pages, data = chance.choice(held)
        yield way(chance, upload_of(data, pages, way.__name__.strip("_")))


def _new(content: Observations | Results, how: str) -> Upload:
    """Return the upload of a page that the cloud does not hold yet."""
    return upload_of(encode_segment([make_page(GATEWAY, NEW, content)]), (NEW, NEW), how)


def _with_body(upload: Upload, data: bytes) -> Upload:
    headers = upload.headers | {"Content-Length": str(len(data)), "X-Segment-SHA256": segment_digest(data)}
    return replace(upload, chunks=(data,), headers=headers)


def sealed(body: bytes, start: bytes = b"WSEG\x02\x00") -> bytes:
    """Return a segment of *body* that has the right digest inside."""
    return start + hashlib.sha256(body).digest() + body


def _no_length(_: random.Random, upload: Upload) -> Upload:
    return replace(upload, headers={k: v for k, v in upload.headers.items() if k != "Content-Length"})


def _lying_length(chance: random.Random, upload: Upload) -> Upload:
    size = len(upload.chunks[0])
    length = chance.choice([str(size + 1 + chance.randrange(1000)), str(chance.randrange(size)), "-1", "9" * 400])
    length = chance.choice([length, "1e3", "0x10", " ", "\u0663", str(65 * 2**20)])
    return replace(upload, headers=upload.headers | {"Content-Length": length})


def _wrong_digest(chance: random.Random, upload: Upload) -> Upload:
    digest = chance.choice(["", "0" * 64, "g" * 64, upload.headers["X-Segment-SHA256"].upper() + "0", "a" * 5000])
    return replace(upload, headers=upload.headers | {"X-Segment-SHA256": digest})


def _wrong_address(chance: random.Random, upload: Upload) -> Upload:
    api, v1, segments, gateway_id, epoch, _ = upload.path.strip("/").split("/")
    gateway_id = chance.choice([gateway_id, gateway_id, "gw-other", "..", "x" * 3000])
    epoch = chance.choice([epoch, epoch[:7], epoch.upper() + "g", "0" * 65, "\u0660" * 16, "f00dface"])
    ranges = ["0-3", "3-1", "1-", "-", "1-9999999999999", "a-b", "1-2000000", "1-2/3", "70-80", "1-2", "\u0661-\u0662"]
    wrong = f"/{api}/{v1}/{segments}/{gateway_id}/{epoch}/{chance.choice(ranges)}"
    return replace(upload, path=wrong)


def _nowhere(chance: random.Random, upload: Upload) -> Upload:
    path = chance.choice(["/", "/api/v1/segments", upload.path + "/", "/api/v1/ledger/a/b/c", "/%00", "/metrics"])
    method, path = chance.choice([("PUT", path), ("DELETE", upload.path), ("POST", upload.path), ("BREW", path)])
    return replace(upload, path=path, method=method)


def _truncated(chance: random.Random, upload: Upload) -> Upload:
    data = upload.chunks[0]
    return replace(upload, chunks=(data[: chance.randrange(len(data))],), cut=chance.random() < 0.5)


def _truncated_and_said_so(chance: random.Random, upload: Upload) -> Upload:
    data = upload.chunks[0]
    return _with_body(upload, data[: chance.randrange(len(data))])


def _noise(chance: random.Random, upload: Upload) -> Upload:
    start = chance.choice([b"", b"WSEG", b"WSEG\x01\x00", b"WSEG\x02\x00", b"WSEG\xff\xff"])
    return _with_body(upload, start + chance.randbytes(chance.randrange(2000)))


def _flipped(chance: random.Random, upload: Upload) -> Upload:
    data = bytearray(upload.chunks[0])
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return _with_body(upload, bytes(data))


def _flipped_and_sealed(chance: random.Random, upload: Upload) -> Upload:
    body = bytearray(upload.chunks[0][_HEAD:])
    for _ in range(chance.randint(1, 3)):
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    return _with_body(upload, sealed(bytes(body)))


def _cut_and_sealed(chance: random.Random, upload: Upload) -> Upload:
    body = upload.chunks[0][_HEAD:]
    return _with_body(
        upload, sealed(body[: chance.randrange(len(body))], chance.choice([b"WSEG\x01\x00", b"WSEG\x02\x00"]))
    )


def _lying_head(chance: random.Random, upload: Upload) -> Upload:
    """Say something else of the body than is true: sizes above all, small bodies that unpack to gigabytes."""
    body = upload.chunks[0][_HEAD:]
    end = 2 + int.from_bytes(body[:2], "little")
    head: list[Any] = msgspec.msgpack.decode(body[2:end])
    lies: list[Any] = [0, 1, -1, 3_999_999, 2**31, 2**62, 2**63, 2**64 - 1, "", "x" * 300, None, [], [[[]]], 1.5, b"x"]
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(head))
        if isinstance(head[place], list) and head[place] and chance.random() < 0.7:
            head[place][chance.randrange(len(head[place]))] = deepcopy(chance.choice(lies))
        else:
            head[place] = deepcopy(chance.choice(lies))
    packed = msgspec.msgpack.encode(head)
    return _with_body(upload, sealed(len(packed).to_bytes(2, "little") + packed + body[end:]))


def _bomb(chance: random.Random, upload: Upload) -> Upload:
    """Nest, repeat or inflate: bytes that are few until they are unpacked."""
    body = chance.choice(
        [
            b"\x91" * 50_000,
            (3000).to_bytes(2, "little") + b"\x91" * 3000,
            b"\xdd\xff\xff\xff\xff" + bytes(100),
            b"\x8f" + b"\xa1a\xc6\xff\xff\xff\xff",
            bytes(2**20),
        ]
    )
    return _with_body(upload, sealed(body, chance.choice([b"WSEG\x01\x00", b"WSEG\x02\x00"])))


def _nobodys_names(chance: random.Random, upload: Upload) -> Upload:
    name = chance.choice(["", "n" * 201, "n" * 100_000])
    if chance.random() < 0.5:
        return _new(Results(assets=(described(name),)), upload.how)
    stream = chance.choice([Stream(name, "speed_rpm"), Stream("pump-01", name)])
    return _new(_observations(stream, 5), upload.how)


def _impossible_times(chance: random.Random, upload: Upload) -> Upload:
    naive, early = datetime(2026, 3, 1), datetime.fromisoformat("0001-01-01T00:00:00+00:00")  # noqa: DTZ001 - it is wrong
    moment = chance.choice([naive, early, datetime.fromisoformat("9999-12-31T23:59:59+00:00")])
    if chance.random() < 0.3:
        return _new(_observations(Stream("pump-01", "speed_rpm"), chance.choice([2**63 - 1, -(2**63)])), upload.how)
    if chance.random() < 0.5:
        return _new(Results(events=(_event(moment),)), upload.how)
    field = chance.choice(["raised_at", "updated_at", "act_by"])
    return _new(Results(advisories=(_advisory(field, moment),)), upload.how)


def _impossible_numbers(chance: random.Random, upload: Upload) -> Upload:
    revision = chance.choice([-1, 2**31 + 1, 2**63, 2**64 - 1])
    return _new(Results(advisories=(_advisory("revision", revision),)), upload.how)


def _other_content(chance: random.Random, upload: Upload) -> Upload:
    """A clone: other pages under numbers that are taken."""
    first = chance.randint(1, 6)
    pages = [make_page(GATEWAY, seq, rows=chance.randint(1, 4)) for seq in range(first, first + chance.randint(1, 3))]
    return upload_of(encode_segment(pages), (first, pages[-1].seq), upload.how)


def _of_another_gateway(_: random.Random, upload: Upload) -> Upload:
    page = Page(
        gateway_id="gw-other", epoch=EPOCH, seq=NEW, committed_time=0, content=make_page("gw-other", NEW).content
    )
    return upload_of(encode_segment([page]), (NEW, NEW), upload.how)


def _replayed(_: random.Random, upload: Upload) -> Upload:
    return upload


WAYS: tuple[Callable[[random.Random, Upload], Upload], ...] = (
    _no_length, _lying_length, _wrong_digest, _wrong_address, _nowhere, _truncated, _truncated_and_said_so, _noise,
    _flipped, _flipped_and_sealed, _cut_and_sealed, _lying_head, _bomb, _nobodys_names, _impossible_times,
    _impossible_numbers, _other_content, _of_another_gateway, _replayed,
)  # fmt: skip


def _advisory(field: str, value: object) -> Advisory:
    changed: Any = {field: value}
    return replace(make_advisory(), **changed)


def _observations(stream: Stream, time: int) -> Observations:
    one = np.zeros(1, np.uint32)
    return Observations.of_values((stream,), one, np.array([time], np.int64), np.array([1.0]), one)
