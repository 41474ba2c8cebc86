"""The peak kernels on a GPU: equality with the definition, and speed."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_timing import microseconds
from hypothesis import given, settings
from hypothesis import strategies as st

from kinet_trt.core.detections import CLASSES
from kinet_trt.peaks.cuda import FIRST_NUCLEI, CudaPeaks
from kinet_trt.peaks.reference import MAX_RADIUS, find_peaks
from peak_rule import as_tuples, brute_force, levelled_maps

pytestmark = pytest.mark.gpu

FULL_HD = 3, 1080, 1920


def field(dtype, seed=0, nuclei=5000, shape=FULL_HD):
    """Return maps like a network's: a cone of 12 px around each nucleus, and noise."""
    generator = np.random.default_rng(seed)
    channels, height, width = shape
    maps = generator.normal(0, 0.02, shape).astype(np.float32)
    y, x = np.mgrid[-12:13, -12:13]
    cone = np.clip(1 - np.hypot(y, x) / 12, 0, None).astype(np.float32)
    for _ in range(nuclei):
        c, v, u = generator.integers(channels), generator.integers(12, height - 12), generator.integers(12, width - 12)
        window = maps[c, v - 12 : v + 13, u - 12 : u + 13]
        np.maximum(window, cone * generator.uniform(0.5, 1), out=window)
    return maps.astype(dtype)


def plateaus(dtype, seed=0, levels=6, shape=FULL_HD):
    return (np.random.default_rng(seed).integers(0, levels, shape) / levels).astype(dtype)


def found_in(maps, threshold, radius=5):
    import cupy

    names = CLASSES if maps.shape[1] == 3 else tuple(f"class {i}" for i in range(maps.shape[1]))
    peaks, on_device = CudaPeaks(maps.shape, maps.dtype, radius, names), cupy.ascontiguousarray(cupy.asarray(maps))
    stream = cupy.cuda.get_current_stream()
    peaks.begin(stream, threshold)
    peaks.enqueue(stream, on_device.data.ptr)
    stream.synchronize()
    return peaks.read(stream)


@settings(max_examples=100)
@given(maps=levelled_maps(), threshold=st.sampled_from([-2.0, 0.0, 0.25, 0.5, 1.0, 1.5]), radius=st.integers(1, 6))
def test_kernels_match_the_definition(maps, threshold, radius):
    if 0 not in maps.shape:
        (found,) = found_in(maps[None], threshold, radius)
        assert as_tuples(found) == brute_force(maps, threshold, radius)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("radius", [1, 5, 17, MAX_RADIUS])
@pytest.mark.parametrize("make", [field, plateaus])
def test_full_frame_equals_the_reference(make, radius, dtype):
    maps = make(dtype, seed=radius)
    (found,) = found_in(maps[None], 0.3, radius)
    expected = find_peaks(maps, 0.3, radius)
    for name in ("x", "y", "cls", "score"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert len(found)


def test_batch_equals_its_images():
    maps = np.stack([field(np.float16, seed, 500, (3, 400, 333)) for seed in range(4)])
    found = found_in(maps, 0.3)
    assert [as_tuples(one) for one in found] == [as_tuples(find_peaks(image, 0.3)) for image in maps]


def test_order_is_deterministic():
    maps = plateaus(np.float16)[None]
    first = as_tuples(found_in(maps, 0.5, 1)[0])
    assert all(as_tuples(found_in(maps, 0.5, 1)[0]) == first for _ in range(5))


def test_nuclei_beyond_the_first_copy_are_read():
    maps = np.zeros((1, 1, 1080, 1920), np.float16)
    maps[..., ::6, ::6] = 1
    (found,) = found_in(maps, 0.5)
    assert len(found) == 180 * 320 > FIRST_NUCLEI
    assert as_tuples(found) == as_tuples(find_peaks(maps[0], 0.5, 5, ("a",)))


def test_captured_graph_uses_the_threshold_and_size_of_each_run():
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    peaks = CudaPeaks((1, *FULL_HD), np.float16)
    with stream:
        given_ = cupy.empty((1, *FULL_HD), np.float16)
    stream.begin_capture()
    peaks.enqueue(stream, given_.data.ptr)
    graph = stream.end_capture()
    for seed, (threshold, height, width) in enumerate([(0.3, 1080, 1920), (0.6, 1080, 1920), (0.3, 1000, 1900)]):
        maps = field(np.float16, seed)
        given_.set(maps[None], stream=stream)
        peaks.begin(stream, threshold, height, width)
        graph.launch(stream)
        stream.synchronize()
        expected = find_peaks(maps, threshold)
        expected = expected.where((expected.x < width) & (expected.y < height))
        assert as_tuples(peaks.read(stream)[0]) == as_tuples(expected)


def test_frames_are_read_while_the_next_is_in_flight():
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    pair = [CudaPeaks((1, *FULL_HD), np.float16) for _ in range(2)]
    fields = [field(np.float16, seed) for seed in range(6)]
    with stream:
        maps = [cupy.asarray(one[None]) for one in fields]
    ends, found = [], []
    for i, given_ in enumerate(maps):
        pair[i % 2].begin(stream, 0.3)
        pair[i % 2].enqueue(stream, given_.data.ptr)
        ends.append(stream.record())
        if i:
            ends[i - 1].synchronize()
            found += pair[(i - 1) % 2].read(stream)
    ends[-1].synchronize()
    found += pair[1].read(stream)
    assert [as_tuples(one) for one in found] == [as_tuples(find_peaks(one, 0.3)) for one in fields]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_peaks_of_a_full_frame_take_at_most_100_microseconds(dtype, record_property):
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    peaks = CudaPeaks((1, *FULL_HD), dtype)
    with stream:
        maps = [cupy.asarray(field(dtype, seed)[None]) for seed in range(8)]  # more than fits in the caches

    def launch(on, given_):
        peaks.begin(on, 0.3)
        peaks.enqueue(on, given_.data.ptr)

    took = microseconds(launch, stream, maps)
    record_property("peaks_microseconds", took)
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    record_property("gpu", name)
    if "H100" in name or "H200" in name:
        assert took <= 100
    else:
        assert took <= 2000
