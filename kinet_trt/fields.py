"""Fields with known nuclei: what training learns from and evaluation is held to."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt import label_maps, qupath
from kinet_trt.detections import CLASSES
from kinet_trt.errors import ImageError, KinetError, shown
from kinet_trt.frame import Frame, fit
from kinet_trt.images import SUFFIXES, read_image
from kinet_trt.qupath import Outlines

log = logging.getLogger(__name__)

MASK_SUFFIX = "_counted.png"


Regions = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Tumour, and where that is known, each bool [H, W]."""


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
        None of them: the field has regions alone.
    counted
        File with the region in which nuclei were marked (white); None: everywhere.
    partial
        Classes of which only some kinds were marked: their marks teach, their absence does not.
    guessed
        Whether ``labelled`` is only what occurs, because nobody says which classes were looked for.
    outlines
        What was drawn in QuPath: a bound to the marks, and regions.
    region_map
        File with the tumour (white), other tissue (black) and what nobody annotated (grey).
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
    outlines: Outlines = field(default_factory=Outlines)
    region_map: Path | None = None
    _masks: list[NDArray[np.bool_]] = field(default_factory=list, repr=False)
    _regions: list[Regions] = field(default_factory=list, repr=False)
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

        def cut(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
            return np.ascontiguousarray(mask[:, left:right])

        x = self.x[inside] - np.float32(left)
        return replace(
            self,
            x=x,
            y=self.y[inside],
            cls=self.cls[inside],
            _frames=[frame],
            _masks=[cut(self.counted_mask())] if self.bounded else [],
            _regions=[(cut(tumor), cut(known)) for tumor, known in self._drawn()],
        )

    def at_scale(self, own: float | None, mpp: float) -> LabelledField:
        """Return the field scaled to ``mpp`` um/px, in memory.

        Parameters
        ----------
        own
            um/px of its pixels; None: as :func:`kinet_trt.count.count_image`, the file's, else already ``mpp``.
        mpp
            um/px wanted.

        Raises
        ------
        ImageError
            If it is too small or too large at that scale.
        """
        used = own or self.frame().mpp or mpp
        if used == mpp:
            return self
        try:
            fitted = fit(Frame(self.pixels(), used), mpp, 1)
        except ImageError as error:
            raise ImageError(f"{self.image}: {error}") from None
        x, y = (
            ((centres.astype(np.float64) + 0.5) * scale - 0.5).astype(np.float32)
            for centres, scale in ((self.x, fitted.scale_x), (self.y, fitted.scale_y))
        )

        def resized(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
            size = fitted.width, fitted.height
            return np.asarray(cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0)

        return replace(
            self,
            x=x,
            y=y,
            _frames=[Frame(fitted.pixels, mpp)],
            _masks=[resized(self.counted_mask())] if self.bounded else [],
            _regions=[(resized(tumor), resized(known)) for tumor, known in self._drawn()],
        )

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
            self._check_inside(self._frames[0])
        return self._frames[0]

    def _check_inside(self, frame: Frame) -> None:
        """Raise if the nuclei are those of another picture: an absence of nuclei would be learnt from it."""
        inside = (self.x > -1) & (self.x < frame.width) & (self.y > -1) & (self.y < frame.height)
        if 2 * inside.sum() < len(self.x):
            self._frames.clear()
            raise KinetError(
                f"{self.image}: {len(self.x) - inside.sum()} of its {len(self.x)} marked nuclei lie outside of its "
                f"{frame.width} x {frame.height} px: they were marked in another image, or at another scale"
            )

    def pixels(self) -> NDArray[np.uint8]:
        """Return the image's pixels, RGB uint8 [H, W, 3]."""
        return self.frame().pixels

    @property
    def bounded(self) -> bool:
        """Whether nuclei were marked in part of the image only."""
        return self.counted is not None or self.outlines.bounds

    def counted_mask(self) -> NDArray[np.bool_]:
        """Return where nuclei were marked, bool [H, W]; made once."""
        height, width = self.pixels().shape[:2]
        if not self.bounded:
            return np.ones((height, width), bool)
        if not self._masks:
            mask = self.outlines.counted_mask(height, width)
            if self.counted is not None:
                mask &= self._read_mask(self.counted, height, width)
            self._masks.append(mask)
        return self._masks[0]

    def regions(self) -> Regions | None:
        """Return tumour and where that is known, bool [H, W] each, made once; None where nobody drew regions."""
        return next(iter(self._drawn()), None)

    def _drawn(self) -> list[Regions]:
        if not self._regions:
            height, width = self.pixels().shape[:2]
            if self.region_map is not None:
                self._regions.append(label_maps.read_regions(self.region_map, height, width))
            elif (drawn := self.outlines.regions(height, width)) is not None:
                self._regions.append(drawn)
        return self._regions

    def _read_mask(self, path: Path, height: int, width: int) -> NDArray[np.bool_]:
        try:
            mask = read_image(path).pixels[..., 0]
        except ImageError as error:
            raise KinetError(f"{path}: the mask of {self.image.name}: {error}") from None
        if mask.shape != (height, width):
            raise KinetError(
                f"{path}: expected a mask of {width} x {height} px like its image, found {mask.shape[1]} x "
                f"{mask.shape[0]}: export it again"
            )
        return np.asarray(mask > 127)


def read_fields(folder: Path) -> list[LabelledField]:
    """Read a folder of fields.

    It has one of these layouts:

    * an ``index.csv`` in the folder or its parent, with the columns ``image, points`` and optionally
      ``counted_mask, source, split, classes`` (paths relative to the index);
    * the KiNet layout, ``images/SPLIT`` with the maps ``labels_postm/SPLIT``, ``labels_negtm/SPLIT``,
      ``labels_other/SPLIT`` and ``rois/SPLIT`` (:mod:`kinet_trt.label_maps`): a class without a map is not labelled;
    * images with ``.csv`` files of the same name (``x,y,class``), or with ``.geojson`` files as QuPath exports them
      (:mod:`kinet_trt.qupath`).

    Points are in ``.csv`` or ``.geojson`` files. Where nothing says which classes a source labels, those that occur in
    its fields count as labelled, and the fields as ``guessed``. ``*_counted.png`` is a mask, never a field.

    Raises
    ------
    KinetError
        If nothing is found, or a file of points cannot be understood.
    """
    indices = [path / "index.csv" for path in (folder, folder.parent) if (path / "index.csv").is_file()]
    indexed = [f for index in indices[:1] for f in _from_index(index, folder)]
    fields = _guessed(indexed or list(_from_maps(folder) if label_maps.is_layout(folder) else _from_pairs(folder)))
    if not fields:
        raise KinetError(
            f"{folder}: no fields found: expected an index.csv; or images ({', '.join(SUFFIXES)}) with .csv files of "
            "the same name and the columns x,y,class, or with .geojson files from QuPath; or the folders images and "
            "labels_postm, labels_negtm, labels_other of KiNet"
        )
    return fields


def with_nuclei(fields: Sequence[LabelledField]) -> list[LabelledField]:
    """Return the fields in which some class was labelled; the others have regions alone, and there it is said."""
    kept = [f for f in fields if f.labelled]
    if len(kept) < len(fields):
        log.warning("%d fields have regions and no nuclei: they are left out", len(fields) - len(kept))
    return kept


def label(fields: Sequence[LabelledField], classes: Sequence[str]) -> list[LabelledField]:
    """Return fields of which these classes count as labelled, whatever their source says; regions alone stay so.

    Raises
    ------
    KinetError
        If a class is unknown.
    """
    if unknown := set(classes) - set(CLASSES):
        raise KinetError(f"unknown class {shown(sorted(unknown))}; known are {', '.join(CLASSES)}")
    named = tuple(name for name in CLASSES if name in classes)
    return [replace(f, labelled=named, guessed=False) if f.labelled else f for f in fields]


def guess(fields: Sequence[LabelledField]) -> str:
    """Return the sentence that says what was taken as labelled where nobody says it; empty where it is said."""
    guessed = [f for f in fields if f.guessed]
    if not guessed:
        return ""
    taken = sorted({name for f in guessed for name in f.labelled}, key=CLASSES.index)
    return (
        f"Nobody says which classes are labelled in {len(guessed)} of {len(fields)} fields: taken are those that "
        f"occur, {', '.join(taken)}. Others count neither way; --classes says which were looked for."
    )


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
        marked = _marked(index.parent / row["points"])
        yield LabelledField(
            image,
            marked.x,
            marked.y,
            marked.cls,
            labelled or CLASSES,
            counted,
            source=row.get("source") or "",
            split=row.get("split") or "",
            guessed=not labelled,
            outlines=marked.outlines,
        )


def _from_maps(folder: Path) -> Iterator[LabelledField]:
    """Yield the fields of a KiNet folder."""
    bare = []
    for entry in label_maps.find(folder):
        if not entry.maps and entry.regions is None:
            bare.append(entry.image)
            continue
        found = LabelledField(
            entry.image,
            *(np.empty(0, np.float32),) * 2,
            np.empty(0, np.uint8),
            tuple(name for name in CLASSES if name in entry.maps),
            source=folder.resolve().name,
            split=entry.split,
            region_map=entry.regions,
        )
        height, width = found.pixels().shape[:2]
        centres = [label_maps.read_centres(entry.maps[name], height, width) for name in found.labelled]
        kinds = [np.full(len(x), CLASSES.index(name)) for name, (x, _) in zip(found.labelled, centres, strict=True)]
        yield replace(
            found,
            x=np.concatenate([found.x, *(x for x, _ in centres)]),
            y=np.concatenate([found.y, *(y for _, y in centres)]),
            cls=np.concatenate([found.cls, *kinds]).astype(np.uint8),
        )
    if bare:
        log.warning("%s and %d more images have no maps: they are left out", bare[0], len(bare) - 1)


def _from_pairs(folder: Path) -> Iterator[LabelledField]:
    if not folder.is_dir():
        raise KinetError(f"{folder}: expected a folder of fields, found {'a file' if folder.exists() else 'nothing'}")
    for image in sorted(folder.iterdir()):
        if image.suffix.lower() not in SUFFIXES or image.name.endswith(MASK_SUFFIX):
            continue
        points = [path for suffix in (".csv", qupath.SUFFIX) if (path := image.with_suffix(suffix)).is_file()]
        if not points:
            continue
        if len(points) > 1:
            raise KinetError(f"{points[0]} and {points[1].name} both mark nuclei of {image.name}: remove one of them")
        marked, counted = _marked(points[0]), image.with_name(image.stem + MASK_SUFFIX)
        # Without a nucleus, areas of tissue are what the file is there for.
        regions_alone = not len(marked.x) and bool(marked.outlines.tumor or marked.outlines.other)
        yield LabelledField(
            image,
            marked.x,
            marked.y,
            marked.cls,
            () if regions_alone else CLASSES,
            counted if counted.is_file() else None,
            guessed=not regions_alone,
            outlines=marked.outlines,
        )


def _marked(points: Path) -> qupath.Marked:
    """Read a file of points, by its suffix."""
    if points.suffix.lower() == qupath.SUFFIX:
        return qupath.read_geojson(points)
    return qupath.Marked(*read_points(points), Outlines())


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
