"""The ONNX Runtime engine finds the same nuclei as OpenVINO in FP32."""

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from kinet_trt import NucleusCounter
from kinet_trt.core.errors import EngineError
from kinet_trt.datasets.labelled import read_fields
from kinet_trt.engines.open import open_engine
from kinet_trt.models.model import DEFAULT_MODEL
from kinet_trt.simulation import simulate


@pytest.fixture(scope="module")
def counters():
    return [NucleusCounter(precision="fp32", runtime=runtime) for runtime in ("openvino", "onnxruntime")]


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("x", "y", "cls"))


def test_counters_report_runtime_and_precision(counters):
    assert [c.engine.runtime.split()[0] for c in counters] == ["OpenVINO", "ONNX"]
    assert [c.engine.precision for c in counters] == ["fp32", "fp32"]


def test_simulated_fields_give_the_same_nuclei(counters):
    for seed in range(2):
        pixels, truth = simulate.field(seed, 400, 300)
        a, b = (counter(pixels) for counter in counters)
        assert len(a) > 0.8 * len(truth)
        assert same(a, b), seed


def test_real_fields_give_the_same_nuclei(counters, shared_data):
    fields = [f for f in read_fields(shared_data) if f.source != "immunoratio"]
    for f in fields[:: max(1, len(fields) // 10)][:10]:
        a, b = (counter(f.pixels()[:246, :251]) for counter in counters)
        assert same(a, b), f.name


def test_run_of_a_batch_equals_its_frames():
    engine = open_engine(DEFAULT_MODEL, runtime="onnxruntime", threads=1)
    frames = np.stack([simulate.field(seed, 64, 48)[0] for seed in (1, 2)])
    assert np.allclose(engine.run(frames), [engine.run(f[None])[0] for f in frames], atol=1e-5)
    with pytest.raises(EngineError, match="expected RGB"):
        engine.run(frames[:, :40])


def test_open_engine_rejects_options_onnxruntime_lacks():
    for options in ({"precision": "bf16"}, {"threads": 0}):
        with pytest.raises(EngineError, match=r"fp32|threads"):
            open_engine(DEFAULT_MODEL, runtime="onnxruntime", **options)
    with pytest.raises(EngineError, match="runtime: expected"):
        open_engine(DEFAULT_MODEL, runtime="tpu")


def test_onnxruntime_is_the_fallback_without_openvino(monkeypatch):
    from kinet_trt.engines import open as opening

    monkeypatch.setattr(opening, "find_spec", lambda name: None if name == "openvino" else object())
    assert open_engine(DEFAULT_MODEL).runtime.startswith("ONNX Runtime")
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"kinet-trt\[onnxruntime\]"):
        open_engine(DEFAULT_MODEL)
