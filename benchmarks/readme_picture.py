"""Make docs/count.png: a simulated field beside what the built-in model finds in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kinet_trt import Counter, Frame, simulate
from kinet_trt.demo import SEED
from kinet_trt.files import write_atomic
from kinet_trt.overlay import draw, to_png

SIDE = 448  # px

if __name__ == "__main__":
    pixels, _ = simulate.field(SEED, SIDE, SIDE)
    frame = Frame(pixels, simulate.NOMINAL_MPP)
    found = draw(frame, Counter()(frame), simulate.NOMINAL_MPP)
    gap = np.full((SIDE, 8, 3), 255, np.uint8)
    path = Path(__file__).resolve().parent.parent / "docs" / "count.png"
    write_atomic(path, to_png(np.hstack([pixels, gap, found])))
    print(path)
