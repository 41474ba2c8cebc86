"""What an ONNX model is stored in and computes in: FP32, FP16, or INT8 with the rest in either.

Precision is decided here, in the graph, once for every runtime: TensorRT 11 has no precision flags any more, and builds
what the types say. Needs the package ``onnx``, and nothing of torch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kinet_trt.core.errors import KinetError
from kinet_trt.models.card import ModelCard, onnx_hash, with_card

LAYERS = ("Conv", "ConvTranspose")
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
LEAST_SCALE = 2.0**-18
"""Below this half precision is wrong about a scale by more than INT8 is about a value (2^-25 / 2^-18 = 0.8%)."""
HALF_SCALES_OPSET = 19
"""The first ONNX opset whose Q/DQ nodes take half-precision scales."""


def convert(model: bytes, card: ModelCard, precision: str) -> tuple[bytes, ModelCard]:
    """Return a model that is stored in, and computes in, FP32 or FP16, with its card.

    Parameters
    ----------
    model, card
        A serialised ONNX model and its card (:func:`kinet_trt.models.card.read_card`).
    precision
        ``"fp32"`` or ``"fp16"``. Weights stored in half precision for their size alone become what is asked for.

    Raises
    ------
    KinetError
        If the model was converted already to something else, or a weight does not fit into half precision.
    """
    if precision not in ("fp32", "fp16"):
        raise KinetError(f"precision: expected fp32 or fp16, found {precision!r}")
    check_convertible(card, precision)
    if card.precision == card.weights_precision == precision:
        return model, card
    graph = onnx.load_from_string(model)
    store_in_full(graph)
    if precision == "fp16":
        compute_in_half(graph)
    # What export measured against PyTorch holds for the very numbers that it wrote.
    parity = card.parity if precision == "fp32" else {}
    return finished(graph, replace(card, precision=precision, weights_precision=precision, parity=parity))


def check_convertible(card: ModelCard, precision: str) -> None:
    """Raise a KinetError if a model cannot get this precision any more."""
    if card.precision == precision:
        return
    if card.precision != "fp32":
        raise KinetError(
            f"{card.name} computes in {card.precision} already, {precision} was requested: the rounding cannot be "
            "undone. Start from the FP32 model"
        )
    if card.capacity:
        raise KinetError(
            f"{card.name} is fused: its precision is fixed. Convert the model that it was made from and fuse the result"
        )


def rest_in_half(model: bytes) -> bytes:
    """Return an INT8 model whose unquantised layers, and whose Q/DQ scales, are in half precision instead of FP32.

    For GPUs: what is left in FP32 there costs more than INT8 gains. CPUs without FP16 arithmetic have nothing of it.

    Raises
    ------
    KinetError
        If a weight does not fit into half precision.
    """
    graph = onnx.load_from_string(model)
    store_in_full(graph)
    compute_in_half(graph)
    for entry in graph.opset_import:
        if entry.domain == "":
            entry.version = max(entry.version, HALF_SCALES_OPSET)
    _check(graph)
    data: bytes = graph.SerializeToString(deterministic=True)
    return data


def finished(graph: onnx.ModelProto, card: ModelCard) -> tuple[bytes, ModelCard]:
    """Check a changed graph and return it serialised, with its card for the new bytes.

    Raises
    ------
    KinetError
        If the change made no valid model of it.
    """
    _check(graph)
    del graph.metadata_props[:]
    model = graph.SerializeToString(deterministic=True)
    card = replace(card, model_sha256=onnx_hash(model))
    return with_card(model, card), card


def store_in_half(graph: onnx.ModelProto) -> None:
    """Store the convolutions' weights in half precision, each behind a Cast that runtimes fold when they compile."""
    layers = _layer_weights(graph)
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.name in layers and tensor.data_type == TensorProto.FLOAT:
            name = tensor.name
            tensor.CopyFrom(halved(tensor))
            tensor.name = f"{name}.half"
            casts.append(helper.make_node("Cast", [tensor.name], [name], f"{name}.cast", to=TensorProto.FLOAT))
    for position, cast in enumerate(casts):
        graph.graph.node.insert(position, cast)


def store_in_full(graph: onnx.ModelProto) -> None:
    """Undo :func:`store_in_half`: weights behind a Cast become FP32 weights, the same to the last bit as computed with.

    TensorRT builds convolutions with weights that it knows, which a Cast may hide from it.
    """
    body = graph.graph
    stored = {tensor.name: tensor for tensor in body.initializer if tensor.data_type == TensorProto.FLOAT16}
    casts = [
        node
        for node in body.node
        if node.op_type == "Cast" and node.input[0] in stored and _attribute(node, "to") == TensorProto.FLOAT
    ]
    for cast in casts:
        values = numpy_helper.to_array(stored[cast.input[0]])
        body.initializer.append(numpy_helper.from_array(values.astype(np.float32), cast.output[0]))
        body.node.remove(cast)
    used = {name for node in body.node for name in node.input}
    for name in {cast.input[0] for cast in casts} - used:
        body.initializer.remove(stored[name])


def compute_in_half(graph: onnx.ModelProto) -> None:
    """Let the network compute in half precision: cast after the normalisation and before the outputs.

    Of a quantised network, what is not quantised, and the scales.
    """
    body = graph.graph
    image = _image(body)
    first = next(i for i, node in enumerate(body.node) if image in node.input)
    halves = [node for node in list(body.node)[first:] if node.op_type != "InstanceNormalization"]
    # A Resize takes its factors in FP32 whatever it resizes.
    constants = {name for node in halves for name in (node.input[:1] if node.op_type == "Resize" else node.input)}
    scales = {node.input[1] for node in body.node if node.op_type in QUANTISERS}  # those of weights come before
    _raise_scales(body)
    for tensor in body.initializer:
        if tensor.name in constants | scales and tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(halved(tensor))
    outputs = {value.name for value in body.output}
    names = {image: f"{image}.half", **{name: f"{name}.half" for name in outputs}}
    _norms_in_full(body)
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
    """Put the Cast of the pixels before their Transpose: TensorRT takes uint8 into a Cast and into nothing else."""
    body = graph.graph
    inputs = {value.name: value.type.tensor_type.elem_type for value in body.input}
    for transpose in body.node:
        if transpose.op_type != "Transpose" or inputs.get(transpose.input[0]) != TensorProto.UINT8:
            continue
        users = [node for node in body.node if transpose.output[0] in node.input]
        if len(users) == 1 and users[0].op_type == "Cast":
            cast, frame, between = users[0], transpose.input[0], f"{transpose.output[0]}.float"
            new_cast = helper.make_node("Cast", [frame], [between], cast.name, to=_attribute(cast, "to"))
            transpose.input[0], transpose.output[0] = between, cast.output[0]
            body.node.remove(cast)
            body.node.insert(list(body.node).index(transpose), new_cast)
            del body.value_info[:]
            return


def for_tensorrt(model: bytes, shape: tuple[int, int, int] | None) -> bytes:
    """Return a model as TensorRT reads it: pixels cast before anything else, and the size of the frames fixed.

    Parameters
    ----------
    model
        A serialised ONNX model whose first input is ``frame``.
    shape
        N, H, W of the frames, px; None: they stay free.
    """
    graph = onnx.load_from_string(model)
    cast_first(graph)
    if shape:
        for dimension, size in zip(graph.graph.input[0].type.tensor_type.shape.dim, shape, strict=False):
            dimension.dim_value = size
        del graph.graph.value_info[:]
    data: bytes = graph.SerializeToString(deterministic=True)
    return data


def frame_size(model: bytes) -> tuple[int, int] | None:
    """Return the only height and width, px, of the frames that a model takes; None: it takes several."""
    shape = onnx.load_from_string(model).graph.input[0].type.tensor_type.shape.dim
    height, width = (shape[i].dim_value if len(shape) == 4 else 0 for i in (1, 2))
    return (height, width) if height and width else None


def halved(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return an FP32 tensor in half precision.

    Raises
    ------
    KinetError
        If a value is too large for it, or no number.
    """
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0))
    if not largest < float(np.finfo(np.float16).max):
        raise KinetError(f"a weight of {largest:.3g} overflows half precision: use fp32")
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def _norms_in_full(body: onnx.GraphProto) -> None:
    """Let norms over an image stay in FP32: half precision cannot sum so many pixels."""
    for node in [node for node in body.node if node.op_type == "InstanceNormalization"]:
        source, result, position = node.input[0], node.output[0], list(body.node).index(node)
        node.input[0], node.output[0] = f"{result}.full", f"{result}.normed"
        to_full = helper.make_node("Cast", [source], [node.input[0]], f"{result}.to_full", to=TensorProto.FLOAT)
        to_half = helper.make_node("Cast", [node.output[0]], [result], f"{result}.to_half", to=TensorProto.FLOAT16)
        body.node.insert(position, to_full)
        body.node.insert(position + 2, to_half)


def _raise_scales(body: onnx.GraphProto) -> None:
    """Raise scales that half precision would round away, and requantise the weights of such (nearly dead) channels."""
    stored = {tensor.name: tensor for tensor in body.initializer}
    for node in body.node:
        scale = stored.get(node.input[1]) if node.op_type in QUANTISERS else None
        if scale is None or scale.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(scale)
        raised = np.asarray(np.maximum(values, np.float32(LEAST_SCALE)))
        if np.array_equal(values, raised):
            continue
        if (weights := stored.get(node.input[0])) is not None:
            codes = numpy_helper.to_array(weights)
            shape = [1] * codes.ndim
            if values.ndim:
                shape[next((a.i for a in node.attribute if a.name == "axis"), 1)] = -1
            smaller = np.rint(codes * (values / raised).reshape(shape)).astype(codes.dtype)
            weights.CopyFrom(numpy_helper.from_array(smaller, weights.name))
        scale.CopyFrom(numpy_helper.from_array(raised, scale.name))


def _layer_weights(graph: onnx.ModelProto) -> set[str]:
    """Names of the initialisers that convolutions use."""
    return {name for node in graph.graph.node if node.op_type in LAYERS for name in node.input[1:]}


def _image(body: onnx.GraphProto) -> str:
    """Name of the normalised image: what the first convolution sees, before any quantisation of it."""
    made_by = {name: node for node in body.node for name in node.output}
    image = next((str(node.input[0]) for node in body.node if node.op_type in LAYERS), None)
    if image is None:
        raise KinetError("the model has no convolution: expected one that `kinet-trt export` wrote")
    while image in made_by and made_by[image].op_type in QUANTISERS:
        image = str(made_by[image].input[0])
    return image


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((a.i for a in node.attribute if a.name == name), 0)


def _check(graph: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise KinetError(
            f"the model cannot be converted ({str(error).splitlines()[0]}): expected one that `kinet-trt export` wrote"
        ) from None
