"""Demo: a simulated field with known ground truth, a real field, and labelled fields for trying other commands."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import MissingExtraError
from kinet_trt.core.files import write_atomic
from kinet_trt.core.frame import Frame
from kinet_trt.evaluation.metrics import Score, match
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.io.images import read_image
from kinet_trt.io.overlay import draw, to_png
from kinet_trt.simulation import simulate

SEED = 1_007
"""The model was trained on simulated fields with seeds below 200; it has not seen this one."""
LABELLED = 8
"""Number of labelled fields: enough to calibrate INT8 on some and evaluate it on others."""


@dataclass(frozen=True)
class DemoField:
    """One counted field of the demo, and the file of its overlay.

    ``truth`` are the true counts by class, None if unknown; ``score`` is None also if the extra ``eval`` is not
    installed.
    """

    title: str
    overlay: Path
    detections: Detections
    truth: dict[str, int] | None = None
    score: Score | None = None


def simulated(counter: NucleusCounter, folder: Path) -> DemoField:
    """Count a simulated field and compare it with its ground truth."""
    pixels, truth = simulate.field(SEED, 1024, 768)
    frame = Frame(pixels, simulate.NOMINAL_MPP)
    found = counter(frame)
    numbers = {name: int((truth.cls == i).sum()) for i, name in enumerate(simulate.CLASSES)}
    try:
        score = Score(len(match(found.x, found.y, truth.x, truth.y)[0]), len(found), len(truth))
    except MissingExtraError:
        score = None  # the counts are still compared
    overlay = _write(folder, "simulated", to_png(pixels), frame, found, simulate.NOMINAL_MPP)
    title = "Simulated Ki67 field (ground truth is exact; other fields of this simulator were among the training data)"
    return DemoField(title, overlay, found, numbers, score)


def real(counter: NucleusCounter, folder: Path) -> DemoField:
    """Count the real Ki67 field in the package; its ground truth is unknown."""
    with resources.as_file(resources.files("kinet_trt.demo") / "ki67_field.png") as path:
        data, frame = path.read_bytes(), read_image(path)
    found = counter(frame)
    # The file as it is, with its um/px.
    overlay = _write(folder, "real", data, frame, found, frame.mpp or counter.card.mpp)
    title = "Real Ki67 field (slide OS-2 of the OpenSlide test data; not labelled, so check the overlay)"
    return DemoField(title, overlay, found)


def labelled(folder: Path) -> Path:
    """Write labelled simulated fields for trying ``eval``, ``train`` and ``build``; return their folder."""
    fields = folder / "fields"
    for number in range(LABELLED):
        pixels, truth = simulate.field(SEED + 1 + number, 320, 320)
        rows = zip(truth.x, truth.y, truth.cls, strict=True)
        table = "".join(f"{x:.2f},{y:.2f},{simulate.CLASSES[cls]}\n" for x, y, cls in rows)
        write_atomic(fields / f"{number + 1}.png", to_png(pixels))
        write_atomic(fields / f"{number + 1}.csv", f"x,y,class\n{table}")
    return fields


def _write(folder: Path, name: str, png: bytes, frame: Frame, found: Detections, mpp: float) -> Path:
    """Write a picture and its overlay; return the file of the latter."""
    overlay = folder / f"{name}_overlay.png"
    write_atomic(folder / f"{name}.png", png)
    write_atomic(overlay, to_png(draw(frame, found, mpp)))
    return overlay
