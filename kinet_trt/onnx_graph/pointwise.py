"""Rewrite large up-samplers as pointwise convolutions: equal outputs, and a layer that is fast on every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

_ACTIVATIONS = ("Relu", "Elu")
_TO_THE_END = 2**31


def as_pointwise(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a network whose fourfold and eightfold up-samplers are pointwise convolutions.

    A transposed convolution whose kernel size is its stride s turns each input pixel into s x s separate pixels. That
    equals a pointwise convolution with s x s times as many channels, the activation, and DepthToSpace; a Slice
    replaces the padding. The outputs are equal to the last bit. OpenVINO has no int8 kernel for transposed convolutions
    with such strides and does not fuse their activation in BF16; for pointwise convolutions it has both.
    """
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    body = made.graph
    stored = {tensor.name: tensor for tensor in body.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in body.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes: list[onnx.NodeProto] = []
    unpacked: dict[str, list[onnx.NodeProto]] = {}
    for node in body.node:
        following = readers.get(node.output[0], [])
        stride = _separate(node, stored)
        if stride and len(following) == 1 and following[0].op_type in _ACTIVATIONS:
            nodes.append(_pointwise(node, stored, stride))
            unpacked[following[0].name] = _unpack(body, following[0], stride, numbers(node, "pads"))
        else:
            nodes += [node, *unpacked.pop(node.name, [])]
    del body.node[:]
    body.node.extend(nodes)
    del body.value_info[:]  # outdated shapes
    return made


def _separate(node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto]) -> int:
    """Return the stride of a large up-sampler whose pixels do not overlap; 0 for anything else."""
    if node.op_type != "ConvTranspose" or len(node.input) != 3 or not set(node.input[1:]) <= stored.keys():
        return 0
    kernel, strides = list(stored[node.input[1]].dims[2:]), numbers(node, "strides")
    plain = not any(numbers(node, "output_padding")) and numbers(node, "group") in ([], [1])
    return int(kernel[0]) if plain and strides == kernel == [kernel[0]] * 2 and kernel[0] > 2 else 0


def numbers(node: onnx.NodeProto, name: str) -> list[int]:
    """Return the integers of a node's attribute; empty if it is missing."""
    found = [helper.get_attribute_value(attribute) for attribute in node.attribute if attribute.name == name]
    return [int(value) for entry in found for value in (entry if isinstance(entry, Sequence) else [entry])]


def _pointwise(node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto], stride: int) -> onnx.NodeProto:
    weights, bias = (stored[name] for name in node.input[1:])
    values = numpy_helper.to_array(weights)  # inputs, outputs, rows, columns
    flat = np.ascontiguousarray(values.transpose(2, 3, 1, 0).reshape(-1, values.shape[0], 1, 1))
    weights.CopyFrom(numpy_helper.from_array(flat, weights.name))
    bias.CopyFrom(numpy_helper.from_array(np.tile(numpy_helper.to_array(bias), stride**2), bias.name))
    return helper.make_node("Conv", list(node.input), list(node.output), node.name, kernel_shape=[1, 1])


def _unpack(
    body: onnx.GraphProto, activation: onnx.NodeProto, stride: int, pads: Sequence[int]
) -> list[onnx.NodeProto]:
    """Make an activation work on packed pixels; return the nodes that unpack them."""
    name = activation.output[0]
    activation.output[0] = packed = f"{name}.packed"
    whole = f"{name}.whole" if any(pads) else name
    nodes = [helper.make_node("DepthToSpace", [packed], [whole], f"{name}.unpack", blocksize=stride, mode="DCR")]
    if any(pads):
        bounds = {"starts": pads[:2], "ends": [-pad or _TO_THE_END for pad in pads[2:]], "axes": [2, 3]}
        body.initializer.extend(
            numpy_helper.from_array(np.array(values, np.int64), f"{name}.{part}") for part, values in bounds.items()
        )
        inputs = [whole, *(f"{name}.{part}" for part in bounds)]
        nodes.append(helper.make_node("Slice", inputs, [name], f"{name}.crop"))
    return nodes
