"""F1 loss of a quantized model, from its nuclei compared with those of FP32 and with labels if available."""

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
"""Maximum side of the counted part of an image without labels, model px."""
MIN_LABELLED = 300
"""Minimum number of labelled nuclei; with fewer, chance changes the F1 by more than 0.5 percentage points."""
MIN_NUCLEI = 50
"""Minimum number of FP32 nuclei in the held-out images; with fewer, one changed nucleus is more than 2%."""
F1_PER_CHANGED_NUCLEUS = 0.15
"""Estimated F1 loss per share of changed nuclei, if there are no labels. Mostly borderline nuclei change, and FP32 is
wrong about as many of them: kinet-edge lost less than a tenth of the changed share on 100 labelled fields; its current
weights and kinet lost less than a hundredth on 48. With 0.25, a quarter of the multiplications of kinet-edge stayed in
floating point without benefit."""


@dataclass(frozen=True)
class Cost:
    """INT8 compared with FP32 on the held-out images."""

    images: int
    agreement: Agreement  # by pixel and class
    against_fp32: tuple[float, float]  # detection and classification F1 with FP32's nuclei as ground truth
    labelled: int  # number of labelled nuclei in these images
    before: tuple[float, float] | None  # detection and classification F1 of FP32 against the labels
    after: tuple[float, float] | None  # the same of INT8

    @property
    def from_labels(self) -> bool:
        """Whether :attr:`loss` is measured with labels; else it is estimated from the nuclei that changed."""
        return self.labelled >= MIN_LABELLED

    @property
    def loss(self) -> float:
        """Larger of the losses of detection and classification F1, percentage points; negative if both increased."""
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
            "held_back": self.images,
            "nuclei": self.agreement.same + self.agreement.only_first,
            "moved": round(self.agreement.moved, 4),
            "detection_f1_against_fp32": round(self.against_fp32[0], 4),
            "classification_f1_against_fp32": round(self.against_fp32[1], 4),
            **labels,
            "loss_points": round(self.loss, 3),
            "loss_from": "labels" if self.from_labels else "fp32",
        }


def check_nuclei(model: Model, images: Sequence[Picture]) -> None:
    """Raise a KinetError if the FP32 model finds fewer than `MIN_NUCLEI` nuclei in all held-out images together."""
    counter, found = _counter(model), 0
    for image in images:
        found += len(counter(_frame(image, model.card)))
        if found >= MIN_NUCLEI:
            return
    raise KinetError(
        f"INT8 rejected: expected at least {MIN_NUCLEI} nuclei of {model.card.name} in FP32 in the {len(images)} "
        f"held-out images to measure the loss, found {found}. Add fields of your stain and scanner with many nuclei"
    )


def measure(
    fp32: Model, int8: Model, images: Sequence[Picture], report: Callable[[int, int], None] = lambda *_: None
) -> Cost:
    """Count images with two models, FP32 and INT8, and compare the second with the first and with the labels.

    Images with labels are counted in full. ``report`` is called with the number of finished images and of all images.
    """
    counters = _counter(fp32), _counter(int8)
    card = fp32.card
    agreement, with_fp32 = Agreement(0, 0, 0), Comparison.empty(len(CLASSES))
    labelled = [Comparison.empty(len(CLASSES)) for _ in counters]
    for number, image in enumerate(images):
        frame = _frame(image, card)
        found = [counter(frame) for counter in counters]
        agreement += Agreement.between(*found)
        scale = np.float32(frame.mpp / card.mpp if frame.mpp else 1.0)
        with_fp32 += _compare(found[1], found[0], scale)
        if image.field:
            for i, detections in enumerate(found):
                nuclei = comparable_nuclei(detections, image.field)
                scaled = [(x * scale, y * scale, cls) for x, y, cls in nuclei]
                labelled[i] += compare(scaled[0], scaled[1], len(CLASSES))
        report(number + 1, len(images))
    n = labelled[0].detection.true
    before, after = ((total.detection.f1, total.weighted[2]) if n else None for total in labelled)
    return Cost(len(images), agreement, _f1(with_fp32), n, before, after)


def _f1(comparison: Comparison) -> tuple[float, float]:
    """Return detection and classification F1; both 1 if neither model finds any nucleus."""
    if comparison.detection.true == 0:
        return (0.0, 0.0) if comparison.detection.detected else (1.0, 1.0)
    return comparison.detection.f1, comparison.weighted[2]


def _counter(model: Model) -> NucleusCounter:
    return NucleusCounter(open_model(model, precision="fp32", runtime="openvino"))


def _frame(image: Picture, card: ModelCard) -> Frame:
    if image.field:
        return image.field.frame()
    return Frame(densest(at_scale(image.path, card), MAX_SIDE, card.multiple), card.mpp)


def _compare(found: Detections, truth: Detections, scale: np.float32) -> Comparison:
    first, second = ((d.x * scale, d.y * scale, d.cls) for d in (found, truth))
    return compare(first, second, len(truth.classes))


def find_all(engine: Engine, frames: Sequence[NDArray[np.uint8]]) -> list[Detections]:
    """Return the nuclei of frames at the model's scale and alignment, uint8 [H, W, 3]."""
    return [find_nuclei(engine, frame, engine.card.threshold) for frame in frames]


def disagreement(found: Sequence[Detections], truth: Sequence[Detections]) -> float:
    """Return 1 - F1 with the nuclei in ``truth`` as ground truth, the larger of detection and classification.

    0 if neither model finds any nucleus.
    """
    total = Comparison.empty(len(truth[0].classes))
    for detections, expected in zip(found, truth, strict=True):
        total += _compare(detections, expected, np.float32(1))
    return 1 - min(_f1(total))


def moved_share(found: Sequence[Detections], truth: Sequence[Detections]) -> float:
    """Return the share of nuclei that are not at the same pixel with the same class in both."""
    return sum((Agreement.between(b, a) for a, b in zip(found, truth, strict=True)), Agreement(0, 0, 0)).moved
