"""Fields with known nuclei: what training learns from and evaluation is held to."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinet_trt.detections import CLASSES
from kinet_trt.errors import ImageError, KinetError, shown
from kinet_trt.frame import Frame
from kinet_trt.images import SUFFIXES, read_image

MASK_SUFFIX = "_counted.png"


@dataclass(frozen=True, eq=False)
class LabelledField:
    """One image file and the nuclei that somebody marked in it.

    Attributes
    ----------
    image
        The image file.
    x, y
        Nucleus centres, float32 [n], px of the image, pixel centres at integers.
    cls
        Index in :data:`CLASSES`, uint8 [n].
    labelled
        The classes that this field's source marks. Of the others an absence means "not labelled", not "none there".
    counted
        File with the region in which nuclei were marked (white); None: everywhere.
    partial
        Classes of which only some kinds were marked: their marks teach, their absence does not.
    guessed
        Whether ``labelled`` is only what occurs, because nobody says which classes were looked for.
    source, split
        Where it comes from; ``"train"``, ``"val"`` or ``""``.
    """

    image: Path
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    cls: NDArray[np.uint8]
    labelled: tuple[str, ...] = CLASSES
    counted: Path | None = None
    source: str = ""
    split: str = ""
    partial: tuple[str, ...] = ()
    guessed: bool = False
    _masks: list[NDArray[np.bool_]] = field(default_factory=list, repr=False)
    _frames: list[Frame] = field(default_factory=list, repr=False)

    @classmethod
    def simulated(
        cls, pixels: NDArray[np.uint8], x: NDArray[np.float32], y: NDArray[np.float32], kinds: NDArray[np.uint8]
    ) -> LabelledField:
        """Return a field that is in memory only, with every class labelled."""
        return cls(Path("simulated"), x, y, kinds, source="simulated", _frames=[Frame(pixels)])

    def part(self, left: int, right: int) -> LabelledField:
        """Return the columns ``left`` to ``right`` (exclusive, px) as a field in memory."""
        inside = (self.x >= left - 0.5) & (self.x < right - 0.5)
        frame = Frame(np.ascontiguousarray(self.pixels()[:, left:right]), self.frame().mpp)
        masks = [] if self.counted is None else [np.ascontiguousarray(self.counted_mask()[:, left:right])]
        x = self.x[inside] - np.float32(left)
        return replace(self, x=x, y=self.y[inside], cls=self.cls[inside], _frames=[frame], _masks=masks)

    @property
    def name(self) -> str:
        """The image's name without folder and suffix."""
        return self.image.stem

    def frame(self) -> Frame:
        """Return the image; read once."""
        if not self._frames:
            try:
                self._frames.append(read_image(self.image))
            except ImageError as error:
                raise ImageError(f"{self.image}: {error}") from None
        return self._frames[0]

    def pixels(self) -> NDArray[np.uint8]:
        """Return the image's pixels, RGB uint8 [H, W, 3]."""
        return self.frame().pixels

    def counted_mask(self) -> NDArray[np.bool_]:
        """Return where nuclei were marked, bool [H, W]; read once."""
        height, width = self.pixels().shape[:2]
        if self.counted is None:
            return np.ones((height, width), bool)
        if self._masks:
            return self._masks[0]
        try:
            mask = read_image(self.counted).pixels[..., 0]
        except ImageError as error:
            raise KinetError(f"{self.counted}: the mask of {self.image.name}: {error}") from None
        if mask.shape != (height, width):
            raise KinetError(
                f"{self.counted}: expected a mask of {width} x {height} px like its image, found {mask.shape[1]} x "
                f"{mask.shape[0]}: export it again"
            )
        self._masks.append(mask > 127)
        return self._masks[0]


def read_fields(folder: Path) -> list[LabelledField]:
    """Read a folder of fields.

    Either the folder (or its parent) has an ``index.csv`` with the columns ``image, points`` and optionally
    ``counted_mask, source, split, classes`` (paths relative to the index), or it has images with ``.csv`` files of the
    same name (``x,y,class``). Where no index says which classes a source labels, those that occur in its fields count
    as labelled, and the fields as ``guessed``. ``*_counted.png`` is a mask, never a field.

    Raises
    ------
    KinetError
        If nothing is found, or a file of points cannot be understood.
    """
    indices = [path / "index.csv" for path in (folder, folder.parent) if (path / "index.csv").is_file()]
    fields = _guessed([f for index in indices[:1] for f in _from_index(index, folder)] or list(_from_pairs(folder)))
    if not fields:
        raise KinetError(
            f"{folder}: no fields found: expected an index.csv, or images ({', '.join(SUFFIXES)}) with .csv files of "
            "the same name and the columns x,y,class"
        )
    return fields


def label(fields: Sequence[LabelledField], classes: Sequence[str]) -> list[LabelledField]:
    """Return fields of which these classes count as labelled, whatever their source says.

    Raises
    ------
    KinetError
        If a class is unknown.
    """
    if unknown := set(classes) - set(CLASSES):
        raise KinetError(f"unknown class {shown(sorted(unknown))}; known are {', '.join(CLASSES)}")
    return [replace(f, labelled=tuple(name for name in CLASSES if name in classes), guessed=False) for f in fields]


def _guessed(fields: Sequence[LabelledField]) -> list[LabelledField]:
    """Return the fields with what occurs in any field of the same source as labelled, where that was not said."""
    occurring: dict[str, set[int]] = {}
    for f in fields:
        occurring.setdefault(f.source, set()).update(f.cls.tolist())
    return [
        replace(f, labelled=tuple(name for i, name in enumerate(CLASSES) if i in occurring[f.source]) or CLASSES)
        if f.guessed
        else f
        for f in fields
    ]


def _from_index(index: Path, folder: Path) -> Iterator[LabelledField]:
    for number, row in _rows(index, ("image", "points")):
        if not row["image"] or not row["points"]:
            raise KinetError(f"{index}, line {number}: expected an image and its points, found {shown(row)}")
        image = index.parent / row["image"]
        if folder != index.parent and image.parent != folder:
            continue
        labelled = tuple(name for name in (row.get("classes") or "").split("+") if name)
        if unknown := set(labelled) - set(CLASSES):
            raise KinetError(
                f"{index}, line {number}: unknown class {shown(sorted(unknown))}; known are {', '.join(CLASSES)}"
            )
        counted = index.parent / row["counted_mask"] if row.get("counted_mask") else None
        x, y, cls = read_points(index.parent / row["points"])
        yield LabelledField(
            image,
            x,
            y,
            cls,
            labelled or CLASSES,
            counted,
            source=row.get("source") or "",
            split=row.get("split") or "",
            guessed=not labelled,
        )


def _from_pairs(folder: Path) -> Iterator[LabelledField]:
    if not folder.is_dir():
        raise KinetError(f"{folder}: expected a folder of fields, found {'a file' if folder.exists() else 'nothing'}")
    images = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES
        and not path.name.endswith(MASK_SUFFIX)
        and path.with_suffix(".csv").is_file()
    ]
    for image in images:
        x, y, cls = read_points(image.with_suffix(".csv"))
        counted = image.with_name(image.stem + MASK_SUFFIX)
        yield LabelledField(image, x, y, cls, counted=counted if counted.is_file() else None, guessed=True)


def read_points(
    path: Path,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """Read ``x,y,class`` rows: x and y float32 [n], px; class uint8 [n], index in :data:`CLASSES`."""
    xs: list[np.float32] = []
    ys: list[np.float32] = []
    classes: list[int] = []
    for number, row in _rows(path, ("x", "y", "class")):
        try:
            with np.errstate(over="ignore"):
                x, y = np.float32(row["x"]), np.float32(row["y"])
            cls = CLASSES.index(row["class"])
        except (TypeError, ValueError):
            raise KinetError(
                f"{path}, line {number}: expected x,y,class with class one of {', '.join(CLASSES)}; found {shown(row)}"
            ) from None
        if not (np.isfinite(x) and np.isfinite(y)):
            raise KinetError(
                f"{path}, line {number}: x and y must be finite, found {shown(row['x'])}, {shown(row['y'])}"
            )
        xs.append(x)
        ys.append(y)
        classes.append(cls)
    return np.asarray(xs, np.float32), np.asarray(ys, np.float32), np.asarray(classes, np.uint8)


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and row of a CSV file that must have these columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            if missing := set(columns) - set(reader.fieldnames or ()):
                raise KinetError(
                    f"{path}: expected a header with the columns {','.join(columns)}; not found: "
                    f"{', '.join(sorted(missing))}"
                )
            for row in reader:
                yield reader.line_num, row
    except (OSError, ValueError, csv.Error) as error:
        raise KinetError(f"{path}: cannot be read as CSV: {error}") from error
