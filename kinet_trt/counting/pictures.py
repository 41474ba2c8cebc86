"""Counting image files: what ``kinet-trt count`` does, without the terminal."""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from kinet_trt.core.detections import Detections, nuclei_csv
from kinet_trt.core.errors import ImageError, KinetError
from kinet_trt.core.files import write_atomic
from kinet_trt.core.frame import NO_COLOUR, Frame, fitted_size
from kinet_trt.core.hot_spot import HOT_SPOT, HotSpot, find_hot_spot
from kinet_trt.core.ki67 import NET, NO_RANGE, Bands, Ki67, Statement
from kinet_trt.counting.together import Together
from kinet_trt.datasets.labelled import MASK_SUFFIX
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.io.image_kinds import suffix_kind
from kinet_trt.io.images import SUFFIXES, read_image
from kinet_trt.io.overlay import draw, to_png
from kinet_trt.io.pixel_size import HOW_KNOWN
from kinet_trt.io.tables import Row, encode, to_plain
from kinet_trt.io.tables import to_csv as summary_csv
from kinet_trt.quality.domain_check import DomainCheck
from kinet_trt.slides.count import CountedSlide
from kinet_trt.slides.heatmap import heat_map
from kinet_trt.slides.readers import dicom
from kinet_trt.slides.readers.files import TIFF_SUFFIXES, one_for_each_slide, slide_of_folder
from kinet_trt.slides.slide import OPENSLIDE_SUFFIXES, is_slide, is_zarr
from kinet_trt.slides.tissue import Thumbnail
from kinet_trt.slides.writers import csv_rows, geojson, json_detections, slide_record

SCHEMA = 1
"""Version of the JSON; within a version keys are only ever added."""
OVERLAY_SUFFIX = "_overlay.png"


@dataclass(frozen=True)
class Counted:
    """One counted image, without its pixels: a folder may hold thousands.

    Attributes
    ----------
    image
        The file.
    width, height
        Its size, px.
    mpp
        um/px that was used.
    mpp_source
        Where that came from: ``"option"``, ``"file"`` or ``"model"``.
    detections
        Its nuclei.
    remarks
        Sentences that a person should read, such as why a stated pixel size was not used.
    hot_spot
        None where there are fewer tumour nuclei than it should have.
    unlike
        The one of the remarks that says how the field is unlike the training data; None where it is not. No grade range
        is then given.
    """

    image: Path
    width: int
    height: int
    mpp: float
    mpp_source: str
    detections: Detections
    remarks: tuple[str, ...] = ()
    hot_spot: HotSpot | None = None
    unlike: str | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Nuclei by class."""
        return self.detections.counts()

    @property
    def ki67(self) -> Ki67:
        """The index of this field."""
        return Ki67.from_counts(self.counts)

    def statement(self, bands: Bands | None = NET) -> Statement:
        """Return what this field says about the grade."""
        return Statement(
            self.ki67, self.hot_spot.ki67 if self.hot_spot else None, bands, NO_RANGE if self.unlike else ""
        )


def find_images(paths: Sequence[Path], *, slides: bool = False) -> list[Path]:
    """Return the images that paths, folders (not their subfolders) and globs name, each once, in order.

    Masks (``*_counted.png``) and overlays (``*_overlay.png``) that a folder or a glob holds are not images to count. A
    slide of several files is named once, and so is a file that links lead to.

    Parameters
    ----------
    paths
        What was named.
    slides
        Whether slides are wanted, too.

    Raises
    ------
    KinetError
        If a folder or a glob holds no image.
    """
    found: list[Path] = []
    for path in paths:
        if slides and (whole := slide_of_folder(path)):
            found.append(whole)
            continue
        # os.path, because pathlib raises where it may not look; what cannot be read is told when it is read.
        if os.path.isdir(path) and not (slides and is_slide(path)):
            try:
                inside = [p for p in sorted(path.iterdir()) if _is_field(p, slides)]
            except OSError as error:
                raise KinetError(f"{path}: the folder cannot be read: {error.strerror}") from error
            if not inside:
                others = "".join(f"; {line}" for line in skipped([path], []))
                raise KinetError(f"{path}: no images in this folder: expected {', '.join(SUFFIXES)}{others}")
            found += inside
        elif not os.path.lexists(path) and glob.has_magic(str(path)):
            inside = [p for p in sorted(map(Path, glob.glob(str(path), recursive=True))) if _is_field(p, slides)]
            inside = [p for p in inside if not (slides and any(map(is_zarr, p.parents)))]
            if not inside:
                raise KinetError(f"{path}: no image fits this pattern")
            found += inside
        else:
            found.append(path)
    if slides:
        found = one_for_each_slide(found)
    return list({_identity(path): path for path in reversed(found)}.values())[::-1]


def skipped(paths: Sequence[Path], found: Sequence[Path]) -> list[str]:
    """Return one line for each kind of picture in folders and globs that is not read, such as GIF.

    Parameters
    ----------
    paths
        What was named.
    found
        What is counted of them: see :func:`find_images`.
    """
    lines, counted = [], set(found)
    for path in paths:
        if path in counted or not (os.path.isdir(path) or glob.has_magic(str(path))):
            continue
        try:
            inside = (
                list(path.iterdir()) if os.path.isdir(path) else list(map(Path, glob.glob(str(path), recursive=True)))
            )
        except OSError:
            continue
        left = [one for one in inside if one not in counted and not one.name.startswith(".") and one.is_file()]
        kinds = Counter(kind for one in left if (kind := suffix_kind(one.suffix)))
        lines += [
            f"{path}: {number} {kind} file{'s' if number > 1 else ''} skipped: not read; save as PNG or TIFF to count"
            for kind, number in sorted(kinds.items())
        ]
    return lines


def _identity(path: Path) -> tuple[int, int] | str:
    """Return what two names of one file have in common, be they links to it or different spellings of its path."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return os.path.abspath(path)
    return (about.st_dev, about.st_ino) if about.st_ino else os.path.realpath(path)


def _is_field(path: Path, slides: bool) -> bool:
    if path.name.startswith(".") or path.name.endswith((MASK_SUFFIX, OVERLAY_SUFFIX)):
        return False
    if os.path.isdir(path):
        return slides and is_slide(path)
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    if not slides:
        return False
    if suffix in (*OPENSLIDE_SUFFIXES, *TIFF_SUFFIXES) and suffix != dicom.SUFFIX:
        return True
    return dicom.is_listed(path) or (suffix == dicom.SUFFIX and not dicom.is_dicom(path))


def count_image(
    counter: NucleusCounter, image: Path, mpp: float | None, hot_spot: int = HOT_SPOT
) -> tuple[Counted, Frame]:
    """Count one image file at ``mpp`` um/px, else at the file's resolution tag, else at the model's.

    Parameters
    ----------
    counter
        An open model.
    image
        The file.
    mpp
        um/px; None: not known.
    hot_spot
        Tumour nuclei of a hot spot.

    Returns
    -------
    counted, frame
        What was found, and what it was found in.

    Raises
    ------
    KinetError
        If the file cannot be read or counted.
    """
    frame = read_image(image)
    if not frame.pixels.any():
        raise ImageError("every pixel is black: the file holds no picture: export it again")
    known = {"option": mpp, "file": frame.mpp, "model": counter.engine.card.mpp}
    source, used = next((name, value) for name, value in known.items() if value is not None)
    try:
        found, remarks = _find(counter, frame, used)
        if frame.unused_size and source != "option":
            remarks = (f"The file {frame.unused_size}.", *remarks)
        unlike = DomainCheck(counter.engine.card.mpp)(Frame(frame.pixels, used), found) or None
        remarks += (unlike,) if unlike else ()
        spot = find_hot_spot(found, used, hot_spot)
        return Counted(image, frame.width, frame.height, used, source, found, remarks, spot, unlike), frame
    except MemoryError:
        raise ImageError(f"not enough memory for {frame.width} x {frame.height} px: count a region of it") from None


def _find(counter: NucleusCounter, frame: Frame, mpp: float) -> tuple[Detections, tuple[str, ...]]:
    """Return the nuclei of a frame, and what a person should know of how it was read and counted."""
    card = counter.engine.card
    if not frame.is_grey:
        return counter(frame, mpp), frame.remarks
    fitted_size(frame.height, frame.width, mpp, card.mpp)
    return Detections.empty(card.classes), (*frame.remarks, NO_COLOUR)


def output_names(images: Sequence[Path]) -> dict[Path, str]:
    """Return a name for what is written for each image: its stem, with the suffix or a number where two would clash."""
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
    """Files that are written for each image: a picture and a GeoJSON.

    Attributes
    ----------
    geojson, overlay
        Folders; None: no such files.
    names
        From :func:`output_names`.
    """

    geojson: Path | None
    overlay: Path | None
    names: dict[Path, str]

    def existing(self) -> list[Path]:
        """Return the files that exist already."""
        return [path for image in self.names for path in self.paths(image) if os.path.lexists(path)]

    def write(self, counted: Counted, frame: Frame) -> None:
        """Write the files of one image.

        Raises
        ------
        KinetError
            If it cannot be written, or there is no memory for the picture.
        """
        if self.geojson:
            write_atomic(self._geojson(counted.image), counted.detections.to_geojson())
        if self.overlay:
            try:
                picture = to_png(draw(frame, counted.detections, counted.mpp))
            except (MemoryError, cv2.error) as error:
                raise KinetError(f"the overlay cannot be drawn: {error}") from error
            write_atomic(self.overlay_of(counted.image), picture)

    def write_slide(self, counted: CountedSlide, small: Thumbnail) -> None:
        """Write the files of one slide; its picture is a map of index and density.

        Raises
        ------
        KinetError
            If it cannot be written.
        """
        if self.geojson:
            write_atomic(self._geojson(counted.image), geojson(counted))
        if self.overlay:
            write_atomic(self.overlay_of(counted.image), to_png(heat_map(counted, small)))

    def paths(self, image: Path) -> Iterable[Path]:
        """Yield the files of an image."""
        if self.geojson:
            yield self._geojson(image)
        if self.overlay:
            yield self.overlay_of(image)

    def _geojson(self, image: Path) -> Path:
        assert self.geojson
        return self.geojson / f"{self.names[image]}.geojson"

    def overlay_of(self, image: Path) -> Path:
        """Return where the picture of an image goes."""
        assert self.overlay
        return self.overlay / f"{self.names[image]}{OVERLAY_SUFFIX}"


def to_json(
    counter: NucleusCounter,
    counted: Sequence[Counted | CountedSlide],
    errors: Sequence[tuple[Path, str]],
    together: Together | None = None,
) -> str:
    """Return the JSON of a run, schema 1."""
    return "".join(json_parts(counter, counted, errors, together))


def json_parts(
    counter: NucleusCounter,
    counted: Sequence[Counted | CountedSlide],
    errors: Sequence[tuple[Path, str]],
    together: Together | None = None,
) -> Iterator[str]:
    """Yield the parts of the JSON of a run, schema 1; the nuclei of slides are read from their ledgers."""
    engine = counter.engine
    slides = [one for one in counted if isinstance(one, CountedSlide)]
    stand_in = secrets.token_hex(16)
    document = {
        "schema": SCHEMA,
        "model": {
            "name": engine.card.name,
            "sha256": engine.card.model_sha256,
            "classes": list(engine.card.classes),
            "mpp": engine.card.mpp,
            "network": engine.card.network,
            "runtime": engine.runtime,
            "notice": engine.card.notice,
        },
        **({"together": together.record()} if together else {}),
        "fields": [_record(counter, one, stand_in) for one in counted],
        "errors": [{"image": str(image), "message": message} for image, message in errors],
    }
    # ASCII, so that any terminal and any file name survives it.
    parts = re.split(f'"{stand_in}"', json.dumps(document, indent=1, allow_nan=False) + "\n")
    yield parts[0]
    for slide, part in zip(slides, parts[1:], strict=True):
        yield from json_detections(slide)
        yield part


def _record(counter: NucleusCounter, one: Counted | CountedSlide, stand_in: str) -> dict[str, Any]:
    threshold = counter.threshold
    return {
        "image": str(one.image),
        "width": one.width,
        "height": one.height,
        "mpp": one.mpp,
        "mpp_source": one.mpp_source,
        "threshold": str(threshold) if threshold.relative else threshold.value,
        "precision": counter.engine.precision,
        "counts": one.counts,
        "ki67_index": one.ki67.index,
        "interval": list(one.ki67.interval) if one.ki67.interval else None,
        "hot_spot": one.hot_spot.record() if one.hot_spot else None,
        "unlike": one.unlike,
        "remarks": list(one.remarks),
        **({"slide": slide_record(one)} if isinstance(one, CountedSlide) else {}),
        "detections": stand_in if isinstance(one, CountedSlide) else one.detections.records(),
    }


def table(counted: Sequence[Counted | CountedSlide]) -> str:
    """Return the CSV of a run: one row a nucleus."""
    return "".join(table_parts(counted))


def table_parts(counted: Sequence[Counted | CountedSlide]) -> Iterator[str]:
    """Yield the parts of the CSV of a run: one row a nucleus."""
    yield nuclei_csv([])
    for one in counted:
        if isinstance(one, CountedSlide):
            yield from csv_rows(one)
        else:
            yield nuclei_csv([(str(one.image), one.detections)]).partition("\n")[2]


def summary_table(
    counter: NucleusCounter, counted: Sequence[Counted | CountedSlide], together: Together | None, target: str
) -> str | bytes:
    """Return the summary of a run, one row per image; see :mod:`kinet_trt.io.tables`.

    Parameters
    ----------
    counter, counted
        The run.
    together
        The images pooled; None: they are not. It is the last row, and in a workbook a sheet instead.
    target
        Name of a ``.csv`` or ``.xlsx`` file; ``-`` for CSV, ``plain`` for tab-separated text.
    """
    model = f"{counter.engine.card.name}, {counter.engine.precision}"
    rows = [
        Row(
            picture=str(one.image),
            counts=one.counts,
            hot_spot=one.hot_spot.ki67 if one.hot_spot else None,
            mpp=one.mpp,
            mpp_known=HOW_KNOWN[one.mpp_source],
            model=model,
            warnings=one.remarks,
        )
        for one in counted
    ]
    total = None
    if together:
        scales = {(row.mpp, row.mpp_known) for row in rows}
        mpp, known = scales.pop() if len(scales) == 1 else (None, "several")
        spot = together.hot_spot
        warning = together.statement(None).no_range
        total = Row(
            picture="together",
            counts=together.counts,
            hot_spot=spot.ki67 if spot else None,
            mpp=mpp,
            mpp_known=known,
            model=model,
            warnings=(warning,) if warning else (),
        )
    if target.lower().endswith(".xlsx"):
        return encode(rows, Path(target), total)
    rows += [total] if total else []
    return to_plain(rows) if target == "plain" else summary_csv(rows)
