"""Fused models: peaks equal the reference on every installed runtime, and TensorRT for RTX builds them."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from kinet_trt.core.errors import CardError, EngineError, MissingExtraError
from kinet_trt.engines.onnxruntime import OnnxRuntimeEngine
from kinet_trt.engines.open import open_engine
from kinet_trt.engines.openvino import OpenVinoEngine
from kinet_trt.engines.openvino import core as openvino_core
from kinet_trt.models.card import ModelCard, onnx_hash, read_card, read_onnx_card
from kinet_trt.models.model import DEFAULT_MODEL, Model
from kinet_trt.onnx_graph.fuse_peaks import CAPACITY, fuse
from kinet_trt.peaks.reference import find_peaks
from kinet_trt.simulation import simulate
from peak_rule import INF, NAN, as_tuples, brute_force, levelled_maps

CARD = ModelCard(name="levels", mpp=0.34, mean=(0, 0, 0), std=(1, 1, 1), threshold=0.5, multiple=1, tile=64, halo=8)
LEVELS = 256


def level_model():
    """Return a model whose maps are values of a table, indexed by the pixels: it can return any maps."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18]>
        levels (uint8[N,H,W,3] frame) => (float[N,3,H,W] maps) {
            index = Cast <to = 6> (frame)
            values = Gather (table, index)
            maps = Transpose <perm = [0, 3, 1, 2]> (values)
        }"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(LEVELS, np.float32), "table"))
    return model.SerializeToString()


@cache
def fused_level_model(radius, capacity=64):
    """Return a fused level model that takes the table as a third input."""
    model = fuse(Model(replace(CARD, nms_radius=radius), level_model()), capacity=capacity).graph_copy()
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "table")
    model.graph.initializer.remove(table)
    model.graph.input.append(onnx.helper.make_tensor_value_info("table", onnx.TensorProto.FLOAT, [LEVELS]))
    return model.SerializeToString()


@cache
def opened(runtime, radius, capacity):
    """Return a function that maps frame, threshold and table to count and detections."""
    model = fused_level_model(radius, capacity)
    if runtime == "onnxruntime":
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        return lambda *inputs: session.run(
            ["count", "detections"], dict(zip(("frame", "threshold", "table"), inputs, strict=True))
        )
    core = openvino_core()
    request = core.compile_model(
        core.read_model(io.BytesIO(model)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    ).create_infer_request()

    def run(*inputs):
        results = request.infer(dict(enumerate(inputs)))
        return results["count"], results["detections"]

    return run


def found_by(runtime, batch, threshold, radius, capacity=64):
    """Return (x, y, class, v) of the nuclei of each of a batch of maps, float [N, up to 3, H, W]."""
    maps = np.full((len(batch), 3, *batch[0].shape[1:]), NAN, np.float32)
    maps[:, : batch[0].shape[0]] = batch
    bits, levels = np.unique(maps.view(np.uint32), return_inverse=True)
    table = np.zeros(LEVELS, np.float32)
    table[: len(bits)] = bits.view(np.float32)
    frame = levels.reshape(maps.shape).transpose(0, 2, 3, 1).astype(np.uint8)
    count, rows = opened(runtime, radius, capacity)(frame, np.array([threshold], np.float32), table)
    assert (count.dtype, rows.dtype, rows.shape) == (np.int32, np.float32, (len(batch), capacity, 4))
    for n, own in zip(count, rows, strict=True):
        assert (own[n:] == -1).all()
    return [[(int(x), int(y), int(c), float(s)) for x, y, s, c in own[:n]] for n, own in zip(count, rows, strict=True)]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@settings(max_examples=250)
@given(maps=levelled_maps(), threshold=st.sampled_from([-2.0, 0.0, 0.25, 0.5, 1.0, 1.5]), radius=st.integers(1, 6))
@example(maps=np.ones((3, 14, 14), np.float32), threshold=0.5, radius=6)
@example(maps=np.full((2, 3, 3), NAN, np.float32), threshold=-1.0, radius=1)
@example(maps=np.full((2, 3, 3), -INF, np.float32), threshold=-1.0, radius=1)
@example(maps=np.full((2, 3, 3), -1e38, np.float32), threshold=-1e38, radius=1)
def test_fused_graph_equals_the_reference(runtime, maps, threshold, radius):
    if 0 in maps.shape:
        return
    batch = [maps, maps[:, ::-1, ::-1]]
    assert found_by(runtime, batch, threshold, radius) == [brute_force(m, threshold, radius) for m in batch]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@settings(max_examples=100)
@given(
    maps=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=9).map(lambda shape: (3, *shape[1:])),
        elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
    ),
    threshold=st.floats(-(2.0**100), 2.0**100, width=32),
    radius=st.integers(1, 6),
)
def test_fused_graph_equals_the_reference_for_any_floats(runtime, maps, threshold, radius):
    assert found_by(runtime, [maps], threshold, radius) == [brute_force(maps, threshold, radius)]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_fused_graph_equals_the_reference_on_images_of_many_blocks_and_bands(runtime):
    generator = np.random.default_rng(5)
    for radius, height, width in ((5, 61, 130), (5, 120, 97), (3, 64, 64), (2, 3, 200), (1, 90, 2), (64, 150, 140)):
        maps = generator.integers(0, 60, (2, 3, height, width)).astype(np.float32) / 64
        maps[1, :, 20:50, 10:40] = 0.75
        found = found_by(runtime, maps, 0.5, radius, capacity=4096)
        expected = [as_tuples(find_peaks(m, 0.5, radius)) for m in maps]
        assert found == expected
        assert len(expected[0]) > (0 if radius == 64 else 10)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_count_is_true_and_first_nuclei_are_returned_beyond_the_capacity(runtime):
    maps = np.random.default_rng(8).integers(0, 200, (2, 3, 40, 50)).astype(np.float32)
    maps[1, :, 12:] = 0
    (frame, table), threshold = (maps.transpose(0, 2, 3, 1).astype(np.uint8), np.arange(256, dtype=np.float32)), 100.0
    count, rows = opened(runtime, 2, 64)(frame, np.array([threshold], np.float32), table)
    expected = [find_peaks(m, threshold, 2) for m in maps]
    assert count.tolist() == [len(e) for e in expected]
    assert count[0] > 64 > count[1] > 0
    first = expected[0].where(np.arange(64))
    np.testing.assert_array_equal(rows[0], np.stack([first.x, first.y, first.score, first.cls], axis=1))


# --- real networks ----------------------------------------------------------------------------------------------------


def rows_of(found):
    return np.stack([found.x, found.y, found.score, found.cls], axis=1)


ENGINES = {"openvino": OpenVinoEngine, "onnxruntime": OnnxRuntimeEngine}


@pytest.fixture(scope="module")
def shipped():
    return read_card(DEFAULT_MODEL)


@pytest.mark.parametrize("runtime", list(ENGINES))
def test_built_in_model_finds_the_same_nuclei_fused(shipped, runtime):
    card, model = shipped
    made = fuse(Model(card, model))
    fused, fused_card = made.data, made.card
    maps, nuclei = ENGINES[runtime](card, model, "fp32"), ENGINES[runtime](fused_card, fused, "fp32")
    for width, height in ((64, 64), (208, 96), (240, 208)):
        frames = np.stack([simulate.field(seed, width, height)[0] for seed in (1, 2)])
        heights = maps.run(frames)
        for threshold in (card.threshold, 0.0):
            for m, found in zip(heights, nuclei.detect(frames, threshold), strict=True):
                expected = find_peaks(m, threshold, card.nms_radius)
                np.testing.assert_array_equal(rows_of(expected), rows_of(found))
                assert expected.classes == found.classes
    assert len(expected) > 50


def test_positions_are_exact_in_any_precision(shipped):
    """A fused model returns the peaks of its own maps in any precision: only heights may be rounded."""
    card, model = shipped
    core = openvino_core()
    network = core.read_model(io.BytesIO(fuse(Model(card, model)).data))
    outputs = (output for node in network.get_ordered_ops() for output in node.outputs())
    network.add_outputs([next(output for output in outputs if "maps" in output.get_names())])
    frame = simulate.field(4, 608, 304)[0][None]
    for hint, capability in (("f32", "FP32"), ("bf16", "BF16"), ("f16", "FP16")):
        if capability not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            continue
        compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        results = compiled.create_infer_request().infer({0: frame, 1: np.array([0.25], np.float32)})
        expected = rows_of(find_peaks(results["maps"][0], 0.25, card.nms_radius))
        assert results["count"][0] == len(expected) > 100
        np.testing.assert_array_equal(results["detections"][0, : len(expected)], expected)


@pytest.fixture(scope="module")
def half(shipped):
    """Return the built-in model converted to half precision, with maps in FP32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    card, model = shipped
    return card, convert_float_to_float16(onnx.load_from_string(model), keep_io_types=True).SerializeToString()


@pytest.mark.parametrize("runtime", list(ENGINES))
def test_half_precision_model_finds_the_same_nuclei_fused(half, runtime):
    card, model = half
    made = fuse(Model(card, model))
    fused, fused_card = made.data, made.card
    frames = np.stack([simulate.field(seed, 208, 160)[0] for seed in (1, 2)])
    maps = ENGINES[runtime](card, model, "fp32").run(frames)
    found = ENGINES[runtime](fused_card, fused, "fp32").detect(frames, 0.0)
    for m, own in zip(maps, found, strict=True):
        expected = find_peaks(m, 0.0, card.nms_radius)
        assert len(expected) > 20
        np.testing.assert_array_equal(rows_of(expected), rows_of(own))


def with_region(model):
    """Return a model that also outputs a map [N, 1, H, W]."""
    whole = onnx.load_from_string(model)
    whole.graph.node.append(onnx.helper.make_node("ReduceMean", ["maps", "roi_axis"], ["roi"], keepdims=1))
    whole.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "roi_axis"))
    whole.graph.output.append(whole.graph.output[0])
    whole.graph.output[1].name = "roi"
    whole.graph.output[1].type.tensor_type.shape.dim[1].dim_value = 1
    return whole.SerializeToString()


@pytest.mark.parametrize("size", [None, (64, 96)])
def test_region_map_stays_an_output(shipped, size):
    card, model = shipped
    whole = with_region(model)
    session = ort.InferenceSession(fuse(Model(card, whole), size=size).data, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["count", "detections", "roi"]
    assert session.get_outputs()[2].shape[2:] == (list(size) if size else ["16*rows", "16*columns"])
    frame = simulate.field(1, 96, 64)[0][None]
    (roi,) = session.run(["roi"], {"frame": frame, "threshold": np.zeros(1, np.float32)})
    (expected,) = ort.InferenceSession(whole, providers=["CPUExecutionProvider"]).run(["roi"], {"frame": frame})
    np.testing.assert_allclose(roi, expected, atol=1e-6)


# --- TensorRT ---------------------------------------------------------------------------------------------------------


def built(model, shapes):
    """Return the engine that TensorRT for RTX builds, or its messages; needs no GPU."""
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("frame", *[(n, height, width, 3) for n, height, width in shapes])
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    return bytes(plan), [(o.name, o.dtype.name, tuple(o.shape)) for o in outputs]


def test_tensorrt_builds_the_built_in_model_fused(shipped):
    card, model = shipped
    outputs = [("count", "INT32", (-1,)), ("detections", "FLOAT", (-1, CAPACITY, 4))]
    fixed, ranged = fuse(Model(card, model), size=(1088, 1920)).data, fuse(Model(card, model)).data
    for onnx_model, shapes in (
        (fixed, [(1, 1088, 1920)] * 3),
        (ranged, [(1, 64, 64), (1, 1088, 1920), (2, 2160, 3840)]),
        (ranged, [(1, 4096, 4096)] * 3),
    ):
        plan, found = built(onnx_model, shapes)
        assert len(plan) > 100_000
        assert found == outputs


def test_tensorrt_builds_half_precision_and_a_region_map_fused(half):
    card, model = half
    _, outputs = built(
        fuse(Model(card, with_region(model)), capacity=100).data, [(1, 64, 64), (1, 608, 608), (4, 1024, 1024)]
    )
    assert outputs[:2] == [("count", "INT32", (-1,)), ("detections", "FLOAT", (-1, 100, 4))]
    assert outputs[2][0] == "roi"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_release_network_with_its_region_map_is_fused_and_built(precision):
    torch = pytest.importorskip("torch")
    from kinet_trt.export.checkpoint import Checkpoint, ModelInfo
    from kinet_trt.export.networks.base import NetworkConfig
    from kinet_trt.export.networks.registry import build
    from kinet_trt.export.to_onnx import export

    torch.manual_seed(3)
    checkpoint = Checkpoint(build(NetworkConfig("release", 4, "elu", roi=True)).eval(), ModelInfo())
    exported = export(checkpoint, "tiny", precision, False, roi=True)
    model, card, made = exported.data, exported.card, fuse(exported)
    fused, fused_card = made.data, made.card
    frames = np.stack([simulate.field(seed, 160, 128)[0] for seed in (1, 2)])
    for engine in ENGINES.values():
        maps = np.array(engine(card, model, "fp32").run(frames))
        threshold = float(np.median(maps.max(axis=1)))
        for m, found in zip(maps, engine(fused_card, fused, "fp32").detect(frames, threshold), strict=True):
            expected = find_peaks(m, threshold, card.nms_radius)
            assert len(expected) > 5
            np.testing.assert_array_equal(rows_of(expected), rows_of(found))
    _, outputs = built(fused, [(1, 64, 64), (1, 608, 608), (2, 1024, 1024)])
    assert [name for name, *_ in outputs] == ["count", "detections", "roi"]


# --- the card, and what is refused ------------------------------------------------------------------------------------


def test_card_of_a_fused_model_has_its_capacity_and_hash(shipped):
    card, model = shipped
    made = fuse(Model(card, model), capacity=300)
    fused, fused_card = made.data, made.card
    assert fused_card == replace(card, capacity=300, model_sha256=onnx_hash(fused))
    assert read_onnx_card(fused) == fused_card
    assert fuse(Model(card, model), capacity=300).data == fused
    assert onnx.load_from_string(fused).opset_import[0].version == 18


def test_inputs_and_outputs_are_those_in_the_docs(shipped):
    card, model = shipped

    def interface(values):
        return [
            (v.name, v.type.tensor_type.elem_type, [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim])
            for v in values
        ]

    free = fuse(Model(card, model)).graph.graph
    uint8, float32, int32 = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    assert interface(free.input) == [
        ("frame", uint8, ["batch", "16*rows", "16*columns", 3]), ("threshold", float32, [1])
    ]  # fmt: skip
    assert interface(free.output) == [
        ("count", int32, ["batch"]), ("detections", float32, ["batch", CAPACITY, 4])
    ]  # fmt: skip
    fixed = fuse(Model(card, model), size=(96, 128)).graph.graph
    assert interface(fixed.input)[0] == ("frame", uint8, ["batch", 96, 128, 3])


@pytest.mark.parametrize("runtime", list(ENGINES))
def test_fixed_size_model_refuses_other_sizes(shipped, runtime):
    card, model = shipped
    made = fuse(Model(card, model), size=(96, 128))
    fused, fused_card = made.data, made.card
    engine = ENGINES[runtime](fused_card, fused, "fp32")
    frame = simulate.field(1, 128, 96)[0][None]
    (found,) = engine.detect(frame, card.threshold)
    unlimited = fuse(Model(card, model))
    (expected,) = ENGINES[runtime](unlimited.card, unlimited.data, "fp32").detect(frame, card.threshold)
    np.testing.assert_array_equal(rows_of(found), rows_of(expected))
    with pytest.raises(EngineError, match=r"expected frames of 128 x 96 px, found 96 x 128 px"):
        engine.detect(frame.transpose(0, 2, 1, 3), card.threshold)


def test_example_in_the_docs_runs(fused_model, monkeypatch, capsys):
    guide = Path(__file__).resolve().parents[2] / "docs" / "fused.md"
    example = guide.read_text().split("```python\n")[1].split("```")[0]
    assert "np.zeros((1, 608, 608, 3), np.uint8)" in example
    pixels = simulate.field(3, 208, 160)[0]
    monkeypatch.chdir(fused_model.parent)
    exec(example.replace("np.zeros((1, 608, 608, 3), np.uint8)", "pixels"), {"pixels": pixels[None]})
    (expected,) = open_engine(fused_model, "fp32", runtime="onnxruntime").detect(pixels[None], 0.325)
    told = [[float(word) for word in line.split()] for line in capsys.readouterr().out.splitlines()]
    assert len(told) > 20
    np.testing.assert_allclose(told, rows_of(expected), rtol=1e-6)


def test_fuse_refuses_unsuitable_models(shipped, monkeypatch):
    card, model = shipped
    made = fuse(Model(card, model))
    fused = made.data
    for wrong in (0, -1, 1 << 17):
        with pytest.raises(EngineError, match="capacity: expected 1 to 65536"):
            fuse(Model(card, model), capacity=wrong)
    for size in ((100, 96), (96, 0)):
        with pytest.raises(EngineError, match="size: expected multiples of 16 px"):
            fuse(Model(card, model), size=size)
    with pytest.raises(EngineError, match="already fused"):
        fuse(made)
    with pytest.raises(EngineError, match="expected the input frame, uint8"):
        fuse(Model(card, fused))
    with pytest.raises(EngineError, match=r"float32 \[N, 2, H, W\]"):
        fuse(Model(replace(card, classes=("a", "b")), model))
    with pytest.raises(CardError, match="damaged or cut short"):
        fuse(Model(card, model[:1000]))
    old = onnx.load_from_string(level_model())
    old.opset_import[0].version = 13
    with pytest.raises(EngineError, match="with opset 18"):
        fuse(Model(CARD, old.SerializeToString()))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"kinet-trt\[build\]"):
        fuse(Model(card, model))


@pytest.mark.parametrize("runtime", list(ENGINES))
def test_card_that_contradicts_the_outputs_is_an_error(shipped, runtime):
    card, model = shipped
    made = fuse(Model(card, model))
    fused, fused_card = made.data, made.card
    for wrong, content, says in ((fused_card, model, "nuclei"), (card, fused, "maps")):
        with pytest.raises(EngineError, match=f"expected a model that outputs {says}, as in its card"):
            ENGINES[runtime](wrong, content, "fp32")


def test_engines_report_whether_a_model_is_fused(shipped, tmp_path):
    card, model = shipped
    path = tmp_path / "fused.onnx"
    path.write_bytes(fuse(Model(card, model), capacity=5).data)
    frame = simulate.field(2, 256, 256)[0][None]
    for runtime in ENGINES:
        plain, fused = open_engine(DEFAULT_MODEL, "fp32", runtime=runtime), open_engine(path, "fp32", runtime=runtime)
        with pytest.raises(EngineError, match="outputs maps"):
            plain.detect(frame, 0.5)
        with pytest.raises(EngineError, match="is fused"):
            fused.run(frame)
        with pytest.raises(EngineError, match="expected RGB"):
            fused.detect(frame[:, :250], 0.5)
        n = len(find_peaks(plain.run(frame)[0], 0.4, card.nms_radius))
        with pytest.raises(EngineError, match=rf"at most 5 nuclei .*, found {n} above the threshold 0\.4"):
            fused.detect(frame, 0.4)
