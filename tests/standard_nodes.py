"""OPC UA servers of one process make the standard's nodes once: six thousand of them are a second's work each time."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from asyncua import ua
from asyncua.server.address_space import AttributeValue, NodeData
from asyncua.server.internal_server import InternalServer


class _Nodes(dict[ua.NodeId, NodeData]):
    """A server's own nodes; one of the standard is copied when it is first asked for."""

    def __init__(self, standard: Mapping[ua.NodeId, NodeData]) -> None:
        super().__init__(standard)
        self._shared = set(standard)

    def _own(self, key: ua.NodeId) -> None:
        if key in self._shared:
            self[key] = _copied(super().__getitem__(key))

    def __getitem__(self, key: ua.NodeId) -> NodeData:
        self._own(key)
        return super().__getitem__(key)

    def __setitem__(self, key: ua.NodeId, node: NodeData) -> None:
        self._shared.discard(key)
        super().__setitem__(key, node)

    def get(self, key: ua.NodeId, default: Any = None) -> Any:
        self._own(key)
        return super().get(key, default)


def _copied(node: NodeData) -> NodeData:
    """Return a node with attributes and references of its own; what they hold is replaced, never changed."""
    copied = NodeData(node.nodeid)
    copied.attributes = {name: AttributeValue(held.value) for name, held in node.attributes.items()}  # type: ignore[arg-type]  # or None
    copied.references = list(node.references)
    return copied


@contextmanager
def standard_nodes_made_once() -> Iterator[None]:
    """Have all of asyncua's servers that begin meanwhile start from the nodes that the first one made."""
    make, standard = InternalServer.load_standard_address_space, dict[ua.NodeId, NodeData]()

    async def load(server: InternalServer, _shelf_file: object = None) -> None:
        if not standard:
            gc.disable()  # a hundred thousand objects are made, none is garbage
            try:
                await make(server)
            finally:
                gc.enable()
            standard.update(server.aspace._nodes)
        server.aspace._nodes = _Nodes(standard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InternalServer, "load_standard_address_space", load)
        yield
