"""Compute the contribution of a sparse up-sampler to a head at low resolution: equal outputs in less time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from kinet_trt.onnx_graph.pointwise import numbers

# The release's eightfold up-sampler turns each pixel of its small input into 8 x 8 pixels. Only 3 x 3 of them depend on
# the image; the others are its activated bias. The head's 5 x 5 kernel spreads the 3 x 3 over 7 x 7 pixels of the same
# 8 x 8. The variable part of a small pixel therefore affects only its own 8 x 8 pixels, and can be computed by two
# pointwise convolutions and DepthToSpace.
#
# The constant part adds a bias that depends on the position in the 8 x 8 and, at the border of the image, on the zero
# padding that the head covers. First, middle and last rows and columns give 3 x 3 kinds of small pixels. Each kind
# except the middle one has channels that are 1 there and 0 elsewhere, weighted by its difference from the bias of the
# middle. The first convolution outputs them as 1 everywhere (weights 0, bias 1); factors per row and per column set
# them to 0 elsewhere, and likewise those of the 3 x 3 pixels that the padding replaces.
_MIDDLE = (1, 1)
_BORDER = [(row, column) for row in range(3) for column in range(3) if (row, column) != _MIDDLE]
_COPIES = 4
"""Channels per kind of border pixel. The bias changes there by ten times the weights of the 3 x 3; split among four
channels, int8 has enough steps for those. 9 x 64 + 8 x 4 channels are whole blocks of 32, which is fast with AMX."""
_PATH = (("Pad",), ("Slice",), ("DepthToSpace",), ("Relu", "Elu"), ("Conv",))
"""Operators from the head back to the small input."""


@dataclass(frozen=True, eq=False)
class _SparseUpsampler:
    """A sparse up-sampler and the head that reads it.

    Attributes
    ----------
    up, activation
        Pointwise convolution of the small input, and its activation.
    moves
        Nodes that rearrange its pixels, crop the border and pad it with zeros.
    join, position
        Concatenation that the head reads, and the index of this input.
    head
        Convolution that keeps the size.
    stride
        Rows and columns that a small pixel becomes.
    margin
        Rows and columns of zeros at each border.
    taps
        Indices of the ``stride`` rows and columns that depend on the image.
    """

    up: onnx.NodeProto
    activation: onnx.NodeProto
    moves: Sequence[onnx.NodeProto]
    join: onnx.NodeProto
    position: int
    head: onnx.NodeProto
    stride: int
    margin: int
    taps: NDArray[np.int64]

    @property
    def name(self) -> str:
        """Name of the head's layer."""
        return str(self.head.input[1]).removesuffix(".weight")


def at_low_resolution(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a network that computes the contributions of eightfold up-samplers to its heads at an eighth of the size.

    The outputs are equal except for the order of additions, for frames of any multiple of 16 px. All other layers are
    unchanged.

    Parameters
    ----------
    graph
        Graph from :func:`kinet_trt.onnx_graph.pointwise.as_pointwise` with FP32 weights; not changed.
    """
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    body = made.graph
    tensors = {tensor.name: tensor for tensor in body.initializer}
    stored = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    instead: dict[str, list[onnx.NodeProto]] = {}
    for side in list(_find_upsamplers(body, stored)):
        instead |= {node.output[0]: [] for node in (*side.moves, side.join)}
        instead[side.head.output[0]] = _replacement_nodes(side)
        for name, values in _weights(side, stored, _channels_before(side, graph)).items():
            tensor = tensors.get(name) or body.initializer.add()
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
    nodes = [new for node in body.node for new in instead.get(node.output[0], [node])]
    used = {name for node in nodes for name in node.input}
    for name in tensors.keys() - used if instead else ():
        body.initializer.remove(tensors[name])
    del body.node[:]
    body.node.extend(nodes)
    del body.value_info[:]  # outdated shapes
    return made


def _find_upsamplers(body: onnx.GraphProto, stored: Mapping[str, NDArray[Any]]) -> Iterator[_SparseUpsampler]:
    """Find the sparse up-samplers whose only reader is a head."""
    makers = {name: node for node in body.node for name in node.output}
    reads = Counter([*(name for node in body.node for name in node.input), *(output.name for output in body.output)])
    for head in (node for node in body.node if node.op_type == "Conv"):
        join = makers.get(head.input[0])
        if join is None or join.op_type != "Concat" or len(join.input) < 2:
            continue
        for position, name in enumerate(join.input):
            if not (path := _path_to_input(name, makers)):
                continue
            own = [join.output[0], head.input[1], *path[-1].input[1:], *(node.output[0] for node in path)]
            if all(reads[tensor] == 1 for tensor in own) and (
                side := _match_upsampler(path, join, position, head, stored)
            ):
                yield side
                break


def _path_to_input(name: str, makers: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the nodes from a head back to the small input; empty if they do not match."""
    path: list[onnx.NodeProto] = []
    for kinds in _PATH:
        node = makers.get(name)
        if node is None or node.op_type not in kinds:
            return []
        path.append(node)
        name = node.input[0]
    return path


def _match_upsampler(
    path: Sequence[onnx.NodeProto],
    join: onnx.NodeProto,
    position: int,
    head: onnx.NodeProto,
    stored: Mapping[str, NDArray[Any]],
) -> _SparseUpsampler | None:
    """Return an up-sampler if small pixels do not affect each other's pixels; else None."""
    pad, cut, unpack, activation, up = path
    if len(up.input) != 3 or not {*pad.input[1:], *cut.input[1:], *up.input[1:], head.input[1]} <= stored.keys():
        return None
    modes = {attribute.s for node in (pad, unpack) for attribute in node.attribute if attribute.name == "mode"}
    if numbers(join, "axis") != [1] or not modes <= {b"constant", b"DCR"}:
        return None
    padding, *more = (stored[name] for name in pad.input[1:])
    margin, bounds = int(padding.max()), [stored[name].tolist() for name in cut.input[1:]]
    if padding.tolist() != [0, 0, margin, margin] * 2 or any(np.any(value) for value in more):
        return None
    if bounds != [[margin] * 2, [-margin] * 2, [2, 3]]:
        return None
    (stride,) = numbers(unpack, "blocksize")
    weights, bias, kernel = (stored[name] for name in (*up.input[1:], head.input[1]))
    reach = kernel.shape[2] // 2
    if not _keeps_size(up, weights, 0) or not _keeps_size(head, kernel, reach):
        return None
    varies = np.any(weights.reshape(stride, stride, -1), axis=2)
    taps = np.flatnonzero(varies.any(axis=0) | varies.any(axis=1))
    fits = len(taps) > 0 and taps[0] >= reach and taps[-1] + reach < stride and margin + reach <= stride
    if not fits or np.ptp(bias.reshape(stride**2, -1), axis=0).any():
        return None
    return _SparseUpsampler(up, activation, (unpack, cut, pad), join, position, head, stride, margin, taps)


def _keeps_size(layer: onnx.NodeProto, weights: NDArray[Any], pad: int) -> bool:
    """Return whether a convolution is square and keeps the size."""
    expected = {"strides": 1, "dilations": 1, "group": 1, "pads": pad}
    if pad and not numbers(layer, "pads"):
        return False
    as_expected = all(set(numbers(layer, name)) <= {number} for name, number in expected.items())
    return as_expected and weights.shape[2:] == (2 * pad + 1, 2 * pad + 1)


def _channels_before(side: _SparseUpsampler, graph: onnx.ModelProto) -> int:
    """Return the number of channels before those of an up-sampler in its concatenation."""
    known = onnx.shape_inference.infer_shapes(graph).graph.value_info
    shapes = {value.name: value.type.tensor_type.shape.dim for value in known}
    return sum(shapes[name][1].dim_value for name in list(side.join.input)[: side.position])


def _weights(side: _SparseUpsampler, stored: Mapping[str, NDArray[Any]], before: int) -> dict[str, NDArray[Any]]:
    """Return the weights and constants of the up-sampler and of :func:`_replacement_nodes`."""
    stride, taps, name = side.stride, side.taps, side.name
    weights, bias, kernel = (stored[name] for name in (*side.up.input[1:], side.head.input[1]))
    channels, inputs = len(bias) // stride**2, weights.shape[1]
    own, bias = kernel[:, before : before + channels].astype(float), bias[:channels]
    small = weights.reshape(stride, stride, channels, inputs)[np.ix_(taps, taps)].reshape(-1, inputs)

    # seen: the row that each tap of the kernel reads at each of the stride's rows, [stride, kernel]. varies: whether it
    # is one of the variable rows, [taps, stride, kernel]. inside: whether it lies in the image, for the first, a middle
    # and the last small pixel. Columns are treated alike.
    seen = np.arange(stride)[:, None] + np.arange(kernel.shape[2]) - kernel.shape[2] // 2
    varies = (seen == taps[:, None, None]).astype(float)
    inside = np.stack([seen >= side.margin, np.ones_like(seen), seen < stride - side.margin]).astype(float)
    picture = np.einsum("tyk,uxl,ockl->yxotuc", varies, varies, own).reshape(-1, len(small))
    still = np.einsum("ockl,c->okl", own, _activated(bias, side.activation))
    even = _response_to_constant(inside, still) - _response_to_constant(inside * varies.sum(axis=0), still)
    border = np.stack([even[kind] - even[_MIDDLE] for kind in _BORDER] * _COPIES, axis=1) / _COPIES

    rows, columns = _mask_factors(side, channels)
    found = {
        side.up.input[1]: np.pad(small, ((0, border.shape[1]), (0, 0)))[..., None, None],
        side.up.input[2]: np.append(np.tile(bias, len(taps) ** 2), np.ones(border.shape[1])),
        side.head.input[1]: np.delete(kernel, np.s_[before : before + channels], axis=1),
        f"{name}.side.weight": np.concatenate([picture, border], axis=1)[..., None, None],
        f"{name}.side.bias": even[_MIDDLE],
        f"{name}.rows.factors": rows[:, :, None],
        f"{name}.columns.factors": columns[:, None, :],
    }
    whole = {f"{name}.zero": np.array([0], np.int64), f"{name}.two": np.array([2], np.int64)}
    return {key: values.astype(np.float32) for key, values in found.items()} | whole


def _activated(values: NDArray[Any], activation: onnx.NodeProto) -> NDArray[np.float64]:
    alpha = next((a.f for a in activation.attribute if a.name == "alpha"), 1.0) if activation.op_type == "Elu" else 0.0
    found: NDArray[np.float64] = np.maximum(values, 0) + alpha * np.expm1(np.minimum(values, 0, dtype=float))
    return found


def _response_to_constant(rows: NDArray[np.float64], still: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the output of the head for a constant input in these rows and columns.

    Parameters
    ----------
    rows
        1 where a tap of the kernel reads one of these rows: [first, middle and last small pixel, stride, kernel].
    still
        The head's weights times the constant, [outputs, kernel, kernel].

    Returns
    -------
    array
        Packed channels of a small pixel for each kind of row and column: [3, 3, stride * stride * outputs].
    """
    found: NDArray[np.float64] = np.einsum("ayk,bxl,okl->abyxo", rows, rows, still)
    return found.reshape(3, 3, -1)


def _mask_factors(side: _SparseUpsampler, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return factors of each channel for the first, a middle and the last row, and column: [channels, 3]."""
    taps = side.taps
    shown = np.stack([taps >= side.margin, np.ones_like(taps), taps < side.stride - side.margin], axis=1)
    tap, kind = (
        np.indices((len(taps), len(taps))).reshape(2, -1).repeat(channels, axis=1),
        np.array(_BORDER * _COPIES).T,
    )
    rows, columns = (np.concatenate([shown[tap[axis]], np.eye(3)[kind[axis]]]) for axis in range(2))
    return rows, columns


def _replacement_nodes(side: _SparseUpsampler) -> list[onnx.NodeProto]:
    """Return the nodes that replace the head."""
    name, make = side.name, helper.make_node
    others = [tensor for position, tensor in enumerate(side.join.input) if position != side.position]
    dense = onnx.NodeProto()
    dense.CopyFrom(side.head)
    dense.input[0], dense.output[0] = f"{name}.others", f"{name}.dense"
    weights, one = [f"{name}.side.weight", f"{name}.side.bias"], numpy_helper.from_array(np.array([1], np.int64))
    nodes = list[onnx.NodeProto]()
    tensor = side.activation.output[0]
    for axis, each in ((2, f"{name}.rows"), (3, f"{name}.columns")):
        nodes += [
            make("Shape", [side.up.input[0]], [f"{each}.number"], start=axis, end=axis + 1),
            make("Sub", [f"{each}.number", f"{name}.two"], [f"{each}.between"]),
            make("ConstantOfShape", [f"{each}.between"], [f"{each}.middle"], value=one),
            make("Concat", [f"{name}.zero", f"{each}.middle", f"{name}.two"], [f"{each}.kinds"], axis=0),
            make("Gather", [f"{each}.factors", f"{each}.kinds"], [each], axis=axis - 1),
            make("Mul", [tensor, each], [tensor := f"{each}.blanked"]),
        ]
    nodes += [
        make("Conv", [tensor, *weights], [f"{name}.packed"], kernel_shape=[1, 1]),
        make("DepthToSpace", [f"{name}.packed"], [f"{name}.share"], blocksize=side.stride, mode="DCR"),
        make("Concat", others, [f"{name}.others"], axis=1),
        dense,
        make("Add", [f"{name}.dense", f"{name}.share"], list(side.head.output)),
    ]
    for node in nodes:
        node.name = node.output[0]
    return nodes
