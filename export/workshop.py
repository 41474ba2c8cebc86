"""What the commands ``train`` and ``export`` do, from files to files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from kinet_trt.export import checkpoint as checkpoints
from kinet_trt.export import training
from kinet_trt.export.networks.base import MULTIPLE, Activation, Architecture, NetworkConfig
from kinet_trt.export.networks.norms import restore_statistics
from kinet_trt.export.networks.registry import build
from kinet_trt.export.widen import widen
from numpy.typing import NDArray

from kinet_trt.core.detections import CLASSES
from kinet_trt.core.errors import ImageError, KinetError
from kinet_trt.core.files import write_atomic
from kinet_trt.core.frame import Frame, fit
from kinet_trt.counting.find import find_images
from kinet_trt.datasets.labelled import (
    LabelledField,
    check_nuclei,
    class_list_warning,
    read_fields,
    with_classes,
    with_regions,
)
from kinet_trt.engines.openvino import OpenVinoEngine
from kinet_trt.io.images import read_image
from kinet_trt.models.card import ModelCard
from kinet_trt.simulation import simulate

if TYPE_CHECKING:
    from kinet_trt.export.onnx import Parity

log = logging.getLogger(__name__)

NetworkName = Literal["kinet", "okinet", "skinet", "fcn8s", "unet", "fcrn-a", "fcrn-b", "sfcn-opi", "frcn"]
"""KiNet, KiNet without the region task, KiNet trained by stages, and what the paper compares them with."""

QUICK_WIDTH = 8
"""Channels of a quick run: a minute for every network on two cores without AMX, where 32 take ten."""
SETTLING_FIELDS = 16
PARITY_FIELDS = 4
PARITY_SIDE = 512
"""How many fields, and how many px of their upper left corner, export holds to PyTorch."""


def train_fields(
    folder: Path,
    out: Path,
    *,
    recipe: str | None,
    network: NetworkName = "kinet",
    architecture: Architecture | None,
    width: int | None,
    activation: Activation | None,
    roi: bool,
    dropout: float | None,
    iterations: int | None,
    factors: Mapping[str, str],
    partial: Sequence[tuple[str, str]],
    detection_only: Sequence[str] = (),
    start: Path | None,
    teacher: Path | None,
    unlabelled: Path | None,
    regions: Path | None = None,
    seed: int,
    quick: bool,
    report: Callable[[training.Progress], None],
    classes: Sequence[str] | None = None,
    mpp: float | None = None,
) -> checkpoints.Traits:
    """Train on a folder of fields; the options are those of ``kinet-trt train``.

    A quick run is short and of a narrow network, and leaves nothing to resume from: the real run that follows may be
    written to the same file.

    Fields whose um/px is known, from ``mpp`` or from the file, are scaled first, to :data:`training.MPP` or to that of
    ``start``.

    Raises
    ------
    KinetError
        If an option makes no sense, the fields cannot be read, or the training diverges.
    """
    regime = training.RECIPES[recipe or ("tune" if start else "paper")]
    if quick:
        regime = replace(regime, iterations=60, every=60, batch=4)
    if iterations:
        regime = replace(regime, iterations=iterations, every=min(regime.every, iterations))
    fields = read_fields(folder, mpp)
    if unlabelled and not teacher:
        raise KinetError("unlabelled: fields without labels need a teacher")
    more = without_labels(find_images([unlabelled])) if unlabelled else []
    if regions:
        both = with_regions([*fields, *more], regions)
        fields, more = both[: len(fields)], both[len(fields) :]
    if classes:
        fields = with_classes(fields, classes)
    elif sentence := class_list_warning(fields):
        log.warning("%s", sentence)
    for source, cls in partial:
        if cls not in CLASSES or all(f.source != source for f in fields):
            known = sorted({f.source for f in fields})
            raise KinetError(f"partial: expected one of {known} and one of {CLASSES}, found {source}={cls}")
        fields = [replace(f, partial=(*f.partial, cls)) if f.source == source else f for f in fields]
    if unknown := set(detection_only) - {f.source for f in fields}:
        raise KinetError(
            f"detection-only: expected one of {sorted({f.source for f in fields})}, found {sorted(unknown)}"
        )
    fields = [replace(f, classified=f.source not in detection_only) for f in fields]
    if marked := [f for f in fields if f.labelled and f.split != "test"]:
        check_nuclei(marked)
    weights = {source: _factor(text) for source, text in factors.items()}
    if start and network != "kinet":
        raise KinetError(f"network: {start} has a network already: leave {network} out")
    if network == "skinet" and teacher:
        raise KinetError("teacher: not supported for training by stages: omit it, or train the network kinet")
    begin = _beginning(start, width, dropout) if start else None
    fresh = _fresh(network, architecture, width or (QUICK_WIDTH if quick else None), activation, roi, dropout)
    config = begin.network.config if begin else fresh
    if not config.roi and (alone := [f for f in fields if not f.labelled and not f.outlines.empty]):
        log.warning("%d fields have only regions: without the region branch they cannot be used", len(alone))
        fields = [f for f in fields if f not in alone]
    fields += more
    fields = [f.at_scale(mpp, begin.traits.mpp if begin else training.MPP) for f in fields]
    if begin and start and _is_model(start):
        _restore_statistics(begin, [f for f in fields if f.split != "test"])
    if network == "skinet":
        traits = training.train_by_stages(
            fields, out, config, regime, factors=weights, seed=seed, data=folder.name + ":", report=report
        )
    else:
        traits = training.train(
            fields,
            out,
            config,
            regime,
            factors=weights,
            start=begin,
            teacher=checkpoints.load(teacher) if teacher else None,
            seed=seed,
            data=folder.name + ":",
            report=report,
        )
    if quick:
        for stage in (out.with_name(f"{out.stem}.roi.pt"), out):
            stage.with_suffix(".last.pt").unlink(missing_ok=True)
    return traits


def _fresh(
    network: NetworkName,
    architecture: Architecture | None,
    width: int | None,
    activation: Activation | None,
    roi: bool,
    dropout: float | None,
) -> NetworkConfig:
    """Return what is trained when nothing is begun with; what is left out is as in the network's paper."""
    rate = 0.5 if dropout is None else dropout
    try:
        if network in get_args(Architecture):
            if architecture:
                raise KinetError(f"architecture: only for KiNet: omit it for the network {network}")
            own: Architecture = network  # type: ignore[assignment]
            return NetworkConfig(own, width or 32, activation or "relu", roi=False, dropout=rate)
        if network == "skinet" and not roi:
            raise KinetError("roi: the network skinet needs the region branch")
        with_roi = roi and network != "okinet"
        return NetworkConfig(architecture or "paper", width or 32, activation or "elu", with_roi, dropout=rate)
    except ValueError as error:
        raise KinetError(str(error)) from None


def without_labels(images: Sequence[Path]) -> list[LabelledField]:
    """Return images of which nobody marked anything as fields of a source ``"unlabelled"``."""
    nothing = np.zeros(0, np.float32)
    return [
        LabelledField(image, nothing, nothing, np.zeros(0, np.uint8), (), source="unlabelled", split="train")
        for image in images
    ]


def _beginning(path: Path, width: int | None, dropout: float | None) -> checkpoints.Checkpoint:
    """Read what training begins with, a checkpoint or an exported model; change its width and dropout if asked to."""
    if _is_model(path):
        from kinet_trt.export import from_onnx  # training gets by without the onnx package

        begin = from_onnx.load(path)
    else:
        begin = checkpoints.load(path)
    if begin.traits.classes != CLASSES:
        raise KinetError(f"{path}: expected the classes {CLASSES}, found {begin.traits.classes}: it cannot be trained")
    network = begin.network
    if width:
        network = widen(network, width)
    if dropout is not None:
        weights = network.state_dict()
        network = build(replace(network.config, dropout=dropout)).eval()
        network.load_state_dict(weights)
    return replace(begin, network=network)


def _is_model(path: Path) -> bool:
    """Whether training begins with an exported model; ``kinet-edge`` without a suffix is the one inside."""
    return path.suffix.lower() in (".onnx", "")


def _restore_statistics(begin: checkpoints.Checkpoint, fields: Sequence[LabelledField]) -> None:
    """Give the norms that export folded away the statistics of the fields, of at most 16 of them."""
    every = np.linspace(0, len(fields), SETTLING_FIELDS, endpoint=False).astype(int)
    chosen = [fields[i] for i in np.unique(every)] if fields else []
    views = [f.pixels()[:PARITY_SIDE, :PARITY_SIDE] for f in chosen]
    padded = [torch.tensor(fit(Frame(view), begin.traits.mpp, MULTIPLE).pixels[None]) for view in views]
    restore_statistics(begin.network, [training.normalise(pixels, begin.traits) for pixels in padded])


def _factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise KinetError(f"weight: expected SOURCE=NUMBER with a positive number, found {text!r}")
    return factor


def export_checkpoint(
    source: Path, out: Path, precision: str, half_weights: bool, roi: bool, images: Path | None
) -> tuple[ModelCard, Parity]:
    """Export a checkpoint to ``out`` and hold it to PyTorch on images or simulated fields.

    Raises
    ------
    KinetError
        If the checkpoint or the images cannot be read, or an option makes no sense.
    """
    from kinet_trt.export import onnx  # training gets by without the onnx package

    loaded = checkpoints.load(source)
    frames = _parity_frames(images, loaded.traits.mpp, loaded.network.config.multiple)
    model, card = onnx.export(loaded, out.stem, precision, half_weights, roi)
    engine = OpenVinoEngine(card, model, "fp32")
    maps = [engine.run(frame[None])[0].copy() for frame in frames]
    parity = onnx.parity(loaded, card, maps, frames)
    model, card = onnx.record_parity(model, card, parity)
    write_atomic(out, model)
    return card, parity


def _parity_frames(images: Path | None, mpp: float, multiple: int) -> list[NDArray[np.uint8]]:
    if images is None:
        pictures = [simulate.field(seed, PARITY_SIDE, PARITY_SIDE)[0] for seed in range(PARITY_FIELDS)]
    else:
        files = find_images([images])[:PARITY_FIELDS]
        pictures = [_read(path)[:PARITY_SIDE, :PARITY_SIDE] for path in files]
    return [fit(Frame(pixels), mpp, multiple).pixels for pixels in pictures]


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        return read_image(path).pixels
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
