"""Conversion of the numeric precision: converted graphs compute in it and find the same nuclei."""

from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, numpy_helper

from int8_by_ort import int8_by_ort
from kinet_trt.core.errors import KinetError
from kinet_trt.evaluation.agreement import Agreement
from kinet_trt.models.card import onnx_hash, read_onnx_card
from kinet_trt.models.model import Model
from kinet_trt.onnx_graph import precision
from kinet_trt.peaks.reference import find_peaks
from kinet_trt.simulation.simulate import field


@pytest.fixture(scope="module")
def edge():
    """Return the built-in model: FP16 weights behind Casts, computing in FP32."""
    return Model.read()


@pytest.fixture(scope="module")
def pixels():
    return field(5, 256, 320)[0][None]


def session(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    # At its word: ONNX Runtime's optimiser fuses Q/DQ in half precision into something less exact.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model, pixels):
    return session(model).run(None, {"frame": pixels})[0]


def nuclei(maps, card):
    found = find_peaks(maps[0], card.threshold, card.nms_radius, card.classes)
    return {(int(x), int(y)): int(c) for x, y, c in zip(found.x, found.y, found.cls, strict=True)}


def kinds(model):
    graph = onnx.load_from_string(model).graph
    return {t.data_type for t in graph.initializer if len(t.dims) == 4}


def layer_kinds(model):
    """Return the types in which convolutions compute."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    of = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.output]}
    return {of[node.output[0]] for node in graph.node if node.op_type in precision.LAYERS}


def test_built_in_model_in_fp32_has_the_same_outputs(edge, pixels):
    made, model = precision.convert(edge, "fp32"), edge.data
    made, new = made.data, made.card
    assert kinds(model) == {TensorProto.FLOAT16}
    assert kinds(made) == {TensorProto.FLOAT}
    assert "Cast" not in [n.op_type for n in onnx.load_from_string(made).graph.node if n.input[0] != "permute"]
    assert np.array_equal(run(made, pixels), run(model, pixels))
    assert read_onnx_card(made) == new
    changed = replace(edge.card, weights_precision="fp32", model_sha256=onnx_hash(made))
    assert new == changed


def test_built_in_model_in_fp16_finds_the_same_nuclei(edge, pixels):
    card, model = edge.card, edge.data
    half = precision.convert(edge, "fp16")
    made, new = half.data, half.card
    assert (new.precision, new.weights_precision, new.parity) == ("fp16", "fp16", {})
    assert read_onnx_card(made) == new
    assert kinds(made) == {TensorProto.FLOAT16}
    assert len(made) < 1.02 * len(model)
    maps, expected = run(made, pixels), run(model, pixels)
    assert maps.dtype == np.float32
    assert np.abs(maps - expected).max() < 0.02
    assert layer_kinds(made) == {TensorProto.FLOAT16}
    first, second = nuclei(expected, card), nuclei(maps, card)
    assert len(first) > 100
    assert len(first.items() ^ second.items()) <= 0.02 * len(first)


def test_model_in_the_requested_precision_is_returned_unchanged(edge):
    half = precision.convert(edge, "fp16")
    assert precision.convert(half, "fp16") == half
    full = precision.convert(edge, "fp32")
    assert precision.convert(full, "fp32") == full
    # A detour over FP32 changes nothing: the weights were half already.
    assert precision.convert(full, "fp16") == half


@pytest.mark.parametrize(("found", "asked"), [("fp16", "fp32"), ("int8", "fp32"), ("int8", "fp16")])
def test_reduced_precision_cannot_be_undone(edge, found, asked):
    with pytest.raises(KinetError, match=f"an FP32 model to convert to {asked}, found one that computes in {found}"):
        precision.convert(replace(edge, card=replace(edge.card, precision=found)), asked)


def test_unknown_precision_is_an_error(edge):
    with pytest.raises(KinetError, match="expected fp32 or fp16, found 'int8'"):
        precision.convert(edge, "int8")


def test_model_without_convolutions_is_an_error():
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[N] frame) => (float[N] maps) { maps = Relu (frame) }'
    )
    with pytest.raises(KinetError, match="no convolution"):
        precision.compute_in_fp16(graph)


def test_only_constants_of_the_network_become_half_precision(pixels):
    graph = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18]>
        g (uint8[N,H,W,3] frame) => (float[N,4,H,W] maps) <float scale = {0.01}, float[4,1,1] factors = {1, 2, 3, 4}> {
            planes = Transpose <perm = [0, 3, 1, 2]> (frame)
            pixels = Cast <to = 1> (planes)
            image = Mul (pixels, scale)
            linear = Conv (image, weights)
            maps = Mul (linear, factors)
        }"""
    )
    weights = np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32)
    graph.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    expected = run(graph.SerializeToString(), pixels)
    precision.compute_in_fp16(graph)
    onnx.checker.check_model(graph, full_check=True)
    kinds = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    half, full = TensorProto.FLOAT16, TensorProto.FLOAT
    assert kinds == {"scale": full, "factors": half, "weights": half}
    maps = run(graph.SerializeToString(), pixels)
    assert 0 < np.abs(maps - expected).max() < 0.01 * np.abs(expected).max()


def test_invalid_result_is_an_error(edge):
    graph = edge.graph_copy()
    graph.graph.node[-1].input[0] = "nowhere"
    with pytest.raises(KinetError, match="cannot be converted"):
        precision.convert(Model(edge.card, graph.SerializeToString()), "fp16")


@pytest.mark.parametrize("shape", [None, (1, 320, 256)])
@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_pixels_are_cast_first_for_tensorrt(edge, pixels, shape, kind):
    model = precision.convert(edge, kind)
    made = precision.for_tensorrt(model, shape)
    assert precision.for_tensorrt(made, shape) == made
    graph = onnx.load_from_string(made.data).graph
    onnx.checker.check_model(onnx.load_from_string(made.data), full_check=True)
    (first,) = (node for node in graph.node if "frame" in node.input)
    assert first.op_type == "Cast"
    sizes = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert sizes == [*(shape or (0, 0, 0)), 3]
    assert np.array_equal(run(made.data, pixels), run(model.data, pixels))


# --- INT8 with the rest in half ---------------------------------------------------------------------------------------


def test_unquantized_layers_and_scales_of_int8_become_half_precision(edge, pixels, tmp_path):
    card = edge.card
    int8 = int8_by_ort(precision.convert(edge, "fp32").data, tmp_path)
    made = precision.float_layers_to_fp16(Model(card, int8)).data
    assert layer_kinds(int8) == {TensorProto.FLOAT}
    assert layer_kinds(made) == {TensorProto.FLOAT16}
    stored = {t.name: t for t in onnx.load_from_string(made).graph.initializer}
    nodes = onnx.load_from_string(made).graph.node
    quantisers = [node for node in nodes if node.op_type in precision.QUANTIZERS]
    assert len(quantisers) > 50
    assert {stored[node.input[1]].data_type for node in quantisers} == {TensorProto.FLOAT16}
    assert [e.version for e in onnx.load_from_string(made).opset_import if e.domain == ""] == [19]
    expected, maps = run(int8, pixels), run(made, pixels)
    assert np.abs(maps - expected).mean() < 0.003
    first, second = (find_peaks(m[0], card.threshold, card.nms_radius, card.classes) for m in (expected, maps))
    same = Agreement.between(first, second)
    assert same.same > 150
    assert same.only_first + same.only_second < 0.15 * same.same


def test_nearly_dead_channels_are_requantized_with_little_error(edge, pixels, tmp_path):
    graph = onnx.load_from_string(int8_by_ort(precision.convert(edge, "fp32").data, tmp_path))
    stored = {t.name: t for t in graph.graph.initializer}
    dequantise = [n for n in graph.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in stored]
    for node in dequantise:
        scale = numpy_helper.to_array(stored[node.input[1]]).copy()
        scale[::4] = [1e-9, 2e-6][len(scale) % 2]
        scale[1::4] = 2e-6
        stored[node.input[1]].CopyFrom(numpy_helper.from_array(scale, node.input[1]))
    int8 = graph.SerializeToString()
    made = precision.float_layers_to_fp16(Model(edge.card, int8)).data
    kept = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(made).graph.initializer}
    assert all((kept[node.input[1]] >= precision.MIN_SCALE).all() for node in dequantise)
    first = kept[dequantise[0].input[0]]
    assert not first[0].any()
    assert first[1].any()
    assert first[2].any()
    expected, maps = run(int8, pixels), run(made, pixels)
    assert np.abs(maps - expected).mean() < 0.02 * expected.std()
