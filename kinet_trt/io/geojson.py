"""Read nuclei and areas from GeoJSON files of QuPath.

QuPath measures from the corner of the first pixel, so half a px is subtracted from its coordinates.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import CLASSES
from kinet_trt.core.errors import KinetError, shown
from kinet_trt.core.geometry import Ring, Shape

log = logging.getLogger(__name__)

SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".geojson.zip", ".json.zip", ".zip")
"""File types of QuPath's export."""
MAX_NUCLEUS_AREA = 289.0
"""Area above which an outlined annotation is a region and not a nucleus, µm²: a disc with a diameter of 19 µm."""
COUNTED_FIELD = "Counted field"
"""Class of the hot spots and fields that ``kinet-trt count`` writes; they are neither nuclei nor regions."""
DEFAULT_MPP = 0.34
"""µm/px assumed to convert :data:`MAX_NUCLEUS_AREA` to px: the scale of the training fields."""
UNKNOWN_REACH = 16
"""Radius of the excluded area around a nucleus of unknown class, px: the matching radius of the paper."""
_MAX_UNPACKED = 1 << 30  # of a compressed file, bytes

POSITIVE, NEGATIVE, NON_TUMOR = range(3)
_WORDS: Mapping[str, int] = {
    **dict.fromkeys(("positive", "pos", "immunopositive", "ki67+", "+", "1+", "2+", "3+"), POSITIVE),
    **dict.fromkeys(("negative", "neg", "immunonegative", "ki67-", "-"), NEGATIVE),
    **dict.fromkeys(("other", "nontumor", "stroma", "stromal", "immune", "lymphocyte", "normal"), NON_TUMOR),
    **dict.fromkeys(("fibroblast", "endothelial", "inflammatory"), NON_TUMOR),
}
_NEUTRAL_WORDS = ("tumor", "ki67", "cell", "nucleus", "nuclei")
_AREAS: Mapping[str, str] = {
    **dict.fromkeys(("", "region", "roi", "counted", "annotation"), "counted"),
    **dict.fromkeys(("ignore", "artefact", "artifact"), "ignored"),
    "tumor": "tumor",
    **dict.fromkeys(("stroma", "other", "nontumor", "normal", "necrosis", "immune cell"), "other"),
    **dict.fromkeys(("empty", "glass", "background", "whitespace", "blood", "red blood cell"), "empty"),
    **dict.fromkeys(("pigment", "debris"), "empty"),
}
_AREA_KINDS = ("counted", "ignored", "tumor", "other", "empty")
_KINDS = {"cell": "Cell|Detection", "tmacore": "TMACore", "root": "Root"}  # parts of QuPath's Java class names
_SHIFT = 4  # fractional bits of the corners of outlines


@dataclass(frozen=True, eq=False)
class Outlines:
    """Annotated areas of an image.

    Nuclei were labelled in ``counted`` areas, or in the whole image if there are none. Excluded from training and
    evaluation are ``ignored`` areas, and a disc around each of the ``unknown`` centres (nuclei of unknown class,
    float64 [n, 2], px). ``tumor`` and ``other`` tissue are the training data of the region branch. ``empty`` areas,
    such as glass and blood, contain no nuclei: detections there are false positives.
    """

    counted: tuple[Shape, ...] = ()
    ignored: tuple[Shape, ...] = ()
    tumor: tuple[Shape, ...] = ()
    other: tuple[Shape, ...] = ()
    empty: tuple[Shape, ...] = ()
    unknown: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))

    @property
    def has_exclusions(self) -> bool:
        """True if part of the image is excluded."""
        return bool(self.counted or self.ignored or len(self.unknown))

    @property
    def has_area_labels(self) -> bool:
        """True if tissue or empty areas were annotated."""
        return bool(self.tumor or self.other or self.empty)

    def counted_mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the mask of the area in which nuclei were labelled, bool [height, width]."""
        mask = _filled(self.counted, height, width) if self.counted else np.ones((height, width), bool)
        mask &= ~_filled(self.ignored, height, width)
        near_unknown = np.zeros((height, width), np.uint8)
        for x, y in np.clip(self.unknown, -1e6, 1e6):
            cv2.circle(near_unknown, (round(x), round(y)), UNKNOWN_REACH, (1,), -1)
        mask &= near_unknown == 0
        return mask

    def regions(self, height: int, width: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
        """Return the tumour mask and the annotated mask, bool [height, width]; None without annotated tissue."""
        if not (self.tumor or self.other):
            return None
        tumor, other = _filled(self.tumor, height, width), _filled(self.other, height, width)
        return tumor & ~other, tumor ^ other

    def empty_mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the mask of the areas without nuclei, bool [height, width]."""
        return _filled(self.empty, height, width)

    def corners(self) -> NDArray[np.float64]:
        """Return the corners of tissue and empty areas, float64 [n, 2], px."""
        shapes = (*self.tumor, *self.other, *self.empty)
        return np.concatenate([np.empty((0, 2)), *(ring for shape in shapes for ring in shape)])

    def merged(self, more: Outlines) -> Outlines:
        """Return the union of these areas and those of another file for the same image."""
        areas = {name: getattr(self, name) + getattr(more, name) for name in _AREA_KINDS}
        return Outlines(**areas, unknown=np.concatenate([self.unknown, more.unknown]))


@dataclass(frozen=True, eq=False)
class Annotations:
    """Nuclei and areas of one file, and the number of unknown objects by kind.

    Nucleus centres ``x``, ``y`` are float32 [n], px, pixel centres at integers; ``cls`` is an index in :data:`CLASSES`,
    uint8 [n].
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    cls: NDArray[np.uint8]
    outlines: Outlines = field(default_factory=Outlines)
    unknown_objects: Mapping[str, int] = field(default_factory=dict)


def nucleus_class(name: str) -> int | None:
    """Return the class of a nucleus for one of its common names, index in :data:`CLASSES`; None if unknown.

    ``Positive``, ``Tumor: Negative``, ``Immune cells``, ``Other``, ``non_tumor``, ``2+``, ``Ki67 -``: case, spaces and
    order do not matter. ``Tumor`` alone does not state whether the nucleus is stained.
    """
    words = _words(name)
    known = {_WORDS[word] for word in words if word in _WORDS}
    if not known or any(word not in _WORDS and word not in _NEUTRAL_WORDS for word in words):
        return None
    if NON_TUMOR in known:
        # Tumor + immune is contradictory; positive + immune is non-tumour.
        return None if "tumor" in words else NON_TUMOR
    return known.pop() if len(known) == 1 else None


def _words(name: str) -> list[str]:
    text = name.lower().replace("tumour", "tumor").replace("ki-67", "ki67").replace("\u2212", "-")
    text = re.sub(r"non[\s_-]*tumor", "nontumor", text)
    words = [word for word in re.split(r"[\s:,;/_()*]+|(?<=[a-z])-(?=[a-z])", text) if word]
    # A dash separates words ("Tumor - Positive"); at the end it is the sign of "Ki67 -".
    words = [word for i, word in enumerate(words) if word != "-" or i == len(words) - 1]
    return [re.sub(r"^(cell|lymphocyte|fibroblast)s$", r"\1", word) for word in words]


def read_areas(path: Path) -> Outlines:
    """Read a GeoJSON file of areas: outlines of any size are areas, and points or detections are an error."""
    found = read_geojson(path, lambda: np.inf)
    if nuclei := len(found.x) + len(found.outlines.unknown):
        raise KinetError(
            f"{path}: expected areas, found {nuclei} points or detections. Export nuclei to a file of their own"
        )
    return found.outlines


def read_geojson(path: Path, mpp: Callable[[], float | None] = lambda: None) -> Annotations:
    """Read a GeoJSON file of QuPath or of ``kinet-trt count --geojson``, also in ``.gz`` or ``.zip``.

    Points, cells, detections and outlined annotations up to :data:`MAX_NUCLEUS_AREA` are nuclei. Larger annotations are
    areas by their class: unclassified or ``Region*`` (counted), ``Ignore*``, ``Tumor``, ``Stroma`` and other tissue,
    ``Blood``, ``Glass`` and other areas without nuclei; TMA cores are counted areas. Nested objects (``childObjects``)
    are read once. The name of an annotation without a class serves as its class. Unknown objects are excluded together
    with their area, and logged; those of the class :data:`COUNTED_FIELD` are left out.

    ``mpp`` returns the µm/px of the image, or None for :data:`DEFAULT_MPP`; it is called if there are outlined
    annotations.
    """
    document = _document(path)
    max_area = 0.0  # px, not known yet
    centres: list[tuple[float, float]] = []
    classes: list[int] = []
    unknown: list[tuple[float, float]] = []
    areas: dict[str, list[Shape]] = {name: [] for name in _AREA_KINDS}
    skipped = Counter[str]()
    for feature in _features(document, path):
        try:
            name, kind = _class_name(feature), _kind(feature)
            points, shapes = _geometry(feature.get("nucleusGeometry") or feature.get("geometry") or {})
            missing = bool((feature.get("properties") or {}).get("isMissing"))
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
            raise KinetError(
                f"{path}: expected features as QuPath exports them, found {shown(feature)}. Export the objects again "
                "as GeoJSON"
            ) from None
        if kind == "root" or name == COUNTED_FIELD:
            continue
        if kind == "tmacore":
            areas["ignored" if missing else "counted"] += shapes
            continue
        cls, area_kind = nucleus_class(name), _AREAS.get(" ".join(_words(name)))
        if kind == "annotation" and shapes and not max_area:
            max_area = MAX_NUCLEUS_AREA / (mpp() or DEFAULT_MPP) ** 2
        # Each polygon of an annotation is a nucleus, unless one is too large: then all are a region.
        large = max(map(_area, shapes), default=0.0) > max_area
        if kind == "annotation" and shapes and (large or (cls is None and name)):
            if area_kind is None:
                skipped[f"area of the class {shown(name)}"] += 1
            areas[area_kind or "ignored"] += shapes
            continue
        if not points and not shapes:
            skipped["line or empty object"] += 1
        points += [_centroid(shape[0]) for shape in shapes]
        if cls is None:
            unknown += points
            if points:
                skipped[f"nucleus of the class {shown(name)}" if name else "nucleus without a class"] += len(points)
            continue
        centres += points
        classes += [cls] * len(points)
    if skipped:
        log.warning(
            "%s: objects of unknown class are excluded together with their area: %s. Known nucleus classes: Positive, "
            "Negative and Other; known area classes: Region*, Ignore*, Tumor, Stroma, Blood and Glass",
            path,
            ", ".join(f"{n} x {what}" for what, n in sorted(skipped.items())),
        )
    xy = np.asarray(centres, np.float64).reshape(-1, 2)
    return Annotations(
        xy[:, 0].astype(np.float32),
        xy[:, 1].astype(np.float32),
        np.asarray(classes, np.uint8),
        Outlines(
            **{name: tuple(shapes) for name, shapes in areas.items()},
            unknown=np.asarray(unknown, np.float64).reshape(-1, 2),
        ),
        dict(skipped),
    )


def is_geojson(path: Path) -> bool:
    """Return True if a file contains GeoJSON features."""
    try:
        return all(True for _ in _features(_document(path), path))
    except KinetError:
        return False


def _document(path: Path) -> Any:
    try:
        return json.loads(_unpacked(path).decode("utf-8-sig"))
    except (OSError, EOFError, ValueError, RecursionError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise KinetError(f"{path}: cannot be read as GeoJSON ({error})") from None


def _unpacked(path: Path) -> bytes:
    """Return the bytes of a file, decompressed."""
    suffix = path.suffix.lower()
    if suffix not in (".gz", ".zip"):
        return path.read_bytes()
    if suffix == ".gz":
        with gzip.open(path) as packed:
            content = packed.read(_MAX_UNPACKED + 1)
    else:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith((".geojson", ".json"))]
            if len(names) != 1:
                raise ValueError(f"expected one .geojson inside, found {len(names)}; unpack the archive")
            with archive.open(names[0]) as packed:
                content = packed.read(_MAX_UNPACKED + 1)
    if len(content) > _MAX_UNPACKED:
        raise ValueError("unpacked, the file is larger than 1 GiB")
    return content


def _features(document: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the features of a document, each followed by its nested objects.

    Some exports of QuPath contain a nested object twice; features with the same id and geometry are yielded once.
    """
    found = document.get("features", [document]) if isinstance(document, dict) else document
    waiting = list(reversed(found)) if isinstance(found, list) else [found]
    seen: set[str] = set()
    while waiting:
        feature = waiting.pop()
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise KinetError(
                f"{path}: expected GeoJSON features, found {shown(document)}. Export the objects from QuPath with "
                "File > Export objects as GeoJSON"
            )
        properties = feature.get("properties")
        for holder in (feature, properties if isinstance(properties, dict) else {}):
            for key in ("childObjects", "children"):
                children = holder.get(key)
                waiting += reversed(children) if isinstance(children, list) else []
        if feature.get("id"):
            identity = json.dumps([feature["id"], feature.get("geometry")])
            if identity in seen:
                continue
            seen.add(identity)
        yield feature


def _class_name(feature: Mapping[str, Any]) -> str:
    """Return the class of an object (``name``, or ``names`` of a derived class), or its name if that is a class."""
    properties = feature.get("properties") or {}
    given = properties.get("classification") or {}
    name = given.get("name") or ": ".join(given.get("names") or [])
    if not isinstance(name, str):
        raise TypeError
    object_name = properties.get("name")
    if name or not isinstance(object_name, str):
        return name
    is_class = nucleus_class(object_name) is not None or " ".join(_words(object_name)) in _AREAS
    return object_name if is_class else name


def _kind(feature: Mapping[str, Any]) -> str:
    """Return the kind of an object, such as ``annotation``, ``cell`` or ``tmacore``; older QuPath has it in the id."""
    kind = (feature.get("properties") or {}).get("objectType") or (feature.get("properties") or {}).get("object_type")
    if kind is None:
        identity = str(feature.get("id", ""))
        kind = next((k for k, word in _KINDS.items() if re.search(word, identity)), "annotation")
    return re.sub(r"[^a-z]", "", str(kind).lower())


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
    """Return positions as x, y, px, pixel centres at integers, without the plane (a third coordinate)."""
    xy = np.asarray([[float(position[0]), float(position[1])] for position in coordinates]).reshape(-1, 2) - 0.5
    if not (np.abs(xy) < np.finfo(np.float32).max).all():
        raise ValueError
    return xy


def _area(shape: Shape) -> float:
    """Return the area inside the outline of a polygon, px² (shoelace formula)."""
    x, y = (shape[0] - shape[0][0]).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _centroid(ring: Ring) -> tuple[float, float]:
    """Return the centroid of a polygon; the mean of its corners if it is degenerate."""
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
        # OpenCV's integers overflow at far corners.
        rings = [np.rint(np.clip(ring, -1e6, 1e6) * 2**_SHIFT).astype(np.int32) for ring in shape]
        cv2.fillPoly(one, rings, (1,), lineType=cv2.LINE_8, shift=_SHIFT)
        inside |= one > 0
    return inside


assert CLASSES == ("positive", "negative", "non_tumor")  # the order of the constants above
