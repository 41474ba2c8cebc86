"""Frames on a GPU are read in place and prepared as on the host."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from gpu_timing import microseconds

from kinet_trt.core.errors import EngineError
from kinet_trt.core.frame import Frame, fit
from kinet_trt.cuda.interop import ORDERS, DevicePixels, read_frame, wait_for
from kinet_trt.engines.tensorrt.preprocess import CudaPrepare
from kinet_trt.simulation import simulate

pytestmark = pytest.mark.gpu

MPP = 0.5
SPIN = 'extern "C" __global__ void spin() { const long long end = clock64() + 20000000; while (clock64() < end); }'


@pytest.fixture(scope="module")
def pixels():
    return simulate.field(5, 480, 333)[0]


def prepare(frame, mpp=None, order=None):
    """Return the model's input, and whether the frame has colour."""
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    given = read_frame(frame, order, stream)
    assert isinstance(given, DevicePixels)
    with stream:
        prepared = CudaPrepare(MPP, 16)
        plan = prepared.plan(given.height, given.width, mpp)
        target, flag = cupy.empty((plan.height, plan.width, 3), np.uint8), cupy.empty(1, np.int32)
    wait_for(stream, given)
    prepared.enqueue(stream, plan, given, target.data.ptr, flag.data.ptr)
    stream.synchronize()
    return target.get(), bool(flag.get()[0])


@pytest.mark.parametrize("mpp", [None, 0.5, 0.7, 1.3, 0.33, 0.49, 0.25, 0.125])
def test_prepare_equals_fit(pixels, mpp):
    import cupy

    expected = fit(Frame(pixels, mpp), MPP, 16).pixels
    found, coloured = prepare(cupy.asarray(pixels), mpp)
    assert found.shape == expected.shape
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= (0 if mpp in (None, 0.5, 0.7, 1.3, 0.25, 0.125) else 1)
    assert (difference > 0).mean() < 0.001
    assert coloured


def test_grey_frames_are_detected(pixels):
    import cupy

    grey = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    assert not prepare(cupy.asarray(grey))[1]


@pytest.mark.parametrize("order", ORDERS)
def test_prepare_accepts_pitched_frames_in_any_order(pixels, order):
    import cupy

    wide = cupy.zeros((pixels.shape[0], pixels.shape[1] + 19, len(order)), np.uint8)
    frame = wide[:, : pixels.shape[1]]
    for channel, name in zip(np.moveaxis(pixels, 2, 0), "RGB", strict=True):
        frame[:, :, order.index(name)] = cupy.asarray(channel)
    for mpp in (None, 0.33):
        assert np.abs(prepare(frame, mpp, order)[0].astype(int) - fit(Frame(pixels, mpp), MPP, 16).pixels).max() <= 1


def test_torch_tensors_are_read_in_place(pixels):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(pixels).cuda()
    assert read_frame(tensor).address == tensor.data_ptr()
    planes = tensor.permute(2, 0, 1).contiguous()
    view = planes.permute(1, 2, 0)
    assert read_frame(view).address == planes.data_ptr()
    expected = fit(Frame(pixels), MPP, 16).pixels
    for given in (tensor, view, tensor.flip(2)[:, :, [2, 1, 0]]):
        assert (prepare(given)[0] == expected).all()
    with pytest.raises(EngineError, match="expected uint8"):
        read_frame(tensor.float())


def test_cupy_and_numba_arrays_are_read_in_place(pixels):
    import cupy

    array = cupy.asarray(pixels)
    assert read_frame(array[::-1]).address == array[::-1].data.ptr
    assert (prepare(array[:, ::-1])[0] == fit(Frame(pixels[:, ::-1]), MPP, 16).pixels).all()
    cuda = pytest.importorskip("numba.cuda")
    if not cuda.is_available():
        pytest.skip("Numba finds no CUDA here")
    other = cuda.to_device(pixels)
    assert read_frame(other).address == other.__cuda_array_interface__["data"][0]
    assert (prepare(other)[0] == fit(Frame(pixels), MPP, 16).pixels).all()


def test_prepare_waits_for_cupys_current_stream(pixels):
    import cupy

    spin = cupy.RawKernel(SPIN, "spin")
    expected = fit(Frame(pixels), MPP, 16).pixels
    source = cupy.asarray(pixels)
    cupy.cuda.Device().synchronize()
    for writer in (cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=True)):
        for _ in range(10):
            with writer:
                frame = cupy.zeros_like(source)
                spin((1,), (1,), ())
                frame[...] = source
                assert (prepare(frame)[0] == expected).all()


def test_prepare_waits_for_the_legacy_default_stream_if_none_is_named(pixels):
    """PyCUDA and Numba name no stream while a kernel writes on the legacy default stream."""
    import cupy

    spin = cupy.RawKernel(SPIN, "spin")
    expected = fit(Frame(pixels), MPP, 16).pixels
    source = cupy.asarray(pixels)
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream.null:
        for _ in range(10):
            frame = cupy.zeros_like(source)
            spin((1,), (1,), ())
            frame[...] = source
            interface = {**frame.__cuda_array_interface__, "stream": None}
            assert (prepare(SimpleNamespace(__cuda_array_interface__=interface))[0] == expected).all()


def test_prepare_waits_for_the_producers_stream(pixels):
    """Pass a frame that is still being written."""
    torch = pytest.importorskip("torch")
    expected = fit(Frame(pixels), MPP, 16).pixels
    source = torch.from_numpy(pixels).cuda()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(10):
            frame = torch.zeros_like(source)
            torch.cuda._sleep(20_000_000)
            frame.copy_(source)
            assert (prepare(frame)[0] == expected).all()


def test_prepare_time_of_a_full_frame(record_property):
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        frames = [cupy.asarray(np.random.default_rng(i).integers(0, 256, (1080, 1920, 4), np.uint8)) for i in range(8)]
        target, flag = cupy.empty((1088, 1920, 3), np.uint8), cupy.empty(1, np.int32)
    given = [read_frame(frame, "BGRA") for frame in frames]
    prepared = CudaPrepare(MPP, 16)
    plan = prepared.plan(1080, 1920, None)

    def launch(on, pixels_):
        prepared.enqueue(on, plan, pixels_, target.data.ptr, flag.data.ptr)

    took = microseconds(launch, stream, given)
    record_property("prepare_microseconds", took)
    assert took <= 1000
