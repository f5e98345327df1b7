"""A cell's OPC UA server: machines with identification and monitoring, written live, with history."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from asyncua import ua
from asyncua.server.server import Server
from asyncua.ua.attribute_ids import AttributeIds

from demo.plant.address_space import Nodes, build
from demo.plant.history import TimelineHistory
from demo.plant.identity import PasswordFile, TrustList, ensure_certificate, ensure_password
from demo.plant.made import MadeList
from demo.plant.source import Source
from demo.plant.timeline import Timeline
from demo.plant.values import data_values
from models.records import Observations

NAMESPACE_URI: Final = "urn:wearsight:demo:plant"
WRITE_LIMIT: Final = 500  # rows between two turns of the event loop


class CellServer:
    """One cell of the plant behind OPC UA, SignAndEncrypt only; use it as an async context manager.

    Its folder holds ``pki/own/`` (certificate and key, made on first start), ``pki/trusted/*.der`` (clients let in;
    read at each connection), ``users/<user>.password``, ``made-<cell>.csv.gz`` and ``truth-<cell>.json``.

    Args:
        source: Where the values come from. Its history is served from the start, live values by ``advance``.
        folder: The folder; made when it is not there. Cells may share it.
        cell: The cell's name.
        port: TCP port on *host*; 0 takes a free one.
        host: Address to listen on.
        user: Name of the user who may sign in.
    """

    def __init__(
        self, source: Source, folder: Path, *, cell: str = "cell-1", port: int = 0, host: str = "127.0.0.1",
        user: str = "gateway",
    ) -> None:  # fmt: skip
        self.cell, self.user, self.source = cell, user, source
        self.application_uri = f"{NAMESPACE_URI}:{cell}"
        self.certificate = folder / "pki" / "own" / f"{cell}.der"
        self.key = folder / "pki" / "own" / f"{cell}.key.pem"
        self.trusted = folder / "pki" / "trusted"
        self.password = folder / "users" / f"{user}.password"
        self.timeline = Timeline(source)
        self.made = MadeList(folder, cell)
        self.made.add(self.timeline.behind())
        self._host, self._port = host, port
        self._server: Server | None = None
        self._nodes: Nodes = ()

    @property
    def endpoint(self) -> str:
        """Where clients connect."""
        return f"opc.tcp://{self._host}:{self._port}/wearsight/"

    async def __aenter__(self) -> Self:
        for folder in (self.certificate.parent, self.trusted):
            folder.mkdir(parents=True, exist_ok=True)
        ensure_certificate(
            self.certificate, self.key, application_uri=self.application_uri, common_name=f"Wearsight plant {self.cell}"
        )
        ensure_password(self.password)
        trust = TrustList(self.trusted)
        server = Server(user_manager=PasswordFile(self.user, self.password, trust))
        history = TimelineHistory(self.timeline)
        server.iserver.history_manager.set_storage(history)
        await server.init()
        server.set_server_name(f"Wearsight plant {self.cell}")
        await server.set_application_uri(self.application_uri)
        server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
        server.set_identity_tokens([ua.UserNameIdentityToken])
        server.set_certificate_validator(trust)
        await server.load_certificate(self.certificate)
        await server.load_private_key(self.key)
        namespace = await server.register_namespace(NAMESPACE_URI)
        self._nodes = build(server, namespace, self.source.machines, self.timeline)
        for stream, node in enumerate(self._nodes):
            history.serve(node, stream)
        server.set_endpoint(self.endpoint)
        await server.start()
        self._server = server
        self._port = _bound_port(server) or self._port
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            await self._server.stop()
            self._server = None

    async def advance(self, until_ns: int) -> int:
        """Write all values up to *until_ns*, by source time, skipping none; return how many there were."""
        count = 0
        end = self.source.end
        goal = until_ns if end is None else min(until_ns, end - 1)
        while self.timeline.now < goal:
            rows = self.timeline.due(goal, WRITE_LIMIT)
            self.made.add(rows)
            await self._write(rows)
            count += len(rows)
            await asyncio.sleep(0)
        return count

    async def _write(self, rows: Observations) -> None:
        if self._server is None:
            raise RuntimeError(f"{self.cell}: the server is not running; enter it with `async with` first")
        write = self._server.iserver.aspace.write_attribute_value
        for stream, value in zip(rows.stream.tolist(), data_values(rows), strict=True):
            answer = await write(self._nodes[stream], AttributeIds.Value, value)
            if not answer.is_good():
                asset_id, channel = self.timeline.streams[stream]
                raise RuntimeError(f"{asset_id}/{channel}: the address space refused a value ({answer.name})")

    def write_made(self) -> None:
        """Bring the file of what was made up to date."""
        self.made.write()

    def write_truth(self) -> None:
        """Bring the file of what is true up to date."""
        end = self.source.end
        self.made.write_truth(self.source.truth(self.timeline.now + 1 if end is None else end))


def _bound_port(server: Server) -> int | None:
    listener: Any = server.bserver._server if server.bserver else None  # noqa: SLF001 - asyncua tells the port nowhere else
    return int(listener.sockets[0].getsockname()[1]) if listener else None
