"""Review of drawn regions: images of the fields with a pixel grid, and the nuclei in each kind of region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import CLASSES, COLOURS
from kinet_trt.core.errors import KinetError
from kinet_trt.datasets.labelled import read_fields, with_regions
from kinet_trt.datasets.labelled_field import LabelledField

WIDTH = 1000
"""Minimum width of the images, px; small fields are enlarged by an integer factor."""
GRID = 50
"""Default spacing of the grid, px of the field."""
KINDS = {"tumor": (30, 190, 30), "other": (225, 30, 225), "empty": (0, 200, 230)}
"""Kinds of region with their RGB colours; ``other`` is other tissue, ``empty`` has no nuclei."""
NON_TUMOR = CLASSES.index("non_tumor")
_MARGIN = 36  # margin for the coordinates of the grid, px
_TINT = 0.15


@dataclass(frozen=True)
class RegionSummary:
    """Summary of one kind of region in a field."""

    area: float  # fraction of the field's area, 0 to 1
    tumor: int  # number of labelled tumour nuclei in it
    non_tumor: int  # number of labelled non-tumour nuclei in it


def read(folder: Path, regions: Path | None = None, mpp: float | None = None) -> list[LabelledField]:
    """Return the images of a folder, with and without labelled nuclei, and their regions.

    ``regions`` is a folder of GeoJSON files (:func:`kinet_trt.datasets.labelled.with_regions`), in addition to those
    beside the images.
    """
    fields = read_fields(folder, mpp, unlabelled=True)
    return with_regions(fields, regions) if regions else fields


def check(field: LabelledField) -> dict[str, RegionSummary]:
    """Return a summary of each of :data:`KINDS` in a field; nuclei are counted only if the field is labelled."""
    masks = _masks(field)
    height, width = field.pixels().shape[:2]
    column = np.clip(np.rint(field.x).astype(int), 0, width - 1)
    row = np.clip(np.rint(field.y).astype(int), 0, height - 1)
    other = field.cls == NON_TUMOR
    found = {}
    for kind, mask in masks.items():
        in_region = mask[row, column]
        tumor, non_tumor = int((in_region & ~other).sum()), int((in_region & other).sum())
        found[kind] = RegionSummary(float(mask.mean()), tumor, non_tumor)
    return found


def rows(fields: Sequence[LabelledField]) -> tuple[list[str], list[list[str]]]:
    """Return the summaries of fields as a table: headers and cells."""
    headers = ["field", *(f"{kind} {quantity}" for kind in KINDS for quantity in ("area", "nuclei"))]
    cells = []
    for field in fields:
        row = [field.name]
        for summary in check(field).values():
            nuclei = f"{summary.tumor} tumour, {summary.non_tumor} non-tumour" if field.labelled else "-"
            row += [f"{100 * summary.area:.1f} %", nuclei]
        cells.append(row)
    return headers, cells


def draw(
    field: LabelledField, box: tuple[int, int, int, int] | None = None, grid: int = GRID, nuclei: bool = True
) -> NDArray[np.uint8]:
    """Draw an enlarged field with a grid, its regions and, with ``nuclei``, its labelled nuclei, RGB uint8.

    ``box`` is left, top, right and bottom of the part to draw, px of the field; None for all of it. It may extend
    beyond the field; raise a KinetError if it is outside. ``grid`` is the spacing of the grid, px of the field; its
    labels are coordinates as in QuPath and GeoJSON.
    """
    height, width = field.pixels().shape[:2]
    left, top, right, bottom = box or (0, 0, width, height)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if left >= right or top >= bottom:
        raise KinetError(f"{field.image}: expected a part of its {width} x {height} px, found {box}")
    factor = max(1, -(-WIDTH // (right - left)))
    size = ((right - left) * factor, (bottom - top) * factor)
    part = (slice(top, bottom), slice(left, right))
    picture = np.array(cv2.resize(field.pixels()[part], size, interpolation=cv2.INTER_CUBIC), np.uint8)
    for kind, mask in _masks(field).items():
        large = cv2.resize(mask[part].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        tinted = np.asarray(large > 0)
        picture[tinted] = np.rint((1 - _TINT) * picture[tinted] + _TINT * np.asarray(KINDS[kind])).astype(np.uint8)
        outlines, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, KINDS[kind], 2, cv2.LINE_AA)
    if nuclei:
        for x, y, cls in zip(field.x, field.y, field.cls, strict=True):
            centre = (round((float(x) + 0.5 - left) * factor), round((float(y) + 0.5 - top) * factor))
            cv2.circle(picture, centre, 4, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(picture, centre, 3, COLOURS[CLASSES[cls]], -1, cv2.LINE_AA)
    return _with_grid(picture, left, top, factor, grid)


def _with_grid(picture: NDArray[np.uint8], left: int, top: int, factor: int, grid: int) -> NDArray[np.uint8]:
    """Return an image with grid lines, and their coordinates in a margin."""
    height, width = picture.shape[:2]
    lines = picture.copy()
    page = np.full((height + _MARGIN, width + _MARGIN, 3), 255, np.uint8)
    for x in range(-(-left // grid) * grid, left + width // factor, grid):
        at = (x - left) * factor
        cv2.line(lines, (at, 0), (at, height), (0, 0, 0), 1)
        cv2.putText(page, str(x), (at + _MARGIN - 12, _MARGIN - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1)
    for y in range(-(-top // grid) * grid, top + height // factor, grid):
        at = (y - top) * factor
        cv2.line(lines, (0, at), (width, at), (0, 0, 0), 1)
        cv2.putText(page, str(y), (1, at + _MARGIN + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1)
    page[_MARGIN:, _MARGIN:] = cv2.addWeighted(picture, 0.65, lines, 0.35, 0)
    return page


def _masks(field: LabelledField) -> dict[str, NDArray[np.bool_]]:
    """Return the mask of each of :data:`KINDS`, bool [H, W]; empty areas are excluded from the others."""
    empty = field.empty_mask()
    tumor, known = field.regions() or (np.zeros_like(empty), np.zeros_like(empty))
    return {"tumor": tumor & ~empty, "other": known & ~tumor & ~empty, "empty": empty}
