"""What somebody marked in QuPath: its GeoJSON as nuclei, and as outlines of what was looked at.

QuPath measures from the corner of the first pixel: half a px is taken off its coordinates.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.detections import CLASSES
from kinet_trt.errors import KinetError, shown

log = logging.getLogger(__name__)

SUFFIX = ".geojson"
LARGEST_NUCLEUS = 2_500
"""Area, px, above which an outlined annotation is a region of tissue, and no nucleus: 56 px across."""
UNKNOWN_REACH = 16
"""px about a nucleus of an unknown class that are left out: the radius within which the paper matches nuclei."""

POSITIVE, NEGATIVE, NON_TUMOR = range(3)
_WORDS: Mapping[str, int] = {
    **dict.fromkeys(("positive", "pos", "immunopositive", "ki67+", "1+", "2+", "3+"), POSITIVE),
    **dict.fromkeys(("negative", "neg", "immunonegative", "ki67-"), NEGATIVE),
    **dict.fromkeys(("other", "nontumor", "stroma", "stromal", "immune", "lymphocyte", "normal"), NON_TUMOR),
    **dict.fromkeys(("fibroblast", "endothelial", "inflammatory"), NON_TUMOR),
}
_ALONGSIDE = ("tumor", "ki67", "cell", "nucleus", "nuclei")
_AREAS: Mapping[str, str] = {
    **dict.fromkeys(("", "region", "roi", "counted", "annotation"), "counted"),
    **dict.fromkeys(("ignore", "artefact", "artifact"), "ignored"),
    "tumor": "tumor",
    **dict.fromkeys(("stroma", "other", "nontumor", "normal", "necrosis", "immune cell"), "other"),
}
_SHIFT = 4  # bits of a pixel's fraction with which outlines are drawn

Ring = NDArray[np.float64]
Shape = tuple[Ring, ...]
"""A polygon: its outline and its holes, each float64 [n, 2], x and y, px, pixel centres at integers."""


@dataclass(frozen=True, eq=False)
class Outlines:
    """Areas that somebody drew.

    Attributes
    ----------
    counted
        Where every nucleus was marked; none: everywhere.
    ignored
        Where nothing is known.
    tumor, other
        Tumour, and tissue that is none: they teach the region branch.
    unknown
        Centres of nuclei whose class nobody knows, float64 [n, 2], px: the px about them are left out.
    """

    counted: tuple[Shape, ...] = ()
    ignored: tuple[Shape, ...] = ()
    tumor: tuple[Shape, ...] = ()
    other: tuple[Shape, ...] = ()
    unknown: Ring = field(default_factory=lambda: np.empty((0, 2)))

    @property
    def bounds(self) -> bool:
        """Whether part of the picture is left out."""
        return bool(self.counted or self.ignored or len(self.unknown))

    def counted_mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return where nuclei were marked, bool [height, width]."""
        mask = _filled(self.counted, height, width) if self.counted else np.ones((height, width), bool)
        mask &= ~_filled(self.ignored, height, width)
        about = np.zeros((height, width), np.uint8)
        for x, y in np.clip(self.unknown, -1e6, 1e6):
            cv2.circle(about, (round(x), round(y)), UNKNOWN_REACH, (1,), -1)
        mask &= about == 0
        return mask

    def regions(self, height: int, width: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
        """Return tumour and where that is known, bool [height, width]; None where nobody drew either kind."""
        if not (self.tumor or self.other):
            return None
        tumor, other = _filled(self.tumor, height, width), _filled(self.other, height, width)
        return tumor & ~other, tumor ^ other


@dataclass(frozen=True, eq=False)
class Marked:
    """The nuclei and the areas of one file.

    Attributes
    ----------
    x, y
        Nucleus centres, float32 [n], px, pixel centres at integers.
    cls
        Index in :data:`CLASSES`, uint8 [n].
    outlines
        The areas.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    cls: NDArray[np.uint8]
    outlines: Outlines


def nucleus_class(name: str) -> int | None:
    """Return the class of a nucleus as people name it, index in :data:`CLASSES`; None for a class that is not known.

    ``Positive``, ``Tumor: Negative``, ``Immune cells``, ``Other``, ``non_tumor``, ``2+``: case, spaces and order do not
    matter. ``Tumor`` alone does not say whether the nucleus is stained.
    """
    words = _words(name)
    known = {_WORDS[word] for word in words if word in _WORDS}
    if not known or any(word not in _WORDS and word not in _ALONGSIDE for word in words):
        return None
    if NON_TUMOR in known:
        return None if "tumor" in words else NON_TUMOR  # a stained lymphocyte is no tumour nucleus
    return known.pop() if len(known) == 1 else None


def _words(name: str) -> list[str]:
    text = name.lower().replace("tumour", "tumor").replace("ki-67", "ki67")
    text = re.sub(r"non[\s_-]*tumor", "nontumor", text)
    words = re.split(r"[\s:,;/_()*]+|(?<=[a-z])-(?=[a-z])", text)
    return [re.sub(r"^(cell|lymphocyte|fibroblast)s$", r"\1", word) for word in words if word]


def read_geojson(path: Path) -> Marked:
    """Read the GeoJSON that QuPath exports, or that ``kinet-trt count --geojson`` wrote.

    Points, also several in one annotation, are nuclei; so are the centroids of cells, of detections and of outlined
    annotations of a nucleus's size. Larger annotations are areas, by their class: unclassified or ``Region*`` for what
    was counted, ``Ignore*``, ``Tumor``, ``Stroma`` and other tissue. What has another class, or none, is left out with
    the px about it, and said.

    Raises
    ------
    KinetError
        If the file cannot be read, is no GeoJSON, or holds a coordinate that is no number.
    """
    try:
        document = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise KinetError(f"{path}: cannot be read as GeoJSON: {error}") from None
    centres: list[tuple[float, float]] = []
    classes: list[int] = []
    unknown: list[tuple[float, float]] = []
    areas: dict[str, list[Shape]] = {"counted": [], "ignored": [], "tumor": [], "other": []}
    left = Tally[str]()
    for feature in _features(document, path):
        try:
            name, kind = _name(feature), _kind(feature)
            points, shapes = _geometry(feature.get("nucleusGeometry") or feature.get("geometry") or {})
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
            raise KinetError(
                f"{path}: expected features as QuPath exports them, found {shown(feature)}: export the objects again "
                "as GeoJSON"
            ) from None
        cls, area = nucleus_class(name), _AREAS.get(" ".join(_words(name)))
        large = sum(map(_area, shapes)) > LARGEST_NUCLEUS
        if kind == "annotation" and shapes and (large or (cls is None and name)):
            if area is None:
                left[f"area of the class {shown(name)}"] += 1
            else:
                areas[area] += shapes
            continue
        if not points and not shapes:
            left["line or empty object"] += 1
        points += [_centroid(shape[0]) for shape in shapes]
        if cls is None:
            unknown += points
            if points:
                left[f"nucleus of the class {shown(name)}" if name else "nucleus without a class"] += len(points)
            continue
        centres += points
        classes += [cls] * len(points)
    if left:
        log.warning(
            "%s: not understood and left out: %s. Classes of nuclei are Positive, Negative and Other; of areas "
            "Region*, Ignore*, Tumor and Stroma",
            path,
            ", ".join(f"{n} x {what}" for what, n in sorted(left.items())),
        )
    xy = np.asarray(centres, np.float64).reshape(-1, 2)
    return Marked(
        xy[:, 0].astype(np.float32),
        xy[:, 1].astype(np.float32),
        np.asarray(classes, np.uint8),
        Outlines(
            counted=tuple(areas["counted"]),
            ignored=tuple(areas["ignored"]),
            tumor=tuple(areas["tumor"]),
            other=tuple(areas["other"]),
            unknown=np.asarray(unknown, np.float64).reshape(-1, 2),
        ),
    )


def _features(document: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the features of a collection, of a list of them, or of a single one."""
    found = document.get("features", [document]) if isinstance(document, dict) else document
    if not isinstance(found, list) or not all(isinstance(one, dict) and one.get("type") == "Feature" for one in found):
        raise KinetError(
            f"{path}: expected GeoJSON features, found {shown(document)}: export the objects from QuPath with "
            "File > Export objects as GeoJSON"
        )
    yield from found


def _name(feature: Mapping[str, Any]) -> str:
    """Return an object's class; QuPath writes ``name``, and for derived classes ``names``."""
    given = (feature.get("properties") or {}).get("classification") or {}
    name = given.get("name") or ": ".join(given.get("names") or [])
    if not isinstance(name, str):
        raise TypeError
    return name


def _kind(feature: Mapping[str, Any]) -> str:
    """Return ``annotation``, ``cell`` and so on; QuPath before 0.3 says it in the id."""
    kind = (feature.get("properties") or {}).get("objectType") or (feature.get("properties") or {}).get("object_type")
    if kind is None:
        identity = str(feature.get("id", ""))
        kind = "cell" if re.search("Cell|Detection", identity) else "annotation"
    return str(kind).lower()


def _geometry(geometry: Mapping[str, Any]) -> tuple[list[tuple[float, float]], list[Shape]]:
    """Return the points and the polygons of a geometry, px."""
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind == "GeometryCollection":
        parts = [_geometry(part) for part in geometry["geometries"]]
        return [p for points, _ in parts for p in points], [s for _, shapes in parts for s in shapes]
    if kind == "Point":
        return [(x, y) for x, y in _positions([coordinates])], []
    if kind == "MultiPoint":
        return [(x, y) for x, y in _positions(coordinates)], []
    if kind in ("Polygon", "MultiPolygon"):
        polygons: Any = [coordinates] if kind == "Polygon" else coordinates
        shapes = [tuple(_positions(ring) for ring in polygon) for polygon in polygons]
        return [], [shape for shape in shapes if shape and len(shape[0])]
    return [], []


def _positions(coordinates: Any) -> Ring:
    """Return positions as x, y, px, pixel centres at integers; a third coordinate, the plane, is dropped."""
    xy = np.asarray([[float(position[0]), float(position[1])] for position in coordinates]).reshape(-1, 2) - 0.5
    if not (np.abs(xy) < np.finfo(np.float32).max).all():
        raise ValueError
    return xy


def _area(shape: Shape) -> float:
    """Return the area inside a polygon's outline, px (shoelace formula)."""
    x, y = (shape[0] - shape[0][0]).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _centroid(ring: Ring) -> tuple[float, float]:
    """Return the centroid of a polygon's area; of a degenerate one the mean of its corners."""
    origin = ring[0]
    x, y = (ring - origin).T
    cross = x * np.roll(y, -1) - y * np.roll(x, -1)
    if abs(cross.sum()) < 1e-6:
        mean = ring.mean(axis=0)
        return float(mean[0]), float(mean[1])
    cx, cy = (float(((a + np.roll(a, -1)) * cross).sum() / (3 * cross.sum())) for a in (x, y))
    return float(origin[0]) + cx, float(origin[1]) + cy


def _filled(shapes: Sequence[Shape], height: int, width: int) -> NDArray[np.bool_]:
    """Return the px inside any of the shapes, bool [height, width]."""
    inside = np.zeros((height, width), bool)
    for shape in shapes:
        one = np.zeros((height, width), np.uint8)
        # Far corners are pulled in, or OpenCV's integers overflow.
        rings = [np.rint(np.clip(ring, -1e6, 1e6) * 2**_SHIFT).astype(np.int32) for ring in shape]
        cv2.fillPoly(one, rings, (1,), lineType=cv2.LINE_8, shift=_SHIFT)
        inside |= one > 0
    return inside


assert CLASSES == ("positive", "negative", "non_tumor")  # the order of the constants above
