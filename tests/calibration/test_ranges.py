"""Ranges of activations, quantization steps, and the cache."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")

from kinet_trt.calibration import ranges
from kinet_trt.calibration.ranges import BINS, Histogram
from onnx import numpy_helper
from samples import network

from kinet_trt.core.errors import KinetError
from kinet_trt.onnx_graph.precision import weights_to_fp32
from kinet_trt.simulation import simulate

FRAMES = [simulate.field(seed, 64, 48)[0] for seed in (1, 2)]


@pytest.fixture
def graph() -> onnx.ModelProto:
    return weights_to_fp32(onnx.load_from_string(network()))


def histogram(values: np.ndarray) -> Histogram:
    largest = float(np.abs(values).max())
    bins = np.minimum((np.abs(values) * (BINS / max(largest, 1e-30))).astype(int), BINS - 1)
    return Histogram(largest, np.bincount(bins, minlength=BINS).astype(float))


def error(values: np.ndarray, step: float) -> float:
    return float(((np.clip(np.rint(values / step), -127, 127) * step - values) ** 2).mean())


def test_observed_ranges_are_those_of_the_network(graph: onnx.ModelProto) -> None:
    ort = pytest.importorskip("onnxruntime")
    probed = onnx.ModelProto()
    probed.CopyFrom(graph)
    names = ["stem", "sum"]
    probed.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    session = ort.InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = [session.run(names, {"frame": frame[None]}) for frame in FRAMES]
    seen: list[tuple[int, int]] = []
    found = ranges.observe(graph, names, FRAMES, lambda *done: seen.append(done))
    for i, name in enumerate(names):
        assert found[name].largest == pytest.approx(max(float(np.abs(e[i]).max()) for e in expected), rel=1e-4)
        assert found[name].counts.sum() == sum(e[i][..., ::2, ::2].size for e in expected)
    assert [found[name].scale for name in names] == [1.0, 0.25]
    assert seen == [(i, 4) for i in range(1, 5)]


def test_network_that_overflows_is_an_error(graph: onnx.ModelProto) -> None:
    weights = next(t for t in graph.graph.initializer if t.name == "head.weight")
    weights.CopyFrom(numpy_helper.from_array(np.full(list(weights.dims), np.inf, np.float32), weights.name))
    with pytest.raises(KinetError, match="not finite"):
        ranges.observe(graph, ["head"], FRAMES)


@given(seed=st.integers(0, 1000), tail=st.floats(0, 3), size=st.floats(-4, 4))
def test_step_has_no_larger_error_than_the_full_range(seed: int, tail: float, size: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, 3000) * np.exp(tail * rng.normal(0, 1, 3000)) * 10.0**size
    step, whole = ranges.choose_step([histogram(values)]), float(np.abs(values).max()) / 127
    assert 0 < step <= whole * 1.0001
    assert error(values, step) <= 1.05 * error(values, whole)


def test_step_clips_a_few_large_values() -> None:
    values = np.concatenate([np.random.default_rng(0).uniform(0, 1, 100_000), [3.0]])
    assert ranges.choose_step([histogram(values)]) < 2.2 / 127


def test_shared_step_weights_each_tensor_by_its_size() -> None:
    rng = np.random.default_rng(0)
    small, large = histogram(rng.uniform(0, 1, 10_000)), histogram(rng.uniform(0, 4, 10_000))
    assert ranges.choose_step([small]) < ranges.choose_step([small, large]) <= ranges.choose_step([large])


def test_step_of_zeros_is_defined() -> None:
    assert ranges.choose_step([histogram(np.zeros(10))]) > 0


def test_cache_returns_the_ranges_without_measuring(graph, tmp_path, monkeypatch) -> None:
    names = ["stem", "sum"]
    first = ranges.cached(tmp_path, graph, names, FRAMES)
    with monkeypatch.context() as patch:
        patch.setattr(ranges, "observe", lambda *_: pytest.fail("measured again"))
        again = ranges.cached(tmp_path, graph, names, FRAMES)
    for name in names:
        assert again[name].largest == first[name].largest
        assert np.array_equal(again[name].counts, first[name].counts)
        assert again[name].scale == first[name].scale


def test_cache_key_depends_on_weights_pixels_and_tensors(graph: onnx.ModelProto) -> None:
    names = ["stem", "sum"]
    keys = {ranges.key(graph, names, FRAMES), ranges.key(graph, names[:1], FRAMES)}
    keys |= {ranges.key(graph, names, FRAMES[:1]), ranges.key(graph, names, FRAMES[::-1])}
    changed = [frame.copy() for frame in FRAMES]
    changed[1][0, 0, 0] ^= 1
    keys.add(ranges.key(graph, names, changed))
    bias = next(t for t in graph.graph.initializer if t.name == "maps.bias")
    values = numpy_helper.to_array(bias).copy()
    values[0] += 1e-6
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    keys.add(ranges.key(graph, names, FRAMES))
    assert len(keys) == 6


def test_damaged_or_mismatched_cache_is_ignored(graph, tmp_path, caplog) -> None:
    names = ["stem", "sum"]
    first = ranges.cached(tmp_path, graph, names, FRAMES)
    (place,) = tmp_path.iterdir()
    other = ranges._packed({n: Histogram(9.0, np.ones(BINS)) for n in names}, "0" * 64, names)
    whole = place.read_bytes()
    for content in (b"", b"rubbish", whole[: len(whole) // 2], other):
        place.write_bytes(content)
        again = ranges.cached(tmp_path, graph, names, FRAMES)
        assert again["sum"].largest == first["sum"].largest
        assert "Measuring the ranges again" in caplog.text
        caplog.clear()
        assert ranges._read(place, ranges.key(graph, names, FRAMES), names)
