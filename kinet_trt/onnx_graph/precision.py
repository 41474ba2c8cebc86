"""Convert the numeric precision of an ONNX model: FP32, FP16, or INT8 with its float layers in FP16.

The types in the graph determine the precision in every runtime; TensorRT 11 has no precision flags. Requires the
package ``onnx``, but not PyTorch.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kinet_trt.core.errors import KinetError
from kinet_trt.models.card import ModelCard
from kinet_trt.models.model import Model
from kinet_trt.onnx_graph.pointwise import numbers

LAYERS = ("Conv", "ConvTranspose")
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
MIN_SCALE = 2.0**-18
"""Smallest scale whose rounding error in half precision, 2^-25 / 2^-18 = 0.8%, is below that of an INT8 value."""
HALF_SCALES_OPSET = 19
"""First ONNX opset whose Q/DQ nodes accept half-precision scales."""


def convert(model: Model, precision: str) -> Model:
    """Return a model whose weights and computations are FP32 or FP16, also the weights stored in FP16 to save space.

    Raise a KinetError if the model was already converted to another precision or is fused, or a weight overflows FP16.
    """
    if precision not in ("fp32", "fp16"):
        raise KinetError(f"precision: expected fp32 or fp16, found {precision!r}")
    card = model.card
    check_convertible(card, precision)
    if card.precision == card.weights_precision == precision:
        return model
    graph = weights_to_fp32(model.graph)
    if precision == "fp16":
        compute_in_fp16(graph)
    # The differences from PyTorch were measured on the exported FP32 model.
    parity = card.parity if precision == "fp32" else {}
    return Model.from_graph(graph, replace(card, precision=precision, weights_precision=precision, parity=parity))


def check_convertible(card: ModelCard, precision: str) -> None:
    """Raise a KinetError if a model cannot be converted to this precision."""
    if card.precision == precision:
        return
    if card.precision != "fp32":
        raise KinetError(
            f"{card.name}: expected an FP32 model to convert to {precision}, found one that computes in "
            f"{card.precision}. Use the FP32 model, because rounding cannot be undone"
        )
    if card.capacity:
        raise KinetError(
            f"{card.name}: the precision of a fused model is fixed. Convert the original model and fuse the result"
        )


def float_layers_to_fp16(model: Model) -> Model:
    """Return an INT8 model whose float layers and Q/DQ scales are FP16 instead of FP32.

    On GPUs, FP32 layers cost more time than INT8 saves. CPUs without FP16 arithmetic gain nothing.
    """
    graph = weights_to_fp32(model.graph)
    compute_in_fp16(graph)
    for entry in graph.opset_import:
        if entry.domain == "":
            entry.version = max(entry.version, HALF_SCALES_OPSET)
    return Model.from_graph(graph, model.card)


def weights_to_fp16(graph: onnx.ModelProto) -> None:
    """Store the convolutions' weights as FP16, in place, each followed by a Cast to FP32 that runtimes fold."""
    body = graph.graph
    weights = {name for node in body.node if node.op_type in LAYERS for name in node.input[1:]}
    casts = []
    for tensor in body.initializer:
        if tensor.name in weights and tensor.data_type == TensorProto.FLOAT:
            name = tensor.name
            tensor.CopyFrom(to_fp16(tensor))
            tensor.name = f"{name}.half"
            casts.append(helper.make_node("Cast", [tensor.name], [name], f"{name}.cast", to=TensorProto.FLOAT))
    for position, cast in enumerate(casts):
        body.node.insert(position, cast)


def weights_to_fp32(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph in which FP16 weights followed by a Cast are FP32 weights with the same values.

    Reverts :func:`weights_to_fp16`: TensorRT needs constant weights, and may not recognise them behind a Cast.
    """
    result = copy.deepcopy(graph)
    body = result.graph
    stored = {tensor.name: tensor for tensor in body.initializer if tensor.data_type == TensorProto.FLOAT16}
    casts = [
        node
        for node in body.node
        if node.op_type == "Cast" and node.input[0] in stored and numbers(node, "to") == [TensorProto.FLOAT]
    ]
    for cast in casts:
        values = numpy_helper.to_array(stored[cast.input[0]])
        body.initializer.append(numpy_helper.from_array(values.astype(np.float32), cast.output[0]))
        body.node.remove(cast)
    used = {name for node in body.node for name in node.input}
    for name in {cast.input[0] for cast in casts} - used:
        body.initializer.remove(stored[name])
    del body.value_info[:]
    return result


def compute_in_fp16(graph: onnx.ModelProto) -> None:
    """Convert a network to FP16, in place, with casts after the normalization and before the outputs.

    In a quantized network, this converts the float layers and the scales.
    """
    body = graph.graph
    image = _image(body)
    first = next(i for i, node in enumerate(body.node) if image in node.input)
    converted = [node for node in list(body.node)[first:] if node.op_type != "InstanceNormalization"]
    # The factors of a Resize are always FP32.
    constants = {name for node in converted for name in (node.input[:1] if node.op_type == "Resize" else node.input)}
    scales = {node.input[1] for node in body.node if node.op_type in QUANTIZERS}
    _raise_scales(body)
    for tensor in body.initializer:
        if tensor.name in constants | scales and tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(to_fp16(tensor))
    outputs = {value.name for value in body.output}
    names = {image: f"{image}.half", **{name: f"{name}.half" for name in outputs}}
    _keep_norms_in_fp32(body)
    for node in list(body.node)[first:]:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    body.node.insert(first, helper.make_node("Cast", [image], [names[image]], "to_half", to=TensorProto.FLOAT16))
    body.node.extend(
        helper.make_node("Cast", [names[name]], [name], f"{name}.cast", to=TensorProto.FLOAT)
        for name in sorted(outputs)
    )
    del body.value_info[:]


def cast_first(graph: onnx.ModelProto) -> None:
    """Move the Cast of the pixels before their Transpose, in place: TensorRT accepts uint8 only as input of a Cast."""
    body = graph.graph
    inputs = {value.name: value.type.tensor_type.elem_type for value in body.input}
    for transpose in body.node:
        if transpose.op_type != "Transpose" or inputs.get(transpose.input[0]) != TensorProto.UINT8:
            continue
        users = [node for node in body.node if transpose.output[0] in node.input]
        if len(users) == 1 and users[0].op_type == "Cast":
            cast, pixels = users[0], f"{transpose.output[0]}.float"
            new_cast = helper.make_node("Cast", [transpose.input[0]], [pixels], cast.name, to=numbers(cast, "to")[0])
            transpose.input[0], transpose.output[0] = pixels, cast.output[0]
            body.node.remove(cast)
            body.node.insert(list(body.node).index(transpose), new_cast)
            del body.value_info[:]
            return


def for_tensorrt(model: Model, shape: tuple[int, int, int] | None) -> Model:
    """Return a model that TensorRT can read: the pixels are cast first, and the frames may be fixed to N, H, W, px."""
    graph = model.graph_copy()
    cast_first(graph)
    if shape:
        for dim, size in zip(graph.graph.input[0].type.tensor_type.shape.dim, shape, strict=False):
            dim.dim_value = size
        del graph.graph.value_info[:]
    return Model.from_graph(graph, model.card)


def to_fp16(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return an FP32 tensor as FP16; raise a KinetError if a value overflows or is NaN."""
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0))
    if not largest < float(np.finfo(np.float16).max):
        raise KinetError(f"a weight of {largest:.3g} overflows half precision. Use fp32")
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def _keep_norms_in_fp32(body: onnx.GraphProto) -> None:
    """Keep normalization over an image in FP32: FP16 cannot sum so many pixels."""
    for node in [node for node in body.node if node.op_type == "InstanceNormalization"]:
        source, result, position = node.input[0], node.output[0], list(body.node).index(node)
        node.input[0], node.output[0] = f"{result}.full", f"{result}.normed"
        to_full = helper.make_node("Cast", [source], [node.input[0]], f"{result}.to_full", to=TensorProto.FLOAT)
        to_half = helper.make_node("Cast", [node.output[0]], [result], f"{result}.to_half", to=TensorProto.FLOAT16)
        body.node.insert(position, to_full)
        body.node.insert(position + 2, to_half)


def _raise_scales(body: onnx.GraphProto) -> None:
    """Raise scales that are too small for FP16, and requantize the weights of these nearly dead channels."""
    stored = {tensor.name: tensor for tensor in body.initializer}
    for node in body.node:
        scale = stored.get(node.input[1]) if node.op_type in QUANTIZERS else None
        if scale is None or scale.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(scale)
        raised = np.asarray(np.maximum(values, np.float32(MIN_SCALE)))
        if np.array_equal(values, raised):
            continue
        if (weights := stored.get(node.input[0])) is not None:
            codes = numpy_helper.to_array(weights)
            shape = [1] * codes.ndim
            if values.ndim:
                shape[(numbers(node, "axis") or [1])[0]] = -1
            smaller = np.rint(codes * (values / raised).reshape(shape)).astype(codes.dtype)
            weights.CopyFrom(numpy_helper.from_array(smaller, weights.name))
        scale.CopyFrom(numpy_helper.from_array(raised, scale.name))


def _image(body: onnx.GraphProto) -> str:
    """Return the name of the normalized image: the input of the first convolution, before any quantization."""
    producers = {name: node for node in body.node for name in node.output}
    image = next((str(node.input[0]) for node in body.node if node.op_type in LAYERS), None)
    if image is None:
        raise KinetError("the model has no convolution: expected a model from kinet-trt export")
    while image in producers and producers[image].op_type in QUANTIZERS:
        image = str(producers[image].input[0])
    return image
