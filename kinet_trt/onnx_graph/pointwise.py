"""Rewrite large upsamplers as pointwise convolutions: equal outputs, and fast on every runtime."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

_ACTIVATIONS = ("Relu", "Elu")
_SLICE_END = 2**31


def as_pointwise(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a network whose fourfold and eightfold upsamplers are pointwise convolutions.

    A transposed convolution whose kernel size equals its stride s turns each input pixel into a block of s x s pixels
    that does not overlap others. It equals a pointwise convolution with s x s times as many channels, the activation,
    and DepthToSpace; a Slice replaces the padding. The outputs are bit-identical. For transposed convolutions with such
    strides, OpenVINO has no int8 kernel and does not fuse the activation in BF16; for pointwise convolutions it does.
    """
    result = copy.deepcopy(graph)
    body = result.graph
    initializers = {tensor.name: tensor for tensor in body.initializer}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in body.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    nodes: list[onnx.NodeProto] = []
    unpack_nodes: dict[str, list[onnx.NodeProto]] = {}
    for node in body.node:
        next_nodes = consumers.get(node.output[0], [])
        stride = _block_size(node, initializers)
        if stride and len(next_nodes) == 1 and next_nodes[0].op_type in _ACTIVATIONS:
            nodes.append(_pointwise(node, initializers, stride))
            unpack_nodes[next_nodes[0].name] = _unpack(body, next_nodes[0], stride, numbers(node, "pads"))
        else:
            nodes += [node, *unpack_nodes.pop(node.name, [])]
    del body.node[:]
    body.node.extend(nodes)
    del body.value_info[:]  # outdated shapes
    return result


def _block_size(node: onnx.NodeProto, initializers: Mapping[str, onnx.TensorProto]) -> int:
    """Return the stride of a large upsampler whose output blocks do not overlap; 0 for other nodes."""
    if node.op_type != "ConvTranspose" or len(node.input) != 3 or not set(node.input[1:]) <= initializers.keys():
        return 0
    kernel, strides = list(initializers[node.input[1]].dims[2:]), numbers(node, "strides")
    is_plain = not any(numbers(node, "output_padding")) and numbers(node, "group") in ([], [1])
    return int(kernel[0]) if is_plain and strides == kernel == [kernel[0]] * 2 and kernel[0] > 2 else 0


def numbers(node: onnx.NodeProto, name: str) -> list[int]:
    """Return the integers of a node's attribute; empty if it is missing."""
    attributes = [helper.get_attribute_value(attribute) for attribute in node.attribute if attribute.name == name]
    return [int(value) for entry in attributes for value in (entry if isinstance(entry, Sequence) else [entry])]


def _pointwise(node: onnx.NodeProto, initializers: Mapping[str, onnx.TensorProto], stride: int) -> onnx.NodeProto:
    weights, bias = (initializers[name] for name in node.input[1:])
    values = numpy_helper.to_array(weights)  # inputs, outputs, rows, columns
    flat = np.ascontiguousarray(values.transpose(2, 3, 1, 0).reshape(-1, values.shape[0], 1, 1))
    weights.CopyFrom(numpy_helper.from_array(flat, weights.name))
    bias.CopyFrom(numpy_helper.from_array(np.tile(numpy_helper.to_array(bias), stride**2), bias.name))
    return helper.make_node("Conv", list(node.input), list(node.output), node.name, kernel_shape=[1, 1])


def _unpack(
    body: onnx.GraphProto, activation: onnx.NodeProto, stride: int, pads: Sequence[int]
) -> list[onnx.NodeProto]:
    """Move an activation before the unpacking, in place; return the nodes that unpack its output."""
    name = activation.output[0]
    activation.output[0] = packed = f"{name}.packed"
    uncropped = f"{name}.whole" if any(pads) else name
    nodes = [helper.make_node("DepthToSpace", [packed], [uncropped], f"{name}.unpack", blocksize=stride, mode="DCR")]
    if any(pads):
        bounds = {"starts": pads[:2], "ends": [-pad or _SLICE_END for pad in pads[2:]], "axes": [2, 3]}
        body.initializer.extend(
            numpy_helper.from_array(np.array(values, np.int64), f"{name}.{part}") for part, values in bounds.items()
        )
        inputs = [uncropped, *(f"{name}.{part}" for part in bounds)]
        nodes.append(helper.make_node("Slice", inputs, [name], f"{name}.crop"))
    return nodes
