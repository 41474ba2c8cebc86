"""The peak kernels on the CPU compared with the definition; tests/gpu does the same on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cuda_on_cpu import ARCHITECTURES, Buffer, CpuModule, compile_for, nvrtc
from kinet_trt.core.detections import CLASSES
from kinet_trt.cuda.kernels import source
from kinet_trt.peaks import cuda
from kinet_trt.peaks.cuda import PeakPlan
from kinet_trt.peaks.reference import MAX_RADIUS, find_peaks
from peak_rule import INF, NAN, as_tuples, brute_force, levelled_maps


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return CpuModule(source("kinet_trt.peaks", "peaks.cu"), tmp_path_factory.mktemp("peaks"))


def run(module, maps, threshold, radius, size=None, seed=0):
    """Return the kernels' nuclei for maps [images, classes, height, width], per image."""
    plan = PeakPlan(maps.shape, maps.dtype, radius)
    work, found = Buffer(plan.work_bytes), Buffer(plan.found_bytes)
    given = Buffer(maps.nbytes)
    given.bytes[:] = np.frombuffer(np.ascontiguousarray(maps), np.uint8)
    height, width = size or (None, None)
    begin = plan.begin(work.address, threshold, height, width)
    module.issue([begin, *plan.find(given.address, work.address, found.address)], seed)
    for buffer in (work, found, given):
        buffer.check()
    classes = CLASSES if maps.shape[1] == 3 else tuple(f"class {i}" for i in range(maps.shape[1]))
    return plan.read(found.bytes, classes)


def tuples_of(module, maps, threshold, radius, seed=0):
    if 0 in maps.shape:
        return []  # nothing to launch
    (found,) = run(module, maps[None], threshold, radius, seed=seed)
    return as_tuples(found)


@settings(max_examples=250)
@given(
    maps=levelled_maps(),
    threshold=st.sampled_from([-2.0, 0.0, 0.25, 0.5, 1.0, 1.5]),
    radius=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
@example(maps=np.ones((3, 14, 14), np.float32), threshold=0.5, radius=6, seed=0)
@example(maps=np.full((2, 3, 3), NAN, np.float32), threshold=-1.0, radius=1, seed=0)
@example(maps=np.full((2, 3, 3), -INF, np.float32), threshold=-1.0, radius=1, seed=0)
@example(maps=np.full((2, 3, 3), np.finfo(np.float32).min, np.float32), threshold=-3.4e38, radius=1, seed=0)
def test_kernels_match_the_definition(module, maps, threshold, radius, seed):
    assert tuples_of(module, maps, threshold, radius, seed) == brute_force(maps, threshold, radius)


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
def test_kernels_match_the_definition_for_any_floats(module, maps, threshold, radius):
    assert tuples_of(module, maps, threshold, radius) == brute_force(maps, threshold, radius)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("shape", [(3, 65, 33), (3, 64, 32), (1, 130, 97), (5, 47, 200), (3, 1, 300), (2, 300, 1)])
@pytest.mark.parametrize("radius", [1, 5, 20])
def test_tiles_of_the_kernel_equal_the_whole(module, shape, dtype, radius):
    generator = np.random.default_rng(shape[1])
    for levels in (4, 40, 4000):  # from plateaus to few ties
        maps = (generator.integers(0, levels, shape) / levels).astype(dtype)
        found = tuples_of(module, maps, 0.25, radius, seed=levels)
        names = tuple(map(str, range(shape[0])))
        assert found == as_tuples(find_peaks(maps, 0.25, radius, names))
        assert found


def test_largest_radius_fits_in_shared_memory(module):
    maps = np.random.default_rng(1).integers(0, 9, (3, 150, 150)).astype(np.float16)
    assert tuples_of(module, maps, 0, MAX_RADIUS) == as_tuples(find_peaks(maps, 0, MAX_RADIUS))


def test_batch_equals_its_images_in_order(module):
    maps = np.random.default_rng(2).integers(0, 30, (3, 3, 70, 40)).astype(np.float16)
    maps[1] = NAN  # an image without nuclei between two with
    found = run(module, maps, 5, 2)
    assert [as_tuples(one) for one in found] == [as_tuples(find_peaks(image, 5, 2)) for image in maps]
    assert [len(one) > 50 for one in found] == [True, False, True]


def test_order_is_kept_with_more_words_than_threads_in_a_block(module):
    width = cuda.TILE_WIDTH * (2 * cuda.GATHER_THREADS + 3)
    maps = np.random.default_rng(3).random((1, 3, width)).astype(np.float32)
    found = tuples_of(module, maps, 0.1, 1)
    assert found == as_tuples(find_peaks(maps, 0.1, 1, ("a",)))
    assert len(found) > 1000


def test_peaks_in_the_padding_are_dropped_but_suppress(module):
    maps = np.random.default_rng(4).random((1, 3, 70, 80)).astype(np.float32)
    whole = find_peaks(maps[0], 0.5, 2)
    for height, width in ((70, 80), (65, 33), (64, 64), (40, 41), (0, 0)):
        (found,) = run(module, maps, 0.5, 2, size=(height, width))
        assert as_tuples(found) == as_tuples(whole.where((whole.y < height) & (whole.x < width)))


def test_half_precision_is_read_exactly(module):
    """All 65,536 float16 values, each alone in its window."""
    maps = np.full((1, 512, 512), NAN, np.float16)
    maps[0, ::2, ::2] = np.arange(65536, dtype=np.uint32).astype(np.uint16).view(np.float16).reshape(256, 256)
    assert tuples_of(module, maps, -1e9, 1) == as_tuples(find_peaks(maps, -1e9, 1, ("a",)))


def test_signalling_nan_is_ignored(module):
    maps = np.array([[[0x7F800001, 0x3F800000, 0xFF800001]]], np.uint32).view(np.float32)
    assert tuples_of(module, maps, 0.5, 1) == [(1, 0, 0, 1.0)]


def test_threshold_beyond_float32(module):
    maps = np.array([[[1, -INF, INF, NAN, -INF, -5]]], np.float32)
    for threshold in (1e39, -1e39):
        assert tuples_of(module, maps, threshold, 1) == as_tuples(find_peaks(maps, threshold, 1, ("a",)))


@settings(max_examples=50)
@given(height=st.integers(1, 40), width=st.integers(1, 40), radius=st.integers(1, 8))
def test_capacity_suffices(module, height, width, radius):
    maps = np.zeros((1, 1, height, width), np.float32)
    maps[:, :, :: radius + 1, :: radius + 1] = 1
    plan = PeakPlan(maps.shape, maps.dtype, radius)
    (found,) = run(module, maps, 0.5, radius)
    assert len(found) == plan.capacity


def test_result_outlives_the_buffer():
    plan = PeakPlan((1, 1, 4, 4), np.dtype(np.float32), 1)
    found = np.zeros(plan.found_bytes, np.uint8)
    found[:8].view(np.int32)[:] = [0, 1]
    found[plan.header_bytes :].view(np.float32)[:4] = [3, 2, 0.5, 0]
    (nuclei,) = plan.read(found, ("a",))
    found[:] = 0
    assert as_tuples(nuclei) == [(3, 2, 0, 0.5)]


@pytest.mark.parametrize(
    ("shape", "dtype", "radius", "reason"),
    [
        ((3, 8, 8), np.float32, 5, "maps: expected"),
        ((1, 3, 0, 8), np.float32, 5, "maps: expected"),
        ((1, 3, 8, 8), np.float64, 5, "float32 or float16"),
        ((1, 3, 8, 8), np.float32, 0, "radius: expected"),
        ((1, 3, 8, 8), np.float32, MAX_RADIUS + 1, "radius: expected"),
    ],
)
def test_invalid_arguments_are_rejected(shape, dtype, radius, reason):
    with pytest.raises(ValueError, match=reason):
        PeakPlan(shape, np.dtype(dtype), radius)


@pytest.mark.parametrize(
    ("threshold", "size", "reason"),
    [
        (NAN, (8, 8), "threshold"),
        (INF, (8, 8), "threshold"),
        (0.5, (9, 8), "size"),
        (0.5, (8, 9), "size"),
        (0.5, (-1, 8), "size"),
    ],
)
def test_begin_rejects_invalid_arguments(threshold, size, reason):
    with pytest.raises(ValueError, match=f"{reason}: expected"):
        PeakPlan((1, 3, 8, 8), np.dtype(np.float32)).begin(0, threshold, *size)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile_for_every_gpu_without_warnings(architecture):
    log = compile_for(nvrtc(), source("kinet_trt.peaks", "peaks.cu"), architecture)
    assert "warning" not in log
    assert log.count("0 bytes spill stores, 0 bytes spill loads") == log.count("Compiling entry function") == 5
