"""The demo: a simulated field whose truth is known, and a real one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kinet_trt import simulate
from kinet_trt.counter import Counter
from kinet_trt.detections import Detections
from kinet_trt.errors import MissingExtraError
from kinet_trt.files import write_atomic
from kinet_trt.frame import Frame
from kinet_trt.ki67 import Ki67
from kinet_trt.metrics import Score, match
from kinet_trt.overlay import draw, to_png

SEED = 1_007
"""Training drew simulated fields from seeds below 200: this one it never saw."""


@dataclass(frozen=True)
class Shown:
    """One counted field of the demo.

    Attributes
    ----------
    title
        What it is.
    picture, overlay
        The files that were written.
    detections
        What was found.
    truth
        Counts by class; None: unknown.
    score
        Detections against the truth; None: unknown, or the extra ``eval`` is not installed.
    """

    title: str
    picture: Path
    overlay: Path
    detections: Detections
    truth: dict[str, int] | None = None
    score: Score | None = None

    @property
    def ki67(self) -> Ki67:
        """The index that was found."""
        return Ki67.of(self.detections.counts())


def simulated(counter: Counter, folder: Path) -> Shown:
    """Count a simulated field and hold it to its truth."""
    pixels, truth = simulate.field(SEED, 1024, 768)
    frame = Frame(pixels, simulate.NOMINAL_MPP)
    found = counter(frame)
    numbers = {name: int((truth.cls == i).sum()) for i, name in enumerate(simulate.CLASSES)}
    try:
        score = Score(len(match(found.x, found.y, truth.x, truth.y)[0]), len(found), len(truth))
    except MissingExtraError:
        score = None  # the counts can be held to the truth all the same
    picture, overlay = _write(folder, "simulated", frame, found, simulate.NOMINAL_MPP)
    title = "Simulated Ki67 field (the truth is exact; the model learnt from other fields of this simulator too)"
    return Shown(title, picture, overlay, found, numbers, score)


def real(counter: Counter, folder: Path) -> Shown | None:
    """Count the real H-DAB field in scikit-image's wheel; None where scikit-image is not installed."""
    try:
        from skimage.data import immunohistochemistry
    except ImportError:
        return None
    frame = Frame(immunohistochemistry())  # type: ignore[no-untyped-call]
    found = counter(frame)
    picture, overlay = _write(folder, "real", frame, found, counter.engine.card.mpp)
    title = (
        "Real H-DAB field from scikit-image (colon, FHL2: a stain of the cytoplasm that the model was not trained for, "
        "so the index means nothing)"
    )
    return Shown(title, picture, overlay, found)


def _write(folder: Path, name: str, frame: Frame, found: Detections, mpp: float) -> tuple[Path, Path]:
    picture, overlay = folder / f"{name}.png", folder / f"{name}_overlay.png"
    write_atomic(picture, to_png(frame.pixels))
    write_atomic(overlay, to_png(draw(frame, found, mpp)))
    return picture, overlay
