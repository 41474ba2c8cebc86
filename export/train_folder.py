"""Training on a folder of labelled fields, with the options of ``kinet-trt train``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from kinet_trt.export import checkpoint
from kinet_trt.export.checkpoint import MPP, Checkpoint, ModelInfo
from kinet_trt.export.networks.base import Activation, Architecture, NetworkConfig
from kinet_trt.export.networks.norms import restore_statistics
from kinet_trt.export.networks.registry import build
from kinet_trt.export.prediction import network_input
from kinet_trt.export.recipes import RECIPES, Recipe
from kinet_trt.export.sampling import unlabelled_fields
from kinet_trt.export.training import Progress, TrainingRun, train, train_by_stages
from kinet_trt.export.widen import widen

from kinet_trt.core.detections import CLASSES
from kinet_trt.core.errors import KinetError
from kinet_trt.counting.find import find_images
from kinet_trt.datasets.labelled import check_nuclei, class_list_warning, read_fields, with_classes, with_regions
from kinet_trt.datasets.labelled_field import LabelledField

log = logging.getLogger(__name__)

NetworkName = Literal["kinet", "okinet", "skinet", "fcn8s", "unet", "fcrn-a", "fcrn-b", "sfcn-opi", "frcn"]
"""KiNet, KiNet without the region task, KiNet trained by stages, and the networks that the paper compares them with."""

QUICK_WIDTH = 8
"""Width for a quick run: about a minute on two cores without AMX, where a width of 32 takes ten."""
STATISTICS_FIELDS, STATISTICS_SIDE = 16, 512
"""Maximum number and side, px, of the fields that statistics of batch norms are computed on."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of ``kinet-trt train``, as described by its help.

    None stands for the default of the recipe, or of the network to start with. ``network`` is KiNet, one of its
    variants, or a network that the paper compares it with; ``architecture`` selects the form of KiNet (``"paper"``,
    ``"release"`` or ``"half"``) and is not allowed for other networks. ``weight`` maps a source to its sampling factor,
    as text. ``partial`` lists (source, class) pairs that are labelled incompletely.
    """

    recipe: str | None = None
    network: NetworkName = "kinet"
    architecture: Architecture | None = None
    width: int | None = None
    activation: Activation | None = None
    roi: bool = True
    dropout: float | None = None
    iterations: int | None = None
    weight: Mapping[str, str] = field(default_factory=dict)
    partial: Sequence[tuple[str, str]] = ()
    detection_only: Sequence[str] = ()
    classes: Sequence[str] | None = None
    mpp: float | None = None
    start: Path | None = None
    teacher: Path | None = None
    unlabelled: Path | None = None
    regions: Path | None = None
    seed: int = 0
    quick: bool = False


def train_folder(
    folder: Path, out: Path, options: TrainOptions, report: Callable[[Progress], None] = lambda _: None
) -> ModelInfo:
    """Train on a folder of fields and write the checkpoint ``out``.

    Fields with a known um/px, from ``options.mpp`` or from the file, are first scaled to that of the network. A quick
    run leaves nothing to resume from, so a full run may write to the same file afterwards.
    """
    recipe = _recipe(options)
    fields, unlabelled = _read(folder, options)
    factors = {source: _factor(text) for source, text in options.weight.items()}
    if options.start and options.network != "kinet":
        raise KinetError(f"network: {options.start} already defines the network. Omit --network {options.network}")
    if options.network == "skinet" and options.teacher:
        raise KinetError("teacher: not supported for training by stages. Omit it, or train the network kinet")
    start = _initial(options.start, options) if options.start else None
    new_config = _new_config(options)
    config = start.network.config if start else new_config
    if not config.roi and (regions_only := [f for f in fields if not f.labelled and not f.outlines.empty]):
        log.warning("%d fields with regions only are not used, since they need the region branch", len(regions_only))
        fields = [f for f in fields if f not in regions_only]
    mpp = start.info.mpp if start else MPP
    fields = [f.at_scale(options.mpp, mpp) for f in [*fields, *unlabelled]]
    if start and options.start and _is_exported(options.start):
        _restore_statistics(start, [f for f in fields if f.split != "test"])
    run = TrainingRun(
        fields,
        out,
        config,
        recipe,
        factors,
        start=start,
        teacher=checkpoint.load(options.teacher) if options.teacher else None,
        seed=options.seed,
        data=folder.name + ":",
        report=report,
    )
    info = train_by_stages(run) if options.network == "skinet" else train(run)
    if options.quick:
        for stage in (out.with_name(f"{out.stem}.roi.pt"), out):
            stage.with_suffix(".last.pt").unlink(missing_ok=True)
    return info


def _recipe(options: TrainOptions) -> Recipe:
    recipe = RECIPES[options.recipe or ("tune" if options.start else "paper")]
    if options.quick:
        recipe = replace(recipe, iterations=60, every=60, batch=4)
    if options.iterations:
        recipe = replace(recipe, iterations=options.iterations, every=min(recipe.every, options.iterations))
    return recipe


def _read(folder: Path, options: TrainOptions) -> tuple[list[LabelledField], list[LabelledField]]:
    """Return labelled and unlabelled fields."""
    fields = read_fields(folder, options.mpp)
    if options.unlabelled and not options.teacher:
        raise KinetError("unlabelled: fields without labels need a teacher")
    unlabelled = unlabelled_fields(find_images([options.unlabelled])) if options.unlabelled else []
    if options.regions:
        all_fields = with_regions([*fields, *unlabelled], options.regions)
        fields, unlabelled = all_fields[: len(fields)], all_fields[len(fields) :]
    if options.classes:
        fields = with_classes(fields, options.classes)
    elif warning := class_list_warning(fields):
        log.warning("%s", warning)
    sources = sorted({f.source for f in fields})
    for source, cls in options.partial:
        if cls not in CLASSES or source not in sources:
            raise KinetError(f"partial: expected one of {sources} and one of {CLASSES}, found {source}={cls}")
        fields = [replace(f, partial=(*f.partial, cls)) if f.source == source else f for f in fields]
    if unknown := set(options.detection_only) - set(sources):
        raise KinetError(f"detection-only: expected one of {sources}, found {sorted(unknown)}")
    fields = [replace(f, classified=f.source not in options.detection_only) for f in fields]
    if labelled := [f for f in fields if f.labelled and f.split != "test"]:
        check_nuclei(labelled)
    return fields, unlabelled


def _factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise KinetError(f"weight: expected SOURCE=NUMBER with a positive number, found {text!r}")
    return factor


def _new_config(options: TrainOptions) -> NetworkConfig:
    """Return the configuration of the network to train from random weights; defaults are those of its paper."""
    width = options.width or (QUICK_WIDTH if options.quick else 32)
    dropout = 0.5 if options.dropout is None else options.dropout
    try:
        if options.network in get_args(Architecture):
            if options.architecture:
                raise KinetError(f"architecture: only for KiNet. Omit it for the network {options.network}")
            compared: Architecture = options.network  # type: ignore[assignment]
            return NetworkConfig(compared, width, options.activation or "relu", roi=False, dropout=dropout)
        if options.network == "skinet" and not options.roi:
            raise KinetError("roi: the network skinet needs the region branch")
        roi = options.roi and options.network != "okinet"
        architecture = options.architecture or "paper"
        return NetworkConfig(architecture, width, options.activation or "elu", roi, dropout=dropout)
    except ValueError as error:
        raise KinetError(str(error)) from None


def _initial(path: Path, options: TrainOptions) -> Checkpoint:
    """Read the network to start with, and change its width and dropout on request."""
    if _is_exported(path):
        from kinet_trt.export import from_onnx  # needs the onnx package

        start = from_onnx.load(path)
    else:
        start = checkpoint.load(path)
    if start.info.classes != CLASSES:
        raise KinetError(f"{path}: expected the classes {CLASSES}, found {start.info.classes}. It cannot be trained")
    network = start.network
    if options.width:
        network = widen(network, options.width)
    if options.dropout is not None:
        weights = network.state_dict()
        network = build(replace(network.config, dropout=options.dropout)).eval()
        network.load_state_dict(weights)
    return replace(start, network=network)


def _is_exported(path: Path) -> bool:
    """Return whether a file to start with is an exported model, or the name of the built-in one."""
    return path.suffix.lower() in (".onnx", "")


def _restore_statistics(start: Checkpoint, fields: Sequence[LabelledField]) -> None:
    """Give the batch norms, which export has folded, the statistics of the fields."""
    indices = np.linspace(0, len(fields), STATISTICS_FIELDS, endpoint=False).astype(int)
    chosen = [fields[i] for i in np.unique(indices)] if fields else []
    parts = [f.pixels()[:STATISTICS_SIDE, :STATISTICS_SIDE] for f in chosen]
    restore_statistics(start.network, [network_input(part, start.info) for part in parts])
