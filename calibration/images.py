"""Choose calibration images: distinct images of tissue, from pale to dark stain; others are held out for evaluation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import ImageError, KinetError
from kinet_trt.core.frame import fit
from kinet_trt.counting.find import find_images
from kinet_trt.datasets.labelled import read_fields
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.io.images import read_image
from kinet_trt.models.card import ModelCard

CROP_SIDE = 384
"""Maximum side of a calibration crop, model px: it contains several hundred nuclei and takes a second."""
MAX_READ = 300
"""Maximum number of files to read; a larger folder is sampled at random."""
MAX_HELD_OUT = 48
"""Maximum number of held-out images."""
MIN_IMAGES = 4
"""Minimum number of distinct images of tissue."""
TISSUE_DENSITY = 0.08
"""Mean optical density over R, G and B above which a pixel is tissue; pale counterstain has about 0.15."""
MIN_TISSUE = 0.15
"""Share of tissue below which an image counts as glass."""
BROWN = 0.12
"""Difference of optical density, blue minus red, above which a pixel is DAB; for haematoxylin it is negative."""
MAX_CORRELATION = 0.97
"""Correlation of two thumbnails above which the images show the same tissue."""
_THUMBNAIL_SIDE = 24  # px


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of the folder."""

    path: Path
    crop: NDArray[np.uint8]  # part with the most tissue, at the model's scale and alignment, RGB uint8 [H, W, 3]
    brown: float  # share of the tissue that is stained with DAB
    field: LabelledField | None = None  # None if the image has no labels


@dataclass(frozen=True, eq=False)
class Choice:
    """The chosen images; ``held_out``, for measuring the result, and ``calibration`` are disjoint."""

    calibration: tuple[Picture, ...]  # by increasing amount of DAB
    held_out: tuple[Picture, ...]
    glass: tuple[Path, ...]  # excluded: no tissue
    grey: tuple[Path, ...]  # excluded: no colour
    duplicates: tuple[Path, ...]  # excluded: the same tissue as another image
    unreadable: tuple[Path, ...]  # excluded: not an image

    @property
    def sha256(self) -> str:
        """Return the hash of the calibration images' pixels, in hexadecimal."""
        digest = hashlib.sha256()
        for picture in self.calibration:
            digest.update(str(picture.crop.shape).encode())
            digest.update(picture.crop.tobytes())
        return digest.hexdigest()


def choose(
    folder: Path, card: ModelCard, images: int, seed: int = 0, report: Callable[[int, int], None] = lambda *_: None
) -> Choice:
    """Choose calibration images from a folder, and hold out others to measure the result.

    At most half of the distinct images of tissue, and at most ``images``, are used for calibration, evenly spaced in
    the order of the amount of DAB, so that pale and dark ones are included. Of the others, at most :data:`MAX_HELD_OUT`
    are held out, preferably those with labels. ``report`` is called with the number of files read and of all files.
    Raise a KinetError if fewer than :data:`MIN_IMAGES` distinct images of tissue are found.
    """
    if images < 1:
        raise KinetError(f"calibration images: expected 1 or more, found {images}")
    files = _find_files(folder)
    if len(files) > MAX_READ:
        sampled = np.random.default_rng(seed).choice(len(files), MAX_READ, replace=False)
        files = [files[i] for i in sorted(sampled)]
    candidates: list[Picture] = []
    thumbnails: list[NDArray[np.float32]] = []
    excluded: dict[str, list[Path]] = {"glass": [], "grey": [], "duplicates": [], "unreadable": []}
    for number, (path, field) in enumerate(files):
        report(number, len(files))
        try:
            frame = read_image(path)
            pixels = fit(frame, card.mpp, card.multiple).pixels
        except ImageError:
            excluded["unreadable"].append(path)
            continue
        tissue, brown = stain(pixels)
        thumbnail = _thumbnail(pixels)
        if tissue < MIN_TISSUE:
            excluded["glass"].append(path)
        elif frame.is_grey:
            excluded["grey"].append(path)
        elif any(float((thumbnail * other).mean()) > MAX_CORRELATION for other in thumbnails):
            excluded["duplicates"].append(path)
        else:
            candidates.append(Picture(path, densest(pixels, CROP_SIDE, card.multiple), brown, field))
            thumbnails.append(thumbnail)
    report(len(files), len(files))
    if len(candidates) < MIN_IMAGES:
        raise KinetError(
            f"{folder}: calibration needs at least {MIN_IMAGES} distinct colour images of tissue, found "
            f"{len(candidates)} (excluded: {', '.join(f'{len(files)} {kind}' for kind, files in excluded.items())}). "
            "Add images of your stain and scanner"
        )
    candidates.sort(key=lambda picture: picture.brown)
    chosen = set(_evenly_spaced(len(candidates), min(images, len(candidates) // 2)))
    others = [picture for i, picture in enumerate(candidates) if i not in chosen]
    labelled = [picture for picture in others if picture.field]
    pool = labelled if len(labelled) >= MAX_HELD_OUT else labelled + [p for p in others if not p.field]
    held_out = [pool[i] for i in _evenly_spaced(len(pool), min(MAX_HELD_OUT, len(pool)))]
    return Choice(
        tuple(candidates[i] for i in sorted(chosen)), tuple(held_out), *(tuple(paths) for paths in excluded.values())
    )


def _find_files(folder: Path) -> list[tuple[Path, LabelledField | None]]:
    """Return the images of a folder with their labels, labelled ones first."""
    fields: list[LabelledField] = []
    images: list[Path] = []
    with suppress(KinetError):
        fields = read_fields(folder)
    try:
        images = find_images([folder])
    except KinetError:
        if not fields:
            raise
    known = {os.path.abspath(field.image) for field in fields}
    return [(f.image, f if f.labelled else None) for f in fields] + [
        (path, None) for path in images if os.path.abspath(path) not in known
    ]


def at_scale(path: Path, card: ModelCard) -> NDArray[np.uint8]:
    """Return an image file at a model's scale, padded to its alignment, RGB uint8 [H, W, 3]."""
    return fit(read_image(path), card.mpp, card.multiple).pixels


def stain(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the share of tissue in an image, RGB uint8 [H, W, 3], and the share of the tissue that is brown."""
    density = _optical_density(pixels, 4)
    tissue = density.mean(axis=2) > TISSUE_DENSITY
    brown = tissue & (density[..., 2] - density[..., 0] > BROWN)
    return float(tissue.mean()), float(brown.sum() / max(1, tissue.sum()))


def densest(pixels: NDArray[np.uint8], side: int, multiple: int) -> NDArray[np.uint8]:
    """Return the window with the most tissue, at most ``side`` px wide and high.

    ``pixels`` are RGB, uint8 [H, W, 3]; H, W, ``side`` and the position of the window are multiples of ``multiple``.
    """
    height, width = (min(side, length) for length in pixels.shape[:2])
    if (height, width) == pixels.shape[:2]:
        return pixels
    tissue = _optical_density(pixels, multiple).mean(axis=2) > TISSUE_DENSITY
    sums = np.pad(tissue.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = height // multiple, width // multiple
    in_window = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
    row, column = np.unravel_index(int(in_window.argmax()), in_window.shape)
    top, left = int(row) * multiple, int(column) * multiple
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def _optical_density(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.float32]:
    """Return the optical density of R, G and B, at 1 / ``factor`` of the size."""
    size = max(1, pixels.shape[1] // factor), max(1, pixels.shape[0] // factor)
    scaled = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return -np.log10((scaled + 1) / 256)


def _thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a grey thumbnail with mean 0 and standard deviation 1; scale, JPEG and exposure hardly change it."""
    rgb = cv2.resize(pixels, (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    grey = rgb.astype(np.float32).mean(axis=2)
    normalised: NDArray[np.float32] = (grey - grey.mean()) / np.float32(max(float(grey.std()), 1e-3))
    return normalised


def _evenly_spaced(length: int, count: int) -> Sequence[int]:
    """Return ``count`` evenly spaced indices below ``length``."""
    return [int((i + 0.5) * length / count) for i in range(count)]
