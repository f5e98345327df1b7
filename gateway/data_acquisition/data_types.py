"""Which variables of a server hold numbers, by the data type they declare and the value they have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes

from gateway.data_acquisition.address_space import AddressSpace
from gateway.data_acquisition.messages import status_name

_DEPTH_MOST = 16  # steps from a type up to a built-in one
_NUMBERS = frozenset(range(1, 12))  # Boolean to Double, as variants and as data types
_ABSTRACT = frozenset({ObjectIds.Number, ObjectIds.Integer, ObjectIds.UInteger, ObjectIds.Enumeration})
_ANYTHING = frozenset({0, ObjectIds.BaseDataType})
_STRUCTURE = ObjectIds.Structure
_NO_ACCESS = frozenset(
    {StatusCodes.BadNodeIdUnknown, StatusCodes.BadNodeIdInvalid, StatusCodes.BadNotReadable,
     StatusCodes.BadUserAccessDenied, StatusCodes.BadAttributeIdInvalid, StatusCodes.BadDecodingError,
     StatusCodes.BadSecurityModeInsufficient}
)  # fmt: skip


@dataclass(frozen=True)
class DataTypes:
    """The data types of some variables: what each is called, and the standard type below which it stands."""

    names: dict[ua.NodeId, str]
    standard: dict[ua.NodeId, int]

    def why_not(self, data_type: ua.DataValue, value: ua.DataValue) -> str:
        """Return why a variable with this DataType attribute and current *value* is no channel; nothing when it is.

        A variable without a value may get one; its type then decides alone. A type that says nothing bars nothing.
        """
        for status in (_status(data_type), _status(value)):
            if status == StatusCodes.BadAttributeIdInvalid:
                return "is no variable"
            if status in _NO_ACCESS:
                return f"cannot be read ({status_name(status)})"
        told = held(data_type, ua.NodeId)
        name, standard = ("", 0) if told is None else (self.names.get(told, ""), self.standard.get(told, 0))
        variant = value.Value if value.Value is not None else ua.Variant()
        if variant.VariantType is ua.VariantType.Null:
            holds_numbers = standard in _NUMBERS | _ABSTRACT | _ANYTHING
        else:
            holds_numbers = variant.VariantType.value in _NUMBERS
            name = name if name and standard not in _ANYTHING else _name_of(variant.VariantType)
        if not holds_numbers:
            return f"holds {name or 'no standard type'}{' (a structure)' * (standard == _STRUCTURE)}, not numbers"
        dimensions = len(variant.Dimensions or ())
        return f"holds a matrix of {dimensions} dimensions, not numbers or one row of them" if dimensions > 1 else ""


def _name_of(kind: ua.VariantType) -> str:
    return str(getattr(kind, "name", kind))


async def data_types(space: AddressSpace, told: Iterable[ua.NodeId]) -> DataTypes:
    """Return names and standard types of the data types *told*: a handful, for however many variables."""
    types = list(dict.fromkeys(told))
    names = await space.read([(node, AttributeIds.BrowseName) for node in types])
    at: dict[ua.NodeId, ua.NodeId | None] = {node: node for node in types}
    for _ in range(_DEPTH_MOST):
        climbing = {node for node in at.values() if node is not None and not _is_standard(node)}
        if not climbing:
            break
        above = await space.browse(climbing, ObjectIds.HasSubtype, inverse=True)
        for node, now in at.items():
            if now in climbing and now is not None:
                references = above[now].references
                at[node] = references[0].node if references else None
    return DataTypes(
        names={
            node: str(name.Name)
            for node, value in zip(types, names, strict=True)
            if (name := held(value, ua.QualifiedName)) is not None
        },
        standard={node: int(now.Identifier) for node, now in at.items() if now is not None and _is_standard(now)},
    )


def _is_standard(node: ua.NodeId) -> bool:
    """Return whether *node* is a built-in type or one of the abstract types right above: their numbers are 1 to 29."""
    return (
        node.NamespaceIndex == 0 and isinstance(node.Identifier, int) and 1 <= node.Identifier <= ObjectIds.Enumeration
    )


def held(value: ua.DataValue | None, kind: type) -> Any:
    """Return what *value* holds if it is of *kind*, else None: a server may hold anything."""
    inside = value.Value.Value if value is not None and value.Value is not None else None
    return inside if isinstance(inside, kind) else None


def _status(value: ua.DataValue) -> int:
    return value.StatusCode.value if value.StatusCode is not None else 0
