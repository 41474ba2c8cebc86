"""Import of the authors' published weights as a checkpoint."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from kinet_trt.export import checkpoint
from kinet_trt.export.checkpoint import MPP, ModelInfo, read_torch_file
from kinet_trt.export.networks.base import Network, NetworkConfig
from kinet_trt.export.networks.norms import estimate_statistics, with_instance_norms
from kinet_trt.export.networks.registry import build
from kinet_trt.export.prediction import detect, network_input
from kinet_trt.export.sampling import unlabelled_fields
from kinet_trt.export.validation import validate
from numpy.typing import NDArray
from torch import Tensor

from kinet_trt.core.detections import CLASSES, Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.counting.find import find_images
from kinet_trt.datasets.labelled import read_fields
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.evaluation.metrics import match

log = logging.getLogger(__name__)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet, which the release uses for normalisation."""
THRESHOLD = 0.5
IGNORED = ("device_id",)
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
_MAX_SIDE = 1024  # side of the part of a field that statistics are computed on, px


@dataclass(frozen=True)
class Shift:
    """Change of detections by other statistics of the norms."""

    before: int  # number of nuclei with the statistics of each image
    after: int  # number of nuclei with running statistics
    matched: int  # number of nuclei found in both, within 16 px
    reclassified: int  # number of matched nuclei with another class
    distance: float  # mean distance of matched nuclei, px

    def __str__(self) -> str:
        return (
            f"{self.matched} of {self.before} nuclei are found again ({self.distance:.2f} px away on average, "
            f"{self.reclassified} with another class), {self.before - self.matched} are lost and "
            f"{self.after - self.matched} are new"
        )


@dataclass(frozen=True)
class Imported:
    """Result of an import."""

    config: NetworkConfig
    parameters: int
    ignored: tuple[str, ...]  # names of ignored entries of the file
    threshold: float  # minimum height of a peak
    chosen: bool = False  # whether the threshold was chosen on labelled fields
    calibrated: int = 0  # number of fields for the running statistics; 0 if those of each image are used
    measured: int = 0  # number of fields for measuring the effect of running statistics
    separate: bool = False  # whether these are other fields
    shift: Shift | None = None  # effect of the estimated running statistics
    shift_of_file: Shift | None = None  # effect of the running statistics in the file

    def sentences(self) -> list[str]:
        """Return a summary in sentences."""
        branch = "with the region branch" if self.config.roi else "without the region branch"
        dropped = f"; {', '.join(self.ignored)} is not a weight and was ignored" if self.ignored else ""
        lines = [f"{self.config.summary}, {branch}: {self.parameters / 1e6:.2f} million parameters{dropped}."]
        if self.shift is None:
            lines.append(
                "The norms use the statistics of each image, in FP32, as in the release: results for one image are the "
                "same, but depend on the rest of the image, on tiles and on padding, and the norms cannot be "
                "folded. --calibrate FIELDS estimates running statistics instead."
            )
        else:
            where = "other fields" if self.separate else "the same fields, so the result is optimistic"
            lines += [
                f"The norms now use running statistics, estimated on {self.calibrated} fields. Measured on "
                f"{self.measured} fields ({where}): {self.shift}.",
                f"With the running statistics in the file, which the release does not use: {self.shift_of_file}.",
            ]
        how = "chosen on the labelled fields" if self.chosen else "the release's, relative to the highest peak there"
        lines.append(f"Threshold {self.threshold:g} ({how}); ImageNet's mean and deviation, {MPP:g} um/px.")
        return lines


def import_weights(source: Path, out: Path, fields: Path | None) -> Imported:
    """Convert a ``.pth`` of the authors' release, with or without the region branch, to the checkpoint ``out``.

    Only tensors are unpickled. ``fields`` are images or labelled fields for estimating running statistics; None for the
    statistics of each image, as in the release. Raise a KinetError if the file is damaged or of another network, or the
    fields cannot be read.
    """
    weights, ignored = read_state_dict(source)
    config = _config(weights)
    network = build(config).eval()
    _load(network, weights, source)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    info = ModelInfo(CLASSES, MPP, MEAN, STD, THRESHOLD, data=f"weights of KiNet's authors ({source.name})")
    per_image = with_instance_norms(copy.deepcopy(network))
    if fields is None:
        info = replace(info, data=f"{info.data}; instance norms: results depend on the rest of the image")
        checkpoint.save(out, per_image, info)
        return Imported(per_image.config, parameters, ignored, info.threshold)

    images = [field.at_scale(None, MPP) for field in _fields(fields)]
    separate = len(images) >= 4
    estimating, measuring = (images[::2], images[1::2]) if separate else (images, images)
    before = _detect(per_image, info, measuring)
    shift_of_file = _shift(before, _detect(network, info, measuring))
    estimate_statistics(network, (network_input(_part(field), info) for field in estimating))
    shift = _shift(before, _detect(network, info, measuring))
    info = replace(info, data=f"{info.data}; norms calibrated on {len(estimating)} fields of {fields.name}")
    labelled = [field for field in images if field.labelled and len(field.x)]
    if labelled:
        info = replace(info, threshold=validate(network, info, labelled).threshold)
    checkpoint.save(out, network, info)
    return Imported(
        config,
        parameters,
        ignored,
        info.threshold,
        bool(labelled),
        len(estimating),
        len(measuring),
        separate,
        shift,
        shift_of_file,
    )


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read the tensors of a ``.pth`` by name, and the names of ignored entries.

    The tensors may be in a dictionary in the file, and have the prefix of ``DataParallel``.
    """
    content = read_torch_file(path, "state dict")
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise KinetError(f"{path}: expected a state dict, names with tensors, found {type(content).__name__}")
    named = {str(name).removeprefix("module."): value for name, value in content.items()}
    return (
        {name: value for name, value in named.items() if name not in IGNORED},
        tuple(name for name in named if name in IGNORED),
    )


def _config(weights: Mapping[str, Tensor]) -> NetworkConfig:
    """Return the network that the tensors appear to belong to; loading them verifies it."""
    stem = weights.get("in_tr_100.conv.weight")
    width = len(stem) if stem is not None and stem.ndim == 4 else 32
    valid_width = width if width >= 2 and not width % 2 else 32
    return NetworkConfig("release", valid_width, "elu", roi=any("_ROI" in name for name in weights))


def _load(network: Network, weights: Mapping[str, Tensor], path: Path) -> None:
    expected = network.state_dict()
    # PyTorch before 0.4.1 did not count batches; the counts are not used.
    counts = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = sorted(set(expected) - set(weights) - counts)
    unknown = sorted(set(weights) - set(expected))
    wrong = [name for name in sorted(set(expected) & set(weights)) if expected[name].shape != weights[name].shape]
    if missing or unknown or wrong:
        problems = []
        if missing:
            problems.append(f"{len(missing)} are missing, like {missing[0]}")
        if unknown:
            problems.append(f"{len(unknown)} are unknown, like {unknown[0]}")
        if wrong:
            found, right = weights[wrong[0]].shape, expected[wrong[0]].shape
            problems.append(f"{wrong[0]} is {list(found)} instead of {list(right)}")
        raise KinetError(
            f"{path}: expected the {len(expected)} tensors of the authors' release ({network.config.summary}); "
            f"{'; '.join(problems)}"
        )
    broken = [name for name, value in weights.items() if not value.float().isfinite().all()]
    if broken:
        raise KinetError(f"{path}: {broken[0]} contains NaN or infinity. Download the file again")
    network.load_state_dict(dict(weights), strict=False)


def _fields(folder: Path) -> list[LabelledField]:
    """Read labelled fields, or images without labels."""
    try:
        return read_fields(folder)
    except KinetError as error:
        log.info("no labelled fields: %s", error)
    return unlabelled_fields(find_images([folder]))


def _part(field: LabelledField) -> NDArray[np.uint8]:
    """Return the upper left part of a field."""
    return field.pixels()[:_MAX_SIDE, :_MAX_SIDE]


def _detect(network: Network, info: ModelInfo, fields: Sequence[LabelledField]) -> list[Detections]:
    return [detect(network, info, _part(field), info.threshold) for field in fields]


def _shift(before: Sequence[Detections], after: Sequence[Detections]) -> Shift:
    reclassified, distances = 0, [np.empty(0)]
    for a, b in zip(before, after, strict=True):
        index_after, index_before, distance = match(b.x, b.y, a.x, a.y)
        reclassified += int((b.cls[index_after] != a.cls[index_before]).sum())
        distances.append(distance)
    matched = np.concatenate(distances)
    mean = float(matched.mean()) if len(matched) else 0.0
    return Shift(sum(map(len, before)), sum(map(len, after)), len(matched), reclassified, mean)
