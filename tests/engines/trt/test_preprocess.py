"""The preparation kernels on the CPU compared with frame.fit; tests/gpu does the same on a GPU."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuda_on_cpu import ARCHITECTURES, Buffer, CpuModule, compile_for, nvrtc
from kinet_trt.core.errors import ImageError
from kinet_trt.core.frame import Frame, fit
from kinet_trt.cuda.interop import ORDERS, parse_interface
from kinet_trt.cuda.kernels import source
from kinet_trt.engines.tensorrt.preprocess import PreparePlan
from kinet_trt.simulation import simulate


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return CpuModule(source("kinet_trt.engines.tensorrt", "preprocess.cu"), tmp_path_factory.mktemp("prepare"))


def prepare(module, pixels, frame_mpp=None, mpp=0.5, multiple=16, order=None, seed=0):
    """Return the model's input for pixels of any memory layout, and whether they have colour."""
    frame = parse_interface(pixels.__array_interface__, order, pixels)
    plan = PreparePlan.for_frame(frame.height, frame.width, frame_mpp, mpp, multiple)
    table = np.ascontiguousarray(plan.table)
    target, flag = Buffer(plan.height * plan.width * 3), Buffer(4)
    flag.bytes[:] = 0
    module.issue([plan.launch(frame, table.ctypes.data, target.address, flag.address)], seed)
    target.check()
    flag.check()
    return target.bytes.reshape(plan.height, plan.width, 3), bool(flag.bytes.view(np.int32)[0])


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("size", [(48, 64), (47, 33), (32, 32), (50, 113)])
def test_prepare_without_scaling_equals_fit(module, size):
    pixels = noise(*size)
    assert (prepare(module, pixels)[0] == fit(Frame(pixels), 0.5, 16).pixels).all()


@settings(max_examples=80)
@given(
    height=st.integers(128, 150),
    width=st.integers(128, 150),
    scale=st.one_of(st.floats(0.26, 3.0), st.sampled_from([0.5, 2.0, 1 / 3, 0.25, 0.999, 1.001])),
    multiple=st.sampled_from([1, 16, 32]),
    smooth=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_prepare_with_scaling_equals_fit(module, height, width, scale, multiple, smooth, seed):
    pixels = noise(height, width, seed=seed)
    if smooth:
        pixels = cv2.GaussianBlur(pixels, (0, 0), 3)
    frame = Frame(pixels, mpp=0.5 * scale)
    expected = fit(frame, 0.5, multiple).pixels
    found, _ = prepare(module, pixels, frame.mpp, 0.5, multiple, seed=seed)
    assert found.shape == expected.shape
    difference = np.abs(found.astype(int) - expected)
    if PreparePlan.for_frame(height, width, frame.mpp, 0.5, multiple).scaling == "area":
        # OpenCV may sum floats in another order on other CPUs; on x86-64 every value is equal.
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.001
    else:
        assert difference.max() == 0


@pytest.mark.parametrize(
    ("mpp", "scaling"), [(None, "copy"), (0.5, "copy"), (0.7, "linear"), (0.33, "area"), (0.25, "blocks")]
)
def test_prepare_of_a_field_equals_the_host(module, mpp, scaling):
    pixels, _ = simulate.field(3, 176, 132)
    assert PreparePlan.for_frame(132, 176, mpp, 0.5, 16).scaling == scaling
    expected = fit(Frame(pixels, mpp), 0.5, 16).pixels
    found, with_color = prepare(module, pixels, mpp)
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found == expected).mean() > 0.999
    assert with_color


@pytest.mark.parametrize("order", ORDERS)
def test_channels_may_have_any_order(module, order):
    rgb = noise(40, 50)
    given_ = np.full((40, 50, len(order)), 7, np.uint8)
    for channel, name in zip(np.moveaxis(rgb, 2, 0), "RGB", strict=True):
        given_[:, :, order.index(name)] = channel
    for mpp in (None, 0.8, 0.45):
        assert (prepare(module, given_, mpp, order=order)[0] == prepare(module, rgb, mpp)[0]).all()


@pytest.mark.parametrize("mpp", [None, 0.8, 0.4, 0.25])
@pytest.mark.parametrize(
    "view",
    [
        lambda p: p[:, ::-1],
        lambda p: p[::-1],
        lambda p: p[3:, 5:-7],
        lambda p: p[::2, 1::2],
        lambda p: p.transpose(1, 0, 2),
        lambda p: p[:, :, ::-1],
        lambda p: np.ascontiguousarray(p.transpose(2, 0, 1)).transpose(1, 2, 0),
        lambda p: np.broadcast_to(p[:1], p.shape),
    ],
)
def test_memory_layout_does_not_matter(module, view, mpp):
    pixels = view(noise(140, 150))
    packed = np.ascontiguousarray(pixels)
    assert (prepare(module, pixels, mpp)[0] == prepare(module, packed, mpp)[0]).all()


def test_colour_flag_equals_the_host(module):
    for seed, mpp in enumerate((None, 0.9, 0.3, 0.25)):
        grey = np.repeat(noise(136, 140, 1, seed), 3, axis=2) // 2
        grey[..., 0] += 8
        for pixels, has_color in ((grey, False), (grey.copy(), True)):
            if has_color:
                pixels[-1, -1, 0] += 1  # one pixel in a corner
            assert prepare(module, pixels, mpp)[1] is has_color
            assert Frame(pixels).is_grey is not has_color


@pytest.mark.parametrize("seed", range(10))
def test_colour_flag_needs_one_pixel_in_any_thread_order(module, seed):
    pixels = np.zeros((40, 40, 3), np.uint8)
    assert not prepare(module, pixels, multiple=1, seed=seed)[1]
    pixels[20, 20, 1] = 9
    assert prepare(module, pixels, multiple=1, seed=seed)[1]


def test_plan_rejects_sizes_as_the_host_does():
    for mpp in (0.1, 1e5):
        with pytest.raises(ImageError) as expected:
            fit(Frame(noise(90, 90), mpp), 0.5, 16)
        with pytest.raises(ImageError) as caught:
            PreparePlan.for_frame(90, 90, mpp, 0.5, 16)
        assert str(caught.value) == str(expected.value)


def test_launch_rejects_a_frame_of_another_size():
    frame = parse_interface(noise(40, 50).__array_interface__, None, None)
    with pytest.raises(ValueError, match="expected 40 x 50 px, found 50 x 40"):
        PreparePlan.for_frame(50, 40, None, 0.5, 16).launch(frame, 0, 0, 0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile_for_every_gpu_without_warnings(architecture):
    log = compile_for(nvrtc(), source("kinet_trt.engines.tensorrt", "preprocess.cu"), architecture)
    assert "warning" not in log
    assert log.count("0 bytes spill stores, 0 bytes spill loads") == log.count("Compiling entry function") == 4
