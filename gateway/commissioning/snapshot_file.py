"""The file of a snapshot: a server's address space, and values as they arrived.

It begins with the bytes ``WSSNAP`` and the version as two digits. Blocks follow, each of a kind (one byte), the size
of its content compressed and not (4 bytes each, little-endian), and the content: MessagePack under zlib. One block
``H`` (`Header`), then blocks ``N`` (of `Node`), ``L`` (of `Link`), ``V`` (one message of values), and ``E`` (`End`)
last, by which a file that was cut off is told from a whole one. Everything is bounded before it is read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec
import numpy as np

from gateway.commissioning.watching import Arrived
from gateway.data_acquisition.columns import Columns
from gateway.data_acquisition.profiles import chunks
from gateway.errors import GatewayError
from gateway.tag_list import parse_node
from models.records import UNDECODABLE

T = TypeVar("T")

_MAGIC, _VERSION = b"WSSNAP", b"01"
_FRAME = struct.Struct("<cII")
_VALUES_MOST = 64 << 20  # bytes of a block of values, not compressed: as many as a message of a server may have
_BLOCK_MOST = 8 << 20  # of any other
NODES_MOST = 1_000_000
_NAMESPACES_MOST = 4_096
_NODES_IN_BLOCK = 2_000
_OVERHEAD = 64 << 10  # what does not compress gets longer
_TEXT_MOST = 4_096
_AFTER = {b"": b"H", b"H": b"NE", b"N": b"NLVE", b"L": b"LVE", b"V": b"VE"}
_COLUMNS = (
    ("handle", np.uint32),
    ("source_time", np.int64),
    ("value", np.float64),
    ("status", np.uint32),
    ("sample_count", np.uint32),
)


class SnapshotError(GatewayError):
    """The file is no snapshot, or a damaged one; nothing is served."""


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the snapshot is of.

    Attributes:
        made_ns: When the recording began, ns since 1970 UTC.
        server: The server's address.
        seconds: How long was recorded.
        namespaces: URIs by index.
    """

    made_ns: int
    server: str
    seconds: float
    namespaces: list[str]


class Node(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """One node below Objects.

    Attributes:
        node: ``nsu=`` id.
        parent: Number of the node above, counted from 0 over the file, lower than its own; -1 is Objects.
        name: Browse name.
        namespace: Index of the browse name's namespace.
        is_variable: Whether it holds a value.
        data_type: ``nsu=`` id of its data type; empty when it is not known.
        type_name: How that is called.
        standard_type: Number of the standard data type it is, or stands below; 0 when it is not known.
        kind: Number of the value's built-in type; 0 without a value.
        value: A number, text, a list of them, or None.
        source_ns: When it was measured, ns since 1970 UTC; 0 when it is not known.
        status: OPC UA status code.
        low: Of EURange; None without one.
        high: Likewise.
        unit: Namespace URI, id, name and description of EngineeringUnits; None without.
        sample_rate_hz: Of a waveform; None without.
        sampling_interval_ms: MinimumSamplingInterval; -1 when it is not known.
    """

    node: str
    parent: int
    name: str
    namespace: int
    is_variable: bool = False
    data_type: str = ""
    type_name: str = ""
    standard_type: int = 0
    kind: int = 0
    value: bool | int | float | str | list[bool | int | float | str] | None = None
    source_ns: int = 0
    status: int = 0
    low: float | None = None
    high: float | None = None
    unit: tuple[str, int, str, str] | None = None
    sample_rate_hz: float | None = None
    sampling_interval_ms: float = -1.0


class Link(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Another way to a node: numbers of the node it leads from (-1: Objects) and of the node."""

    parent: int
    node: int


class _Values(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message: columns as little-endian bytes; handles are numbers of nodes."""

    received_ns: int
    handle: bytes
    source_time: bytes
    value: bytes
    status: bytes
    sample_count: bytes
    samples: bytes


class End(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many nodes and values the file has."""

    nodes: int
    values: int


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All of a snapshot but its values, which `values` reads one message at a time."""

    path: Path
    header: Header
    nodes: list[Node]
    links: list[Link]
    end: End

    def values(self) -> Iterator[Arrived]:
        """Yield the recorded messages in order.

        Raises:
            SnapshotError: If they are damaged.
        """
        for kind, content in _blocks(self.path):
            if kind == b"V":
                yield _arrived(_decoded(self.path, content, _Values), self.path, len(self.nodes))


class SnapshotWriter:
    """Writes a snapshot; made by `writing`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._nodes = self._values = 0
        file.write(_MAGIC + _VERSION)

    def header(self, header: Header) -> None:
        """Write what the snapshot is of; first."""
        self._block(b"H", header)

    def nodes(self, nodes: list[Node], links: list[Link]) -> None:
        """Write the address space."""
        self._list(b"N", nodes)
        self._list(b"L", links)
        self._nodes = len(nodes)

    def values(self, arrived: Arrived) -> None:
        """Write what came in one message; its handles are numbers of nodes."""
        columns = arrived.values
        told = {name: getattr(columns, name).astype(kind).tobytes() for name, kind in _COLUMNS}
        samples = columns.samples.astype(np.float32).tobytes()
        self._block(b"V", _Values(received_ns=arrived.received_ns, samples=samples, **told))
        self._values += len(columns.handle)

    def end(self) -> End:
        """Write how much there was; last."""
        end = End(nodes=self._nodes, values=self._values)
        self._block(b"E", end)
        return end

    def _list(self, kind: bytes, whole: Sequence[object]) -> None:
        """Write *whole* in blocks that are not too large."""
        for some in chunks(whole, _NODES_IN_BLOCK):
            if len(some) > 1 and len(msgspec.msgpack.encode(some)) > _BLOCK_MOST:
                for one in some:
                    self._block(kind, [one])
            else:
                self._block(kind, some)

    def _block(self, kind: bytes, content: object) -> None:
        plain = msgspec.msgpack.encode(content)
        if len(plain) > _most(kind):
            raise SnapshotError(f"a message or node of more than {_most(kind) >> 20} MiB does not go into a snapshot")
        packed = zlib.compress(plain, 6)
        self._file.write(_FRAME.pack(kind, len(packed), len(plain)) + packed)


@contextmanager
def writing(path: Path) -> Iterator[SnapshotWriter]:
    """Write the snapshot *path*, which appears when it is whole."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("wb") as file:
            yield SnapshotWriter(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_snapshot(path: Path) -> Contents:
    """Return the snapshot in *path*, checked whole; its values are read again when they are wanted.

    Raises:
        SnapshotError: If it is none, is damaged, or was cut off.
    """
    header: Header | None = None
    nodes: list[Node] = []
    links: list[Link] = []
    end = End(nodes=-1, values=-1)
    values, before = 0, b""
    for kind, content in _blocks(path):
        if kind not in _AFTER.get(before, b""):
            raise SnapshotError(f"{path}: a block of kind {kind!r} where none belongs")
        before = kind
        match kind:
            case b"H":
                header = _decoded(path, content, Header)
            case b"N":
                nodes += _decoded(path, content, list[Node])
            case b"L":
                links += _decoded(path, content, list[Link])
            case b"V":
                values += len(_arrived(_decoded(path, content, _Values), path, len(nodes)).values.handle)
            case _:
                end = _decoded(path, content, End)
        if max(len(nodes), len(links)) > NODES_MOST:
            raise SnapshotError(f"{path}: more than {NODES_MOST:,} nodes or links")
    if header is None or (end.nodes, end.values) != (len(nodes), values):
        raise SnapshotError(f"{path}: was cut off; take it again")
    for problem in _problems(header, nodes, links):
        raise SnapshotError(f"{path}: {problem}")
    return Contents(path=path, header=header, nodes=nodes, links=links, end=end)


def _problems(header: Header, nodes: list[Node], links: list[Link]) -> Iterator[str]:
    """Yield what does not fit together."""
    if not 1 <= len(header.namespaces) <= _NAMESPACES_MOST:
        yield f"{len(header.namespaces)} namespaces"
    for i, node in enumerate(nodes):
        if not -1 <= node.parent < i:
            yield f"node {i} stands below node {node.parent}"
        if not 0 <= node.namespace < len(header.namespaces):
            yield f"node {i} is named in namespace {node.namespace}, which there is not"
        if not 0 < len(node.name) <= _TEXT_MOST or len(node.node) > _TEXT_MOST:
            yield f"node {i} has no name, or one that is too long"
        yield from (f"node {i}: {why}" for why in _id_problems(node, header.namespaces))
    for link in links:
        if not (-1 <= link.parent < len(nodes) and 0 <= link.node < len(nodes)):
            yield f"a link between nodes {link.parent} and {link.node}, which there are not"


def _id_problems(node: Node, namespaces: Iterable[str]) -> Iterator[str]:
    for text in filter(None, (node.node, node.data_type)):
        try:
            uri, _ = parse_node(text)
        except ValueError as error:
            yield str(error)
        else:
            if uri not in namespaces:
                yield f"{text!r} is of a namespace that there is not"


def _blocks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of each block of *path*."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC) + len(_VERSION))
            if not start.startswith(_MAGIC):
                raise SnapshotError(f"{path} is no snapshot; make one with: wearsight-gateway opcua snapshot")
            if start != _MAGIC + _VERSION:
                version = start.removeprefix(_MAGIC).decode("ascii", "replace")
                raise SnapshotError(f"{path} is a snapshot of version {version}; this program reads version 01")
            while frame := file.read(_FRAME.size):
                yield _block(path, file, frame)
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read ({error.strerror})") from error


def _block(path: Path, file: BinaryIO, frame: bytes) -> tuple[bytes, bytes]:
    if len(frame) < _FRAME.size:
        raise SnapshotError(f"{path}: was cut off; take it again")
    kind, packed_size, size = _FRAME.unpack(frame)
    if max(packed_size, size) > _most(kind) + _OVERHEAD:
        raise SnapshotError(f"{path}: a block of more than {_most(kind) >> 20} MiB")
    packed = file.read(packed_size)
    if len(packed) < packed_size:
        raise SnapshotError(f"{path}: was cut off; take it again")
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(packed, size + 1)  # one more than it says is too many
    except zlib.error as error:
        raise SnapshotError(f"{path}: is damaged ({error})") from error
    if len(plain) != size or not inflate.eof:
        raise SnapshotError(f"{path}: a block is not as long as it says")
    return kind, plain


def _most(kind: bytes) -> int:
    return _VALUES_MOST if kind == b"V" else _BLOCK_MOST


def _decoded(path: Path, content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except UNDECODABLE as error:
        raise SnapshotError(f"{path}: is damaged ({error})") from error


def _arrived(told: _Values, path: Path, nodes: int) -> Arrived:
    """Return *told* as columns, all of one length, of nodes that there are."""
    try:
        columns: dict[str, Any] = {name: np.frombuffer(getattr(told, name), kind) for name, kind in _COLUMNS}
        samples = np.frombuffer(told.samples, np.float32)
    except ValueError as error:
        raise SnapshotError(f"{path}: values are damaged ({error})") from error
    count = len(columns["handle"])
    if any(len(column) != count for column in columns.values()) or (count and columns["handle"].max() >= nodes):
        raise SnapshotError(f"{path}: values are damaged: columns of different lengths, or of no node")
    if int(columns["sample_count"].sum(dtype=np.uint64)) != len(samples):
        raise SnapshotError(f"{path}: values are damaged: waveforms and samples do not fit together")
    values = Columns(**columns, samples=samples, server_time=np.zeros(count, np.int64))
    return Arrived(values=values, received_ns=told.received_ns)
