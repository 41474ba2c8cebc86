"""Export of a checkpoint to a file, with a comparison of the exported model and PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from kinet_trt.export import checkpoint as checkpoints
from kinet_trt.export.checkpoint import Checkpoint
from kinet_trt.export.to_onnx import Deployed, export
from numpy.typing import NDArray

from kinet_trt.core.errors import ImageError, KinetError
from kinet_trt.core.files import write_atomic
from kinet_trt.core.frame import Frame, fit
from kinet_trt.counting.find import find_images
from kinet_trt.engines.open import open_model
from kinet_trt.evaluation.agreement import Agreement
from kinet_trt.io.images import read_image
from kinet_trt.models.card import ModelCard
from kinet_trt.models.model import Model
from kinet_trt.peaks.reference import find_peaks
from kinet_trt.simulation import simulate

MAX_IMAGES = 4
"""Maximum number of images to compare."""
CROP_SIDE = 512
"""Side of the top-left crop, px."""


@dataclass(frozen=True)
class Parity:
    """Difference between an exported model and PyTorch."""

    max_error: float  # maximum difference of a map value
    agreement: Agreement  # of the detections at the card's threshold, over all images
    images: int


def export_file(
    source: Path, out: Path, precision: str, half_weights: bool, roi: bool, images: Path | None
) -> tuple[ModelCard, Parity]:
    """Export a checkpoint to ``out`` and compare the exported model with PyTorch on images or simulated fields."""
    loaded = checkpoints.load(source)
    frames = _frames(images, loaded.info.mpp, loaded.network.config.multiple)
    model = export(loaded, out.stem, precision, half_weights, roi)
    engine = open_model(model, "fp32", runtime="openvino")
    maps = [engine.run(frame[None])[0].copy() for frame in frames]
    parity = measure_parity(loaded, model.card, maps, frames)
    model = record_parity(model, parity)
    write_atomic(out, model.data)
    return model.card, parity


def _frames(images: Path | None, mpp: float, multiple: int) -> list[NDArray[np.uint8]]:
    if images is None:
        pictures = [simulate.field(seed, CROP_SIDE, CROP_SIDE)[0] for seed in range(MAX_IMAGES)]
    else:
        paths = find_images([images])[:MAX_IMAGES]
        pictures = [_read(path)[:CROP_SIDE, :CROP_SIDE] for path in paths]
    return [fit(Frame(pixels), mpp, multiple).pixels for pixels in pictures]


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        return read_image(path).pixels
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None


def record_parity(model: Model, parity: Parity) -> Model:
    """Return the exported model with the parity in its card."""
    agreement = parity.agreement
    measured = {
        "images": parity.images,
        "max_error": float(f"{parity.max_error:.3g}"),
        "same": agreement.same,
        "only_pytorch": agreement.only_first,
        "only_onnx": agreement.only_second,
        "identical": agreement.identical,
    }
    return model.with_card(replace(model.card, parity=measured))


def measure_parity(
    checkpoint: Checkpoint,
    card: ModelCard,
    exported_maps: Sequence[NDArray[np.float32]],
    frames: Sequence[NDArray[np.uint8]],
) -> Parity:
    """Compare the maps of an exported model with those of PyTorch in FP32; raise a KinetError if a map is not finite.

    ``exported_maps`` are the maps of the exported model for each frame, float32 [classes, H, W]; ``frames`` are RGB,
    uint8 [H, W, 3], H and W multiples of the network's alignment.
    """
    deployed = Deployed(checkpoint.network, checkpoint.info, roi=False).eval()
    max_error, total = 0.0, Agreement(0, 0, 0)
    for maps, frame in zip(exported_maps, frames, strict=True):
        with torch.inference_mode():
            expected = deployed(torch.tensor(frame[None]))[0][0].numpy()
        error = float(np.abs(maps - expected).max())
        if not np.isfinite(error):
            raise KinetError("export: the maps contain NaN or infinity, so the model cannot be used in this precision")
        max_error = max(max_error, error)
        pytorch, exported = (find_peaks(m, card.threshold, card.nms_radius, card.classes) for m in (expected, maps))
        total += Agreement.between(pytorch, exported)
    return Parity(max_error, total, len(frames))
