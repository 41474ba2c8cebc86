"""Quantize a network: insert QuantizeLinear and DequantizeLinear (Q/DQ) nodes where engines benefit from them.

TensorRT and OpenVINO both follow these nodes strictly, so their positions determine speed and accuracy. The rules:

* A quantized convolution (transposed or not) has Q/DQ on its input and weights: symmetric int8, one scale per tensor
  for the input and one per channel for the weights. TensorRT supports nothing else.
* Its bias stays in float. TensorRT for RTX rejects an int32 bias behind DequantizeLinear, and engines add the bias in
  the accumulator anyway.
* All readers of a quantized tensor read its quantized values. A residual addition then adds int8 values to the output
  of a convolution, which both engines fuse into that convolution.
* All inputs of a concatenation share one scale, so that it copies bytes and requantizes nothing.
* Operators between a convolution and the next Q (bias, activation, addition) stay in float and are fused.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from kinet_trt.core.errors import KinetError
from kinet_trt.onnx_graph.pointwise import numbers

MAX_CODE = 127
"""Codes are -127 to 127: symmetric, so that zero is exact and -128 is not needed."""
_LAYERS = ("Conv", "ConvTranspose")
_MOVES = ("Concat", "Pad", "DepthToSpace", "Slice")
"""Nodes that move values without changing them: their inputs are quantized instead. The output of Pad is quantized
again, which changes no value: without AMX, OpenVINO stores signed values with an offset of 128, and a padding of 0
would otherwise prevent int8 for it and for everything that is concatenated with it."""


@dataclass(frozen=True)
class Layer:
    """A convolution.

    Attributes
    ----------
    name
        Name of its weights without the suffix, like ``network.up1.up.0``.
    input
        Tensor that it reads.
    origins
        Tensors that the values of ``input`` come from, through nodes that concatenate or move them.
    cost
        Multiplications per pixel of its input.
    """

    name: str
    input: str
    origins: tuple[str, ...]
    cost: float


def layers(graph: onnx.ModelProto) -> list[Layer]:
    """Return a network's convolutions, first to last."""
    makers = {name: node for node in graph.graph.node for name in node.output}
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.graph.initializer}
    return [
        Layer(
            _name(node),
            node.input[0],
            tuple(_origins(node.input[0], makers)),
            sizes.get(node.input[1], 0) / _area(node),
        )
        for node in graph.graph.node
        if node.op_type in _LAYERS
    ]


def _area(node: onnx.NodeProto) -> int:
    """Return the number of input pixels per step of a convolution."""
    return math.prod(numbers(node, "strides")) if node.op_type == "Conv" else 1


def groups(graph: onnx.ModelProto, floating: Collection[str]) -> list[tuple[str, ...]]:
    """Return the tensors to quantize, grouped by shared scale.

    Parameters
    ----------
    graph
        Graph with FP32 weights (:func:`kinet_trt.onnx_graph.precision.store_in_full`).
    floating
        Names of the layers that stay in float.
    """
    makers = {name: node for node in graph.graph.node for name in node.output}
    found: list[set[str]] = []
    for layer in layers(graph):
        if layer.name in floating:
            continue
        own = set(layer.origins)
        apart = [group for group in found if not group & own]
        found = [*apart, own.union(*(group for group in found if group & own))]
    order = {name: i for i, name in enumerate(makers)}
    ordered = [tuple(sorted(group, key=lambda name: order.get(name, -1))) for group in found]
    return sorted(ordered, key=lambda group: order.get(group[0], -1))


def _origins(tensor: str, makers: Mapping[str, onnx.NodeProto]) -> list[str]:
    """Return the tensors that the values of a tensor come from."""
    node = makers.get(tensor)
    if node is None or node.op_type not in _MOVES:
        return [tensor]
    moved = node.input if node.op_type == "Concat" else node.input[:1]
    own = [tensor] if node.op_type == "Pad" else []
    return own + [origin for name in moved for origin in _origins(name, makers)]


def insert(graph: onnx.ModelProto, scales: Mapping[str, float], floating: Collection[str]) -> onnx.ModelProto:
    """Return a network that computes in int8.

    Parameters
    ----------
    graph
        Graph with FP32 weights (:func:`kinet_trt.onnx_graph.precision.store_in_full`); not changed.
    scales
        Quantization step of each tensor from :func:`groups`.
    floating
        Names of the layers that stay in float.

    Raises
    ------
    KinetError
        If a layer's weights are not stored in the model, or are not finite.
    """
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    body = made.graph
    stored = {tensor.name: tensor for tensor in body.initializer}
    quantised = [node for node in body.node if node.op_type in _LAYERS and _name(node) not in floating]
    wanted = {name for group in groups(graph, floating) for name in group}
    before: list[onnx.NodeProto] = []
    for node in quantised:
        name = node.input[1]
        if name not in stored:
            raise KinetError(f"int8: the weights {name} are shared or computed in the graph: export the model again")
        before += _weights(body, stored.pop(name), axis=1 if node.op_type == "ConvTranspose" else 0)
        node.input[1] = f"{name}.dequantised"
    nodes: list[onnx.NodeProto] = [*before]
    renamed: dict[str, str] = {}
    for node in body.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        nodes.append(node)
        for name in node.output:
            if name in wanted:
                nodes += _activation(body, name, scales[name])
                renamed[name] = f"{name}.dequantised"
    del body.node[:]
    body.node.extend(nodes)
    return made


def _name(node: onnx.NodeProto) -> str:
    return str(node.input[1]).removesuffix(".weight")


def _weights(body: onnx.GraphProto, tensor: onnx.TensorProto, axis: int) -> list[onnx.NodeProto]:
    """Replace FP32 weights by int8 ones; return the node that dequantizes them."""
    name, values = tensor.name, numpy_helper.to_array(tensor)
    codes, scale = quantise(values, axis)
    body.initializer.remove(tensor)
    body.initializer.extend(
        numpy_helper.from_array(array, f"{name}.{part}")
        for part, array in (("int8", codes), ("scale", scale), ("zero", np.zeros(len(scale), np.int8)))
    )
    inputs = [f"{name}.int8", f"{name}.scale", f"{name}.zero"]
    return [helper.make_node("DequantizeLinear", inputs, [f"{name}.dequantised"], f"{name}.dequantise", axis=axis)]


def quantise(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return weights as int8 codes, and the step of each channel along ``axis`` (1 if all its weights are 0).

    Raises
    ------
    KinetError
        If a weight is not finite.
    """
    if not np.isfinite(values).all():
        raise KinetError("int8: the model's weights contain NaN or infinity: export it again")
    others = tuple(i for i in range(values.ndim) if i != axis)
    largest = np.abs(values).max(axis=others)
    steps = np.maximum(largest / MAX_CODE, np.finfo(np.float32).tiny)
    scale = np.where(largest > 0, steps, 1).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    codes = np.clip(np.rint(values / scale.reshape(shape)), -MAX_CODE, MAX_CODE).astype(np.int8)
    return codes, scale


def _activation(body: onnx.GraphProto, name: str, scale: float) -> list[onnx.NodeProto]:
    """Return the nodes that quantize and dequantize a tensor."""
    body.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), f"{name}.scale"))
    body.initializer.append(numpy_helper.from_array(np.array(0, np.int8), f"{name}.zero"))
    parameters = [f"{name}.scale", f"{name}.zero"]
    return [
        helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}.int8"], f"{name}.quantise"),
        helper.make_node("DequantizeLinear", [f"{name}.int8", *parameters], [f"{name}.dequantised"], f"{name}.back"),
    ]
