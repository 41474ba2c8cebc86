"""Quantize FP32 to INT8: calibrate, measure the F1 loss on held-out images, and reject a loss that is too large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kinet_trt.core.errors import KinetError, MissingExtraError
from kinet_trt.models.model import Model

if TYPE_CHECKING:
    from kinet_trt.calibration.cost import Cost
    from kinet_trt.calibration.images import Choice
    from kinet_trt.calibration.sensitivity import FloatLayers

DEFAULT_IMAGES = 24
"""Number of calibration images."""
MAX_LOSS = 0.5
"""Default maximum F1 loss, percentage points."""
_MARGIN = 0.6
"""Share of the allowed disagreement that may occur on the calibration images; other images may have more."""


@dataclass(frozen=True, eq=False)
class Quantised:
    """An INT8 model with explicit Q/DQ nodes; ``model.card.quantisation`` contains the measurements."""

    model: Model
    choice: Choice
    layers: FloatLayers
    cost: Cost  # measured on the held-out images


def to_int8(
    model: Model,
    folder: Path,
    *,
    max_loss: float = MAX_LOSS,
    images: int = DEFAULT_IMAGES,
    cache: Path | None = None,
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> Quantised:
    """Quantize a model to INT8 with a folder of images, measure the F1 loss, and reject a loss that is too large.

    ``model`` is FP32; its weights may be stored in half precision. The images of ``folder`` are of the stain and
    scanner that the model will be used with, ideally with labels (:func:`kinet_trt.datasets.labelled.read_fields`); at
    most half of them calibrate, the others evaluate. ``max_loss`` is the maximum loss of detection F1 and of
    classification F1, percentage points. ``cache`` is a folder that caches ranges by the hash of the model and the
    images; None for no cache. ``report`` is called with the current step (``"images"``, ``"ranges"``, ``"layers"``,
    ``"measure"``), the finished part of it and the total.

    Raise a KinetError if the model is not FP32, there are too few images, the held-out images contain too few nuclei to
    measure the loss, or the result loses more than ``max_loss``.
    """
    card = model.card
    if card.precision != "fp32":
        raise KinetError(
            f"int8: expected an FP32 model, found one that computes in {card.precision}. Use the FP32 model"
        )
    if not 0 <= max_loss <= 100:
        raise KinetError(f"max-loss: expected 0 to 100 percentage points, found {max_loss:g}")
    try:
        from kinet_trt.onnx_graph import qdq
        from kinet_trt.onnx_graph.low_resolution import at_low_resolution
        from kinet_trt.onnx_graph.pointwise import as_pointwise
        from kinet_trt.onnx_graph.precision import weights_to_fp32
    except ModuleNotFoundError as error:
        raise MissingExtraError("Quantizing a model", "build", error.name or "onnx") from None
    from kinet_trt.calibration import cost, ranges, sensitivity
    from kinet_trt.calibration.images import choose

    graph = at_low_resolution(as_pointwise(weights_to_fp32(model.graph)))
    choice = choose(folder, card, images, report=partial(report, "images"))
    # Check before the work, which takes minutes: without nuclei the F1 would be 1.
    cost.check_nuclei(model, choice.held_out)
    tensors = [name for group in qdq.groups(graph, ()) for name in group]
    crops = [picture.crop for picture in choice.calibration]
    histograms = ranges.cached(cache, graph, tensors, crops, partial(report, "ranges"))
    target = _MARGIN * max_loss / 100 / cost.F1_PER_CHANGED_NUCLEUS
    layers = sensitivity.choose_floating(graph, card, histograms, crops, target, partial(report, "layers"))
    quantized = Model.from_graph(
        qdq.insert(graph, sensitivity.steps(graph, histograms, layers.floating), layers.floating),
        # Parity and metrics were measured on the FP32 model; those of the INT8 model are under `quantisation`.
        replace(
            card,
            precision="int8",
            weights_precision="int8",
            calibration_sha256=choice.sha256,
            parity={},
            metrics={},
        ),
    )
    measured = cost.measure(model, quantized, choice.held_out, partial(report, "measure"))
    if not measured.loss <= max_loss:
        source = f"measured on {measured.labelled} labelled nuclei"
        if not measured.from_labels:
            source = f"estimated from the nuclei that changed (F1 {min(measured.against_fp32):.3f} against FP32)"
        raise KinetError(
            f"INT8 rejected: expected an F1 loss of at most {max_loss:g} percentage points, found {measured.loss:.2f} "
            f"in {measured.images} held-out images, {source}. The model was calibrated on {len(choice.calibration)} "
            f"images of {folder}; {len(layers.floating)} layers stayed in floating point. Use more images of your "
            "stain and scanner, with labels if available; or use fp16, which is nearly as fast on a GPU; or set a "
            f"max-loss of {measured.loss + 0.05:.1f}"
        )
    record = {
        "calibration_images": len(choice.calibration),
        "floating": list(layers.floating),
        **measured.record(),
    }
    return Quantised(quantized.with_card(replace(quantized.card, quantisation=record)), choice, layers, measured)
