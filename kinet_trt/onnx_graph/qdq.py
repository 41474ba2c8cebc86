"""Quantize a network: insert QuantizeLinear and DequantizeLinear (Q/DQ) nodes where runtimes benefit from them.

TensorRT and OpenVINO quantize exactly where these nodes are: their positions determine speed and accuracy. Rules:

* A quantized convolution (transposed or not) has Q/DQ on its input and weights: symmetric int8, one scale per tensor
  for the input and one per channel for the weights. TensorRT supports no other scheme.
* Its bias stays in float. TensorRT for RTX rejects an int32 bias followed by DequantizeLinear, and the runtimes add the
  bias in the accumulator anyway.
* All nodes that use a quantized tensor read its quantized values. A residual addition then adds int8 values to the
  output of a convolution; both runtimes fuse it into that convolution.
* All inputs of a concatenation share one scale, so that the values are copied and not requantized.
* Operators between a convolution and the next Q (bias, activation, addition) stay in float and are fused.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from kinet_trt.core.errors import KinetError
from kinet_trt.onnx_graph.pointwise import numbers
from kinet_trt.onnx_graph.precision import LAYERS

MAX_CODE = 127
"""Codes are -127 to 127: symmetric, so that zero is exact and -128 is not needed."""
_MOVES = ("Concat", "Pad", "DepthToSpace", "Slice")
"""Nodes that move values without changing them: their inputs are quantized instead of their outputs. The output of Pad
is quantized as well, which changes no value: without AMX, OpenVINO stores signed values with an offset of 128, and a
padding of 0 would otherwise prevent int8 for Pad and for every tensor that is concatenated with its output."""


@dataclass(frozen=True)
class Layer:
    """A convolution."""

    name: str  # see :func:`layer_name`
    input: str
    origins: tuple[str, ...]  # tensors whose values nodes concatenate or move to ``input``
    cost: float  # multiplications per pixel of the input


def layers(graph: onnx.ModelProto) -> list[Layer]:
    """Return a network's convolutions, first to last."""
    producers = {name: node for node in graph.graph.node for name in node.output}
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.graph.initializer}
    found = []
    for node in graph.graph.node:
        if node.op_type in LAYERS:
            # Each weight is used once per output pixel, or once per input pixel of a transposed convolution.
            stride = math.prod(numbers(node, "strides")) if node.op_type == "Conv" else 1
            origins = tuple(_origins(node.input[0], producers))
            found.append(Layer(layer_name(node), node.input[0], origins, sizes.get(node.input[1], 0) / stride))
    return found


def groups(graph: onnx.ModelProto, floating: Collection[str]) -> list[tuple[str, ...]]:
    """Return the tensors to quantize, grouped by shared scale; layers named in ``floating`` stay in float.

    The weights of the graph are FP32 (:func:`kinet_trt.onnx_graph.precision.weights_to_fp32`).
    """
    producers = {name: node for node in graph.graph.node for name in node.output}
    merged: list[set[str]] = []
    for layer in layers(graph):
        if layer.name in floating:
            continue
        origins = set(layer.origins)
        disjoint = [group for group in merged if not group & origins]
        merged = [*disjoint, origins.union(*(group for group in merged if group & origins))]
    order = {name: i for i, name in enumerate(producers)}
    ordered = [tuple(sorted(group, key=lambda name: order.get(name, -1))) for group in merged]
    return sorted(ordered, key=lambda group: order.get(group[0], -1))


def _origins(tensor: str, producers: Mapping[str, onnx.NodeProto]) -> list[str]:
    """Return the tensors from which the values of a tensor come."""
    node = producers.get(tensor)
    if node is None or node.op_type not in _MOVES:
        return [tensor]
    moved = node.input if node.op_type == "Concat" else node.input[:1]
    quantized_output = [tensor] if node.op_type == "Pad" else []
    return quantized_output + [origin for name in moved for origin in _origins(name, producers)]


def insert(graph: onnx.ModelProto, scales: Mapping[str, float], floating: Collection[str]) -> onnx.ModelProto:
    """Return a network whose layers compute in int8, except those named in ``floating``.

    The weights of ``graph``, which is not changed, are FP32. ``scales`` are the quantization steps of the tensors from
    :func:`groups`. Raise a KinetError if the weights of a layer are not stored in the model, or are not finite.
    """
    result = copy.deepcopy(graph)
    body = result.graph
    initializers = {tensor.name: tensor for tensor in body.initializer}
    quantized = [node for node in body.node if node.op_type in LAYERS and layer_name(node) not in floating]
    tensors = {name for group in groups(graph, floating) for name in group}
    weight_nodes: list[onnx.NodeProto] = []
    for node in quantized:
        name = node.input[1]
        if name not in initializers:
            raise KinetError(f"int8: the weights {name} are shared or computed in the graph. Export the model again")
        weight_nodes += _weights(body, initializers.pop(name), axis=1 if node.op_type == "ConvTranspose" else 0)
        node.input[1] = f"{name}.dequantised"
    nodes: list[onnx.NodeProto] = [*weight_nodes]
    dequantized: dict[str, str] = {}
    for node in body.node:
        node.input[:] = [dequantized.get(name, name) for name in node.input]
        nodes.append(node)
        for name in node.output:
            if name in tensors:
                nodes += _activation(body, name, scales[name])
                dequantized[name] = f"{name}.dequantised"
    del body.node[:]
    body.node.extend(nodes)
    return result


def layer_name(node: onnx.NodeProto) -> str:
    """Return the name of a convolution: that of its weights without the suffix, like ``network.up1.up.0``."""
    return str(node.input[1]).removesuffix(".weight")


def _weights(body: onnx.GraphProto, tensor: onnx.TensorProto, axis: int) -> list[onnx.NodeProto]:
    """Replace FP32 weights with int8 weights; return the node that dequantizes them."""
    name, values = tensor.name, numpy_helper.to_array(tensor)
    codes, scale = quantize(values, axis)
    body.initializer.remove(tensor)
    body.initializer.extend(
        numpy_helper.from_array(array, f"{name}.{part}")
        for part, array in (("int8", codes), ("scale", scale), ("zero", np.zeros(len(scale), np.int8)))
    )
    inputs = [f"{name}.int8", f"{name}.scale", f"{name}.zero"]
    return [helper.make_node("DequantizeLinear", inputs, [f"{name}.dequantised"], f"{name}.dequantise", axis=axis)]


def quantize(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return weights as int8 codes, and the step of each channel along ``axis`` (1 if all its weights are 0)."""
    if not np.isfinite(values).all():
        raise KinetError("int8: the weights of the model contain NaN or infinity. Export the model again")
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
