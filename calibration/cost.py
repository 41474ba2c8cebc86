"""Loss of a quantised model, judged by its nuclei: against FP32, and against labels where there are any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from kinet_trt.calibration.images import Picture, at_scale, densest
from numpy.typing import NDArray

from kinet_trt.core.detections import CLASSES, Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.frame import Frame
from kinet_trt.engines.base import Engine
from kinet_trt.engines.open import open_model
from kinet_trt.evaluation.agreement import Agreement
from kinet_trt.evaluation.evaluate import comparable_nuclei
from kinet_trt.evaluation.metrics import Comparison, compare
from kinet_trt.inference.counter import NucleusCounter, find_nuclei
from kinet_trt.models.card import ModelCard
from kinet_trt.models.model import Model

MAX_SIDE = 1024
"""Longest side of the counted part of an image without labels, model px."""
MIN_LABELLED = 300
"""Labelled nuclei below which chance moves the F1 by more than half a point."""
MIN_NUCLEI = 50
"""Nuclei that FP32 must find in the held-out images; with fewer, a single changed one would be 2% and more."""
F1_PER_CHANGED_NUCLEUS = 0.15
"""Loss of F1 per changed nucleus, where there are no labels. Borderline nuclei change, and FP32 gets about as many of
them wrong: kinet-edge lost less than a tenth of the changed share on 100 labelled fields; its present weights and kinet
lost less than a hundredth on 48. With 0.25, a quarter of kinet-edge's arithmetic stayed in floating point without
benefit."""


@dataclass(frozen=True)
class Cost:
    """INT8 compared with FP32 on the held-out images.

    Attributes
    ----------
    pictures
        Number of images.
    agreement
        Agreement by pixel and class.
    against_fp32
        Detection and classification F1 of INT8 with FP32's nuclei as ground truth, matched within 16 px.
    labelled
        Labelled nuclei in these images.
    before, after
        Detection and classification F1 of FP32 and of INT8 against the labels; None: there are no labels.
    """

    pictures: int
    agreement: Agreement
    against_fp32: tuple[float, float]
    labelled: int
    before: tuple[float, float] | None
    after: tuple[float, float] | None

    @property
    def from_labels(self) -> bool:
        """Whether :attr:`loss` is measured with labels; else it is estimated from the nuclei that changed."""
        return self.labelled >= MIN_LABELLED

    @property
    def loss(self) -> float:
        """The larger loss of detection and classification F1, points (hundredths); negative if the F1 increased."""
        if self.from_labels and self.before and self.after:
            return 100 * max(b - a for b, a in zip(self.before, self.after, strict=True))
        return 100 * F1_PER_CHANGED_NUCLEUS * (1 - min(self.against_fp32))

    def record(self) -> dict[str, Any]:
        """Return the measurements for a model card."""
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


def check_nuclei(model: Model, pictures: Sequence[Picture]) -> None:
    """Raise if the held-out images contain too few nuclei to measure the loss.

    Parameters
    ----------
    model
        The FP32 model.
    pictures
        The held-out images.

    Raises
    ------
    KinetError
        If the model finds fewer than `MIN_NUCLEI` nuclei in all of them.
    """
    counter, found = _counter(model), 0
    for picture in pictures:
        found += len(counter(_frame(picture, model.card)))
        if found >= MIN_NUCLEI:
            return
    raise KinetError(
        f"INT8 refused: {model.card.name} finds {found} nuclei in FP32 in the {len(pictures)} held-out images, "
        f"expected at least {MIN_NUCLEI} to measure the loss. Add fields with many nuclei, of your stain and scanner"
    )


def measure(
    first: Model, second: Model, pictures: Sequence[Picture], report: Callable[[int, int], None] = lambda *_: None
) -> Cost:
    """Count images with two models, FP32 and INT8, and compare the second with the first and with the labels.

    Parameters
    ----------
    first, second
        The models.
    pictures
        Images from :func:`kinet_trt.calibration.images.choose`; those with labels are counted whole.
    report
        Called with the number of finished images and of all images.

    Raises
    ------
    KinetError
        If a model cannot be opened, an image cannot be read, or the extra with ``lapx`` is not installed.
    """
    counters = _counter(first), _counter(second)
    card = first.card
    agreement, against = Agreement(0, 0, 0), Comparison.empty(len(CLASSES))
    labelled = [Comparison.empty(len(CLASSES)) for _ in counters]
    for number, picture in enumerate(pictures):
        frame = _frame(picture, card)
        found = [counter(frame) for counter in counters]
        agreement += Agreement.between(*found)
        scale = np.float32(frame.mpp / card.mpp if frame.mpp else 1.0)
        against += _compare(found[1], found[0], scale)
        if picture.field:
            for i, detections in enumerate(found):
                nuclei = comparable_nuclei(detections, picture.field)
                scaled = [(x * scale, y * scale, cls) for x, y, cls in nuclei]
                labelled[i] += compare(scaled[0], scaled[1], len(CLASSES))
        report(number + 1, len(pictures))
    n = labelled[0].detection.true
    before, after = ((one.detection.f1, one.weighted[2]) if n else None for one in labelled)
    return Cost(len(pictures), agreement, _f1(against), n, before, after)


def _f1(against: Comparison) -> tuple[float, float]:
    """Return detection and classification F1; both 1 if neither model finds any nucleus."""
    if against.detection.true == 0:
        return (0.0, 0.0) if against.detection.detected else (1.0, 1.0)
    return against.detection.f1, against.weighted[2]


def _counter(model: Model) -> NucleusCounter:
    return NucleusCounter(open_model(model, precision="fp32", runtime="openvino"))


def _frame(picture: Picture, card: ModelCard) -> Frame:
    if picture.field:
        return picture.field.frame()
    return Frame(densest(at_scale(picture.path, card), MAX_SIDE, card.multiple), card.mpp)


def _compare(found: Detections, truth: Detections, scale: np.float32) -> Comparison:
    first, second = ((d.x * scale, d.y * scale, d.cls) for d in (found, truth))
    return compare(first, second, len(truth.classes))


def find_all(engine: Engine, frames: Sequence[NDArray[np.uint8]]) -> list[Detections]:
    """Return the nuclei of frames at the model's scale and alignment, uint8 [H, W, 3]."""
    return [find_nuclei(engine, frame, engine.card.threshold) for frame in frames]


def disagreement(found: Sequence[Detections], truth: Sequence[Detections]) -> float:
    """Return 1 - F1 with the second model's nuclei as ground truth, the larger of detection and classification.

    0 if neither model finds any nucleus.
    """
    total = Comparison.empty(len(truth[0].classes))
    for one, other in zip(found, truth, strict=True):
        total += _compare(one, other, np.float32(1))
    return 1 - min(_f1(total))


def moved_share(found: Sequence[Detections], truth: Sequence[Detections]) -> float:
    """Return the share of nuclei that are not at the same pixel with the same class in both."""
    return sum((Agreement.between(b, a) for a, b in zip(found, truth, strict=True)), Agreement(0, 0, 0)).moved
