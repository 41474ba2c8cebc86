"""What the tests of slides share: a small slide, and a counter with small tiles over the shipped model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kinet_trt import Counter
from kinet_trt.detections import Detections
from simulated_slides import Canvas, Piece

CANVAS = Canvas(1000, 800, (Piece(90, 70, 300, 240, 3), Piece(560, 500, 330, 240, 5)))
WHOLE = CANVAS.region(0, 0, CANVAS.width, CANVAS.height)


def small_tiles(counter: Counter, tile: int = 256, **changes: object) -> Counter:
    """Return a counter over the same engine whose card asks for small tiles."""
    other = object.__new__(Counter)
    other.threshold = counter.threshold
    other.engine = object.__new__(type(counter.engine))
    other.engine.__dict__.update(counter.engine.__dict__)
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
