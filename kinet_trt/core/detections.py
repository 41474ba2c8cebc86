"""Detections: the nuclei of one frame, and the files they are written to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.files import csv_text

CLASSES = ("positive", "negative", "non_tumor")
"""The nucleus classes in the order of a standard KiNet's maps; a model card may say otherwise."""

NAMES: Mapping[str, str] = {"positive": "positive tumour", "negative": "negative tumour", "non_tumor": "non-tumour"}
"""Classes as people read them; others keep their own name."""
QUPATH_NAMES: Mapping[str, str] = {"positive": "Positive", "negative": "Negative", "non_tumor": "Other"}
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "positive": (230, 40, 40),
    "negative": (40, 90, 230),
    "non_tumor": (40, 170, 60),
}
"""RGB colours by class, the same in overlays and GeoJSON."""
OTHER_COLOUR = (150, 150, 150)


@dataclass(frozen=True, eq=False)
class Detections:
    """Nuclei in raster order.

    Attributes
    ----------
    x, y
        Centres, float32 [n], px of the input frame: x right, y down, pixel centres at integers.
    cls
        Index in ``classes``, uint8 [n].
    score
        Height of the proximity map at the centre, float32 [n]; about 1 for a certain nucleus.
    classes
        Class names.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    cls: NDArray[np.uint8]
    score: NDArray[np.float32]
    classes: tuple[str, ...] = CLASSES

    def __post_init__(self) -> None:
        lengths = {len(self.x), len(self.y), len(self.cls), len(self.score)}
        if len(lengths) != 1:
            raise ValueError(f"x, y, cls and score: expected one length, found {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {name.replace('non_tumor', 'non-tumour')}" for name, n in self.counts().items())
        return f"Detections({len(self)} nuclei: {counts})"

    @classmethod
    def empty(cls, classes: tuple[str, ...] = CLASSES) -> Detections:
        """Return detections without nuclei."""
        none = np.empty(0, np.float32)
        return cls(none, none, np.empty(0, np.uint8), none, classes)

    def counts(self) -> dict[str, int]:
        """Return the number of nuclei of each class, zeros included."""
        numbers = np.bincount(self.cls, minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, numbers, strict=True)}

    def where(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Detections:
        """Return the nuclei that a mask or an index array selects, in that order."""
        return Detections(self.x[keep], self.y[keep], self.cls[keep], self.score[keep], self.classes)

    def records(self) -> list[dict[str, Any]]:
        """Return one ``{"x", "y", "class", "score"}`` per nucleus; px to 2 and scores to 4 decimals."""
        # JSON has no infinity: a map that overflowed in half precision is as high as half precision goes.
        score = np.clip(self.score, -65504, 65504)
        return [
            {"x": round(float(x), 2), "y": round(float(y), 2), "class": self.classes[c], "score": round(float(s), 4)}
            for x, y, c, s in zip(self.x, self.y, self.cls, score, strict=True)
        ]

    def geojson(self) -> str:
        """Return a GeoJSON FeatureCollection of point annotations that QuPath opens with its own classes."""
        return json.dumps({"type": "FeatureCollection", "features": self.features()}, allow_nan=False)

    def features(self, kind: str = "annotation") -> list[dict[str, Any]]:
        """Return one GeoJSON feature per nucleus, as QuPath writes them.

        QuPath measures from the corner of the first pixel, so half a px is added to the centres.

        Parameters
        ----------
        kind
            QuPath's kind of object: ``"annotation"`` can be corrected by hand, ``"detection"`` is for very many.
        """
        return [
            {
                "type": "Feature",
                "geometry": {
                    "type": "Point",
                    "coordinates": [round(record["x"] + 0.5, 2), round(record["y"] + 0.5, 2)],
                },
                "properties": {
                    "objectType": kind,
                    "classification": {
                        "name": QUPATH_NAMES.get(record["class"], record["class"]),
                        "color": list(COLOURS.get(record["class"], OTHER_COLOUR)),
                    },
                    "measurements": {"score": record["score"]},
                },
            }
            for record in self.records()
        ]


def to_csv(named: Iterable[tuple[str, Detections]]) -> str:
    """Return one CSV table ``image,x,y,class,score`` of the nuclei of several images."""
    rows = ([image, *record.values()] for image, detections in named for record in detections.records())
    return csv_text([["image", "x", "y", "class", "score"], *rows])
