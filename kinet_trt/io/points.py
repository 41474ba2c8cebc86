"""Read tables of nucleus centres: CSV files of programs and spreadsheets, and measurement tables of QuPath."""

from __future__ import annotations

import csv
import io
import itertools
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from kinet_trt.core import units
from kinet_trt.core.detections import CLASSES
from kinet_trt.core.errors import KinetError, shown
from kinet_trt.io.geojson import MAX_NUCLEUS_AREA, Annotations, Outlines, nucleus_class

log = logging.getLogger(__name__)

SUFFIXES = (".csv", ".tsv", ".txt")
SEPARATORS = (",", ";", "\t", "|")
_CLASS_COLUMNS = ("class", "classification", "class name", "klasse", "classe")
_MAX_POSITION = float(np.finfo(np.float32).max)
_PIXELS = ("", "px", "pixel", "pixels")

T = TypeVar("T")
Rows = tuple[tuple[int, dict[str, str]], ...]
"""Line number and cells by column name."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns with the nuclei; empty for a column that is absent."""

    x: str
    y: str
    cls: str
    unit: float | None  # of x and y, µm; None for px
    qupath: bool  # a measurement table of QuPath, whose origin is the corner of the first pixel
    image: str = ""
    roi: str = ""  # shape
    number: str = ""  # of points
    area: str = ""  # µm² or px²

    def __str__(self) -> str:
        return f"{self.x!r}, {self.y!r} and {self.cls!r}"


@dataclass(frozen=True)
class Table:
    """A table of nuclei with all of its rows."""

    path: Path
    columns: Columns
    rows: Rows

    @property
    def images(self) -> tuple[str, ...]:
        """Unique image names in the table."""
        if not self.columns.image:
            return ()
        return tuple(dict.fromkeys(row[self.columns.image] for _, row in self.rows))

    def nuclei(self, image: Path, mpp: Callable[[], float | None]) -> Annotations:
        """Return the nuclei of one image, which selects the rows of a table with image names.

        ``mpp`` returns the µm/px of the image; it is called if the positions are lengths.
        """
        rows = self.rows
        if self.images:
            rows = tuple((n, row) for n, row in rows if is_named(row[self.columns.image], image))
            if not rows:
                raise KinetError(
                    f"{self.path}: expected rows of the image {image.name}, found rows of {', '.join(self.images[:3])}"
                )
        scale = 1.0
        if self.columns.unit is not None:
            if (found := mpp()) is None:
                raise KinetError(
                    f"{self.path}: the positions in {self.columns.x!r} are lengths, and {image.name} does not state "
                    "its µm/px: give the µm/px of the fields"
                )
            scale = self.columns.unit / found
        return _nuclei(self, rows, scale)


def is_named(given: str, image: Path) -> bool:
    """Return True if an image name in a table means this file; QuPath also writes ``NAME.tif - series``."""
    stem = given.split(" - ")[0]
    return image.name in (given, stem) or image.stem in (given, stem, Path(given).stem, Path(stem).stem)


def read_table(path: Path) -> Table:
    """Read a table of nuclei: the columns x, y and class, or a measurement table of QuPath.

    Separators (comma, semicolon, tab, bar), decimal commas, capitals, spaces and encodings of spreadsheets are
    recognised. Columns with other names than ``x,y,class`` are logged.
    """
    columns, rows = read_rows(
        path, nuclei_columns, "a header with the columns x,y,class, or QuPath's measurement table"
    )
    if (columns.x, columns.y, columns.cls) != ("x", "y", "class"):
        where = "px" if columns.unit is None else "µm" if columns.unit == 1 else f"units of {columns.unit:g} µm"
        log.warning("%s: nuclei are read from the columns %s, positions in %s", path, columns, where)
    return Table(path, columns, rows)


def is_table(path: Path) -> bool:
    """Return True if a file is a table of nuclei; ``.txt`` files often are not."""
    try:
        read_rows(path, nuclei_columns, "")
    except KinetError:
        return False
    return True


def read_rows(path: Path, wanted: Callable[[Sequence[str]], T | None], expected: str) -> tuple[T, Rows]:
    """Read a table with any separator.

    ``wanted`` parses the names of the columns, and returns None if they are not the expected ones, which ``expected``
    describes in the message of the error.
    """
    try:
        text = _text(path.read_bytes())
        lines = text.splitlines(keepends=True)
        # Skip blank lines and the line sep= of Excel.
        before = itertools.takewhile(lambda line: re.fullmatch(r"\s*(sep=.\s*)?", line), lines)
        first = sum(1 for _ in before)
        for separator in SEPARATORS:
            reader = csv.reader(io.StringIO("".join(lines[first:]), newline=""), delimiter=separator)
            header = [cell.strip() for cell in next(reader, [])]
            if columns := wanted(header):
                return columns, tuple(_cells(reader, header, first))
    except (OSError, ValueError, csv.Error) as error:  # a path of a damaged index may hold a null byte
        raise KinetError(f"{path}: cannot be read as CSV: {error}") from error
    head = lines[first].strip() if len(lines) > first else "an empty file"
    raise KinetError(f"{path}: expected {expected}; found {shown(head)}")


def _cells(reader: Iterator[list[str]], header: Sequence[str], skipped: int) -> Iterator[tuple[int, dict[str, str]]]:
    for cells in reader:
        if any(cell.strip() for cell in cells):
            padded = [cell.strip() for cell in cells] + [""] * (len(header) - len(cells))
            yield reader.line_num + skipped, dict(zip(header, padded, strict=False))  # type: ignore[attr-defined]


def _text(data: bytes) -> str:
    """Decode UTF-8, UTF-16 with a byte-order mark, or Latin-1."""
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def nuclei_columns(header: Sequence[str]) -> Columns | None:
    """Return the columns of the nuclei by their names; None if one is missing."""
    named = {_plain(name): name for name in reversed(header)}  # the first of two columns with one name
    axes = [_axis(named, axis) for axis in "xy"]
    cls = next((named[name] for name in _CLASS_COLUMNS if name in named), None)
    if cls is None or axes[0] is None or axes[1] is None or axes[0][1:] != axes[1][1:]:
        return None
    (x, unit, qupath), (y, _, _) = axes[0], axes[1]
    area = next((original for name, original in named.items() if re.match(r"(nucleus: )?area\b", name)), "")
    found = {key: named.get(name, "") for key, name in (("image", "image"), ("roi", "roi"), ("number", "num points"))}
    return Columns(x, y, cls, unit, qupath, **(found if qupath else {}), area=area if qupath else "")


def _axis(named: dict[str, str], axis: str) -> tuple[str, float | None, bool] | None:
    """Return the column of a position, its unit in µm (None for px), and True if it is QuPath's; prefer px."""
    found = []
    for name, original in named.items():
        if match := re.fullmatch(rf"(centroid )?{axis}(?: (.+))?", name):
            unit = match[2] or ""
            um = None if unit in _PIXELS else units.um_in(unit)
            if um is not None or unit in _PIXELS:
                found.append((original, um, match[1] is not None))
    return min(found, key=lambda one: one[1] is not None, default=None)


def _plain(name: str) -> str:
    """Return the name of a column in lower case, with single spaces, without brackets."""
    return re.sub(r"[\s_()\[\]]+", " ", name).strip().casefold()


def _nuclei(table: Table, rows: Rows, scale: float) -> Annotations:
    columns, left = table.columns, Counter[str]()
    known: list[tuple[float, float, int]] = []
    unknown: list[tuple[float, float]] = []
    corner = 0.5 if columns.qupath else 0.0
    for number, row in rows:
        try:
            x, y = (parse_number(row[name]) * scale - corner for name in (columns.x, columns.y))
        except ValueError:
            raise KinetError(
                f"{table.path}, line {number}: expected {columns} with class one of {', '.join(CLASSES)}; found "
                f"{shown([row[name] for name in (columns.x, columns.y, columns.cls)])}"
            ) from None
        if not max(abs(x), abs(y)) < _MAX_POSITION:  # false for nan too
            raise KinetError(
                f"{table.path}, line {number}: x and y must be finite, found {shown(row[columns.x])}, "
                f"{shown(row[columns.y])}"
            )
        name = row[columns.cls]
        cls = nucleus_class(name)
        if columns.qupath and (why := _no_nucleus(table, number, row, cls)):
            left[why] += 1
        elif cls is not None:
            known.append((x, y, cls))
        elif columns.qupath:
            left[f"nucleus of the class {shown(name)}" if name else "nucleus without a class"] += 1
            unknown.append((x, y))
        else:
            raise KinetError(
                f"{table.path}, line {number}: expected a class like {', '.join(CLASSES)} in the column "
                f"{columns.cls!r}, found {shown(name)}"
            )
    if left:
        log.warning(
            "%s: excluded: %s. Classes of nuclei are Positive, Negative and Other",
            table.path,
            ", ".join(f"{n} x {what}" for what, n in sorted(left.items())),
        )
    values = np.asarray(known, np.float64).reshape(-1, 3)
    return Annotations(
        values[:, 0].astype(np.float32),
        values[:, 1].astype(np.float32),
        values[:, 2].astype(np.uint8),
        Outlines(unknown=np.asarray(unknown, np.float64).reshape(-1, 2)),
        dict(left),
    )


def _no_nucleus(table: Table, number: int, row: dict[str, str], cls: int | None) -> str:
    """Return the kind of a row of a measurement table that is not a nucleus; empty for a nucleus."""
    columns = table.columns
    if columns.number and row[columns.number] not in ("", "1"):
        raise KinetError(
            f"{table.path}, line {number}: {row[columns.number]} points with one position: export the objects from "
            "QuPath as GeoJSON"
        )
    roi = row.get(columns.roi, "").lower()
    if (
        cls is None
        and roi in ("polygon", "rectangle", "ellipse", "geometry")
        and row.get("Object type") == "Annotation"
    ):
        return "annotated area"
    try:
        area = parse_number(row.get(columns.area, "")) * _square_um(columns.area)
    except ValueError:
        return ""
    return "annotated area" if area > MAX_NUCLEUS_AREA and row.get("Object type") == "Annotation" else ""


def _square_um(column: str) -> float:
    """Return the unit of an area in µm²; 0 for px²."""
    unit = re.sub(r".*area\s*|\^?[2²]", "", column, flags=re.IGNORECASE).strip()
    um = None if unit in _PIXELS else units.um_in(unit)
    return um * um if um else 0.0


def parse_number(text: str) -> float:
    """Parse a number with a decimal point or comma; if it has both, the last one is the decimal sign."""
    if "," in text and "." in text:
        text = text.replace(min(",.", key=text.rindex), "")
    return float(text.replace(",", "."))
