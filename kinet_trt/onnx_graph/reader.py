"""Inputs, outputs and element types of an ONNX graph, as names and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_NAMES = {"float": "fp32", "double": "fp64", "string": "text"}


@dataclass(frozen=True)
class Port:
    """Name, element type and shape of an input or output; a variable dimension is a name, or ``"?"``."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def dtype_name(code: int) -> str:
    """Return the name of a TensorProto.DataType, like ``"fp16"``; ``"?"`` if unknown."""
    import onnx

    if code not in onnx.TensorProto.DataType.values() or code == onnx.TensorProto.UNDEFINED:
        return "?"
    name = onnx.TensorProto.DataType.Name(code).lower()
    short = re.sub(r"^(float[48])e.*", r"\1", name)
    return _NAMES.get(short, short.replace("bfloat", "bf").replace("float", "fp"))


def text(value: str | bytes) -> str:
    """Return a text field; protobuf returns bytes if it is not UTF-8."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def bits(dtype: str) -> int:
    """Return the size of an element, bits; 0 if variable or unknown."""
    digits = re.search(r"\d+$", dtype)
    return int(digits[0]) if digits else 8 * (dtype == "bool")


def ports(values: Iterable[onnx.ValueInfoProto]) -> tuple[Port, ...]:
    """Return inputs or outputs of a graph."""
    return tuple(
        Port(
            text(value.name),
            dtype_name(value.type.tensor_type.elem_type),
            tuple(
                dim.dim_value if dim.HasField("dim_value") else text(dim.dim_param) or "?"
                for dim in value.type.tensor_type.shape.dim
            ),
        )
        for value in values
    )


def inputs(graph: onnx.GraphProto) -> tuple[Port, ...]:
    """Return the inputs of a graph, without its constants."""
    constants = {tensor.name for tensor in graph.initializer}
    return ports(value for value in graph.input if value.name not in constants)
