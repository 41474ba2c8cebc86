"""The OpenVINO engine with the shipped model."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinet_trt.core.errors import EngineError
from kinet_trt.engines import openvino
from kinet_trt.engines.open import open_engine
from kinet_trt.models.card import read_card
from kinet_trt.models.model import DEFAULT_MODEL, Model
from kinet_trt.peaks.reference import find_peaks
from kinet_trt.simulation import simulate


@pytest.fixture(scope="module")
def engine():
    return open_engine(DEFAULT_MODEL, "fp32")


@pytest.fixture(scope="module")
def frame():
    return simulate.field(9, 256, 192)[0]


def test_maps_have_the_size_of_the_frame(engine, frame):
    maps = engine.run(frame[None])
    assert maps.shape == (1, 3, 192, 256)
    assert maps.dtype == np.float32


def test_run_of_a_batch_equals_its_frames(engine, frame):
    flipped = frame[::-1].copy()
    alone = [engine.run(f[None])[0].copy() for f in (frame, flipped)]
    both = engine.run(np.stack([frame, flipped]))
    assert np.allclose(both, alone, atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 60, 64, 3), np.uint8),
        np.zeros((1, 64, 64, 1), np.uint8),
        np.zeros((0, 64, 64, 3), np.uint8),
    ],
)
def test_run_rejects_frames_of_other_shapes_and_types(engine, wrong):
    with pytest.raises(EngineError, match="expected RGB"):
        engine.run(wrong)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48), (128, 64)])
def test_int8_pads_small_frames(tmp_path, height, width):
    pytest.importorskip("onnxruntime")
    from int8_by_ort import int8_by_ort
    from kinet_trt.onnx_graph import precision

    card, model = read_card(DEFAULT_MODEL)
    int8 = int8_by_ort(precision.convert(Model(card, model), "fp32").data, tmp_path)
    small = openvino.OpenVinoEngine(replace(card, precision="int8"), int8, threads=1)
    shapes = []
    infer = small._infer
    small._infer = lambda frames, *more: (shapes.append(frames.shape[1:3]), infer(frames, *more))[1]
    pixels = simulate.field(9, width, height)[0]
    maps = small.run(pixels[None])
    assert shapes == [(128, 128)]
    assert maps.shape == (1, 3, height, width)
    padded = np.pad(pixels, ((0, 128 - height), (0, 128 - width), (0, 0)), "edge")
    assert (maps == small.run(padded[None])[..., :height, :width]).all()
    # Another quantiser than ours, so only the correlation is compared.
    full = open_engine(DEFAULT_MODEL, "fp32").run(padded[None])[..., :height, :width]
    assert np.corrcoef(maps.ravel(), full.ravel())[0, 1] > 0.9


def test_precisions_find_the_same_nuclei(engine, frame):
    card = engine.card
    expected = find_peaks(engine.run(frame[None])[0], card.threshold, card.nms_radius)
    core = openvino.core()
    for precision, capability in (("bf16", "BF16"), ("fp16", "FP16")):
        if capability not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            continue
        other = open_engine(DEFAULT_MODEL, precision)
        assert other.precision == precision
        found = find_peaks(other.run(frame[None])[0], card.threshold, card.nms_radius)
        assert abs(len(found) - len(expected)) <= 2


def test_auto_is_bf16_only_with_amx(monkeypatch):
    monkeypatch.setattr(openvino, "_has_amx", lambda: False)
    assert open_engine(DEFAULT_MODEL).precision == "fp32"


def test_auto_falls_back_to_fp32_if_bf16_is_wrong(monkeypatch, caplog):
    monkeypatch.setattr(openvino, "_has_amx", lambda: True)
    monkeypatch.setattr(openvino, "MAX_ERROR", 0.0)
    assert open_engine(DEFAULT_MODEL).precision == "fp32"
    if "BF16" in openvino.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert "BF16 gives wrong results" in caplog.text


def test_bf16_of_a_fused_model_is_compared_by_maps_and_count(monkeypatch, fused_model):
    if "BF16" not in openvino.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no BF16")
    assert open_engine(fused_model, "bf16").precision == "bf16"
    with monkeypatch.context() as patch:
        patch.setattr(openvino, "MAX_ERROR", 0.0)
        with pytest.raises(EngineError, match="maps off"):
            open_engine(fused_model, "bf16")
    # Keep two nuclei of the FP32 maps: the other number comes from the fused graph.
    monkeypatch.setattr(openvino, "find_peaks", lambda *arguments: find_peaks(*arguments).where(np.arange(2)))
    with pytest.raises(EngineError, match=r"gives wrong results on this CPU \(\d\d+ nuclei instead of 2"):
        open_engine(fused_model, "bf16")


def test_openvino_rejects_a_precision_the_cpu_lacks(monkeypatch):
    card, model = read_card(DEFAULT_MODEL)
    monkeypatch.setattr(openvino.ov.Core, "get_property", lambda *_: ["FP32"])
    with pytest.raises(EngineError, match="supports FP32"):
        openvino.OpenVinoEngine(card, model, "bf16")


def test_signals_arrive_after_engines_closed_in_any_order():
    """OpenVINO's cores leave a dangling signal stack: Ctrl-C after two counters was a segmentation fault."""
    program = f"""
import gc, signal
from pathlib import Path
from kinet_trt.engines import open_engine
first, second = (open_engine(Path({str(DEFAULT_MODEL)!r}), "fp32") for _ in range(2))
del first; gc.collect()
del second; gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("heard"))
signal.raise_signal(signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_open_engine_rejects_unknown_options():
    for arguments in (("fp64",), ("fp32", 0)):
        with pytest.raises(EngineError, match="expected"):
            open_engine(DEFAULT_MODEL, *arguments)
    with pytest.raises(EngineError, match=r"\.onnx"):
        open_engine(Path("model.pt"))


def test_compiled_models_are_cached(tmp_path, frame):
    card, model = read_card(DEFAULT_MODEL)
    first = openvino.OpenVinoEngine(card, model, "fp32", cache=tmp_path).run(frame[None]).copy()
    assert any(tmp_path.iterdir())
    again = openvino.OpenVinoEngine(card, model, "fp32", cache=tmp_path).run(frame[None])
    assert np.array_equal(first, again)


@pytest.mark.parametrize(
    ("limit", "may_use"), [("AVX512_CORE_VNNI", False), ("AVX2", False), ("AVX512_CORE_AMX", True)]
)
def test_has_amx_respects_the_instruction_limit(monkeypatch, limit, may_use):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    unlimited = openvino._has_amx()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert openvino._has_amx() == (unlimited and may_use)
