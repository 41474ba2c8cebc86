"""Compute the contribution of a sparse upsampler to a head at low resolution: equal outputs in less time."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from kinet_trt.onnx_graph.pointwise import numbers
from kinet_trt.onnx_graph.qdq import layer_name

# The eightfold upsampler turns each low-resolution pixel into a block of 8 x 8 pixels. Only 3 x 3 pixels of a block
# depend on the image; the others contain the activated bias. The head's 5 x 5 kernel spreads these 3 x 3 over 7 x 7
# pixels of the same block. The variable part of a low-resolution pixel therefore affects only its own block, and two
# pointwise convolutions and DepthToSpace can compute it.
#
# The constant part adds a bias that depends on the position in the block and, at the border of the image, on the zero
# padding within the reach of the head. First, middle and last rows and columns give 3 x 3 kinds of low-resolution
# pixels. Each kind except the middle one has mask channels, which are 1 in its pixels and 0 in all others; their weight
# is the difference between its bias and that of the middle kind. The first convolution outputs 1 everywhere (weights 0,
# bias 1), and a factor per row and per column sets the other pixels to 0. The same factors set those of the 3 x 3
# variable pixels to 0 that the padding replaces.
_MIDDLE = (1, 1)
_BORDER = [(row, column) for row in range(3) for column in range(3) if (row, column) != _MIDDLE]
_COPIES = 4
"""Mask channels per kind of border pixel. The change of the bias is ten times as large as the weights of the variable
pixels; if four channels share it, int8 represents both well. 9 x 64 + 8 x 4 is a multiple of 32, fast on AMX."""
_UPSAMPLER_OPS = (("Pad",), ("Slice",), ("DepthToSpace",), ("Relu", "Elu"), ("Conv",))
"""Operators from the head back to the low-resolution input."""


@dataclass(frozen=True, eq=False)
class _SparseUpsampler:
    """A sparse upsampler and the head that reads it."""

    conv: onnx.NodeProto  # pointwise convolution of the low-resolution input
    activation: onnx.NodeProto
    rearrangement: Sequence[onnx.NodeProto]  # rearranges the pixels, crops the border and pads it with zeros
    concat: onnx.NodeProto  # read by the head
    concat_index: int  # index of the upsampler among the inputs of ``concat``
    head: onnx.NodeProto  # convolution that keeps the size
    stride: int  # height and width of the block of output pixels per low-resolution pixel
    margin: int  # rows and columns of zeros at each border
    variable: NDArray[np.int64]  # rows, and columns, of a block that depend on the image

    @property
    def name(self) -> str:
        """Name of the head's layer."""
        return layer_name(self.head)


def at_low_resolution(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a network that computes the contributions of eightfold upsamplers to its heads at an eighth of the size.

    The outputs are equal except for the order of additions, for frames of any multiple of 16 px. All other layers are
    unchanged. ``graph``, from :func:`kinet_trt.onnx_graph.pointwise.as_pointwise` with FP32 weights, is not changed.
    """
    result = copy.deepcopy(graph)
    body = result.graph
    tensors = {tensor.name: tensor for tensor in body.initializer}
    constants = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    replacements: dict[str, list[onnx.NodeProto]] = {}
    for upsampler in list(_find_upsamplers(body, constants)):
        replacements |= {node.output[0]: [] for node in (*upsampler.rearrangement, upsampler.concat)}
        replacements[upsampler.head.output[0]] = _replacement_nodes(upsampler)
        for name, values in _weights(upsampler, constants, _channels_before(upsampler, graph)).items():
            tensor = tensors.get(name) or body.initializer.add()
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
    nodes = [new for node in body.node for new in replacements.get(node.output[0], [node])]
    used = {name for node in nodes for name in node.input}
    for name in tensors.keys() - used if replacements else ():
        body.initializer.remove(tensors[name])
    del body.node[:]
    body.node.extend(nodes)
    del body.value_info[:]  # outdated shapes
    return result


def _find_upsamplers(body: onnx.GraphProto, constants: Mapping[str, NDArray[Any]]) -> Iterator[_SparseUpsampler]:
    """Find the sparse upsamplers whose only reader is a head."""
    producers = {name: node for node in body.node for name in node.output}
    outputs = [output.name for output in body.output]
    read_counts = Counter([*(name for node in body.node for name in node.input), *outputs])
    for head in (node for node in body.node if node.op_type == "Conv"):
        concat = producers.get(head.input[0])
        if concat is None or concat.op_type != "Concat" or len(concat.input) < 2:
            continue
        for concat_index, name in enumerate(concat.input):
            if not (path := _path_to_input(name, producers)):
                continue
            internal = [concat.output[0], head.input[1], *path[-1].input[1:], *(node.output[0] for node in path)]
            if all(read_counts[tensor] == 1 for tensor in internal) and (
                upsampler := _match_upsampler(path, concat, concat_index, head, constants)
            ):
                yield upsampler
                break


def _path_to_input(name: str, producers: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the nodes from a head back to the low-resolution input; empty if they do not match."""
    path: list[onnx.NodeProto] = []
    for kinds in _UPSAMPLER_OPS:
        node = producers.get(name)
        if node is None or node.op_type not in kinds:
            return []
        path.append(node)
        name = node.input[0]
    return path


def _match_upsampler(
    path: Sequence[onnx.NodeProto],
    concat: onnx.NodeProto,
    concat_index: int,
    head: onnx.NodeProto,
    constants: Mapping[str, NDArray[Any]],
) -> _SparseUpsampler | None:
    """Return the upsampler if each low-resolution pixel affects only its own block; else None."""
    pad, crop, unpack, activation, conv = path
    inputs = {*pad.input[1:], *crop.input[1:], *conv.input[1:], head.input[1]}
    if len(conv.input) != 3 or not inputs <= constants.keys():
        return None
    modes = {attribute.s for node in (pad, unpack) for attribute in node.attribute if attribute.name == "mode"}
    if numbers(concat, "axis") != [1] or not modes <= {b"constant", b"DCR"}:
        return None
    padding, *fill_value = (constants[name] for name in pad.input[1:])
    margin, crop_bounds = int(padding.max()), [constants[name].tolist() for name in crop.input[1:]]
    if padding.tolist() != [0, 0, margin, margin] * 2 or any(np.any(value) for value in fill_value):
        return None
    if crop_bounds != [[margin] * 2, [-margin] * 2, [2, 3]]:
        return None
    (stride,) = numbers(unpack, "blocksize")
    weights, bias, kernel = (constants[name] for name in (*conv.input[1:], head.input[1]))
    reach = kernel.shape[2] // 2
    if not _keeps_size(conv, weights, 0) or not _keeps_size(head, kernel, reach):
        return None
    is_variable = np.any(weights.reshape(stride, stride, -1), axis=2)
    variable = np.flatnonzero(is_variable.any(axis=0) | is_variable.any(axis=1))
    is_separate = (
        len(variable) > 0 and variable[0] >= reach and variable[-1] + reach < stride and margin + reach <= stride
    )
    if not is_separate or np.ptp(bias.reshape(stride**2, -1), axis=0).any():
        return None
    return _SparseUpsampler(conv, activation, (unpack, crop, pad), concat, concat_index, head, stride, margin, variable)


def _keeps_size(layer: onnx.NodeProto, weights: NDArray[Any], pad: int) -> bool:
    """Return whether a convolution is square and keeps the size."""
    expected = {"strides": 1, "dilations": 1, "group": 1, "pads": pad}
    if pad and not numbers(layer, "pads"):
        return False
    attributes_ok = all(set(numbers(layer, name)) <= {value} for name, value in expected.items())
    return attributes_ok and weights.shape[2:] == (2 * pad + 1, 2 * pad + 1)


def _channels_before(upsampler: _SparseUpsampler, graph: onnx.ModelProto) -> int:
    """Return the number of channels before those of an upsampler in its concatenation."""
    inferred = onnx.shape_inference.infer_shapes(graph).graph.value_info
    shapes = {value.name: value.type.tensor_type.shape.dim for value in inferred}
    return sum(shapes[name][1].dim_value for name in list(upsampler.concat.input)[: upsampler.concat_index])


def _weights(
    upsampler: _SparseUpsampler, constants: Mapping[str, NDArray[Any]], before: int
) -> dict[str, NDArray[Any]]:
    """Return the weights and constants of the upsampler and of :func:`_replacement_nodes`."""
    stride, variable, name = upsampler.stride, upsampler.variable, upsampler.name
    weights, bias, kernel = (constants[name] for name in (*upsampler.conv.input[1:], upsampler.head.input[1]))
    channels, inputs = len(bias) // stride**2, weights.shape[1]
    own_kernel, bias = kernel[:, before : before + channels].astype(float), bias[:channels]
    blocks = weights.reshape(stride, stride, channels, inputs)
    conv_weights = blocks[np.ix_(variable, variable)].reshape(-1, inputs)

    # read_row: row of the block that each row of the kernel reads for each output row, [stride, kernel].
    # is_variable: 1 where it is one of the variable rows, [variable, stride, kernel]. in_image: 1 where it lies in the
    # image, [first, middle and last low-resolution pixel, stride, kernel]. The same holds for columns.
    read_row = np.arange(stride)[:, None] + np.arange(kernel.shape[2]) - kernel.shape[2] // 2
    is_variable = (read_row == variable[:, None, None]).astype(float)
    margin, everywhere = upsampler.margin, np.ones_like(read_row)
    in_image = np.stack([read_row >= margin, everywhere, read_row < stride - margin]).astype(float)
    head_weights = np.einsum("tyk,uxl,ockl->yxotuc", is_variable, is_variable, own_kernel).reshape(
        -1, len(conv_weights)
    )
    response = np.einsum("ockl,c->okl", own_kernel, _activated(bias, upsampler.activation))
    in_variable = in_image * is_variable.sum(axis=0)
    biases = _response_to_constant(in_image, response) - _response_to_constant(in_variable, response)
    masks = np.stack([biases[kind] - biases[_MIDDLE] for kind in _BORDER] * _COPIES, axis=1) / _COPIES

    rows, columns = _mask_factors(upsampler, channels)
    floats = {
        upsampler.conv.input[1]: np.pad(conv_weights, ((0, masks.shape[1]), (0, 0)))[..., None, None],
        upsampler.conv.input[2]: np.append(np.tile(bias, len(variable) ** 2), np.ones(masks.shape[1])),
        upsampler.head.input[1]: np.delete(kernel, np.s_[before : before + channels], axis=1),
        f"{name}.side.weight": np.concatenate([head_weights, masks], axis=1)[..., None, None],
        f"{name}.side.bias": biases[_MIDDLE],
        f"{name}.rows.factors": rows[:, :, None],
        f"{name}.columns.factors": columns[:, None, :],
    }
    integers = {f"{name}.zero": np.array([0], np.int64), f"{name}.two": np.array([2], np.int64)}
    return {key: values.astype(np.float32) for key, values in floats.items()} | integers


def _activated(values: NDArray[Any], activation: onnx.NodeProto) -> NDArray[np.float64]:
    alpha = next((a.f for a in activation.attribute if a.name == "alpha"), 1.0) if activation.op_type == "Elu" else 0.0
    result: NDArray[np.float64] = np.maximum(values, 0) + alpha * np.expm1(np.minimum(values, 0, dtype=float))
    return result


def _response_to_constant(rows: NDArray[np.float64], response: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the output of the head for an input that is constant in some rows and columns and 0 in the others.

    ``rows`` is 1 where a row of the kernel reads one of these rows, [first, middle and last low-resolution pixel,
    stride, kernel]; the same for columns. ``response`` is the head's weights times the constant, [outputs, kernel,
    kernel]. The result is the packed channels of a low-resolution pixel of each kind, [3, 3, stride * stride *
    outputs].
    """
    result: NDArray[np.float64] = np.einsum("ayk,bxl,okl->abyxo", rows, rows, response)
    return result.reshape(3, 3, -1)


def _mask_factors(upsampler: _SparseUpsampler, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return factors of each channel for the first, a middle and the last row, and column: [channels, 3]."""
    variable, margin = upsampler.variable, upsampler.margin
    in_image = np.stack([variable >= margin, np.ones_like(variable), variable < upsampler.stride - margin], axis=1)
    index = np.indices((len(variable), len(variable))).reshape(2, -1).repeat(channels, axis=1)
    kind = np.array(_BORDER * _COPIES).T
    rows, columns = (np.concatenate([in_image[index[axis]], np.eye(3)[kind[axis]]]) for axis in range(2))
    return rows, columns


def _replacement_nodes(upsampler: _SparseUpsampler) -> list[onnx.NodeProto]:
    """Return the nodes that replace the head."""
    name, make = upsampler.name, helper.make_node
    others = [tensor for i, tensor in enumerate(upsampler.concat.input) if i != upsampler.concat_index]
    dense = copy.deepcopy(upsampler.head)
    dense.input[0], dense.output[0] = f"{name}.others", f"{name}.dense"
    weights, one = [f"{name}.side.weight", f"{name}.side.bias"], numpy_helper.from_array(np.array([1], np.int64))
    nodes = list[onnx.NodeProto]()
    tensor = upsampler.activation.output[0]
    for axis, axis_name in ((2, f"{name}.rows"), (3, f"{name}.columns")):
        nodes += [
            make("Shape", [upsampler.conv.input[0]], [f"{axis_name}.count"], start=axis, end=axis + 1),
            make("Sub", [f"{axis_name}.count", f"{name}.two"], [f"{axis_name}.middle_count"]),
            make("ConstantOfShape", [f"{axis_name}.middle_count"], [f"{axis_name}.middle"], value=one),
            make("Concat", [f"{name}.zero", f"{axis_name}.middle", f"{name}.two"], [f"{axis_name}.kinds"], axis=0),
            make("Gather", [f"{axis_name}.factors", f"{axis_name}.kinds"], [axis_name], axis=axis - 1),
            make("Mul", [tensor, axis_name], [tensor := f"{axis_name}.masked"]),
        ]
    nodes += [
        make("Conv", [tensor, *weights], [f"{name}.packed"], kernel_shape=[1, 1]),
        make("DepthToSpace", [f"{name}.packed"], [f"{name}.contribution"], blocksize=upsampler.stride, mode="DCR"),
        make("Concat", others, [f"{name}.others"], axis=1),
        dense,
        make("Add", [f"{name}.dense", f"{name}.contribution"], list(upsampler.head.output)),
    ]
    for node in nodes:
        node.name = node.output[0]
    return nodes
