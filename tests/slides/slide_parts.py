"""What the tests of slides share: a small slide, and counters with small tiles."""

from __future__ import annotations

import copy
from dataclasses import replace

import cv2
import numpy as np

from kinet_trt import NucleusCounter
from kinet_trt.core.detections import Detections
from kinet_trt.models.card import ModelCard
from simulated_slides import Canvas, Piece

CANVAS = Canvas(1000, 800, (Piece(90, 70, 300, 240, 3), Piece(560, 500, 330, 240, 5)))
WHOLE = CANVAS.region(0, 0, CANVAS.width, CANVAS.height)
CARD = ModelCard("blobs", 0.34, (0.0,) * 3, (1.0,) * 3, 0.35, tile=128, halo=32, model_sha256="b" * 64)


class Blobs:
    """A quick engine: its maps are the dark of each colour channel, blurred. What it sees reaches 12 px, in integers.

    It stands in for a network where a test is about tiles and files: it is as local, and exact wherever a window lies.
    """

    precision, runtime, detects = "fp32", "a blur", False

    def __init__(self, card: ModelCard = CARD) -> None:
        self.card = card
        self.seen = 0

    def run(self, frames: np.ndarray) -> np.ndarray:
        self.seen += len(frames)
        dark = [cv2.GaussianBlur(255 - f, (25, 25), 3, borderType=cv2.BORDER_CONSTANT) for f in frames]
        return (np.stack(dark).transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)


def counter_of(engine: object, threshold: float | None = None) -> NucleusCounter:
    """Return a counter over an engine that is open already."""
    return NucleusCounter(engine, threshold=threshold)


def small_tiles(counter: NucleusCounter, tile: int = 256, **changes: object) -> NucleusCounter:
    """Return a counter over the same engine whose card asks for small tiles."""
    other = copy.copy(counter)
    other.engine = copy.copy(counter.engine)
    other.engine.card = replace(counter.engine.card, tile=tile, **changes)
    return other


def joined(parts: list[Detections]) -> Detections:
    """Return several tiles' nuclei in raster order."""
    x, y, cls, score = (np.concatenate([getattr(p, name) for p in parts]) for name in ("x", "y", "cls", "score"))
    found = Detections(x, y, cls, score, parts[0].classes)
    return found.where(np.lexsort((found.x, found.y)))


def same(a: Detections, b: Detections) -> bool:
    """Say whether the nuclei are the same to the last bit of place and class."""
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("x", "y", "cls"))
