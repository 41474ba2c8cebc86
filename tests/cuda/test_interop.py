"""Frames from other libraries, and errors for invalid ones."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from kinet_trt.core.errors import EngineError
from kinet_trt.cuda.interop import ORDERS, DevicePixels, parse_interface, read_frame


def pixels(height=5, width=7, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def device(array, **changes):
    """Return a CUDA array interface whose address is host memory."""
    return {**array.__array_interface__, "version": 3, "strides": array.strides, **changes}


class OnDevice:
    """A device array as in Numba and PyCUDA: with the interface, without DLPack."""

    def __init__(self, array, **changes):
        self.__cuda_array_interface__ = device(array, **changes)


class Producer:
    """A DLPack producer on another kind of device, or one that raises."""

    def __init__(self, kind):
        self.kind = kind

    def __dlpack_device__(self):
        return self.kind, 0

    def __dlpack__(self, **_):
        raise BufferError("it requires gradients")


def rgb(pixels, order="RGB"):
    """Return an RGB view of pixels on the host."""
    return pixels[:, :, :3] if ORDERS[order][0] == 0 else pixels[:, :, 2::-1]


def gather(frame, height, width):
    """Read the pixels that a DevicePixels describes, RGB."""
    at = ctypes.c_uint8.from_address
    offsets = frame.red, frame.green, frame.blue
    return np.array(
        [
            [[at(frame.address + y * frame.row + x * frame.pixel + o).value for o in offsets] for x in range(width)]
            for y in range(height)
        ],
        np.uint8,
    )


@pytest.mark.parametrize("order", ORDERS)
def test_orders_on_host_and_device_are_the_same_rgb(order):
    given = pixels(channels=len(order))
    expected = np.stack([given[..., order.index(name)] for name in "RGB"], axis=2)
    host = rgb(read_frame(given, order), order)
    assert (host == expected).all()
    assert np.shares_memory(host, given)
    frame = read_frame(OnDevice(given), order)
    assert isinstance(frame, DevicePixels)
    assert (gather(frame, 5, 7) == expected).all()


def test_order_defaults_to_rgb_and_rgba():
    given = pixels(channels=4)
    assert (rgb(read_frame(given)) == given[..., :3]).all()
    assert (gather(read_frame(OnDevice(given)), 5, 7) == given[..., :3]).all()
    assert (read_frame(given[..., :3]) == given[..., :3]).all()


@pytest.mark.parametrize(
    "view",
    [
        lambda p: p,
        lambda p: p[::-1, ::-1],
        lambda p: p[1:4, 2:6],
        lambda p: p.transpose(1, 0, 2),
        lambda p: np.ascontiguousarray(p.transpose(2, 0, 1)).transpose(1, 2, 0),
    ],
)
def test_strides_are_read(view):
    array = view(pixels())
    frame = read_frame(OnDevice(array))
    assert (frame.height, frame.width) == array.shape[:2]
    assert (gather(frame, *array.shape[:2]) == array).all()


def test_strides_default_to_contiguous():
    array = pixels()
    for interface in (device(array, strides=None), {k: v for k, v in device(array).items() if k != "strides"}):
        assert (gather(parse_interface(interface, None, array), 5, 7) == array).all()


def test_stream_and_owner_are_kept():
    given = OnDevice(pixels(), stream=2)
    frame = read_frame(given)
    assert (frame.stream, frame.owner) == (2, given)


@pytest.mark.parametrize("changes", [{}, {"stream": None}])
def test_pixels_without_a_stream_belong_to_the_legacy_default_stream(changes):
    """PyCUDA always states None, and Numba by default, also while a kernel writes."""
    assert read_frame(OnDevice(pixels(), **changes)).stream == 1


def test_read_frame_of_host_dlpack_is_a_view():
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(pixels())
    host = read_frame(tensor)
    assert (rgb(host, "BGR") == tensor.numpy()[..., ::-1]).all()
    tensor[0, 0] = 0
    assert (host[0, 0] == 0).all()
    planes = torch.from_numpy(np.ascontiguousarray(pixels().transpose(2, 0, 1)))
    assert (read_frame(planes.permute(1, 2, 0)) == pixels()).all()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (pixels()[..., 0], r"found \[5, 7\]: repeat grey"),
        (pixels()[..., :2], r"found \[5, 7, 2\]"),
        (pixels()[None], "one by one"),
        (np.zeros((3, 5, 7), np.uint8), "permute"),
        (np.zeros((0, 7, 3), np.uint8), r"found \[0, 7, 3\]"),
    ],
)
def test_read_frame_rejects_other_shapes(wrong, reason):
    for frame in (wrong, OnDevice(wrong)):
        with pytest.raises(EngineError, match=r"expected uint8 \[height, width, 3\].*" + reason):
            read_frame(frame)


@pytest.mark.parametrize("kind", [np.float32, np.uint16, np.int8, np.bool_])
def test_read_frame_rejects_other_types(kind):
    wrong = np.zeros((5, 7, 3), kind)
    for frame in (wrong, OnDevice(wrong)):
        with pytest.raises(EngineError, match=r"expected uint8 .*found .*\[5, 7, 3\]"):
            read_frame(frame)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mask": np.ones(3)}, "mask"),
        ({"strides": (3, 1)}, "one stride for each"),
        ({"stream": 0}, "forbids"),
        ({"data": (0, False)}, "freed"),
        ({"data": None}, "invalid"),
        ({"shape": None}, "invalid"),
        ({"strides": "abc"}, "invalid"),
        ({"stream": "x"}, "invalid"),
    ],
)
def test_parse_interface_rejects_invalid_interfaces(changes, reason):
    with pytest.raises(EngineError, match=reason):
        parse_interface(device(pixels(), **changes), None, None)
    with pytest.raises(EngineError, match="invalid"):
        parse_interface({}, None, None)


def test_read_frame_rejects_orders_that_do_not_fit():
    for frame in (pixels(), OnDevice(pixels())):
        with pytest.raises(EngineError, match="order: expected RGB, BGR, RGBA, BGRA, found 'GBR'"):
            read_frame(frame, "GBR")
        with pytest.raises(EngineError, match="order BGRA: expected 4 channels"):
            read_frame(frame, "BGRA")


def test_read_frame_rejects_other_devices_and_objects():
    with pytest.raises(EngineError, match=r"found ROCm\. Copy it to the host"):
        read_frame(Producer(10))
    with pytest.raises(EngineError, match="found device type 99"):
        read_frame(Producer(99))
    with pytest.raises(EngineError, match=r"Producer cannot be shared through DLPack \(it requires gradients"):
        read_frame(Producer(1))
    with pytest.raises(EngineError, match=r"found builtins\.list"):
        read_frame([[1, 2, 3]])
