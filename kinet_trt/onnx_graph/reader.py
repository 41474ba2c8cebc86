"""What stands in an ONNX file, read in plain Python: neither the ``onnx`` package nor a native parser sees the bytes.

The numbers of the fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from kinet_trt.core.errors import CardError
from kinet_trt.models.card import varint, walk

DTYPES = {
    1: ("fp32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 8: ("text", 0), 9: ("bool", 8), 10: ("fp16", 16), 11: ("fp64", 64), 12: ("uint32", 32),
    13: ("uint64", 64), 14: ("complex64", 64), 15: ("complex128", 128), 16: ("bf16", 16), 17: ("fp8", 8),
    18: ("fp8", 8), 19: ("fp8", 8), 20: ("fp8", 8), 21: ("uint4", 4), 22: ("int4", 4), 23: ("fp4", 4),
}  # fmt: skip
"""Name and bits of an element, by TensorProto.DataType."""
_MOST_FIELDS = 1_000_000
_MOST_DIMS = 16
_LARGEST = 1 << 40
_EXTERNAL = 1

Fields = Mapping[int, list["int | memoryview"]]


@dataclass(frozen=True)
class Tensor:
    """A constant tensor.

    Attributes
    ----------
    dims
        Its shape.
    dtype
        Name of its elements' type, like ``"fp16"``.
    external
        Whether its values lie in another file.
    raw
        Its values as bytes, little-endian; empty if they are stored otherwise.
    """

    dims: tuple[int, ...]
    dtype: str
    external: bool = False
    raw: bytes = b""

    @property
    def elements(self) -> int:
        """How many there are."""
        return math.prod(self.dims)

    @property
    def size(self) -> int:
        """Bytes that they take."""
        return -(-self.elements * BITS[self.dtype] // 8)

    def floats(self) -> tuple[float, ...]:
        """Return the values of an fp32 tensor; empty if it is none or they are stored otherwise."""
        return struct.unpack(f"<{len(self.raw) // 4}f", self.raw) if self.dtype == "fp32" else ()


BITS = dict(DTYPES.values())


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes
    ----------
    op
        Its type, like ``"Conv"``; one that is not ONNX's own has its domain before it.
    inputs, outputs
        Names of tensors; an input that is left out is empty.
    numbers
        Integer attributes by name.
    value
        The tensor of a ``Constant``.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: Mapping[str, tuple[int, ...]]
    value: Tensor | None


@dataclass(frozen=True)
class Port:
    """An input or output: name, type of its elements, and its shape; a side that is free is a name, or ``"?"``."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class OnnxFile:
    """What stands in an ONNX file.

    Attributes
    ----------
    producer
        What wrote it, with its version.
    opset
        Version by domain; ONNX's own is ``"ai.onnx"``.
    inputs, outputs
        Of the graph.
    nodes
        In the order of the file, in which they can be run.
    constants
        Initializers by name.
    metadata
        Names of what is in the metadata.
    """

    producer: str
    opset: Mapping[str, int]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    metadata: tuple[str, ...]


def read_onnx(model: bytes) -> OnnxFile:
    """Read a serialised ONNX model.

    Raises
    ------
    CardError
        If the bytes are no ONNX model, or a damaged one.
    """
    top = _fields(memoryview(model))
    graphs = _messages(top, 7)
    if len(graphs) != 1:
        raise CardError(f"not an ONNX file: expected one graph in it, found {len(graphs)}")
    graph = _fields(graphs[0])
    constants = dict(_initializer(message) for message in _messages(graph, 5))
    opsets = [_fields(message) for message in _messages(top, 8)]
    nodes = tuple(_node(message) for message in _messages(graph, 1))
    if not nodes:
        raise CardError("not an ONNX file: its graph has no layers")
    return OnnxFile(
        producer=f"{_text(top, 2)} {_text(top, 3)}".strip(),
        opset={_text(one, 1) or "ai.onnx": _number(one, 2) for one in opsets},
        inputs=tuple(p for p in (_port(message) for message in _messages(graph, 11)) if p.name not in constants),
        outputs=tuple(_port(message) for message in _messages(graph, 12)),
        nodes=nodes,
        constants=constants,
        metadata=tuple(_text(_fields(message), 1) for message in _messages(top, 14)),
    )


def _initializer(message: memoryview) -> tuple[str, Tensor]:
    fields = _fields(message)
    return _text(fields, 8), _tensor(fields)


def _tensor(fields: Fields) -> Tensor:
    dims, code = _numbers(fields, 1), _number(fields, 2)
    if code not in DTYPES:
        raise _damaged(f"a tensor of the unknown type {code}")
    if len(dims) > _MOST_DIMS or min(dims, default=0) < 0 or math.prod(dims) > _LARGEST:
        raise _damaged(f"a tensor of {' x '.join(map(str, dims[:_MOST_DIMS]))} elements")
    raw = _messages(fields, 9)
    tensor = Tensor(dims, DTYPES[code][0], _number(fields, 14) == _EXTERNAL)
    if raw and len(raw[-1]) != tensor.size:
        raise _damaged(f"a tensor of {tensor.size} bytes with {len(raw[-1])}")
    # Only the few numbers of a Resize are ever looked at: weights stay where they are.
    short = bytes(raw[-1]) if raw and len(raw[-1]) <= 64 else b""
    return Tensor(tensor.dims, tensor.dtype, tensor.external, short)


def _node(message: memoryview) -> Node:
    fields = _fields(message)
    numbers, value = {}, None
    for attribute in map(_fields, _messages(fields, 5)):
        numbers[_text(attribute, 1)] = _numbers(attribute, 3) or _numbers(attribute, 8)
        for tensor in _messages(attribute, 5):
            value = _tensor(_fields(tensor))
    domain = _text(fields, 7)
    op = _text(fields, 4) if domain in ("", "ai.onnx") else f"{domain}.{_text(fields, 4)}"
    return Node(op, _texts(fields, 1), _texts(fields, 2), numbers, value)


def _port(message: memoryview) -> Port:
    fields = _fields(message)
    dtype, shape = "?", list[int | str]()
    for kind in map(_fields, _messages(fields, 2)):
        for tensor in map(_fields, _messages(kind, 1)):
            dtype = DTYPES.get(_number(tensor, 1), ("?", 0))[0]
            for dims in map(_fields, _messages(tensor, 2)):
                sides = [_fields(side) for side in _messages(dims, 1)]
                shape = [_number(side, 1) if 1 in side else _text(side, 2) or "?" for side in sides]
    return Port(_text(fields, 1), dtype, tuple(shape))


# --- fields of a message ----------------------------------------------------------------------------------------------


def _fields(message: memoryview) -> Fields:
    """Return the values of each field of a message: an integer, or the bytes."""
    found: dict[int, list[int | memoryview]] = {}
    for count, (number, start, value, end) in enumerate(walk(message)):
        if count == _MOST_FIELDS:
            raise _damaged(f"more than {_MOST_FIELDS:,} entries in one place")
        is_integer = message[start] & 7 == 0
        found.setdefault(number, []).append(varint(message, value)[0] if is_integer else message[value:end])
    return found


def _messages(fields: Fields, number: int) -> list[memoryview]:
    found = fields.get(number, [])
    messages = [one for one in found if isinstance(one, memoryview)]
    if len(messages) < len(found):
        raise _damaged("a number where a text or a list is expected")
    return messages


def _texts(fields: Fields, number: int) -> tuple[str, ...]:
    return tuple(bytes(one).decode("utf-8", "replace") for one in _messages(fields, number))


def _text(fields: Fields, number: int) -> str:
    return (_texts(fields, number) or ("",))[-1]


def _numbers(fields: Fields, number: int) -> tuple[int, ...]:
    """Return a list of int64, one by one or packed."""
    unsigned: list[int] = []
    for one in fields.get(number, []):
        if isinstance(one, int):
            unsigned.append(one)
            continue
        position = 0
        while position < len(one):
            value, position = varint(one, position)
            unsigned.append(value)
    return tuple(value - (1 << 64) if value >= 1 << 63 else value for value in unsigned)


def _number(fields: Fields, number: int) -> int:
    return (_numbers(fields, number) or (0,))[-1]


def _damaged(what: str) -> CardError:
    return CardError(f"not an ONNX file, or a damaged one ({what}): copy or export it again")
