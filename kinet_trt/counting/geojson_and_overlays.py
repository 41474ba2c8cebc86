"""Files that are written for each image or slide: GeoJSON and overlay."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import KinetError
from kinet_trt.core.files import write_atomic
from kinet_trt.core.result import CountResult
from kinet_trt.counting.find import OVERLAY_SUFFIX
from kinet_trt.io.json_stream import json_parts
from kinet_trt.io.overlay import add_label, to_png


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
                features = (
                    feature for part in counted.iter_detections() for feature in part.features(counted.qupath_type)
                )
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
