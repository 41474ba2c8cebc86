"""A labelled field: an image with annotated nuclei."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import CLASSES
from kinet_trt.core.errors import ImageError, KinetError
from kinet_trt.core.frame import Frame, fit
from kinet_trt.core.geometry import rescale
from kinet_trt.datasets import kinet_layout
from kinet_trt.io.geojson import Outlines
from kinet_trt.io.images import read_image

log = logging.getLogger(__name__)

Regions = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Masks of tumour and of the annotated area, bool [H, W] each."""


@dataclass(frozen=True, eq=False)
class LabelledField:
    """An image file and its labelled nuclei; their centres in px of the image, pixel centres at integers."""

    image: Path
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    cls: NDArray[np.uint8]  # index in CLASSES
    labelled: tuple[str, ...] = CLASSES  # classes that are labelled in this field; empty with regions only
    counted: Path | None = None  # mask of the area in which nuclei were labelled (white); None for the whole image
    source: str = ""
    split: str = ""  # "train", "val" or ""
    partial: tuple[str, ...] = ()  # classes labelled incompletely: absence of a label is not absence of a nucleus
    classified: bool = True  # False if nuclei are labelled without a class: cls is then undefined
    guessed: bool = False  # labelled is assumed from the classes that occur
    outlines: Outlines = field(default_factory=Outlines)
    region_map: Path | None = None  # tumour (white), other tissue (black), unannotated (grey)
    _masks: list[NDArray[np.bool_]] = field(default_factory=list, repr=False)
    _regions: list[Regions] = field(default_factory=list, repr=False)
    _empty: list[NDArray[np.bool_]] = field(default_factory=list, repr=False)
    _frames: list[Frame] = field(default_factory=list, repr=False)

    @classmethod
    def simulated(
        cls, pixels: NDArray[np.uint8], x: NDArray[np.float32], y: NDArray[np.float32], kinds: NDArray[np.uint8]
    ) -> LabelledField:
        """Return a field in memory with every class labelled."""
        return cls(Path("simulated"), x, y, kinds, source="simulated", _frames=[Frame(pixels)])

    def part(self, left: int, right: int) -> LabelledField:
        """Return the columns ``left`` to ``right`` (exclusive, px) as a field in memory."""
        inside = (self.x >= left - 0.5) & (self.x < right - 0.5)
        frame = Frame(np.ascontiguousarray(self.pixels()[:, left:right]), self.frame().mpp)
        part = self._in_memory(frame, lambda mask: np.ascontiguousarray(mask[:, left:right]))
        return replace(part, x=self.x[inside] - np.float32(left), y=self.y[inside], cls=self.cls[inside])

    def at_scale(self, own: float | None, mpp: float) -> LabelledField:
        """Return the field scaled to ``mpp`` µm/px, in memory.

        ``own`` is µm/px of its pixels; None for that of the file, else ``mpp``.
        """
        used = own or self.frame().mpp or mpp
        if used == mpp:
            return self
        try:
            fitted = fit(Frame(self.pixels(), used), mpp, 1)
        except ImageError as error:
            raise ImageError(f"{self.image}: {error}") from None

        def resize(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
            size = fitted.width, fitted.height
            return np.asarray(cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0)

        scaled = self._in_memory(Frame(fitted.pixels, mpp), resize)
        return replace(scaled, x=rescale(self.x, fitted.scale_x), y=rescale(self.y, fitted.scale_y))

    def _in_memory(self, frame: Frame, change: Callable[[NDArray[np.bool_]], NDArray[np.bool_]]) -> LabelledField:
        """Return the field with another frame, and its masks changed accordingly."""
        return replace(
            self,
            _frames=[frame],
            _masks=[change(self.counted_mask())] if self.bounded else [],
            _regions=[(change(tumor), change(known)) for tumor, known in self._drawn()],
            _empty=[change(self.empty_mask())],
        )

    @property
    def name(self) -> str:
        """Name of the image without folder and suffix."""
        return self.image.stem

    def frame(self) -> Frame:
        """Return the image, cached."""
        if not self._frames:
            try:
                self._frames.append(read_image(self.image))
            except ImageError as error:
                raise ImageError(f"{self.image}: {error}") from None
            for remark in self._frames[0].remarks:
                log.warning("%s: %s", self.image, remark)
            self._check_inside(self._frames[0])
        return self._frames[0]

    def _check_inside(self, frame: Frame) -> None:
        """Raise if most nuclei or corners lie outside of the image, and so belong to another one."""
        x, y = self.x, self.y
        nuclei = (x <= -1) | (x >= frame.width) | (y <= -1) | (y >= frame.height)
        x, y = self.outlines.corners().T
        corners = (x < -1) | (x > frame.width) | (y < -1) | (y > frame.height)
        for outside, whose, what in ((nuclei, "its", "labelled nuclei"), (corners, "the", "corners of its regions")):
            if 2 * outside.sum() > len(outside):
                self._frames.clear()
                raise KinetError(
                    f"{self.image}: {outside.sum()} of {whose} {len(outside)} {what} lie outside of its "
                    f"{frame.width} x {frame.height} px: they belong to another image, or at another scale"
                )

    def pixels(self) -> NDArray[np.uint8]:
        """Return the pixels of the image, RGB uint8 [H, W, 3]."""
        return self.frame().pixels

    @property
    def bounded(self) -> bool:
        """True if nuclei were labelled in part of the image only."""
        return self.counted is not None or self.outlines.has_exclusions

    def counted_mask(self) -> NDArray[np.bool_]:
        """Return the mask of the area in which nuclei were labelled, bool [H, W], cached."""
        height, width = self.pixels().shape[:2]
        if not self.bounded:
            return np.ones((height, width), bool)
        if not self._masks:
            mask = self.outlines.counted_mask(height, width)
            if self.counted is not None:
                mask &= kinet_layout.read_grey(self.counted, height, width, "mask") > 127
            self._masks.append(mask)
        return self._masks[0]

    def is_counted(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return True for positions, px, in the area in which nuclei were labelled, bool [n]."""
        mask = self.counted_mask()
        column = np.clip(np.rint(x).astype(int), 0, mask.shape[1] - 1)
        row = np.clip(np.rint(y).astype(int), 0, mask.shape[0] - 1)
        return np.asarray(mask[row, column])

    def regions(self) -> Regions | None:
        """Return the masks of tumour and of the annotated area, bool [H, W], cached; None without regions."""
        return next(iter(self._drawn()), None)

    def empty_mask(self) -> NDArray[np.bool_]:
        """Return the mask of areas without nuclei, such as glass and blood, bool [H, W], cached."""
        if not self._empty:
            height, width = self.pixels().shape[:2]
            self._empty.append(self.outlines.empty_mask(height, width))
        return self._empty[0]

    def _drawn(self) -> list[Regions]:
        if not self._regions:
            height, width = self.pixels().shape[:2]
            if self.region_map is not None:
                self._regions.append(kinet_layout.read_regions(self.region_map, height, width))
            elif (drawn := self.outlines.regions(height, width)) is not None:
                self._regions.append(drawn)
        return self._regions
