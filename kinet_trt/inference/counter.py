"""`NucleusCounter` counts the nuclei of a frame."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import CountCancelledError, EngineError, ImageError, KinetError
from kinet_trt.core.frame import NO_COLOUR, Fitted, Frame, fit, fitted_size
from kinet_trt.cuda.interop import ORDERS, is_on_device, read_frame
from kinet_trt.engines.base import DeviceEngine, Engine
from kinet_trt.engines.open import open_engine
from kinet_trt.inference.pipeline import Workers
from kinet_trt.inference.tiling import Tile, tiles
from kinet_trt.models.card import ModelCard
from kinet_trt.models.model import built_in
from kinet_trt.peaks.reference import find_peaks

log = logging.getLogger(__name__)

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Threshold:
    """Minimum height of a peak.

    Attributes
    ----------
    value
        Height in the proximity map; with ``relative`` a fraction of the frame's largest value.
    relative
        The paper's rule. It finds nuclei even in an empty field: use it to reproduce the paper's tables, not to count.
    """

    value: float
    relative: bool = False

    def __post_init__(self) -> None:
        largest = 1.0 if self.relative else _LARGEST
        if not (0 if self.relative else -largest) <= self.value <= largest:
            raise KinetError(
                "threshold: expected a finite number, or relative:FRACTION with FRACTION between 0 and 1, found "
                f"{self.value:g}"
            )

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """Read ``"0.4"`` or ``"relative:0.5"``."""
        kind, colon, number = text.rpartition(":")
        try:
            value = float(number)
        except ValueError:
            kind, value = "?", 0.0
        if kind != ("relative" if colon else ""):
            raise KinetError(f"threshold: expected a number like 0.4, or relative:0.5, found {text!r}")
        return cls(value, kind == "relative")

    def __str__(self) -> str:
        short = f"{self.value:g}"
        text = short if float(short) == self.value else repr(self.value)
        return f"relative:{text}" if self.relative else text

    def of(self, largest: float) -> float:
        """Return the absolute threshold for a frame whose largest value is ``largest``."""
        if not self.relative:
            return self.value
        # Without a positive value there is no nucleus: a fraction of zero would accept everything.
        return min(self.value * min(largest, _LARGEST), _LARGEST) if largest > 0 else _LARGEST


class NucleusCounter:
    """Counts nuclei with one model.

    Thread-safe; several counters may be open at once. Not picklable or fork-safe: create one per process.

    Parameters
    ----------
    model
        A model file or an open engine; defaults to the built-in model, which is quantized if ``precision="int8"``.
    threshold
        Defaults to that of the model card.
    precision, threads, cache, runtime
        See :func:`kinet_trt.engines.open_engine`; ignored for an open engine.
    tile
        Largest side of the core of a tile, px at the model's scale; defaults to that of the model card.

    Attributes
    ----------
    engine
        The open model; ``engine.card`` describes it.
    threshold
        The threshold in use.
    tile
        Largest side of the core of a tile, px at the model's scale.

    Raises
    ------
    KinetError
        If the model cannot be opened, is fused and the threshold relative, or the tile is not a positive multiple of
        the model's alignment.

    Examples
    --------
    >>> from kinet_trt import NucleusCounter, read_image
    >>> counter = NucleusCounter()
    >>> nuclei = counter(read_image("field.png"))  # doctest: +SKIP
    >>> nuclei.counts()  # doctest: +SKIP
    {'positive': 59, 'negative': 691, 'non_tumor': 139}
    >>> for nuclei in counter.stream(camera):  # doctest: +SKIP
    ...     show(nuclei)
    """

    def __init__(
        self,
        model: Path | str | Engine | None = None,
        *,
        threshold: Threshold | float | None = None,
        precision: str = "auto",
        threads: int | None = None,
        cache: Path | None = None,
        runtime: str = "auto",
        tile: int | None = None,
    ) -> None:
        if model is None or isinstance(model, (str, Path)):
            path = Path(model or built_in(precision))
            self.engine: Engine = open_engine(path, precision, threads, cache, runtime)
        else:
            self.engine = model
        card = self.engine.card
        self.tile = card.tile if tile is None else tile
        if self.tile < 1 or self.tile % card.multiple:
            raise EngineError(f"tile: expected a positive multiple of {card.multiple} px, found {tile}")
        if threshold is None:
            threshold = card.threshold
        self.threshold = threshold if isinstance(threshold, Threshold) else Threshold(float(threshold))
        self._check_threshold()
        self._workers = Workers()
        self._in_flight = (
            threading.BoundedSemaphore(self.engine.max_in_flight)
            if isinstance(self.engine, DeviceEngine)
            else nullcontext()
        )

    @property
    def card(self) -> ModelCard:
        """The model card."""
        return self.engine.card

    def close(self) -> None:
        """Wait for frames that are still being counted, and refuse new ones.

        Counters made by :meth:`with_threshold` are closed too. Memory is freed when the last of them is deleted.
        """
        self._workers.close()

    def __enter__(self) -> NucleusCounter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def with_threshold(self, threshold: Threshold) -> NucleusCounter:
        """Return a counter with another threshold that shares this engine."""
        other = copy.copy(self)
        other.threshold = threshold
        other._check_threshold()
        return other

    def _check_threshold(self) -> None:
        card = self.engine.card
        # Detections do not contain the largest value: it may lie at a pixel that is not a peak.
        if card.capacity and self.threshold.relative:
            raise EngineError(
                f"threshold {self.threshold}: {card.name} is fused and outputs nuclei, but a relative threshold "
                "needs the largest value of the maps. Give a number, or use the model that it was made from"
            )

    def __call__(
        self,
        frame: object,
        mpp: float | None = None,
        *,
        order: str | None = None,
        cuda_stream: int | None = None,
        cancel: threading.Event | None = None,
    ) -> Detections:
        """Count one frame.

        Parameters
        ----------
        frame
            A frame, or RGB pixels, uint8 [height, width, 3]: a NumPy array, or any array with DLPack or a CUDA array
            interface (PyTorch, CuPy, Numba, PyCUDA). Pixels on a GPU need a model that runs there and are read in
            place.
        mpp
            um/px of the pixels; defaults to that of the frame, or else to that of the model.
        order
            Channel order of the pixels: ``"RGB"``, ``"BGR"`` (OpenCV's), ``"RGBA"`` or ``"BGRA"``; None for RGB.
        cuda_stream
            CUDA stream on which pixels on a GPU are written (its handle, such as ``stream.ptr`` in CuPy or
            ``stream.cuda_stream`` in PyTorch); defaults to the one that their array interface names, or else to the
            legacy default stream. Work that is queued on it later waits until the pixels have been read.
        cancel
            When set, from any thread, the count stops with an error before its next tile.

        Returns
        -------
        Detections
            In raster order, px of the input frame.

        Raises
        ------
        ImageError
            If the frame is not an RGB image, or is too small.
        EngineError
            If the frame does not fit the engine or is on a device that the model does not run on, or if the counter is
            closed.
        CountCancelledError
            If it was cancelled.
        """
        self._workers.check_open()
        _raise_if_cancelled(cancel)
        if is_on_device(frame):
            return self._on_device(frame, mpp, order, cuda_stream)
        frame = _as_frame(frame, mpp, order)
        card = self.engine.card
        if frame.width == 0 or frame.height == 0:
            raise ImageError("expected at least one pixel, found an empty frame")
        if isinstance(self.engine, DeviceEngine) and not self.threshold.relative and _fits_in_one_tile(card, frame):
            with self._in_flight:
                return self.engine.submit(frame, threshold=self.threshold.value).result()
        fitted = fit(frame, card.mpp, card.multiple)
        if frame.is_grey:
            log.warning(NO_COLOUR)
            return Detections.empty(card.classes)
        found = self._find(fitted, cancel)
        x, y = fitted.to_frame(found.x, found.y)
        return Detections(x, y, found.cls, found.score, found.classes)

    def stream(
        self, frames: Iterable[object], mpp: float | None = None, *, order: str | None = None
    ) -> Iterator[Detections]:
        """Count a stream of frames, pipelined: scaling, network and peak search of successive frames overlap.

        Frames are read in a separate thread, at most two ahead of the last result. Each result is available as soon as
        its frame is counted, without waiting for the next frame. Leaving the loop, or closing the iterator, stops the
        counting.

        Parameters
        ----------
        frames
            As for :meth:`__call__`; for example a generator that reads a camera.
        mpp, order
            As for :meth:`__call__`, for every frame.

        Yields
        ------
        Detections
            One per frame, in order.

        Raises
        ------
        Exception
            Any exception from a frame or the source is raised at its place in the order and ends the stream.
        """
        return self._workers.in_order(lambda frame, stop: self(frame, mpp, order=order, cancel=stop), frames)

    async def count_async(self, frame: object, mpp: float | None = None, *, order: str | None = None) -> Detections:
        """Count one frame without blocking the event loop; arguments and errors as for :meth:`__call__`.

        Cancelling the task stops the count before its next tile.
        """
        return await self._workers.run(lambda one, stop: self(one, mpp, order=order, cancel=stop), frame)

    def stream_async(
        self, frames: Iterable[object] | AsyncIterable[object], mpp: float | None = None, *, order: str | None = None
    ) -> AsyncIterator[Detections]:
        """Count a stream of frames as :meth:`stream`, for ``async for``; the source may be asynchronous.

        A synchronous source is read in a thread; while it waits for its next frame, ``asyncio.run`` cannot end.
        """
        return self._workers.in_order_async(lambda one, stop: self(one, mpp, order=order, cancel=stop), frames)

    def _on_device(self, frame: object, mpp: float | None, order: str | None, cuda_stream: int | None) -> Detections:
        if not isinstance(self.engine, DeviceEngine):
            raise EngineError(
                f"frame: expected pixels on the host, because {self.card.name} runs on {self.engine.runtime}. Copy "
                "them to the host, or open an .engine (kinet-trt build)"
            )
        if self.threshold.relative:
            raise EngineError(
                f"threshold {self.threshold}: a relative threshold needs the maps of a frame on the host. Give a number"
            )
        with self._in_flight:
            submitted = self.engine.submit(
                frame, mpp=mpp, threshold=self.threshold.value, order=order, stream=cuda_stream
            )
            return submitted.result()

    def tumor_map(self, frame: object, mpp: float | None = None, *, order: str | None = None) -> NDArray[np.float32]:
        """Return the probability that each pixel is tumour, from a model with the tumour-region branch.

        Frames that need tiles may show seams: the branch's receptive field is larger than the overlap of tiles.

        Parameters
        ----------
        frame, mpp, order
            As for :meth:`__call__`; the frame must be on the host.

        Returns
        -------
        NDArray
            float32 [height, width] of the frame, 0 to 1.

        Raises
        ------
        KinetError
            If the model has no such branch, its engine does not support it, or the frame is too small or on a device.
        """
        if is_on_device(frame):
            raise EngineError("tumor_map: expected a frame on the host, found one on a device. Copy it to the host")
        frame = _as_frame(frame, mpp, order)
        card = self.engine.card
        fitted = fit(frame, card.mpp, card.multiple)
        probability = np.empty(fitted.pixels.shape[:2], np.float32)
        for tile, window in self._over_tiles(fitted.pixels):
            probability[tile.core] = tile.cropped(self.engine.tumor_map(window[None])[0])
        unpadded = probability[: fitted.height, : fitted.width]
        return np.asarray(cv2.resize(unpadded, (frame.width, frame.height), interpolation=cv2.INTER_LINEAR), np.float32)

    def _over_tiles(self, pixels: NDArray[np.uint8]) -> Iterator[tuple[Tile, NDArray[np.uint8]]]:
        card = self.engine.card
        side = max(pixels.shape) if _built_for(card, pixels.shape[0], pixels.shape[1]) else self.tile
        for tile in tiles(pixels.shape[0], pixels.shape[1], side, card.halo, card.multiple):
            yield tile, pixels[tile.window]

    def _find(self, fitted: Fitted, cancel: threading.Event | None) -> Detections:
        """Return the nuclei in model px."""
        card, parts = self.engine.card, []
        largest = -np.inf
        for tile, window in self._over_tiles(fitted.pixels):
            _raise_if_cancelled(cancel)
            if not self.threshold.relative:
                parts.append(tile.keep_core(find_nuclei(self.engine, window, self.threshold.value)))
                continue
            # A relative threshold needs the largest value of the whole frame. The largest value so far is at most that,
            # so the threshold so far is low enough; peaks that are too low are removed at the end.
            maps = self.engine.run(window[None])[0]
            unpadded = maps[:, : fitted.height - tile.window_top, : fitted.width - tile.window_left]
            largest = max(largest, float(np.fmax.reduce(unpadded, axis=None, initial=-np.inf)))
            parts.append(tile.keep_core(find_peaks(maps, self.threshold.of(largest), card.nms_radius, card.classes)))
        found = Detections.concatenate(parts)
        is_counted = (found.x < fitted.width) & (found.y < fitted.height)
        is_counted &= found.score >= np.float32(self.threshold.of(largest))
        found = found.where(is_counted)
        return found.where(np.lexsort((found.x, found.y)))


Counter = NucleusCounter
"""Former name of :class:`NucleusCounter`; it stays available."""


def find_nuclei(engine: Engine, pixels: NDArray[np.uint8], threshold: float) -> Detections:
    """Return the nuclei of one image at the model's scale, px of that image, in raster order.

    ``pixels`` are RGB, uint8 [H, W, 3], H and W multiples of the model's alignment.
    """
    if engine.detects:
        return engine.detect(pixels[None], threshold)[0]
    return find_peaks(engine.run(pixels[None])[0], threshold, engine.card.nms_radius, engine.card.classes)


def _raise_if_cancelled(cancel: threading.Event | None) -> None:
    if cancel is not None and cancel.is_set():
        raise CountCancelledError("the count was cancelled")


def _as_frame(frame: object, mpp: float | None, order: str | None) -> Frame:
    """Return a frame on the host, with another µm/px if one is given."""
    if not isinstance(frame, Frame):
        frame = Frame(_on_host(frame, order))
    return frame if mpp is None else Frame(frame.pixels, mpp, frame.time, frame.stage)


def _on_host(frame: object, order: str | None) -> NDArray[np.uint8]:
    """Return pixels on the host as RGB; Frame checks them."""
    if order is None and (isinstance(frame, np.ndarray) or not hasattr(frame, "__dlpack_device__")):
        return np.asarray(frame)
    order = order or "RGB"
    pixels = read_frame(frame, order)
    assert isinstance(pixels, np.ndarray)  # arrays on a device were handled before
    return np.ascontiguousarray(pixels[..., ORDERS[order]])


def _fits_in_one_tile(card: ModelCard, frame: Frame) -> bool:
    """Return whether the engine was built for frames of this size, scaled and padded."""
    sides = fitted_size(frame.height, frame.width, frame.mpp, card.mpp)
    height, width = (side + -side % card.multiple for side in sides)
    return _built_for(card, height, width)


def _built_for(card: ModelCard, height: int, width: int) -> bool:
    """Return whether the engine accepts an image of this size without tiling."""
    if card.profile is None:
        return False
    minimum, _, maximum = card.profile
    return minimum[0] == 1 and minimum[1] <= height <= maximum[1] and minimum[2] <= width <= maximum[2]
