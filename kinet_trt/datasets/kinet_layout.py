"""The KiNet folder layout: ``images/SPLIT`` with a proximity map for each class, and optional region maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import ImageError, KinetError
from kinet_trt.io.images import SUFFIXES, read_image

MAPS: Mapping[str, str] = {"positive": "labels_postm", "negative": "labels_negtm", "non_tumor": "labels_other"}
"""Folders of the maps by class."""
REGIONS = "rois"
ENDINGS = ("_label", "_roi", "")
"""Endings between the name of an image and the suffix of its maps; the release has ``PAN_label.png``."""

_PEAK_WINDOW = 5  # px: side of the square in which a peak is the maximum
_MAX_FLAT_TOP = 32  # px: area of the largest peak with a constant value


@dataclass(frozen=True)
class MappedImage:
    """An image and its maps.

    ``split`` is the subfolder of ``images``, empty if the image is in ``images``; ``maps`` are the proximity maps of
    the labelled classes.
    """

    image: Path
    split: str
    maps: Mapping[str, Path]
    regions: Path | None


def is_layout(folder: Path) -> bool:
    """Return True if a folder has the KiNet layout: ``images``, and at least one folder of maps."""
    return (folder / "images").is_dir() and any((folder / name).is_dir() for name in (*MAPS.values(), REGIONS))


def find_images(folder: Path) -> Iterator[MappedImage]:
    """Yield the images of a KiNet folder with their maps."""
    inside = sorted((folder / "images").iterdir())
    for split in ("", *(path.name for path in inside if path.is_dir())):
        for image in sorted((folder / "images" / split).iterdir()):
            if image.suffix.lower() not in SUFFIXES or not image.is_file():
                continue
            maps = {cls: _find_map(image, folder / name / split) for cls, name in MAPS.items()}
            yield MappedImage(
                image,
                split,
                {cls: path for cls, path in maps.items() if path},
                _find_map(image, folder / REGIONS / split),
            )


def _find_map(image: Path, folder: Path) -> Path | None:
    names = (folder / f"{image.stem}{ending}{suffix}" for ending in ENDINGS for suffix in SUFFIXES)
    return next((path for path in names if path.is_file()), None)


def read_centres(path: Path, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Find the nuclei of a proximity map (Eq. 1): its peaks above half of the maximum.

    The map is a grey picture of the size of its image, brightest at the nuclei of one class and black far from them. A
    picture with large flat tops is not such a map, and an error. Returns x and y, float32 [n], px, in raster order; the
    centroid of a peak of several px.
    """
    values = read_grey(path, height, width, "map")
    highest = int(values.max())
    if highest == 0:
        return np.empty(0, np.float32), np.empty(0, np.float32)
    top = cv2.dilate(values, np.ones((_PEAK_WINDOW, _PEAK_WINDOW), np.uint8))
    peaks = ((values == top) & (values > highest / 2)).astype(np.uint8)
    _, _, stats, centres = cv2.connectedComponentsWithStats(peaks, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if areas.max(initial=0) > _MAX_FLAT_TOP:
        raise KinetError(
            f"{path}: expected a proximity map with a peak at each nucleus, found a flat top of {areas.max()} px: "
            "masks of nuclei do not separate touching nuclei. Use points instead (NAME.csv with x,y,class)"
        )
    xy = centres[1:].astype(np.float32)
    xy = xy[np.lexsort((xy[:, 0], xy[:, 1]))]
    return xy[:, 0].copy(), xy[:, 1].copy()


def read_regions(path: Path, height: int, width: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Read a region map: tumour is white, other tissue black, and unannotated areas grey.

    Returns the masks of tumour and of the annotated area, bool [height, width].
    """
    values = read_grey(path, height, width, "map")
    tumor, other = values >= 192, values < 64
    return tumor, tumor | other


def read_grey(path: Path, height: int, width: int, kind: str) -> NDArray[np.uint8]:
    """Read a grey picture, uint8 [height, width], of the size of its image; ``kind`` names it in messages."""
    try:
        values = read_image(path).pixels[..., 0]
    except ImageError as error:
        raise KinetError(f"{path}: {error}") from None
    if values.shape != (height, width):
        raise KinetError(
            f"{path}: expected a {kind} of {width} x {height} px like its image, found {values.shape[1]} x "
            f"{values.shape[0]}: export it again"
        )
    return np.ascontiguousarray(values)
