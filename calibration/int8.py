"""FP32 to INT8 that can be trusted: calibrated, measured on images it has not seen, refused if it lost too much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinet_trt.core.errors import KinetError, MissingExtraError
from kinet_trt.models.card import ModelCard, onnx_hash, with_card

if TYPE_CHECKING:
    from kinet_trt.calibration.cost import Cost
    from kinet_trt.calibration.images import Choice
    from kinet_trt.calibration.sensitivity import Plan

IMAGES = 24
"""Calibration images by default."""
MAX_LOSS = 0.5
"""Largest loss of F1 by default, points."""
_MARGIN = 0.6
"""Share of the allowed disagreement that the layers are planned for; the rest is for images never seen."""


@dataclass(frozen=True, eq=False)
class Report:
    """How a model was quantised, and what that cost.

    Attributes
    ----------
    choice
        Which images were calibrated on, which were held back, which were left out and why.
    plan
        Which layers stayed in float, and how much each layer hurts.
    cost
        What was measured on the held-back images.
    """

    choice: Choice
    plan: Plan
    cost: Cost

    def record(self) -> dict[str, Any]:
        """Return the figures for a model card."""
        return {
            "calibration_images": len(self.choice.calibration),
            "floating": list(self.plan.floating),
            **self.cost.record(),
        }


@dataclass(frozen=True, eq=False)
class Quantised:
    """An INT8 model.

    Attributes
    ----------
    model
        Serialised ONNX with explicit Q/DQ nodes, its card inside.
    card
        That card; ``card.quantisation`` holds the figures.
    report
        The same and more, for telling.
    """

    model: bytes
    card: ModelCard
    report: Report


def to_int8(
    model: bytes,
    card: ModelCard,
    folder: Path,
    *,
    max_loss: float = MAX_LOSS,
    images: int = IMAGES,
    cache: Path | None = None,
    seed: int = 0,
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> Quantised:
    """Quantise a model to INT8 with a folder of images, measure what that costs, and refuse what costs too much.

    Parameters
    ----------
    model, card
        A serialised FP32 ONNX model and its card; its weights may be stored in half precision.
    folder
        Images of the stain and the scanner that the model will see, best with labels
        (:func:`kinet_trt.datasets.labelled.read_fields`). At most half of them calibrate; the others evaluate.
    max_loss
        Largest loss of detection or classification F1, points (hundredths).
    images
        How many images to calibrate on, at most.
    cache
        Folder in which ranges are kept under the hash of the model and the images; None: nowhere.
    seed
        Of the draw of images from a very large folder.
    report
        Called with what is being done (``"images"``, ``"ranges"``, ``"layers"``, ``"measure"``), how much of it is
        done and how much there is.

    Raises
    ------
    KinetError
        If the model is not FP32, the images do not suffice, the held-back ones hold too few nuclei to measure the cost
        on, or the result loses more than ``max_loss``.
    """
    if card.precision != "fp32":
        raise KinetError(f"int8: expected an FP32 model, found one that computes in {card.precision}: start from that")
    if not 0 <= max_loss <= 100:
        raise KinetError(f"max-loss: expected 0 to 100 points, found {max_loss:g}")
    try:
        from kinet_trt.onnx_graph import qdq
        from kinet_trt.onnx_graph.low_resolution import at_low_resolution
        from kinet_trt.onnx_graph.pointwise import as_pointwise
    except ModuleNotFoundError as error:
        raise MissingExtraError("Quantising a model", "build", error.name or "onnx") from None
    from kinet_trt.calibration import cost, ranges, sensitivity
    from kinet_trt.calibration.images import choose

    choice = choose(folder, card, images, seed, partial(report, "images"))
    # Before the work, which takes minutes. F1 of nothing against nothing is 1.
    cost.check_nuclei(with_card(model, card), choice.held_back)
    graph = at_low_resolution(as_pointwise(qdq.load(model)))
    tensors = [name for group in qdq.groups(graph, ()) for name in group]
    crops = [picture.crop for picture in choice.calibration]
    histograms = ranges.cached(cache, graph, tensors, crops, partial(report, "ranges"))
    target = _MARGIN * max_loss / 100 / cost.SHARE
    plan = sensitivity.plan(graph, card, histograms, crops, target, partial(report, "layers"))
    made = qdq.insert(graph, sensitivity.steps(graph, histograms, plan.floating), plan.floating)
    del made.metadata_props[:]
    data = made.SerializeToString(deterministic=True)
    new = replace(
        card,
        precision="int8",
        weights_precision="int8",
        calibration_sha256=choice.sha256,
        model_sha256=onnx_hash(data),
        # Both were measured of the FP32 model; what is known of this one stands under quantisation.
        parity={},
        metrics={},
    )
    measured = cost.measure(with_card(model, card), with_card(data, new), choice.held_back, partial(report, "measure"))
    found = Report(choice, plan, measured)
    if not measured.loss <= max_loss:
        raise KinetError(_refusal(found, max_loss, folder))
    new = replace(new, quantisation=found.record())
    return Quantised(with_card(data, new), new, found)


def _refusal(found: Report, max_loss: float, folder: Path) -> str:
    """Return why a model is refused, and what to try."""
    measured = found.cost
    source = f"on {measured.labelled} labelled nuclei"
    if not measured.from_labels:
        source = f"as estimated from the nuclei that changed (F1 {min(measured.against_fp32):.3f} against FP32's)"
    return (
        f"INT8 refused: it loses {measured.loss:.2f} points of F1, {source}, in {measured.pictures} held-back images; "
        f"allowed are {max_loss:g}. It was calibrated on {len(found.choice.calibration)} images of {folder}, and "
        f"{len(found.plan.floating)} layers stayed in float. Try more images of the stain and the scanner that the "
        "model will see, with labels if there are any; or the precision fp16, which is nearly as fast on a GPU; or "
        f"allow it with a max-loss of {measured.loss + 0.05:.1f}"
    )
