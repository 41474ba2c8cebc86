"""Frames from other libraries: NumPy arrays, DLPack producers, objects with a CUDA array interface.

Nothing is copied: a frame on the host becomes a NumPy view, one on the device an address with strides.
Protocols: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html and
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
"""Channel order -> indices of red, green and blue."""

EXPECTED = "frame: expected uint8 [height, width, 3], or 4 channels with the order RGBA or BGRA"

LEGACY_STREAM = 1
"""Handle of the legacy default stream (``cudaStreamLegacy``); 2 is the per-thread default stream."""

# DLDeviceType of dlpack.h.
_HOST, _CUDA, _PINNED, _MANAGED = 1, 2, 3, 13
_DEVICES = {4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 14: "oneAPI"}


@dataclass(frozen=True, eq=False)
class DevicePixels:
    """A frame in the memory of an NVIDIA GPU."""

    address: int  # of the first pixel
    height: int
    width: int
    row: int  # stride of rows, bytes; negative for flipped frames
    pixel: int  # stride of pixels, bytes
    red: int  # offset in a pixel, bytes, like the other channels
    green: int
    blue: int
    stream: int | None  # that writes the pixels, now and later (see LEGACY_STREAM); None if nothing writes them
    owner: object  # owns the memory; keep a reference until the pixels have been read


def read_frame(frame: object, order: str | None = None, stream: Any = None) -> NDArray[np.uint8] | DevicePixels:
    """Return a frame without copying it: a NumPy array on the host, an address with strides on the device.

    Parameters
    ----------
    frame
        uint8 [height, width, 3 or 4] with any strides: a NumPy array; a DLPack producer on the host or an NVIDIA GPU
        (CuPy, PyTorch, JAX); or an object with ``__cuda_array_interface__`` (Numba, PyCUDA's GPUArray).
    order
        ``"RGB"``, ``"BGR"``, ``"RGBA"`` or ``"BGRA"``; defaults to RGB, or RGBA with four channels.
    stream
        CuPy stream that waits for a DLPack producer on the device; defaults to CuPy's current stream.

    Raises
    ------
    EngineError
        If the frame is none of these, has another shape or dtype, or is on another kind of device.
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
                f"frame: expected it on the host or on an NVIDIA GPU, found {device}. Copy it to the host"
            )
        import cupy

        if isinstance(frame, cupy.ndarray):
            # Its interface names CuPy's current stream, the caller's; __dlpack__ would run in our stream and not wait.
            return parse_interface(frame.__cuda_array_interface__, order, frame)
        with stream or nullcontext():
            array = _exported(cupy, frame)
            # The interface names CuPy's current stream, which already waits for the producer. On which stream the
            # producer writes next is not known.
            return parse_interface({**array.__cuda_array_interface__, "stream": None}, order, array)
    if hasattr(frame, "__cuda_array_interface__"):
        return parse_interface(frame.__cuda_array_interface__, order, frame)
    raise EngineError(
        f"{EXPECTED}: a NumPy array, a DLPack producer or an object with __cuda_array_interface__, found "
        f"{type(frame).__module__}.{type(frame).__qualname__}"
    )


def is_on_device(frame: object) -> bool:
    """Whether a frame is in the memory of an NVIDIA GPU; does not read it."""
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
    """Read a CUDA array interface, versions 0 to 3, of memory that ``owner`` owns.

    If it names no stream, the pixels belong to the legacy default stream. By the protocol they would be ready, but
    PyCUDA never names a stream, nor does Numba its default one, and our non-blocking streams would not wait for theirs.

    Raise an EngineError if it is not a frame, or the interface is incomplete or invalid.
    """
    try:
        shape = tuple(map(int, interface["shape"]))
        kind = str(interface["typestr"])
        address = int(interface["data"][0])
        strides = interface.get("strides")
        strides = None if strides is None else tuple(map(int, strides))
        stream = interface.get("stream")
        stream = LEGACY_STREAM if stream is None else int(stream)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise EngineError(f"frame: invalid __cuda_array_interface__ ({error!r})") from None
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
            "frame: __cuda_array_interface__ names stream 0, which the protocol forbids as ambiguous. Use 1 "
            "for the legacy default stream, 2 for the per-thread default stream"
        )
    if address == 0:
        raise EngineError("frame: expected a device address, found 0 because its memory was freed")
    row, pixel, channel = strides
    return DevicePixels(
        *(address, shape[0], shape[1], row, pixel),
        *(red * channel, green * channel, blue * channel, stream, owner),
    )


def _on_host(pixels: NDArray[Any], order: str | None) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8:
        raise EngineError(f"{EXPECTED}; found {pixels.dtype} {list(pixels.shape)}{_hint(pixels.shape, '')}")
    _channels(pixels.shape, order)
    return pixels


def _channels(shape: tuple[int, ...], order: str | None) -> tuple[int, int, int]:
    """Return the indices of red, green and blue; raise an EngineError if the shape is not that of a frame."""
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
    """Return a DLPack producer's memory as an array of this library."""
    try:
        return library.from_dlpack(frame)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        kind = f"{type(frame).__module__}.{type(frame).__qualname__}"
        raise EngineError(f"frame: {kind} cannot be shared through DLPack ({error})") from error
