"""Export: properties of the graph, and its agreement with PyTorch."""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from kinet_trt.export import from_onnx, to_onnx
from kinet_trt.export.checkpoint import Checkpoint
from kinet_trt.export.parity import measure_parity, record_parity
from torch import nn

from kinet_trt.core.errors import KinetError
from kinet_trt.engines.openvino import OpenVinoEngine
from kinet_trt.engines.openvino import core as openvino_core
from kinet_trt.evaluation.agreement import Agreement
from kinet_trt.models.card import ModelCard, onnx_hash, read_onnx_card
from kinet_trt.models.model import Model
from kinet_trt.onnx_graph import precision
from kinet_trt.simulation.simulate import field
from random_networks import INFO, checkpoint_of, traces_shared

torch.set_num_threads(1)
ARCHITECTURES = ("release", "paper", "half")
ACTIVATIONS = {"release": "relu", "paper": "relu", "half": "elu"}
Make = Callable[..., tuple[bytes, ModelCard]]


class Workbench:
    """Exports of one architecture."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        self.checkpoint = checkpoint_of(architecture, activation=ACTIVATIONS[architecture])
        self.reach = to_onnx.reach(self.checkpoint.network)
        self.made: dict[tuple[str, bool], tuple[bytes, ModelCard]] = {}

    def make(self, precision: str = "fp32", half_weights: bool = False) -> tuple[bytes, ModelCard]:
        key = precision, half_weights
        if key not in self.made:
            own = Checkpoint(copy.deepcopy(self.checkpoint.network), INFO)
            model = to_onnx.export(own, "tiny", precision, half_weights, roi=True)
            self.made[key] = model.data, model.card
        return self.made[key]

    def expected(self, frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        net = self.checkpoint.network
        image = (frames.astype(np.float32) / 255 - np.float32(INFO.mean)) / np.float32(INFO.std)
        with torch.inference_mode():
            maps, logits = net(torch.from_numpy(image.transpose(0, 3, 1, 2)), roi=True)
            return maps.numpy(), net.tumor_probability(logits).numpy()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    workbench = Workbench(request.param)
    with traces_shared(tmp_path_factory), pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_onnx, "reach", lambda _: workbench.reach)
        yield workbench


def frames(n: int, height: int, width: int, seed: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8)


def compiled_with(model: bytes, config: dict[str, Any]) -> Any:
    core = openvino_core()
    return core.compile_model(core.read_model(io.BytesIO(model)), "CPU", config)


def run(model: bytes, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Run all outputs in FP32 on the CPU."""
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = compiled_with(model, config)
    found = compiled.create_infer_request().infer({0: pixels})
    return [np.array(found[i]) for i in range(len(compiled.outputs))]


def nodes(model: bytes) -> list[Any]:
    return list(onnx.load_from_string(model).graph.node)


def attributes(node: Any) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def test_graph_is_opset_18_folded_and_without_gaps_in_upsampling(bench: Workbench) -> None:
    graph = onnx.load_from_string(bench.make()[0])
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 18)]
    kinds = [node.op_type for node in graph.graph.node]
    assert "BatchNormalization" not in kinds
    assert "Dropout" not in kinds
    assert not graph.functions
    upsamplers = [attributes(node) for node in graph.graph.node if node.op_type == "ConvTranspose"]
    # The fourfold and eightfold ones are pointwise convolutions.
    assert len(upsamplers) == {"release": 8, "paper": 9, "half": 0}[bench.architecture]
    assert kinds.count("DepthToSpace") == {"release": 4, "paper": 2, "half": 1}[bench.architecture]
    if bench.architecture == "release":
        # The eightfold ones are applied to the heads at low resolution: both heads have 8 input channels fewer.
        shapes = {tensor.name: list(tensor.dims) for tensor in graph.graph.initializer}
        heads = [shapes[f"network.{name}.conv1.weight"] for name in ("out_tr", "out_tr_ROI")]
        assert heads == [[4, 6 * 4 - 8, 5, 5]] * 2
    for a in upsamplers:
        assert all(s <= k for s, k in zip(a["strides"], a["kernel_shape"], strict=True)), a
    assert all(attributes(node).get("group", 1) == 1 for node in graph.graph.node if node.op_type == "Conv")


def test_inputs_and_outputs_are_named_with_dynamic_batch_and_size(bench: Workbench) -> None:
    graph = onnx.load_from_string(bench.make()[0]).graph
    (frame,) = graph.input
    assert (frame.name, frame.type.tensor_type.elem_type) == ("frame", onnx.TensorProto.UINT8)
    shape = frame.type.tensor_type.shape.dim
    assert shape[3].dim_value == 3
    assert not any(shape[i].dim_value for i in range(3))
    assert [value.name for value in graph.output] == ["maps", "roi"]
    assert all(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for value in graph.output)


@pytest.mark.parametrize("shape", [(1, 64, 96), (2, 112, 48), (3, 32, 32), (1, 80, 240), (2, 16, 48)])
def test_every_size_and_batch_matches_pytorch(bench: Workbench, shape: tuple[int, int, int]) -> None:
    pixels = frames(*shape)
    maps, roi = run(bench.make()[0], pixels)
    expected, region = bench.expected(pixels)
    assert maps.shape == (shape[0], 3, *shape[1:])
    assert roi.shape == (shape[0], 1, *shape[1:])
    assert np.abs(maps - expected).max() < 1e-4
    assert np.abs(roi - region).max() < 1e-4
    assert roi.min() >= 0
    assert roi.max() <= 1
    assert roi.std() > 0


@pytest.mark.parametrize("half_weights", [False, True])
def test_exported_network_is_restored_by_from_onnx(bench: Workbench, half_weights: bool, tmp_path: Path) -> None:
    model, card = bench.make("fp32", half_weights)
    path = tmp_path / "tiny.onnx"
    path.write_bytes(model)
    loaded = from_onnx.load(path)
    network = bench.checkpoint.network
    assert loaded.network.config == replace(network.config, dropout=from_onnx.DROPOUT)
    assert loaded.info == INFO
    assert not loaded.network.training
    assert card.network == network.config.summary
    image = torch.from_numpy(frames(1, 128, 160)).permute(0, 3, 1, 2).float() / 128 - 1
    with torch.inference_mode():
        for expected, found in zip(network(image, roi=True), loaded.network(image, roi=True), strict=True):
            scale = max(1.0, float(expected.abs().max()))
            assert float((found - expected).abs().max()) < (0.02 if half_weights else 1e-4) * scale


def test_engine_opens_the_model_and_agrees(bench: Workbench) -> None:
    model, card = bench.make()
    engine = OpenVinoEngine(card, model, "fp32", threads=1)
    pixels = frames(2, 64, 48)
    assert np.abs(engine.run(pixels) - bench.expected(pixels)[0]).max() < 1e-4
    assert engine.card == card


def test_card_is_complete_and_correct(bench: Workbench) -> None:
    model, card = bench.make()
    assert read_onnx_card(model) == card
    assert card.model_sha256 == onnx_hash(model)
    assert (card.mean, card.std, card.threshold, card.nms_radius) == (INFO.mean, INFO.std, 0.3, 4)
    assert (card.precision, card.weights_precision, card.roi, card.multiple) == ("fp32", "fp32", True, 16)
    assert card.halo >= bench.reach + INFO.nms_radius
    assert card.halo - 16 < bench.reach + INFO.nms_radius
    assert card.network == f"{bench.architecture}, width 4, {ACTIVATIONS[bench.architecture]}"
    assert card.metrics == {"figure": 0.5}
    assert "research use only" in card.licence.lower()
    assert len(card.weights_sha256) == 64


def test_changed_byte_of_the_weights_is_detected(bench: Workbench) -> None:
    model = bytearray(bench.make()[0])
    model[len(model) // 2] ^= 1
    with pytest.raises(KinetError, match="damaged"):
        read_onnx_card(bytes(model))


def test_half_weights_halve_the_size_and_nearly_keep_the_maps(bench: Workbench) -> None:
    (whole, _), (half, card) = bench.make(), bench.make("fp32", half_weights=True)
    assert read_onnx_card(half) == card
    assert (card.precision, card.weights_precision) == ("fp32", "fp16")
    stored = [t.data_type for t in onnx.load_from_string(half).graph.initializer if len(t.dims) == 4]
    assert stored
    assert set(stored) == {onnx.TensorProto.FLOAT16}
    weights = sum(4 * int(np.prod(t.dims)) for t in onnx.load_from_string(whole).graph.initializer)
    assert len(half) < len(whole) - 0.4 * weights
    pixels = frames(1, 64, 80)
    maps, roi = run(half, pixels)
    expected, region = bench.expected(pixels)
    assert np.abs(maps - expected).max() < 0.01 * max(1.0, float(np.abs(expected).max()))
    assert np.abs(roi - region).max() < 0.01


def test_half_weights_are_folded_at_compilation(bench: Workbench) -> None:
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled, plain = (compiled_with(bench.make("fp32", half)[0], config) for half in (True, False))

    def conversions(model: Any) -> int:
        return sum("Convert" in str(op.get_rt_info()["layerType"]) for op in model.get_runtime_model().get_ops())

    assert conversions(compiled) == conversions(plain)


def test_fp16_is_valid_and_close(bench: Workbench) -> None:
    model, card = bench.make("fp16")
    graph = onnx.load_from_string(model)
    onnx.checker.check_model(graph, full_check=True)
    assert read_onnx_card(model) == card
    assert (card.precision, card.weights_precision) == ("fp16", "fp16")
    assert all(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for value in graph.graph.output)
    pixels = frames(2, 64, 80)
    maps, roi = run(model, pixels)
    expected, region = bench.expected(pixels)
    assert np.abs(maps - expected).max() < 0.02 * max(1.0, float(np.abs(expected).max()))
    assert np.abs(roi - region).max() < 0.02


def test_fp16_computes_in_half_in_a_runtime_that_follows_the_graph(bench: Workbench) -> None:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = runtime.InferenceSession(bench.make("fp16")[0], options, providers=["CPUExecutionProvider"])
    pixels = frames(1, 48, 64)
    maps, roi = session.run(None, {"frame": pixels})
    expected, region = bench.expected(pixels)
    assert maps.dtype == np.float32
    error = float(np.abs(maps - expected).max())
    assert 1e-5 < error < 0.05 * max(1.0, float(np.abs(expected).max()))
    assert np.abs(roi - region).max() < 0.05


def test_export_is_deterministic(bench: Workbench) -> None:
    first = bench.make("fp32", half_weights=True)
    bench.made.clear()
    assert bench.make("fp32", half_weights=True) == first


def test_export_does_not_change_the_checkpoint(bench: Workbench) -> None:
    own = Checkpoint(copy.deepcopy(bench.checkpoint.network), INFO)
    before = {name: value.clone() for name, value in own.network.state_dict().items()}
    to_onnx.export(own, "tiny", "fp32", False, roi=True)
    after = own.network.state_dict()
    assert {name: value.shape for name, value in before.items()} == {name: value.shape for name, value in after.items()}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weights_hash_is_that_of_the_checkpoint(bench: Workbench) -> None:
    digest = hashlib.sha256()
    for name, value in sorted(bench.checkpoint.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    assert bench.make()[1].weights_sha256 == digest.hexdigest()


def test_export_reports_a_weight_too_large_for_half_precision(bench: Workbench) -> None:
    graph = onnx.load_from_string(bench.make()[0])
    layer = next(node for node in graph.graph.node if node.op_type == "Conv")
    tensor = next(t for t in graph.graph.initializer if t.name == layer.input[1])
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] = 1e6
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for change in (precision.weights_to_fp16, precision.compute_in_fp16):
        with pytest.raises(KinetError, match=r"1e\+06 overflows half precision\. Use fp32"):
            change(copy.deepcopy(graph))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_export_reports_a_nan_weight(bad: float) -> None:
    tensor = onnx.numpy_helper.from_array(np.array([1.0, bad], np.float32), "w")
    with pytest.raises(KinetError, match="half precision"):
        precision.to_fp16(tensor)


def test_export_refuses_the_region_of_a_network_without_it() -> None:
    with pytest.raises(KinetError, match="without the tumour-region branch"):
        to_onnx.export(checkpoint_of("paper", roi=False), "tiny", "fp32", False, roi=True)


@pytest.mark.parametrize("precision", ["int8", "bf16", "", "FP32"])
def test_export_refuses_an_unknown_precision(precision: str) -> None:
    with pytest.raises(KinetError, match="expected fp32 or fp16"):
        to_onnx.export(checkpoint_of("paper"), "tiny", precision, False, roi=False)


def test_normalisation_is_that_of_training() -> None:
    from kinet_trt.export.prediction import normalise

    class Echo(nn.Module):
        def forward(self, image: Any, roi: bool) -> tuple[Any, None]:
            return image, None

    pixels = torch.from_numpy(frames(2, 8, 9))
    (found,) = to_onnx.Deployed(Echo(), INFO, roi=False)(pixels)
    torch.testing.assert_close(found, normalise(pixels, INFO), atol=1e-5, rtol=0)


# --- parity -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fields() -> list[NDArray[np.uint8]]:
    return [field(seed, 64, 96)[0] for seed in (1, 2)]


def card_of(threshold: float = 0.3) -> ModelCard:
    return ModelCard("tiny", INFO.mpp, INFO.mean, INFO.std, threshold, nms_radius=4, data="x")


def pytorch_maps(own: Checkpoint, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return to_onnx.Deployed(own.network, INFO, roi=False).eval()(torch.from_numpy(pixels[None]))[0][0].numpy()


def test_parity_of_the_same_maps_is_perfect(fields: list[NDArray[np.uint8]]) -> None:
    own = checkpoint_of("paper")
    maps = [pytorch_maps(own, pixels) for pixels in fields]
    low = float(np.quantile(maps[0].max(axis=0), 0.5))
    measured = measure_parity(own, card_of(low), maps, fields)
    assert (measured.max_error, measured.images) == (0.0, 2)
    assert measured.agreement.identical
    assert measured.agreement.same > 0


def test_parity_reports_the_maximum_error_and_changed_nuclei(fields: list[NDArray[np.uint8]]) -> None:
    own = checkpoint_of("paper")
    maps = [pytorch_maps(own, pixels) for pixels in fields]
    high = float(max(m.max() for m in maps)) + 1
    changed = [maps[0], maps[1].copy()]
    changed[1][2, 30, 40] = high + 1
    measured = measure_parity(own, card_of(high), changed, fields)
    assert measured.max_error == pytest.approx(high + 1 - maps[1][2, 30, 40], rel=1e-5)
    assert measured.agreement == Agreement(0, 0, 1)


def test_parity_refuses_nan_maps(fields: list[NDArray[np.uint8]]) -> None:
    own = checkpoint_of("paper")
    maps = [np.full_like(pytorch_maps(own, pixels), np.nan) for pixels in fields]
    with pytest.raises(KinetError, match="NaN or infinity"):
        measure_parity(own, card_of(1e6), maps, fields)


def test_parity_of_a_graph_is_recorded_in_its_card(bench: Workbench, fields: list[NDArray[np.uint8]]) -> None:
    model, card = bench.make()
    maps = [run(model, pixels[None])[0][0] for pixels in fields]
    measured = measure_parity(bench.checkpoint, card, maps, fields)
    assert measured.max_error < 1e-4
    recorded = record_parity(Model(card, model), measured)
    noted, new = recorded.data, recorded.card
    assert read_onnx_card(noted) == new
    assert new.model_sha256 == card.model_sha256
    assert new.parity["images"] == 2
    assert new.parity["max_error"] == pytest.approx(measured.max_error, rel=0.01)
    assert new.parity["identical"] == measured.agreement.identical
    assert new.parity["same"] == measured.agreement.same


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_export_without_the_region_has_one_output(architecture: str) -> None:
    own = checkpoint_of(architecture)
    exported = to_onnx.export(own, "tiny", "fp32", False, roi=False)
    model, card = exported.data, exported.card
    assert [value.name for value in onnx.load_from_string(model).graph.output] == ["maps"]
    assert not card.roi
    pixels = frames(1, 48, 64)
    assert (
        np.abs(
            run(model, pixels)[0]
            - to_onnx.Deployed(own.network, INFO, False)(torch.from_numpy(pixels))[0].detach().numpy()
        ).max()
        < 1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["elu", "relu"])
@pytest.mark.parametrize("width", [4, 32])
def test_release_finds_the_nuclei_of_pytorch(width: int, activation: str, fields: list[NDArray[np.uint8]]) -> None:
    own = checkpoint_of("release", width, activation=activation)
    exported = to_onnx.export(own, "tiny", "fp32", False, roi=False)
    model, card = exported.data, exported.card
    expected = [pytorch_maps(own, pixels) for pixels in fields]
    card = replace(card, threshold=float(np.quantile(expected[0].max(axis=0), 0.5)))
    for engine in (OpenVinoEngine, pytest.importorskip("kinet_trt.engines.onnxruntime").OnnxRuntimeEngine):
        opened = engine(card, model, "fp32")
        maps = [np.array(opened.run(pixels[None])[0]) for pixels in fields]
        measured = measure_parity(own, card, maps, fields)
        assert measured.agreement.identical
        assert measured.agreement.same > 20
    if "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        # Compared with FP32 when it is opened: an error if the maps are wrong.
        OpenVinoEngine(replace(card, threshold=50.0), model, "bf16")
