"""Protocols of the engines, and checks of inputs and outputs that all engines share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import EngineError
from kinet_trt.models.card import ModelCard


class Engine(Protocol):
    """An open model that outputs maps (:meth:`run`) unless it is fused, and nuclei (:meth:`detect`) if ``detects``.

    Attributes
    ----------
    card
        The model card.
    precision
        Numeric precision in use: ``"fp32"``, ``"bf16"``, ``"fp16"`` or ``"int8"``.
    runtime
        Name, version and device of the runtime.
    detects
        Whether :meth:`detect` is available: true for fused models, and for every model on the GPU engine.
    """

    card: ModelCard
    precision: str
    runtime: str
    detects: bool

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the proximity maps of a batch, float32 [N, classes, H, W].

        Thread-safe. The array may be a buffer of the engine, valid until the next run in the same thread.

        Parameters
        ----------
        frames
            RGB, uint8 [N, H, W, 3] at the model's um/px; H and W multiples of ``card.multiple``.

        Raises
        ------
        EngineError
            If the frames do not fit or the model is fused, before anything runs.
        """

    def tumor_map(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the tumour probability of each pixel, float32 [N, H, W]; needs the tumour-region branch.

        Parameters
        ----------
        frames
            See :meth:`run`.

        Raises
        ------
        EngineError
            If the model has no such branch, the engine does not support it, or the frames do not fit.
        """

    def detect(self, frames: NDArray[np.uint8], threshold: float) -> list[Detections]:
        """Return the nuclei of each frame of a batch; needs a fused model.

        Parameters
        ----------
        frames
            See :meth:`run`.
        threshold
            Minimum height of a peak, finite.

        Raises
        ------
        EngineError
            If the frames do not fit or the model is not fused, before anything runs; or if a frame contains more
            nuclei than the model's capacity.
        """


class Pending(Protocol):
    """A frame in flight."""

    def result(self) -> Detections:
        """Wait for the nuclei and return them in raster order, px of the input frame."""


@runtime_checkable
class DeviceEngine(Protocol):
    """An :class:`Engine` that also accepts whole frames, on the host or the GPU, and scales them itself."""

    max_in_flight: int  # frames

    def submit(
        self,
        frame: object,
        *,
        mpp: float | None = None,
        threshold: float | None = None,
        order: str | None = None,
        stream: int | None = None,
    ) -> Pending:
        """Submit a frame; see :meth:`kinet_trt.engines.tensorrt.runtime.TensorRtEngine.submit`."""


def check_frames(
    frames: NDArray[np.uint8], card: ModelCard, *, fused: bool = False, size: tuple[int, int] | None = None
) -> None:
    """Raise an EngineError unless the model can run the frames.

    ``fused``: nuclei are requested, which needs a fused model. ``size``: height and width, px, that the model was built
    for; None for any.
    """
    if fused and not card.capacity:
        raise EngineError(
            f"{card.name} outputs maps, not nuclei. Call run and find the peaks, or fuse the model "
            "(kinet_trt.onnx_graph.fuse_peaks)"
        )
    if card.capacity and not fused:
        raise EngineError(f"{card.name} is fused and outputs nuclei, not maps. Call detect, or use the original model")
    m = card.multiple
    is_rgb = frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3 and min(frames.shape) > 0
    if not is_rgb or frames.shape[1] % m or frames.shape[2] % m:
        raise EngineError(
            f"frames: expected RGB, uint8 [N, H, W, 3] with H and W multiples of {m} px, found {frames.dtype} "
            f"{list(frames.shape)}. Pad frames with kinet_trt.core.frame.fit"
        )
    if size and frames.shape[1:3] != size:
        raise EngineError(
            f"{card.name}: expected frames of {size[1]} x {size[0]} px, found {frames.shape[2]} x {frames.shape[1]} "
            "px. Build the model for this size, or without a fixed size"
        )


def check_outputs(names: Iterable[str], card: ModelCard) -> None:
    """Raise an EngineError unless a model has the outputs of its card: maps or, if fused, nuclei."""
    found = set(names)
    if bool(card.capacity) != ({"count", "detections"} <= found):
        expected = "nuclei" if card.capacity else "maps"
        raise EngineError(
            f"{card.name}: expected a model that outputs {expected}, as in its card, found outputs "
            f"{', '.join(sorted(found))}. Rebuild the model"
        )
    if card.roi and not card.capacity and "roi" not in found:
        raise EngineError(f"{card.name}: expected a tumour map, as in its card, found none. Export the model again")


def check_has_tumor_map(card: ModelCard) -> None:
    """Raise an EngineError unless a model outputs a tumour map."""
    if not card.roi:
        raise EngineError(
            f"{card.name} has no tumour-region branch. Use a model that was trained with it and exported with "
            "kinet-trt export --roi"
        )
    if card.capacity:
        raise EngineError(f"{card.name} is fused. For a tumour map, use the model that it was fused from")


def check_tumor_maps(maps: NDArray[np.floating], frames: NDArray[np.uint8], card: ModelCard) -> NDArray[np.float32]:
    """Return the tumour map, float32 [N, H, W]; raise an EngineError if the output has another shape."""
    expected = (frames.shape[0], 1, *frames.shape[1:3])
    if maps.shape != expected:
        raise EngineError(
            f"{card.name}: expected a tumour map {list(expected)}, found {list(maps.shape)}. Export the model again"
        )
    return maps[:, 0].astype(np.float32)


def read_detections(
    count: NDArray[np.int32], rows: NDArray[np.float32], card: ModelCard, threshold: float
) -> list[Detections]:
    """Convert the outputs of a fused model to detections.

    Raise an EngineError if a frame contains more nuclei than the capacity. ``count``, int32 [N], may exceed the
    capacity; ``rows``, float32 [N, capacity, 4], are x, y, score, class. ``threshold`` is for messages.
    """
    largest, capacity = int(count.max(initial=0)), rows.shape[1]
    if largest > capacity:
        raise EngineError(
            f"{card.name}: expected at most {capacity} nuclei in a frame (its capacity), found {largest} above the "
            f"threshold {threshold:g}. Raise the threshold, count smaller parts, fuse the model again with a larger "
            "capacity, or use the original model, which has no limit"
        )
    found = []
    for n, frame_rows in zip(count, rows, strict=True):
        x, y, score, cls = frame_rows[:n].T.copy()
        found.append(Detections(x, y, cls.astype(np.uint8), score, card.classes))
    return found


def check_maps(maps: NDArray[np.floating], frames: NDArray[np.uint8], card: ModelCard) -> NDArray[np.float32]:
    """Return a batch's maps as float32; raise an EngineError if their shape does not match the model card."""
    expected = (frames.shape[0], len(card.classes), *frames.shape[1:3])
    if maps.shape != expected:
        raise EngineError(
            f"{card.name}: expected maps {list(expected)}, as in its card ({', '.join(card.classes)}), found "
            f"{list(maps.shape)}. Export the model again"
        )
    return maps.astype(np.float32, copy=False)
