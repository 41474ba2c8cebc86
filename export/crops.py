"""Training crops: random views of fields with their targets, and random stains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from kinet_trt.export.networks.base import Target
from kinet_trt.export.proximity import proximity_maps
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from kinet_trt.core.detections import CLASSES
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.simulation import simulate

NON_TUMOR = CLASSES.index("non_tumor")
SIMULATED_FIELDS = 200
"""Number of simulated fields that crops are taken from."""
ROI_REACH = 20
"""Distance from a labelled nucleus, px, within which its kind of region is assumed if none was drawn."""
MIN_TEACHER_SUM = 0.15
"""Sum of a teacher's maps from which a pixel belongs to a nucleus that it found."""

# Ruifrok and Johnston 2001: optical densities of haematoxylin and DAB, and the residual.
_STAINS = np.array([[0.650, 0.704, 0.286], [0.268, 0.570, 0.776], [0.0, 0.0, 0.0]], np.float64)
_STAINS[2] = np.cross(_STAINS[0], _STAINS[1])
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)
_UNMIX = np.linalg.inv(_STAINS)


@dataclass(frozen=True)
class CropPlan:
    """Parameters of the sampling of crops."""

    size: int = 208  # side of a crop, px
    per_image: int = 4  # consecutive crops from the same image; four in the paper
    distance: float = 15.0  # distance d of the proximity maps (Eq. 1), px
    alpha: float = 3.0  # decay of the proximity maps (Eq. 1)
    stain: bool = False  # vary stain, scanner, focus and noise, not only position and orientation as in the paper
    scale: float = 1.0  # maximum factor of enlargement or shrinking, at any angle; 1: quarter turns, not interpolated
    simulated: float = 0.0  # fraction of simulated crops, in which all non-tumour nuclei are known
    empty: float = 0.0  # fraction of crops without tissue, and so without nuclei


class Crop(NamedTuple):
    """A training example; the maps are float32, [size, size] each."""

    pixels: NDArray[np.uint8]  # RGB, [size, size, 3]
    maps: NDArray[np.float32]  # target, [classes or more]
    known: NDArray[np.float32]  # 1 where the target is known, [classes]
    tumor: NDArray[np.float32]  # tumour region, [1]
    region: NDArray[np.float32]  # 1 where the region is known, [1]
    total: NDArray[np.float32]  # sum of the maps, [1]
    unclassified: NDArray[np.float32]  # 1 where only the sum is known, at nuclei without a class, [1]
    teacher_maps: NDArray[np.float32]  # [classes]
    teacher_known: NDArray[np.float32]  # 1 where there are maps of a teacher, [1]


class Crops(Dataset[tuple[Tensor, ...]]):
    """Seeded data set of ``length`` crops. An item depends only on seed and index, so a resumed run repeats it.

    ``weights`` are the sampling weights of the fields, at any scale. ``target`` draws the target of the network; None
    for proximity maps. ``teacher_maps`` are those of each field, uint8 [H, W, classes]
    (:mod:`kinet_trt.export.distillation`); empty if there is no teacher.
    """

    def __init__(
        self,
        fields: Sequence[LabelledField],
        weights: Sequence[float],
        plan: CropPlan,
        seed: int,
        length: int,
        target: Target | None = None,
        teacher_maps: Sequence[NDArray[np.uint8]] = (),
    ) -> None:
        self.fields, self.teacher_maps = list(fields), list(teacher_maps)
        self.share = np.asarray(weights, np.float64) / np.sum(weights)
        self.plan, self.seed, self.length, self.target = plan, seed, length, target

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        crop = self.draw(index)
        return tuple(map(torch.from_numpy, crop if self.teacher_maps else crop[:-2]))

    def draw(self, index: int) -> Crop:
        """Return crop ``index``."""
        rng = np.random.default_rng([self.seed, index, 0])
        kind = rng.random()
        if kind < self.plan.empty:
            return _empty_crop(rng, self.plan, self.target)
        if kind < self.plan.empty + self.plan.simulated:
            field = _simulated_field(int(rng.integers(SIMULATED_FIELDS)), int(self.plan.size * 1.5))
            return _crop(rng, field, self.plan, self.target, None)
        field_rng = np.random.default_rng([self.seed, index // self.plan.per_image, 1])
        number = field_rng.choice(len(self.fields), p=self.share)
        teacher_map = self.teacher_maps[number] if self.teacher_maps else None
        return _crop(rng, self.fields[number], self.plan, self.target, teacher_map)


@lru_cache(maxsize=SIMULATED_FIELDS)
def _simulated_field(number: int, side: int) -> LabelledField:
    """Return one of a fixed set of simulated fields, cached because simulation is too slow for each crop."""
    rng = np.random.default_rng(number)
    pixels, truth = simulate.field(
        number,
        side,
        side,
        positive_fraction=float(rng.uniform(0.05, 0.6)),
        tumor_share=float(rng.uniform(0.2, 0.8)),
        counterstain=float(rng.uniform(0.6, 1.3)),
        dab=float(rng.uniform(0.6, 1.3)),
    )
    return LabelledField.simulated(pixels, truth.x, truth.y, truth.cls)


def _empty_crop(rng: np.random.Generator, plan: CropPlan, target: Target | None) -> Crop:
    """Return a crop of a flat colour, a gradient or noise, such as glass."""
    size = plan.size
    base = rng.uniform(0, 255, 3) if rng.random() < 0.7 else np.full(3, rng.uniform(0, 255))
    ramp = np.linspace(-1, 1, size)
    slope = rng.normal(0, 25, (2, 3)) * (rng.random() < 0.5)
    pixels = base + ramp[:, None, None] * slope[0] + ramp[None, :, None] * slope[1]
    noise = rng.normal(0, 1, (size, size, 3)).astype(np.float32)
    if rng.random() < 0.5:
        noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.5, 2.0)))
    pixels = pixels + noise * rng.uniform(0, 12)
    zeros, no_points = np.zeros((len(CLASSES), size, size), np.float32), np.zeros(0)
    maps = target(no_points, no_points, no_points.astype(np.uint8), size, size, len(CLASSES)) if target else zeros
    rgb = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return Crop(rgb, maps, np.ones_like(zeros), *(zeros[:1],) * 4, zeros, zeros[:1])


def _crop(
    rng: np.random.Generator,
    source: LabelledField,
    plan: CropPlan,
    target: Target | None,
    teacher_map: NDArray[np.uint8] | None,
) -> Crop:
    pixels = source.pixels()
    height, width = pixels.shape[:2]
    size = plan.size

    # Affine map from field to crop: shift to a random centre, mirror, rotate, scale.
    factor = np.exp(rng.uniform(-1, 1) * np.log(plan.scale))
    angle = rng.uniform(0, 2 * np.pi) if plan.scale > 1 else np.pi / 2 * rng.integers(4)
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0])
    cos, sin = np.cos(angle), np.sin(angle)
    linear = factor * np.array([[cos, -sin], [sin, cos]]) @ mirror
    margin = min(size / 2 / factor, height / 2, width / 2)
    centre = np.array([rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)]) - 0.5
    affine = np.column_stack([linear, (size - 1) / 2 - linear @ centre])

    view = cv2.warpAffine(pixels, affine, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)

    def warped(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        binary = mask.astype(np.uint8)
        nearest = cv2.warpAffine(binary, affine, (size, size), flags=cv2.INTER_NEAREST, borderValue=(0,))
        return nearest.astype(np.float32)

    counted = warped(source.counted_mask())
    x, y = affine @ np.vstack([source.x, source.y, np.ones_like(source.x)])
    reach = max(ROI_REACH, plan.distance) + 1
    in_reach = (x > -reach) & (x < size + reach) & (y > -reach) & (y < size + reach)
    x, y, cls = x[in_reach], y[in_reach], source.cls[in_reach]

    maps, nearest = proximity_maps(x, y, cls, size, size, len(CLASSES), plan.alpha, plan.distance)
    known = np.repeat(counted[None], len(CLASSES), axis=0)
    total, unclassified = np.zeros((2, 1, size, size), np.float32)
    if not source.classified:
        total, maps = maps.sum(axis=0, keepdims=True), np.zeros_like(maps)
        unclassified = counted[None] * (nearest <= plan.distance)
        known = known - unclassified
    for s, name in enumerate(CLASSES if source.classified else ()):
        if name not in source.labelled or name in source.partial:
            # Known only at labelled nuclei, including those of another class, where there is none of this one.
            known[s] *= (nearest <= plan.distance) | (maps[s] > 0)
    if target:
        maps = target(x, y, cls, size, size, len(CLASSES))
    teacher_maps = np.zeros((len(CLASSES), size, size), np.float32)
    teacher_known = np.zeros((1, size, size), np.float32)
    if teacher_map is not None:
        teacher_view = np.asarray(cv2.warpAffine(teacher_map, affine, (size, size)), np.float32)
        teacher_maps = teacher_view.transpose(2, 0, 1) / np.float32(255)
        teacher_known = warped(np.ones((height, width), bool))[None]
        if not source.classified:
            teacher_maps, teacher_known = divide_by_class(teacher_maps, total, teacher_known)
    classified = counted if source.classified else np.zeros_like(counted)
    tumor, region = weak_region(x, y, cls, classified, source.counted is not None and source.classified)
    if regions := source.regions():
        drawn_tumor, drawn = (warped(mask)[None] for mask in regions)
        tumor, region = np.where(drawn > 0, drawn_tumor, tumor), np.maximum(region, drawn)
        teacher_maps = without_tumor(teacher_maps, drawn[0] * (1 - drawn_tumor[0]))
    # Glass and blood: known to have no nuclei of any class, labelled or not, and no tumour.
    if source.outlines.empty:
        empty = warped(source.empty_mask())[None]
        known, region, tumor = np.maximum(known, empty), np.maximum(region, empty), tumor * (1 - empty)
        teacher_maps = teacher_maps * (1 - empty)
    rgb = np.asarray(view, np.uint8)
    if plan.stain:
        rgb = vary_stain(rng, rgb)
    teacher_maps = np.ascontiguousarray(teacher_maps)
    return Crop(rgb, maps, known, tumor, region, total, unclassified, teacher_maps, teacher_known)


def divide_by_class(
    maps: NDArray[np.float32], total: NDArray[np.float32], known: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Divide nuclei without a class among the classes in proportion to a teacher's maps, float32 [classes, H, W].

    ``total`` is the sum of the target maps, ``known`` is 1 where the teacher's maps are known, float32 [1, H, W].
    Return maps with the sum ``total``, and 1 where they are known: not at nuclei that the teacher did not find.
    """
    found = maps.sum(axis=0, keepdims=True)
    return total * maps / np.maximum(found, MIN_TEACHER_SUM), known * ((found >= MIN_TEACHER_SUM) | (total == 0))


def without_tumor(maps: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return maps in which all nuclei in tissue other than tumour, where ``other`` [H, W] is 1, are non-tumour."""
    changed = maps * (1 - other)
    changed[NON_TUMOR] += maps.max(axis=0) * other
    return changed


def weak_region(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    cls: NDArray[np.uint8],
    counted: NDArray[np.float32],
    drawn: bool,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the tumour region, and 1 where it is known, float32 [1, H, W].

    It is the counted region, where ``counted`` [H, W] is 1, if that was drawn, else it is around labelled nuclei.
    """
    if drawn:
        return counted[None].copy(), counted[None].copy()
    discs = [np.zeros(counted.shape, np.uint8) for _ in range(2)]
    for px, py, s in zip(x, y, cls, strict=True):
        cv2.circle(discs[int(s == NON_TUMOR)], (round(px), round(py)), ROI_REACH, (1,), -1)
    tumor, other = (disc.astype(np.float32) * counted for disc in discs)
    known = np.abs(tumor - other)  # unknown where both kinds are close together
    return (tumor * known)[None], known[None]


def vary_stain(rng: np.random.Generator, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image, RGB uint8 [H, W, 3], with the stain, scanner and camera varied at random.

    Haematoxylin and DAB are unmixed by optical density (Beer-Lambert; Ruifrok and Johnston 2001), scaled, and mixed
    with slightly different stain vectors. White point, gamma and colour matrix of the camera, stray light, focus or
    sharpening, noise and JPEG compression vary, too.
    """
    density = -np.log((pixels.astype(np.float32) + 1) / 256)
    stains = density.reshape(-1, 3) @ _UNMIX.astype(np.float32)
    gain = np.exp(rng.normal(0, [0.25, 0.20, 0.12])).astype(np.float32)
    shift = rng.normal(0, 0.02, 3).astype(np.float32)
    vectors = _STAINS + rng.normal(0, 0.04, (3, 3))
    density = (stains * gain + shift) @ vectors.astype(np.float32)
    white = np.exp(rng.normal(0, 0.06) + rng.normal(0, 0.03, 3)).astype(np.float32)
    light = np.exp(-density) * white
    if rng.random() < 0.4:
        matrix = np.eye(3) + rng.normal(0, 0.04, (3, 3))
        matrix /= matrix.sum(axis=1, keepdims=True)  # grey stays grey
        gamma = np.float32(np.exp(rng.normal(0, 0.15)))
        light = np.clip(light, 1e-3, None) ** gamma @ matrix.T.astype(np.float32)
    if rng.random() < 0.15:
        stray = np.float32(rng.uniform(0, 0.1))
        light = light * (1 - stray) + stray * np.float32(rng.uniform(0, 1))
    varied = (256 * light - 1).reshape(pixels.shape)
    optics = rng.random()
    if optics < 0.3:
        varied = np.asarray(cv2.GaussianBlur(varied, (0, 0), rng.uniform(0.4, 1.4)), np.float32)
    elif optics < 0.55:
        soft = np.asarray(cv2.GaussianBlur(varied, (0, 0), rng.uniform(0.8, 2.0)), np.float32)
        varied = varied + np.float32(rng.uniform(0.3, 1.6)) * (varied - soft)
    if rng.random() < 0.3:
        varied = varied + rng.normal(0, rng.uniform(1, 6), varied.shape).astype(np.float32)
    out: NDArray[np.uint8] = np.clip(np.rint(varied), 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        _, packed = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))])
        out = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return out
