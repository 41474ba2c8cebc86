"""What a quantised model costs, by the nuclei it finds: held to FP32, and to labels where there are any."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kinet_trt.calibration.images import Picture, at_scale, densest
from numpy.typing import NDArray

from kinet_trt.core.detections import CLASSES, Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.frame import Frame
from kinet_trt.engines.base import Engine
from kinet_trt.evaluation.agreement import Agreement
from kinet_trt.evaluation.agreement import compare as agree
from kinet_trt.evaluation.evaluate import comparable
from kinet_trt.evaluation.metrics import Comparison, compare
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.models.card import ModelCard
from kinet_trt.peaks.reference import find_peaks

SIDE = 1024
"""Longest side of what is counted of an image without labels, model px."""
LEAST_LABELLED = 300
"""Labelled nuclei below which half a point of F1 is less than chance moves it."""
LEAST_NUCLEI = 50
"""Nuclei that FP32 must find in the held-back pictures; of fewer, a single changed one would be 2% and more."""
SHARE = 0.15
"""What a changed nucleus costs in F1 where nobody labelled any. Those that change are borderline ones, of which FP32
gets about as many wrong: of what changed, kinet-edge lost less than a tenth on 100 labelled fields, and its present
weights and kinet's less than a hundredth on 48. At 0.25 a quarter of kinet-edge's arithmetic stayed in float for
nothing."""


@dataclass(frozen=True)
class Cost:
    """INT8 held to FP32 on the held-back pictures.

    Attributes
    ----------
    pictures
        How many.
    agreement
        By pixel and class.
    against_fp32
        Detection and classification F1 of INT8, FP32's nuclei taken for the truth, matched within 16 px.
    labelled
        Marked nuclei in these pictures.
    before, after
        Detection and classification F1 of FP32 and of INT8 against them; None: nothing is marked.
    """

    pictures: int
    agreement: Agreement
    against_fp32: tuple[float, float]
    labelled: int
    before: tuple[float, float] | None
    after: tuple[float, float] | None

    @property
    def from_labels(self) -> bool:
        """Whether :attr:`loss` is what the labels say; else it is estimated from what changed."""
        return self.labelled >= LEAST_LABELLED

    @property
    def loss(self) -> float:
        """The larger loss of detection and classification F1, points (hundredths); negative where F1 rose."""
        if self.from_labels and self.before and self.after:
            return 100 * max(b - a for b, a in zip(self.before, self.after, strict=True))
        return 100 * SHARE * (1 - min(self.against_fp32))

    def record(self) -> dict[str, Any]:
        """Return the figures for a model card."""
        labels: dict[str, Any] = {}
        if self.before and self.after:
            labels = {
                "labelled_nuclei": self.labelled,
                "detection_f1_before": round(self.before[0], 4),
                "detection_f1_after": round(self.after[0], 4),
                "classification_f1_before": round(self.before[1], 4),
                "classification_f1_after": round(self.after[1], 4),
            }
        return {
            "held_back": self.pictures,
            "nuclei": self.agreement.same + self.agreement.only_first,
            "moved": round(self.agreement.moved, 4),
            "detection_f1_against_fp32": round(self.against_fp32[0], 4),
            "classification_f1_against_fp32": round(self.against_fp32[1], 4),
            **labels,
            "loss_points": round(self.loss, 3),
            "loss_from": "labels" if self.from_labels else "fp32",
        }


def check_nuclei(model: bytes, pictures: Sequence[Picture]) -> None:
    """Raise if there is too little in the held-back pictures to measure the cost on.

    Parameters
    ----------
    model
        The FP32 model, serialised, with its card.
    pictures
        Those that are held back.

    Raises
    ------
    KinetError
        If the model finds fewer than `LEAST_NUCLEI` nuclei in all of them.
    """
    counter, found = _opened(model), 0
    for picture in pictures:
        found += len(counter(_frame(picture, counter.engine.card)))
        if found >= LEAST_NUCLEI:
            return
    raise KinetError(
        f"INT8 refused: the {len(pictures)} held-back images hold {found} nuclei, as {counter.engine.card.name} counts "
        f"them in FP32: the cost of INT8 cannot be measured on fewer than {LEAST_NUCLEI}. Add fields with many nuclei, "
        "of the stain and the scanner that the model will see"
    )


def measure(
    first: bytes, second: bytes, pictures: Sequence[Picture], report: Callable[[int, int], None] = lambda *_: None
) -> Cost:
    """Count pictures with two models, FP32 and INT8, and hold the second to the first and to the labels.

    Parameters
    ----------
    first, second
        Serialised ONNX models with their cards.
    pictures
        From :func:`kinet_trt.calibration.images.choose`; those with labels are counted whole.
    report
        Called with the pictures done and to do.

    Raises
    ------
    KinetError
        If a model cannot be opened, a picture cannot be read, or the extra with ``lapx`` is not installed.
    """
    counters = _opened(first), _opened(second)
    card = counters[0].engine.card
    agreement, against = Agreement(0, 0, 0), Comparison.nothing(len(CLASSES))
    held = [Comparison.nothing(len(CLASSES)) for _ in counters]
    for number, picture in enumerate(pictures):
        frame = _frame(picture, card)
        found = [counter(frame) for counter in counters]
        agreement += agree(*found)
        scale = np.float32(frame.mpp / card.mpp if frame.mpp else 1.0)
        against += _compared(found[1], found[0], scale)
        if picture.field:
            for i, detections in enumerate(found):
                ours, true = comparable(detections, picture.field)
                at = [(n[0] * scale, n[1] * scale, n[2]) for n in (ours, true)]
                held[i] += compare(at[0], at[1], len(CLASSES))
        report(number + 1, len(pictures))
    labelled = held[0].detection.true
    before, after = ((h.detection.f1, h.weighted[2]) if labelled else None for h in held)
    return Cost(len(pictures), agreement, _f1(against), labelled, before, after)


def _f1(against: Comparison) -> tuple[float, float]:
    """Return detection and classification F1; two models that find nothing agree."""
    if against.detection.true == 0:
        return (0.0, 0.0) if against.detection.detected else (1.0, 1.0)
    return against.detection.f1, against.weighted[2]


def _opened(model: bytes) -> NucleusCounter:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        return NucleusCounter(path, precision="fp32", runtime="openvino")


def _frame(picture: Picture, card: ModelCard) -> Frame:
    if picture.field:
        return picture.field.frame()
    return Frame(densest(at_scale(picture.path, card), SIDE, card.multiple), card.mpp)


def _compared(found: Detections, true: Detections, scale: np.float32) -> Comparison:
    sides = [(d.x * scale, d.y * scale, d.cls) for d in (found, true)]
    return compare(sides[0], sides[1], len(true.classes))


def nuclei(engine: Engine, frames: Sequence[NDArray[np.uint8]]) -> list[Detections]:
    """Return what an engine finds in frames of the model's scale and alignment, uint8 [H, W, 3]."""
    card = engine.card
    return [find_peaks(engine.run(f[None])[0], card.threshold, card.nms_radius, card.classes) for f in frames]


def disagreement(found: Sequence[Detections], true: Sequence[Detections]) -> float:
    """Return 1 - F1 of one model's nuclei, another's taken for the truth; of detection or classification, the larger.

    0 where the other finds nothing and neither does the one.
    """
    total = Comparison.nothing(len(true[0].classes))
    for ours, theirs in zip(found, true, strict=True):
        total += _compared(ours, theirs, np.float32(1))
    return 1 - min(_f1(total))


def moved(found: Sequence[Detections], true: Sequence[Detections]) -> float:
    """Return the share of nuclei that are not at the same pixel with the same class in both."""
    total = Agreement(0, 0, 0)
    for ours, theirs in zip(found, true, strict=True):
        total += agree(theirs, ours)
    return total.moved
