"""A snapshot served as a real OPC UA server: the same nodes, and the recorded values again with fresh times."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
from asyncua import ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.server import Server
from asyncua.server.user_managers import UserManager

from gateway.commissioning.simulated_nodes import build, moment, variant
from gateway.commissioning.snapshot_file import Contents, Node
from gateway.commissioning.watching import Arrived
from gateway.data_acquisition.certificate import ensure_application_certificate
from gateway.data_acquisition.trust import fingerprint
from gateway.errors import SourceUnavailable

APPLICATION_URI = "urn:wearsight:simulated-plant"
_AT_A_TIME = 500  # writes between two turns of the event loop
_LATE_S = 1.0


class _Anybody(UserManager):
    """Lets in whoever comes, under whatever name: it is a play."""

    def get_user(
        self,
        iserver: Any,  # noqa: ARG002 - asyncua's signature
        username: str | None = None,  # noqa: ARG002 - the same
        password: str | None = None,  # noqa: ARG002 - the same
        certificate: Any = None,  # noqa: ARG002 - the same
    ) -> User | None:
        return User(role=UserRole.User)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A server that plays.

    Attributes:
        server: The server, started.
        endpoint: Its address.
        certificate: Its certificate's file.
        fingerprint: SHA-256 of that.
        nodes: The nodes of the snapshot, in its order.
    """

    server: Server
    endpoint: str
    certificate: Path
    fingerprint: str
    nodes: Sequence[ua.NodeId]


@asynccontextmanager
async def serving(contents: Contents, *, host: str, port: int, pki: Path) -> AsyncIterator[Stage]:
    """Serve the nodes of *contents* meanwhile, in clear and encrypted, to anybody.

    Args:
        contents: The snapshot.
        host: Address of this machine to listen at.
        port: 0 takes one that is free.
        pki: Folder of the server's certificate, which is made when it is not there.

    Raises:
        SourceUnavailable: If the address cannot be listened at.
        SnapshotError: If the nodes cannot be made.
    """
    port = port or _free_port(host)
    certificate, key = await asyncio.to_thread(ensure_application_certificate, pki, APPLICATION_URI, "Simulated plant")
    server = Server(user_manager=_Anybody())
    await server.init()
    await server.set_application_uri(APPLICATION_URI)
    server.set_server_name("Wearsight simulated plant")
    server.set_endpoint(f"opc.tcp://{host}:{port}/wearsight/")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity, ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
    server.set_identity_tokens([ua.AnonymousIdentityToken, ua.UserNameIdentityToken])
    await server.load_certificate(certificate)
    await server.load_private_key(key, format="pem")
    nodes = await build(server, contents)
    try:
        await server.start()
    except OSError as error:
        raise SourceUnavailable(f"cannot listen at {host}:{port} ({error.strerror}); choose another --port") from error
    try:
        yield Stage(
            server=server,
            endpoint=f"opc.tcp://{host}:{port}/wearsight/",
            certificate=certificate,
            fingerprint=fingerprint(certificate.read_bytes()),
            nodes=nodes,
        )
    finally:
        await server.stop()


async def simulate(
    contents: Contents,
    host: str,
    port: int,
    pki: Path,
    speed: float,
    seconds: float | None,
    *,
    loop: bool,
    as_json: bool,
) -> None:
    """Serve *contents* and play its values, saying where; for *seconds*, or until somebody ends it.

    Raises:
        SourceUnavailable: As `serving`.
        SnapshotError: Likewise.
    """
    async with serving(contents, host=host, port=port, pki=pki) as stage:
        _tell(stage, contents, as_json=as_json)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                written = await play(stage, contents, speed=speed, loop=loop, behind=_tell_behind)
                click.echo(f"played {written:,} values; the last ones stay until Ctrl-C", err=True)
                await asyncio.Event().wait()


def _tell(stage: Stage, contents: Contents, *, as_json: bool) -> None:
    """Say what is served where, and how to read it."""
    header, end = contents.header, contents.end
    if as_json:
        body = {
            "endpoint": stage.endpoint,
            "fingerprint": stage.fingerprint,
            "certificate": str(stage.certificate),
            "nodes": end.nodes,
            "values": end.values,
        }
        click.echo(msgspec.json.encode(body).decode())
        return
    click.echo(f"{contents.path.name}: {end.nodes:,} nodes and {end.values:,} values of {header.server}")
    click.echo(f"endpoint     {click.style(stage.endpoint, bold=True)}  (None, Basic256Sha256; any user)")
    click.echo(f"certificate  {stage.certificate}")
    click.echo(f"fingerprint  {stage.fingerprint}")
    click.echo(f"  → look at it: wearsight-gateway opcua browse {stage.endpoint} --insecure --values", err=True)


def _tell_behind(seconds: float) -> None:
    text = f"{seconds:.1f} s behind: this machine cannot serve so many values; choose a lower --speed, or fewer nodes"
    click.secho(text, fg="yellow", err=True)


def _silent(_seconds: float) -> None:
    """Tell nobody."""


async def play(
    stage: Stage,
    contents: Contents,
    *,
    speed: float = 1.0,
    loop: bool = False,
    behind: Callable[[float], None] = _silent,
) -> int:
    """Write the recorded values as they arrived, *speed* times as fast, again and again with *loop*.

    Source times are as far from one another as they were (less by *speed*), and end about now.

    Args:
        stage: The server.
        contents: The snapshot.
        speed: Times as fast.
        loop: Whether to begin again at its end, for ever.
        behind: Told after a round that ended more than a second late, by how many seconds.

    Returns:
        How many values were written.
    """
    written, again = 0, False
    while True:
        began, late_s = await _play_once(stage, contents, speed, again=again)
        written += began
        if late_s > _LATE_S:
            behind(late_s)
        again = True
        if not loop or not began:
            return written


async def _play_once(stage: Stage, contents: Contents, speed: float, *, again: bool) -> tuple[int, float]:
    """Play all once; return how many values were written, and by how many seconds the end was late."""
    clock = asyncio.get_running_loop().time
    begin, begin_ns, written = clock(), time.time_ns(), 0
    made_ns, length_s = contents.header.made_ns, contents.header.seconds
    for arrived in contents.values():
        at_s = (arrived.received_ns - made_ns) / 1e9
        length_s = max(length_s, at_s)
        await asyncio.sleep(max(0.0, begin + at_s / speed - clock()))
        written += await _write(stage, contents.nodes, arrived, made_ns, begin_ns, speed, again=again)
    # The rest of the recorded time, so that rounds do not overlap.
    left_s = begin + length_s / speed - clock()
    await asyncio.sleep(max(0.0, left_s))
    return written, -left_s


async def _write(
    stage: Stage, nodes: Sequence[Node], arrived: Arrived, made_ns: int, begin_ns: int, speed: float, *, again: bool
) -> int:
    """Write the values of one message; return how many there were."""
    values, at, written = arrived.values, 0, 0
    for row, handle in enumerate(values.handle.tolist()):
        if written % _AT_A_TIME == _AT_A_TIME - 1:
            await asyncio.sleep(0)
        length = int(values.sample_count[row])
        samples = values.samples[at : at + length].tolist()
        at += length
        source_ns = int(values.source_time[row])
        if again and source_ns < made_ns:
            continue  # what was so before the recording was told in the first round
        moment_ns = begin_ns + round((source_ns - made_ns) / (speed if source_ns > made_ns else 1.0))
        node = nodes[handle]
        number = float(values.value[row])
        value = variant(node.kind, samples if length else None if math.isnan(number) else number)
        measured: Any = moment(moment_ns)
        told = ua.DataValue(value, ua.StatusCode(ua.UInt32(int(values.status[row]))), SourceTimestamp=measured)
        await stage.server.write_attribute_value(stage.nodes[handle], told)
        written += 1
    return written


def _free_port(host: str) -> int:
    with contextlib.closing(socket.socket()) as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])
