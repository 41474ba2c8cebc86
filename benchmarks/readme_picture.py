"""Make docs/count.png: the real field of the demo beside the nuclei found by the built-in model."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from kinet_trt import Frame, NucleusCounter, read_image
from kinet_trt.core.files import write_atomic
from kinet_trt.io.overlay import draw, to_png

SIDE = 448  # px

if __name__ == "__main__":
    field = read_image(Path(str(resources.files("kinet_trt.demo") / "ki67_field.png")))
    mpp = field.mpp or 0.346
    frame = Frame(np.ascontiguousarray(field.pixels[:SIDE, :SIDE]), mpp)
    found = draw(frame, NucleusCounter()(frame), mpp)
    gap = np.full((SIDE, 8, 3), 255, np.uint8)
    path = Path(__file__).resolve().parent.parent / "docs" / "count.png"
    write_atomic(path, to_png(np.hstack([frame.pixels, gap, found])))
    print(path)
