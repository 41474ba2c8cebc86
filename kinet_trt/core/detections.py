"""Detections: the nuclei of one frame, and the forms in which they leave the program."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import MissingExtraError
from kinet_trt.core.files import csv_text, write_atomic
from kinet_trt.core.ki67 import Ki67
from kinet_trt.core.notice import NOTICE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES = ("positive", "negative", "non_tumor")
"""Nucleus classes in the order of a standard KiNet's maps; a model card may name others."""
NAMES: Mapping[str, str] = {"positive": "positive tumour", "negative": "negative tumour", "non_tumor": "non-tumour"}
"""Class names for people; classes that are not listed keep their own name."""
QUPATH_NAMES: Mapping[str, str] = {"positive": "Positive", "negative": "Negative", "non_tumor": "Other"}
QUPATH_DAB = "Nucleus: DAB OD mean"
"""Name of the density of DAB among QuPath's measurements."""
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "positive": (230, 40, 40),
    "negative": (40, 90, 230),
    "non_tumor": (40, 170, 60),
}
"""RGB colours by class, the same in overlays and GeoJSON."""
OTHER_COLOUR = (150, 150, 150)

_COLUMNS = ("x", "y", "class", "score")
_MAX_SCORE = 65504  # JSON has no infinity; a map that overflowed in half precision gets the largest number of FP16


class Nucleus(NamedTuple):
    """One nucleus: its centre in px, class name and score."""

    x: float
    y: float
    class_name: str
    score: float


@dataclass(frozen=True, eq=False)
class Detections:
    """Nuclei in raster order.

    ``detections[i]`` and iteration give a :class:`Nucleus`; slices, masks and index arrays give Detections.

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
    dab
        Mean optical density of DAB at the nucleus, float32 [n]; None if it was not measured
        (:func:`kinet_trt.measure_dab`).
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    cls: NDArray[np.uint8]
    score: NDArray[np.float32]
    classes: tuple[str, ...] = CLASSES
    dab: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.x), len(self.y), len(self.cls), len(self.score)}
        if self.dab is not None:
            lengths.add(len(self.dab))
        if len(lengths) != 1:
            raise ValueError(f"x, y, cls, score and dab: expected one length, found {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {class_name(name)}" for name, n in self.counts().items())
        return f"Detections({len(self)} nuclei: {counts})"

    @overload
    def __getitem__(self, index: int) -> Nucleus: ...
    @overload
    def __getitem__(self, index: slice | NDArray[np.bool_] | NDArray[np.intp]) -> Detections: ...
    def __getitem__(self, index: int | slice | NDArray[np.bool_] | NDArray[np.intp]) -> Nucleus | Detections:
        if isinstance(index, int | np.integer):
            name = self.classes[self.cls[index]]
            return Nucleus(float(self.x[index]), float(self.y[index]), name, float(self.score[index]))
        dab = None if self.dab is None else self.dab[index]
        return Detections(self.x[index], self.y[index], self.cls[index], self.score[index], self.classes, dab)

    def __iter__(self) -> Iterator[Nucleus]:
        return (self[i] for i in range(len(self)))

    @classmethod
    def empty(cls, classes: tuple[str, ...] = CLASSES) -> Detections:
        """Return detections without nuclei."""
        none = np.empty(0, np.float32)
        return cls(none, none, np.empty(0, np.uint8), none, classes)

    @classmethod
    def concatenate(cls, parts: Iterable[Detections]) -> Detections:
        """Join detections of the same classes, one after another.

        Raises
        ------
        ValueError
            If there are no parts, their classes differ, or only some of the nuclei have ``dab``.
        """
        parts = list(parts)
        found = {part.classes for part in parts}
        if len(found) != 1:
            raise ValueError(f"expected detections of the same classes, found {sorted(found)}")
        x, y, index, score = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y", "cls", "score")
        )
        measured = [part.dab for part in parts if part.dab is not None]
        dab = np.concatenate(measured) if measured else None
        if dab is not None and len(dab) != len(x):
            raise ValueError(f"expected dab of all nuclei or of none, found it of {len(dab)} of {len(x)}")
        return cls(x, y, index, score, parts[0].classes, dab)

    @property
    def xy(self) -> NDArray[np.float32]:
        """Centres, float32 [n, 2], px."""
        return np.stack([self.x, self.y], axis=1)

    @property
    def ki67(self) -> Ki67:
        """Ki67 index of the tumour nuclei."""
        return Ki67.from_counts(self.counts())

    def counts(self) -> dict[str, int]:
        """Return the number of nuclei of each class, zeros included."""
        numbers = np.bincount(self.cls, minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, numbers, strict=True)}

    def where(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Detections:
        """Return the nuclei that a mask or an index array selects, in that order."""
        return self[keep]

    def records(self) -> list[dict[str, Any]]:
        """Return one ``{"x", "y", "class", "score"}`` per nucleus; px to 2 and scores to 4 decimals.

        With :attr:`dab`, each also has ``"dab_od"``, to 4 decimals.
        """
        score = np.clip(self.score, -_MAX_SCORE, _MAX_SCORE)
        records: list[dict[str, Any]] = [
            {"x": round(float(x), 2), "y": round(float(y), 2), "class": self.classes[c], "score": round(float(s), 4)}
            for x, y, c, s in zip(self.x, self.y, self.cls, score, strict=True)
        ]
        if self.dab is not None:
            for record, density in zip(records, self.dab, strict=True):
                record["dab_od"] = round(float(density), 4)
        return records

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
                    "measurements": {
                        "score": record["score"],
                        **({QUPATH_DAB: record["dab_od"]} if "dab_od" in record else {}),
                    },
                },
            }
            for record in self.records()
        ]

    def to_geojson(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return a GeoJSON FeatureCollection of point annotations for QuPath, and write it if a path is given."""
        return _written(json.dumps({"type": "FeatureCollection", "features": self.features()}, allow_nan=False), path)

    def geojson(self) -> str:
        """Return :meth:`to_geojson`, under its name before 0.2."""
        return self.to_geojson()

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return a CSV table ``x,y,class,score``, and ``dab_od`` if measured; write it if a path is given."""
        rows = (list(record.values()) for record in self.records())
        return _written(csv_text([[*_COLUMNS, *(["dab_od"] if self.dab is not None else [])], *rows]), path)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return counts, index, interval and nuclei with the keys of ``kinet-trt count --json``; write it to a path."""
        document = {
            "counts": self.counts(),
            "ki67_index": self.ki67.index,
            "interval": self.ki67.interval,
            "notice": NOTICE,
            "detections": self.records(),
        }
        return _written(json.dumps(document, indent=1, allow_nan=False) + "\n", path)

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame with the columns x, y, class and score, and dab_od if measured.

        Raises
        ------
        MissingExtraError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("Detections.to_dataframe", "pandas", "pandas") from error
        names = pd.Categorical.from_codes(self.cls, categories=list(self.classes))
        columns = {"x": self.x, "y": self.y, "class": names, "score": self.score}
        return pd.DataFrame(columns if self.dab is None else {**columns, "dab_od": self.dab})

    def plot(self, image: NDArray[np.uint8] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the nuclei as rings in the colour of their class with matplotlib.

        Parameters
        ----------
        image
            RGB, uint8 [height, width, 3], drawn below the nuclei.
        ax
            Axes to draw into; by default those of a new figure.

        Returns
        -------
        matplotlib.axes.Axes
            The axes, for titles or saving (``ax.figure.savefig``).

        Raises
        ------
        MissingExtraError
            If matplotlib is not installed.
        """
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise MissingExtraError("Detections.plot", "eval", "matplotlib") from error
        if ax is None:
            _, ax = pyplot.subplots()
        if image is not None:
            ax.imshow(image)
        elif not ax.yaxis_inverted():
            ax.invert_yaxis()
        for index, (name, n) in enumerate(self.counts().items()):
            x, y = self[self.cls == index].xy.T
            red, green, blue = (channel / 255 for channel in COLOURS.get(name, OTHER_COLOUR))
            ax.scatter(x, y, 40, facecolors="none", edgecolors=[(red, green, blue)], label=f"{class_name(name)}: {n}")
        ax.set_aspect("equal")
        ax.set_xlabel(NOTICE, fontsize="small")
        ax.legend(loc="upper right")
        return ax


def class_name(name: str) -> str:
    """Return a class of nuclei as people read it: ``"non-tumour"`` for ``"non_tumor"``."""
    return {"non_tumor": "non-tumour"}.get(name, name.replace("_", " "))


def nuclei_csv(named: Iterable[tuple[str, Detections]]) -> str:
    """Return one CSV table ``image,x,y,class,score`` of the nuclei of several images, without their density of DAB."""
    rows = (
        [image, *(record[column] for column in _COLUMNS)]
        for image, detections in named
        for record in detections.records()
    )
    return csv_text([["image", *_COLUMNS], *rows])


def _written(text: str, path: str | os.PathLike[str] | None) -> str:
    if path is not None:
        write_atomic(Path(path), text)
    return text
