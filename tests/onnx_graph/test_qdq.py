"""Q/DQ nodes: their places, their effect on the maps, and support by the engines."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")

from kinet_trt.calibration import ranges
from onnx import helper, numpy_helper
from samples import network

from kinet_trt.core.errors import KinetError
from kinet_trt.engines import openvino
from kinet_trt.engines.openvino import core as openvino_core
from kinet_trt.engines.openvino import read_network
from kinet_trt.models.model import Model
from kinet_trt.onnx_graph import qdq
from kinet_trt.onnx_graph.pointwise import as_pointwise
from kinet_trt.onnx_graph.precision import weights_to_fp32
from kinet_trt.simulation import simulate

FRAME = simulate.field(3, 96, 64)[0]


def edge() -> onnx.ModelProto:
    return as_pointwise(weights_to_fp32(Model.read().graph))


def run(graph: onnx.ModelProto, **config) -> np.ndarray:
    network = read_network(graph.SerializeToString())
    compiled = openvino_core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **config})
    return np.array(compiled.create_infer_request().infer({0: FRAME[None]})[0])


def quantised(graph: onnx.ModelProto, floating: tuple[str, ...] = ()) -> onnx.ModelProto:
    groups = qdq.groups(graph, floating)
    seen = ranges.observe(graph, [name for group in groups for name in group], [FRAME])
    steps = {name: ranges.choose_step([seen[n] for n in group]) for group in groups for name in group}
    return qdq.insert(graph, steps, floating)


@pytest.fixture(scope="module")
def small() -> onnx.ModelProto:
    return as_pointwise(weights_to_fp32(onnx.load_from_string(network())))


def test_half_precision_weights_behind_casts_are_found() -> None:
    graph = edge()
    assert Counter(node.op_type for node in graph.graph.node)["Cast"] == 1
    assert all(t.data_type == onnx.TensorProto.FLOAT for t in graph.graph.initializer if "weight" in t.name)


def test_pointwise_upsamplers_have_the_same_outputs() -> None:
    before = weights_to_fp32(onnx.load_from_string(network()))
    after = as_pointwise(before)
    onnx.checker.check_model(after, full_check=True)
    kinds = [Counter(node.op_type for node in g.graph.node) for g in (before, after)]
    assert [k["ConvTranspose"] for k in kinds] == [2, 1]
    assert [k["DepthToSpace"] for k in kinds] == [0, 1]
    assert np.allclose(run(before), run(after), atol=1e-5)
    assert as_pointwise(after) == after


def test_concatenated_tensors_share_a_scale_and_padded_ones_keep_it(small: onnx.ModelProto) -> None:
    groups = qdq.groups(small, ())
    assert ("stem", "up2", "side8.packed", "padded") in groups
    assert ("sum",) in groups
    flat = [name for group in groups for name in group]
    assert len(set(flat)) == len(flat)
    assert not {"side8", "joined", "maps"} & set(flat)


def test_floating_layers_need_no_scales(small: onnx.ModelProto) -> None:
    assert qdq.groups(small, [layer.name for layer in qdq.layers(small)]) == []
    assert ("head",) in qdq.groups(small, ["stem"])
    assert ("head",) not in qdq.groups(small, ["maps"])


def test_costs_are_multiplications_per_input_pixel(small: onnx.ModelProto) -> None:
    costs = {layer.name: layer.cost for layer in qdq.layers(small)}
    assert costs["stem"] == 3 * 16 * 9
    assert costs["down"] == 16 * 32 * 9 / 4
    assert costs["up2"] == 32 * 16 * 16
    assert costs["side8"] == 32 * 16 * 64


def test_nodes_are_symmetric_int8_and_biases_stay_in_float(small: onnx.ModelProto) -> None:
    graph = quantised(small)
    onnx.checker.check_model(graph, full_check=True)
    stored = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    nodes = [node for node in graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert nodes
    for node in nodes:
        assert stored[node.input[2]].dtype == np.int8
        assert not stored[node.input[2]].any()
        assert (stored[node.input[1]] > 0).all()
    for node in graph.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            assert all(name.endswith(".dequantised") for name in node.input[:1]) or node.op_type == "Conv"
            assert node.input[1].endswith(".dequantised")
            assert stored[node.input[2]].dtype == np.float32
    axes = {node.input[0]: helper.get_attribute_value(node.attribute[0]) for node in nodes if node.attribute}
    assert axes["up2.weight.int8"] == 1
    assert axes["down.weight.int8"] == 0


def test_maps_change_little(small: onnx.ModelProto) -> None:
    for graph in (small, edge()):
        before, after = run(graph), run(quantised(graph))
        assert 0 < np.abs(before - after).mean() < 0.1 * before.std()
        nothing = [layer.name for layer in qdq.layers(graph)]
        assert np.array_equal(run(qdq.insert(graph, {}, nothing)), before)


def test_fused_form_equals_the_maps_of_onnx_runtime(small: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AMX, so that the test is the same on every CPU."""
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(openvino, "_has_amx", lambda: False)
    for graph in (quantised(small), quantised(edge())):
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = session.run(None, {"frame": FRAME[None]})[0]
        operations = [operation.get_type_name() for operation in read_network(graph.SerializeToString()).get_ops()]
        assert operations.count("FakeQuantize") == len(
            [node for node in graph.graph.node if node.op_type == "QuantizeLinear"]
        )
        assert np.abs(run(graph) - expected).mean() < 0.02 * expected.std()


def test_openvino_computes_in_int8_except_for_floating_layers(small: onnx.ModelProto) -> None:
    core = openvino_core()
    if "INT8" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("no int8 on this CPU")
    graph = quantised(small, ("maps",))
    compiled = core.compile_model(read_network(graph.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = {}
    for op in compiled.get_runtime_model().get_ordered_ops():
        info = {name: str(op.get_rt_info()[name].astype(str)) for name in ("layerType", "runtimePrecision")}
        if info["layerType"] in ("Convolution", "Deconvolution", "Concatenation", "DepthToSpace"):
            kinds[op.get_friendly_name()] = (info["layerType"], info["runtimePrecision"])
    floating = [name for name, (_, precision) in kinds.items() if precision not in ("i8", "u8")]
    assert len(kinds) == len(qdq.layers(small)) + 2
    assert len([name for name in floating if name.startswith("maps")]) == 1
    # Without AMX activations have an offset, with which OpenVINO computes transposed convolutions in FP32.
    others = {kinds[name][0] for name in floating if not name.startswith("maps")}
    assert others <= (set() if openvino._has_amx() else {"Deconvolution"})


def test_tensorrt_builds_the_quantized_network(small: onnx.ModelProto) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    log = trt.Logger(trt.Logger.INTERNAL_ERROR)
    for graph in (quantised(small), quantised(edge(), ("network.out.1",))):
        cast_first(graph)
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        assert parser.parse(graph.SerializeToString()), [str(parser.get_error(i)) for i in range(parser.num_errors)]
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        profile.set_shape("frame", (1, 64, 64, 3), (1, 256, 256, 3), (2, 512, 512, 3))
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        assert plan is not None
        assert plan.nbytes > 10_000


def cast_first(graph: onnx.ModelProto) -> None:
    """Cast the pixels before they are transposed: TensorRT accepts uint8 only as input of a Cast."""
    transpose, cast = (next(n for n in graph.graph.node if n.op_type == kind) for kind in ("Transpose", "Cast"))
    position = list(graph.graph.node).index(transpose)
    assert cast.input[0] == transpose.output[0]
    pixels, middle, planes = transpose.input[0], transpose.output[0], cast.output[0]
    graph.graph.node.remove(cast)
    transpose.input[0], transpose.output[0] = middle, planes
    graph.graph.node.insert(position, helper.make_node("Cast", [pixels], [middle], to=onnx.TensorProto.FLOAT))


def test_network_without_stored_weights_is_an_error(small: onnx.ModelProto) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(small)
    graph.graph.initializer.remove(next(t for t in graph.graph.initializer if t.name == "head.weight"))
    with pytest.raises(KinetError, match=r"head\.weight"):
        qdq.insert(graph, dict.fromkeys([n for g in qdq.groups(graph, ()) for n in g], 1.0), ())


@given(seed=st.integers(0, 10_000), axis=st.integers(0, 1), size=st.floats(-6, 6))
def test_quantized_weights_differ_by_at_most_half_a_step(seed: int, axis: int, size: float) -> None:
    values = (np.random.default_rng(seed).normal(0, 10.0**size, (3, 4, 2, 2))).astype(np.float32)
    codes, scale = qdq.quantize(values, axis)
    shape = [-1 if i == axis else 1 for i in range(4)]
    assert codes.dtype == np.int8
    assert np.abs(codes).max() == 127
    assert (np.abs(codes * scale.reshape(shape) - values) <= 0.5001 * scale.reshape(shape)).all()


def test_zero_channels_stay_zero_and_nan_is_an_error() -> None:
    weights = np.zeros((3, 1, 3, 3), np.float32)
    weights[1] = 0.5
    codes, scale = qdq.quantize(weights, 0)
    assert codes.any(axis=(1, 2, 3)).tolist() == [False, True, False]
    # Not a step so small that an engine which divides by it, or multiplies it with the input's, leaves all numbers.
    np.testing.assert_allclose(scale, [1, 0.5 / 127, 1])
    with pytest.raises(KinetError, match="NaN or infinity"):
        qdq.quantize(np.full((1, 1, 1, 1), np.nan, np.float32), 0)
