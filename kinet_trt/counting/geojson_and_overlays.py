"""Files that are written for each image or slide: GeoJSON and overlay."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import KinetError
from kinet_trt.core.files import write_atomic
from kinet_trt.core.result import CountResult
from kinet_trt.counting.find import OVERLAY_SUFFIX
from kinet_trt.io.geojson import COUNTED_FIELD
from kinet_trt.io.json_stream import json_parts
from kinet_trt.io.overlay import add_label, to_png

_FIELD_COLOUR = (255, 200, 0)  # RGB


def output_names(images: Sequence[Path]) -> dict[Path, str]:
    """Return a unique file name for each image: its stem, with its suffix or a number where two would clash."""
    stems, names = Counter(image.stem.lower() for image in images), dict[Path, str]()
    taken: set[str] = set()
    for image in images:
        base = image.stem if stems[image.stem.lower()] == 1 else image.name
        name, number = base, 2
        while name.lower() in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name.lower())
        names[image] = name
    return names


@dataclass(frozen=True)
class Outputs:
    """Names and contents of the files of each image.

    Folders are None if their files are not written; ``names`` are those of :func:`output_names`.
    """

    geojson: Path | None
    overlay: Path | None
    names: dict[Path, str]

    def existing(self) -> list[Path]:
        """Return the files that exist already."""
        return [path for image in self.names for path in self.paths(image) if os.path.lexists(path)]

    def paths(self, image: Path) -> Iterator[Path]:
        """Yield the files of an image."""
        if self.geojson:
            yield self.geojson / f"{self.names[image]}.geojson"
        if self.overlay:
            yield self.overlay / f"{self.names[image]}{OVERLAY_SUFFIX}"

    def write(self, counted: CountResult, draw: Callable[[], NDArray[np.uint8]]) -> None:
        """Write the files of one image; ``draw`` returns its overlay, RGB uint8 [H, W, 3]."""
        for path in self.paths(counted.image):
            if path.suffix == ".geojson":
                nuclei = (
                    feature for part in counted.iter_detections() for feature in part.features(counted.qupath_type)
                )
                features = chain(nuclei, field_features(counted))
                # RFC 7946 allows other members, which QuPath ignores.
                rule = {} if counted.positive_above is None else {"positive_above": counted.positive_above}
                write_atomic(path, json_parts({"type": "FeatureCollection", **rule, "features": features}))
                continue
            try:
                picture = draw()
                if counted.positive_above is not None:
                    picture = add_label(picture, f"positive: DAB OD from {counted.positive_above:g} on")
                overlay = to_png(picture)
            except (MemoryError, cv2.error) as error:
                raise KinetError(f"the overlay cannot be drawn: {error}") from error
            write_atomic(path, overlay)


def field_features(counted: CountResult) -> Iterator[dict[str, Any]]:
    """Yield the hot spots and fields of the protocol as locked annotations of QuPath, polygons of 64 corners."""
    angle = np.linspace(0, 2 * np.pi, 65)
    for name, spot in counted.counted_fields():
        radius = spot.radius / counted.mpp
        # QuPath measures from the corner of the first pixel.
        x, y = spot.x + 0.5 + radius * np.cos(angle), spot.y + 0.5 + radius * np.sin(angle)
        ring = np.stack([x, y], axis=1).round(2)
        ring[-1] = ring[0]
        yield {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring.tolist()]},
            "properties": {
                "objectType": "annotation",
                "name": name,
                "isLocked": True,
                "classification": {"name": COUNTED_FIELD, "color": list(_FIELD_COLOUR)},
                "measurements": {"Ki67 index %": round(100 * (spot.ki67.index or 0.0), 2), "Nuclei": spot.ki67.tumor},
            },
        }
