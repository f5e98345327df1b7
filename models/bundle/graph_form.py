"""What an ONNX graph is made of, read from its bytes without the onnx package, and whether a bundle may hold it.

The cloud asks before it signs, a gateway before its runtime sees a byte: known operators of old operator sets, no code,
no control flow, nothing outside the file, one float32 input and one float32 output, within limits of size.

Source of the field numbers:
    ONNX, *onnx.proto3*, IR version 13; messages ModelProto, GraphProto, NodeProto, TensorProto, ValueInfoProto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MAX_GRAPH_BYTES = 64 * 2**20
MAX_NODES = 2000
MAX_CONSTANTS = 2000
MAX_NUMBERS = 16 * 2**20
MAX_COLUMNS = 65_536
MAX_FIELDS = 20_000  # of one message: of what is read here none has as many as a graph has nodes, constants and names
IR_VERSIONS = range(8, 11)
# ONNX Runtime 1.31 reads up to opset 26 and IR 13, older ones less; onnx 1.23 writes 28 and 14 unless told otherwise.
OPSETS = {"": range(13, 19), "ai.onnx.ml": range(3, 4)}

# What gives the same numbers for the same row whatever came before it: no control flow, no chance, no text, no state.
_STANDARD = """
Abs Add And ArgMax ArgMin AveragePool Cast Ceil Clip Concat Conv ConvInteger DequantizeLinear Div
Elu Equal Erf Exp Flatten Floor GRU Gather Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid
Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log MatMul MatMulInteger Max MaxPool Mean Min Mul Neg Not Or Pad Pow
QuantizeLinear Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceSum ReduceSumSquare
Relu Reshape Round Selu Shape Sigmoid Sign Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Tanh Transpose Unsqueeze
Where
"""
_MACHINE_LEARNING = "LinearClassifier LinearRegressor TreeEnsembleClassifier TreeEnsembleRegressor"
OPERATORS = {"": frozenset(_STANDARD.split()), "ai.onnx.ml": frozenset(_MACHINE_LEARNING.split())}

_FLOAT = 1
_EXTERNAL_KEY = b"location"  # a tensor whose numbers lie in another file names it under this key
_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
_HIGHEST_FIELD = 2**29 - 1


class GraphRefused(ValueError):
    """The bytes are no graph that a bundle may hold."""


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output: its name, whether it is float32, and its size by axis, None where any number goes."""

    name: str
    is_float32: bool
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class GraphForm:
    """What a graph is made of.

    Attributes:
        ir_version: Of the file format.
        opsets: Version of the operators, by domain; the standard domain is "".
        operators: Each node's domain and operator.
        constants: Number of constant tensors.
        numbers: How many numbers they hold.
        inputs: What must be fed, constants left out.
        outputs: What comes back.
    """

    ir_version: int
    opsets: dict[str, int]
    operators: tuple[tuple[str, str], ...]
    constants: int
    numbers: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def read_form(graph: bytes) -> GraphForm:
    """Return what the serialised model *graph* is made of.

    Raises:
        GraphRefused: If the bytes are no ONNX model, or hold functions, training or constants outside the file.
    """
    if len(graph) > MAX_GRAPH_BYTES:
        raise GraphRefused(f"{len(graph)} bytes are more than {MAX_GRAPH_BYTES}")
    if _EXTERNAL_KEY in graph:
        raise GraphRefused("its numbers lie in another file")
    ir_version, opsets, bodies = 0, dict[str, int](), []
    for field, value in _fields(memoryview(graph)):
        match field:
            case 1 if isinstance(value, int):
                ir_version = value
            case 7 if isinstance(value, memoryview):
                bodies.append(value)
            case 8 if isinstance(value, memoryview):
                domain, version = _opset(value)
                if domain in opsets:
                    raise GraphRefused(f"it names the operators of {domain or 'ai.onnx'} twice")
                opsets[domain] = version
            case 20 | 25:
                raise GraphRefused("it holds functions or training of its own")
            case _:
                pass
    if len(bodies) != 1:
        raise GraphRefused(f"it holds {len(bodies)} graphs, not one")
    return _body(bodies[0], ir_version, opsets)


def check_form(graph: bytes) -> GraphForm:
    """Return what *graph* is made of, once all of it is known to be what a bundle may hold.

    Raises:
        GraphRefused: With what is not.
    """
    form = read_form(graph)
    if form.ir_version not in IR_VERSIONS:
        raise GraphRefused(f"IR version {form.ir_version} is not {IR_VERSIONS[0]} to {IR_VERSIONS[-1]}")
    for domain, version in form.opsets.items():
        allowed = OPSETS.get(domain)
        if allowed is None:
            raise GraphRefused(f"operators of {domain!r} are not known to every gateway")
        if version not in allowed:
            raise GraphRefused(f"opset {version} of {domain or 'ai.onnx'} is not {allowed[0]} to {allowed[-1]}")
    for domain, operator in form.operators:
        if domain not in form.opsets or operator not in OPERATORS[domain]:
            raise GraphRefused(f"operator {operator!r} of {domain or 'ai.onnx'} is not among those a bundle may hold")
    if len(form.operators) > MAX_NODES or form.constants > MAX_CONSTANTS or form.numbers > MAX_NUMBERS:
        raise GraphRefused(
            f"{len(form.operators)} nodes, {form.constants} constants of {form.numbers} numbers are more than "
            f"{MAX_NODES}, {MAX_CONSTANTS} and {MAX_NUMBERS}"
        )
    _check_ports(form)
    return form


def _check_ports(form: GraphForm) -> None:
    """Check that there is one float32 input and one float32 output, each any number of rows of a fixed size."""
    for what, ports in (("input", form.inputs), ("output", form.outputs)):
        if len(ports) != 1:
            raise GraphRefused(f"it has {len(ports)} {what}s, not one")
        port = ports[0]
        if not port.is_float32:
            raise GraphRefused(f"its {what} {port.name!r} is not float32")
        sizes = [size for size in port.shape[1:] if size is not None and 0 < size <= MAX_COLUMNS]
        if len(port.shape) < 2 or port.shape[0] is not None or len(sizes) != len(port.shape) - 1:
            raise GraphRefused(f"its {what} {port.name!r} is of shape {port.shape}, not rows of a fixed size")
    if len(form.outputs[0].shape) != 2:
        raise GraphRefused(f"its output is of shape {form.outputs[0].shape}, not rows of columns")


def _body(body: memoryview, ir_version: int, opsets: dict[str, int]) -> GraphForm:
    operators: list[tuple[str, str]] = []
    constants: dict[str, int] = {}
    inputs: list[Port] = []
    outputs: list[Port] = []
    for field, value in _fields(body):
        if field not in {1, 5, 11, 12, 15} or not isinstance(value, memoryview):
            continue
        match field:
            case 1:
                operators.append(_operator(value))
            case 5:
                name, numbers = _constant(value)
                constants[name] = numbers
            case 11:
                inputs.append(_port(value))
            case 12:
                outputs.append(_port(value))
            case _:
                raise GraphRefused("it holds sparse constants")
    return GraphForm(
        ir_version=ir_version,
        opsets=opsets,
        operators=tuple(operators),
        constants=len(constants),
        numbers=sum(constants.values()),
        inputs=tuple(port for port in inputs if port.name not in constants),
        outputs=tuple(outputs),
    )


def _opset(message: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for field, value in _fields(message):
        if field == 1 and isinstance(value, memoryview):
            domain = _text(value)
        elif field == 2 and isinstance(value, int):
            version = value
    return _plain_domain(domain), version


def _operator(node: memoryview) -> tuple[str, str]:
    domain = operator = ""
    for field, value in _fields(node):
        if field == 4 and isinstance(value, memoryview):
            operator = _text(value)
        elif field == 7 and isinstance(value, memoryview):
            domain = _text(value)
    return _plain_domain(domain), operator


def _constant(tensor: memoryview) -> tuple[str, int]:
    """Return name and number of elements; the sizes may come one by one or packed."""
    name, numbers = "", 1
    for field, value in _fields(tensor):
        if field == 1:
            for size in (value,) if isinstance(value, int) else _varints(value):
                numbers = min(numbers * size, MAX_NUMBERS + 1)
        elif field == 8 and isinstance(value, memoryview):
            name = _text(value)
        elif field in {13, 14} and value != 0:
            raise GraphRefused("its numbers lie in another file")
    return name, numbers


def _port(value_info: memoryview) -> Port:
    name, element, shape = "", 0, list[int | None]()
    for field, value in _fields(value_info):
        if field == 1 and isinstance(value, memoryview):
            name = _text(value)
        elif field == 2 and isinstance(value, memoryview):
            for kind, tensor in _fields(value):
                if kind == 1 and isinstance(tensor, memoryview):
                    element, shape = _tensor_type(tensor)
    return Port(name=name, is_float32=element == _FLOAT, shape=tuple(shape))


def _tensor_type(tensor: memoryview) -> tuple[int, list[int | None]]:
    element, shape = 0, list[int | None]()
    for field, value in _fields(tensor):
        if field == 1 and isinstance(value, int):
            element = value
        elif field == 2 and isinstance(value, memoryview):
            shape += [
                next((size for kind, size in _fields(axis) if kind == 1 and isinstance(size, int)), None)
                for number, axis in _fields(value)
                if number == 1 and isinstance(axis, memoryview)
            ]
    return element, shape


def _plain_domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _text(data: memoryview) -> str:
    return bytes(data).decode("utf-8", "replace")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield each field of a protobuf message with its number; lengths are held against what is there.

    Nothing is read otherwise than the runtime reads it. Its parser drops what a field number has above 29 bits, so such
    a number could hide a node; it passes over numbers of fixed width where text is due, and so does this.

    Raises:
        GraphRefused: If the bytes are no message.
    """
    place = count = 0
    while place < len(message):
        count += 1
        if count > MAX_FIELDS:
            raise GraphRefused(f"a part of it has more than {MAX_FIELDS} parts")
        key, place = _varint(message, place)
        field, kind = key >> 3, key & 7
        if field > _HIGHEST_FIELD:
            raise GraphRefused("it is no ONNX model")
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield field, value
        elif kind == _LENGTH_DELIMITED:
            size, place = _varint(message, place)
            _check_there(message, place, size)
            yield field, message[place : place + size]
            place += size
        elif kind in _FIXED_BYTES:
            _check_there(message, place, _FIXED_BYTES[kind])
            place += _FIXED_BYTES[kind]
        else:
            raise GraphRefused("it is no ONNX model")


def _check_there(message: memoryview, place: int, size: int) -> None:
    if size > len(message) - place:
        raise GraphRefused("it is no ONNX model, or was cut")


def _varints(packed: memoryview) -> Iterator[int]:
    place = 0
    while place < len(packed):
        value, place = _varint(packed, place)
        yield value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise GraphRefused("it is no ONNX model, or was cut")
