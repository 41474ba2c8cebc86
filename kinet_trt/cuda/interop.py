"""Frames as other libraries hold them: NumPy arrays, DLPack producers, and whatever has a CUDA array interface.

Nothing is copied here. A frame on the host becomes a NumPy view; one on the device an address with strides, read where
it lies. The protocols: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html and
https://dmlc.github.io/dlpack/latest/python_spec.html
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import EngineError

ORDERS: Mapping[str, tuple[int, int, int]] = {
    "RGB": (0, 1, 2),
    "BGR": (2, 1, 0),
    "RGBA": (0, 1, 2),
    "BGRA": (2, 1, 0),
}
"""Where red, green and blue lie among the channels."""

EXPECTED = "frame: expected uint8 [height, width, 3], or 4 channels with the order RGBA or BGRA"

# DLDeviceType of dlpack.h.
_HOST, _CUDA, _PINNED, _MANAGED = 1, 2, 3, 13
_DEVICES = {4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 14: "oneAPI"}


@dataclass(frozen=True, eq=False)
class DevicePixels:
    """A frame in the memory of an NVIDIA GPU.

    Attributes
    ----------
    address
        Of the first pixel.
    height, width
        px.
    row, pixel
        Bytes from one row, and from one pixel, to the next; negative where the frame is turned over.
    red, green, blue
        Bytes from a pixel's address to its channels.
    stream
        CUDA stream that must come to an end before the pixels are there (1: the legacy default stream, 2: the
        thread's); None: they are there, or whoever gave them has seen to it.
    owner
        What keeps the memory; it must be held until the pixels have been read.
    """

    address: int
    height: int
    width: int
    row: int
    pixel: int
    red: int
    green: int
    blue: int
    stream: int | None
    owner: object


def read_frame(frame: object, order: str | None = None, stream: Any = None) -> NDArray[np.uint8] | DevicePixels:
    """Return a frame as it lies: on the host a NumPy array, on the device an address with strides.

    Parameters
    ----------
    frame
        uint8 [height, width, 3 or 4] with any strides: a NumPy array; a DLPack producer on the host or an NVIDIA GPU
        (CuPy, PyTorch, JAX); or an object with ``__cuda_array_interface__`` (Numba, PyCUDA's GPUArray).
    order
        ``"RGB"``, ``"BGR"``, ``"RGBA"`` or ``"BGRA"``; None: RGB, or RGBA with four channels.
    stream
        CuPy stream that a DLPack producer on the device makes wait for its own; None: CuPy's current one.

    Raises
    ------
    EngineError
        If it is none of these, of another shape or type, or on another kind of device.
    """
    if isinstance(frame, np.ndarray):
        return _on_host(frame, order)
    if hasattr(frame, "__dlpack_device__"):
        kind = int(frame.__dlpack_device__()[0])
        if kind in (_HOST, _PINNED):
            return _on_host(_exported(np, frame), order)
        if kind not in (_CUDA, _MANAGED):
            device = _DEVICES.get(kind, f"device type {kind}")
            raise EngineError(
                f"frame: expected it on the host or on an NVIDIA GPU, found {device}: copy it to the host"
            )
        import cupy

        if isinstance(frame, cupy.ndarray):
            # Its interface names the stream that is current here, the caller's; its __dlpack__ would find ours current,
            # and nothing to wait for.
            return parse_interface(frame.__cuda_array_interface__, order, frame)
        with stream or nullcontext():
            array = _exported(cupy, frame)
            # CuPy names its current stream here, which the producer has been told of.
            return parse_interface({**array.__cuda_array_interface__, "stream": None}, order, array)
    if hasattr(frame, "__cuda_array_interface__"):
        return parse_interface(frame.__cuda_array_interface__, order, frame)
    raise EngineError(
        f"{EXPECTED}: a NumPy array, a DLPack producer or an object with __cuda_array_interface__, found "
        f"{type(frame).__module__}.{type(frame).__qualname__}"
    )


def is_on_device(frame: object) -> bool:
    """Whether a frame lies in the memory of an NVIDIA GPU, without touching it."""
    if isinstance(frame, np.ndarray):
        return False
    if hasattr(frame, "__dlpack_device__"):
        return int(frame.__dlpack_device__()[0]) in (_CUDA, _MANAGED)
    return hasattr(frame, "__cuda_array_interface__")


def wait_for(stream: Any, pixels: DevicePixels) -> None:
    """Make a CuPy stream wait, on the device, for the stream that writes the pixels."""
    if pixels.stream is None:
        return
    from cupy.cuda import Event, runtime

    event = Event(disable_timing=True)
    runtime.eventRecord(event.ptr, pixels.stream)
    stream.wait_event(event)


def delay_writes(pixels: DevicePixels, stream: Any) -> None:
    """Make the stream that writes the pixels wait, on the device, until a CuPy stream has read them."""
    if pixels.stream is None:
        return
    from cupy.cuda import Event, runtime

    event = Event(disable_timing=True)
    event.record(stream)
    runtime.streamWaitEvent(pixels.stream, event.ptr, 0)


def parse_interface(interface: Mapping[str, Any], order: str | None, owner: object) -> DevicePixels:
    """Read a CUDA array interface, versions 0 to 3.

    Parameters
    ----------
    interface
        ``__cuda_array_interface__``.
    order
        See :func:`read_frame`.
    owner
        What keeps the memory.

    Raises
    ------
    EngineError
        If it is no frame, or the interface is incomplete or damaged.
    """
    try:
        shape = tuple(int(side) for side in interface["shape"])
        kind = str(interface["typestr"])
        address = int(interface["data"][0])
        given = interface.get("strides")
        strides = None if given is None else tuple(int(step) for step in given)
        stream = interface.get("stream")
        stream = None if stream is None else int(stream)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise EngineError(f"frame: its __cuda_array_interface__ is invalid ({error!r})") from None
    if interface.get("mask") is not None:
        raise EngineError("frame: expected an unmasked array, found a mask in its __cuda_array_interface__")
    if kind not in ("|u1", "<u1", ">u1"):
        raise EngineError(f"{EXPECTED}; found type {kind} {list(shape)}{_hint(shape, kind)}")
    red, green, blue = _channels(shape, order)
    if strides is None:
        strides = (shape[1] * shape[2], shape[2], 1)
    if len(strides) != 3:
        raise EngineError(f"frame: expected one stride for each of {list(shape)}, found {list(strides)}")
    if stream == 0:
        raise EngineError(
            "frame: its __cuda_array_interface__ names stream 0, which the protocol forbids as ambiguous: 1 is the "
            "legacy default stream, 2 the thread's own"
        )
    if address == 0:
        raise EngineError("frame: expected a device address, found 0: its memory was freed")
    row, pixel, channel = strides
    return DevicePixels(
        *(address, shape[0], shape[1], row, pixel),
        *(red * channel, green * channel, blue * channel, stream, owner),
    )


def rgb(pixels: NDArray[np.uint8], order: str | None = None) -> NDArray[np.uint8]:
    """Return a view [height, width, 3], RGB, of what :func:`read_frame` gave on the host."""
    red, _, blue = _channels(pixels.shape, order)
    return pixels[:, :, :3] if red < blue else pixels[:, :, 2::-1]


def _on_host(pixels: NDArray[Any], order: str | None) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8:
        raise EngineError(f"{EXPECTED}; found {pixels.dtype} {list(pixels.shape)}{_hint(pixels.shape, '')}")
    _channels(pixels.shape, order)
    return pixels


def _channels(shape: tuple[int, ...], order: str | None) -> tuple[int, int, int]:
    """Return where red, green and blue lie in a frame of this shape; raise an EngineError if it is none."""
    if len(shape) != 3 or shape[2] not in (3, 4) or min(shape) < 1:
        raise EngineError(f"{EXPECTED}; found {list(shape)}{_hint(shape, '')}")
    if order is None:
        order = "RGB" if shape[2] == 3 else "RGBA"
    if order not in ORDERS:
        raise EngineError(f"order: expected {', '.join(ORDERS)}, found {order!r}")
    if len(order) != shape[2]:
        raise EngineError(f"order {order}: expected {len(order)} channels, found {list(shape)}")
    return ORDERS[order]


def _hint(shape: tuple[int, ...], kind: str) -> str:
    if len(shape) == 2:
        return ": repeat grey three times"
    if len(shape) == 4:
        return ": pass the frames of a batch one by one"
    if len(shape) == 3 and shape[0] in (3, 4) and shape[2] not in (3, 4):
        return ": move the channels to the end (tensor.permute(1, 2, 0); strides are accepted)"
    return ": scale to 0 to 255 and convert" if kind[1:2] == "f" else ""


def _exported(library: Any, frame: object) -> Any:
    """Return what a DLPack producer exports, as an array of this library that shares its memory."""
    try:
        return library.from_dlpack(frame)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        what = f"{type(frame).__module__}.{type(frame).__qualname__}"
        raise EngineError(f"frame: {what} cannot be shared through DLPack: {error}") from error
