"""Cases of two sets of results: read the indices, group them by case, and pair the cases."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import CLASSES
from kinet_trt.core.errors import KinetError, printable, shown
from kinet_trt.core.ki67 import Ki67
from kinet_trt.core.notice import NOTICE
from kinet_trt.datasets.labelled import REGIONS
from kinet_trt.evaluation.statistics import IndexAgreement
from kinet_trt.io import geojson, images, points
from kinet_trt.slides.readers.files import TIFF_SUFFIXES
from kinet_trt.slides.slide import OPENSLIDE_SUFFIXES

SCHEMA = 1
SUFFIXES = (*geojson.SUFFIXES, *points.SUFFIXES)
"""Suffixes of the files that are read in a folder."""
_FILE_SUFFIXES = (*SUFFIXES, *images.SUFFIXES, *TIFF_SUFFIXES, *OPENSLIDE_SUFFIXES, ".zarr")
_FIELD_LIST = "index.csv"  # lists labelled fields, and is not a result
_TOTAL = "together"  # row of the summary with the sum of all pictures
_NAME_COLUMNS = (
    "picture", "image", "file", "filename", "file name", "slide", "case", "case id", "id", "sample", "name",
)  # fmt: skip
_INDEX_COLUMNS = ("ki67 index", "ki67", "index", "labelling index", "labeling index", "proliferation index")
_TUMOR_NUCLEI = (" tumour", " tumor", " nuclei", "")  # after positive and negative
_MISSING = ("", "-", "na", "n/a", "nan", "none", "null")
_EXPECTED = (
    "a table with a column of indices, such as Ki67 index (%), with the columns positive and negative, or with the "
    "columns x, y and class"
)


@dataclass(frozen=True)
class Row:
    """One row of a set of results: an image, or a line of a table.

    Attributes
    ----------
    name
        Name of the image file, or of the case in a table.
    index
        Ki67 index, a fraction; None if there is none, as without tumour nuclei.
    counts
        The counted nuclei; None if only the index is known.
    case
        Cell of the case column; empty without one.
    """

    name: str
    index: float | None
    counts: Ki67 | None = None
    case: str = ""

    @classmethod
    def counted(cls, name: str, counts: Ki67, case: str = "") -> Row:
        """Return the row of counted nuclei."""
        return cls(name, counts.index, counts, case)


@dataclass(frozen=True)
class Results:
    """One set of results.

    Attributes
    ----------
    path
        File or folder.
    rows
        Rows in the order of the files.
    notes
        Sentences about columns that were chosen by their names.
    """

    path: Path
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PairedCases:
    """Cases that two sets of results have in common.

    Attributes
    ----------
    names
        Names of the cases, [n].
    first, second
        Their indices, fractions, float64 [n].
    only_first, only_second
        Cases of one set only.
    without_index
        Cases of both that have no index in one of them.
    """

    names: tuple[str, ...]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()
    without_index: tuple[str, ...] = ()

    def records(self, first: str, second: str) -> list[dict[str, Any]]:
        """Return one JSON member per case, with these names for the two indices."""
        return [
            {"case": name, first: float(a), second: float(b)}
            for name, a, b in zip(self.names, self.first, self.second, strict=True)
        ]


# --- reading ----------------------------------------------------------------------------------------------------------


def read_results(path: Path, *, index_column: str = "", case_column: str = "") -> Results:
    """Read the indices of a file, or of all files of a folder (without its subfolders).

    Supported are the JSON, CSV, summary CSV and GeoJSON of ``kinet-trt count``, GeoJSON of QuPath, tables of nuclei
    with the columns x, y and class, tables with the columns positive and negative, and any table with a column of
    indices. Indices are read as per cent if the column's name or a cell says so, or a value exceeds 1; else as
    fractions.
    ``index.csv`` and ``NAME.regions.geojson`` in a folder are left out.

    Parameters
    ----------
    path
        File or folder.
    index_column
        Column of the indices in tables; empty to find it by its name.
    case_column
        Column of the cases in tables that have it.

    Raises
    ------
    KinetError
        If a file cannot be read or contains no indices.
    """
    if path.suffix.lower() == ".xlsx":
        raise KinetError(f"{path}: expected a table as text, found a workbook. Save it as CSV")
    files = _files_of(path) if os.path.isdir(path) else [path]
    parts = [_read_file(file, index_column, case_column) for file in files]
    rows = tuple(row for part in parts for row in part.rows)
    if not rows:
        raise KinetError(f"{path}: expected results of at least one image or case, found none")
    return Results(path, rows, tuple(dict.fromkeys(note for part in parts for note in part.notes)))


def _files_of(folder: Path) -> list[Path]:
    try:
        files = sorted(file for file in folder.iterdir() if _is_result(file.name) and file.is_file())
    except OSError as error:
        raise KinetError(f"{folder}: the folder cannot be read: {error.strerror}") from error
    if not files:
        raise KinetError(f"{folder}: no results in this folder: expected files of {', '.join(SUFFIXES)}")
    return files


def _is_result(name: str) -> bool:
    lower = name.lower()
    if lower.startswith(".") or lower == _FIELD_LIST or not lower.endswith(SUFFIXES):
        return False
    return not lower.endswith(tuple(REGIONS + suffix for suffix in geojson.SUFFIXES))


def _read_file(path: Path, index_column: str, case_column: str) -> Results:
    lower = path.name.lower()
    if lower.endswith(".json") and (document := _count_json(path)) is not None:
        return Results(path, tuple(_json_rows(document, path)))
    if lower.endswith(geojson.SUFFIXES):
        found = geojson.read_geojson(path)
        return Results(path, (Row.counted(path.name, _ki67(np.bincount(found.cls, minlength=len(CLASSES)))),))
    return _read_table(path, index_column, case_column)


def _count_json(path: Path) -> dict[str, Any] | None:
    """Return the document of a JSON file that ``kinet-trt count`` wrote; None if it is another one."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise KinetError(f"{path}: cannot be read as JSON: {error}") from None
    return document if isinstance(document, dict) and "schema" in document and "fields" in document else None


def _json_rows(document: dict[str, Any], path: Path) -> Iterator[Row]:
    fields = document["fields"] if isinstance(document["fields"], list) else [document["fields"]]
    for field in fields:
        try:
            counts = field["counts"]
            yield Row.counted(str(field["image"]), Ki67.from_counts({name: int(counts[name]) for name in counts}))
        except (TypeError, KeyError, ValueError, OverflowError):
            raise KinetError(
                f"{path}: expected the JSON of kinet-trt count, with the counts of each image, found {shown(field)}"
            ) from None


def _ki67(by_class: Sequence[int] | NDArray[np.integer]) -> Ki67:
    return Ki67.from_counts({name: int(n) for name, n in zip(CLASSES, by_class, strict=True)})


# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Columns:
    """Columns of a table that are read; empty if absent."""

    name: str
    case: str
    index: str = ""
    positive: str = ""
    negative: str = ""
    cls: str = ""


def _read_table(path: Path, index_column: str, case_column: str) -> Results:
    def wanted(header: Sequence[str]) -> _Columns | None:
        return _columns(header, index_column, case_column)

    expected = f"a table with the column {index_column!r}" if index_column else _EXPECTED
    columns, lines = points.read_rows(path, wanted, expected)
    if columns.cls:
        return Results(path, tuple(_nuclei_rows(path, columns, lines)))
    if columns.positive:
        return Results(path, tuple(_count_rows(path, columns, lines)))
    cells = [cells for _, cells in lines]
    is_percent = _is_percent(columns.index, [row[columns.index] for row in cells])
    rows = tuple(_index_rows(path, columns, lines, 100.0 if is_percent else 1.0))
    unit = "in per cent" if is_percent else "as fractions"
    note = f"{path.name}: index from the column {columns.index!r} {unit}, cases from {columns.name!r}."
    return Results(path, rows, (note,))


def _columns(header: Sequence[str], index_column: str, case_column: str) -> _Columns | None:
    """Find the columns by their names; None if the table has no indices."""
    named = {_plain(name): name for name in reversed(header)}
    case = _column(header, case_column)
    name = next((named[plain] for plain in _NAME_COLUMNS if plain in named), "")
    if index_column:
        index = _column(header, index_column)
        return _Columns(name or case or _first_other(header, index), case, index) if index else None
    if nuclei := points.nuclei_columns(header):
        return _Columns(name, case, cls=nuclei.cls)
    positive, negative = (
        next((named[word + noun] for noun in _TUMOR_NUCLEI if word + noun in named), "")
        for word in ("positive", "negative")
    )
    if positive and negative:
        return _Columns(name or case or header[0], case, positive=positive, negative=negative)
    index = next((named[plain] for plain in _INDEX_COLUMNS if plain in named), "")
    return _Columns(name or case or _first_other(header, index), case, index) if index else None


def _column(header: Sequence[str], name: str) -> str:
    """Return the column with a name, in any case; empty if there is none."""
    return next((column for column in header if name and column.casefold() == name.strip().casefold()), "")


def _first_other(header: Sequence[str], index: str) -> str:
    return next((name for name in header if name != index), "")


def _plain(name: str) -> str:
    """Return the name of a column in lower case without units and punctuation: "Ki-67 index (%)" is "ki67 index"."""
    text = re.sub(r"ki[\s_-]*67", "ki67", name.casefold())
    words = re.sub(r"[\s_()\[\]%]+", " ", text).split()
    return " ".join(word for word in words if word not in ("percent", "pct", "fraction"))


def _is_percent(column: str, cells: Iterable[str]) -> bool:
    if re.search(r"%|per\s?cent|pct", column, re.IGNORECASE):
        return True
    return any("%" in cell or _is_above_one(cell) for cell in cells)


def _is_above_one(cell: str) -> bool:
    try:
        return points.parse_number(cell) > 1
    except ValueError:
        return False


def _name_of(path: Path, columns: _Columns, number: int, cells: Mapping[str, str]) -> str:
    """Return the name of a row; the name of the table without a column of names."""
    name = cells[columns.name] if columns.name else path.name
    if not name:
        raise KinetError(f"{path}, line {number}: expected a name in the column {columns.name!r}, found none")
    # The summary escapes what a spreadsheet would run as a formula.
    return name[1:] if re.match(r"'[=+@-]", name) else name


def _case_of(columns: _Columns, cells: Mapping[str, str]) -> str:
    return cells[columns.case] if columns.case else ""


def _index_rows(path: Path, columns: _Columns, lines: points.Rows, whole: float) -> Iterator[Row]:
    for number, cells in lines:
        cell = cells[columns.index]
        index = None
        if cell.casefold() not in _MISSING:
            try:
                index = points.parse_number(cell.rstrip("% ")) / whole
            except ValueError:
                index = -1.0
            if not 0 <= index <= 1:
                raise KinetError(
                    f"{path}, line {number}: expected an index from 0 to {'100%' if whole == 100 else '1'} in the "
                    f"column {columns.index!r}, found {shown(cell)}"
                )
        yield Row(_name_of(path, columns, number, cells), index, case=_case_of(columns, cells))


def _count_rows(path: Path, columns: _Columns, lines: points.Rows) -> Iterator[Row]:
    for number, cells in lines:
        name = _name_of(path, columns, number, cells)
        if name == _TOTAL:
            continue
        try:
            counts = Ki67.from_counts(
                {"positive": _whole(cells[columns.positive]), "negative": _whole(cells[columns.negative])}
            )
        except ValueError:
            raise KinetError(
                f"{path}, line {number}: expected the numbers of nuclei in {columns.positive!r} and "
                f"{columns.negative!r}, found {shown(cells)}"
            ) from None
        yield Row.counted(name, counts, _case_of(columns, cells))


def _whole(cell: str) -> int:
    """Return a number of nuclei; spreadsheets also write "12.0"."""
    value = points.parse_number(cell)
    if not value.is_integer():
        raise ValueError
    return int(value)


def _nuclei_rows(path: Path, columns: _Columns, lines: points.Rows) -> Iterator[Row]:
    """Yield one row per image of a table of nuclei; nuclei of unknown classes are left out."""
    found: dict[tuple[str, str], NDArray[np.int64]] = {}
    for number, cells in lines:
        key = _name_of(path, columns, number, cells), _case_of(columns, cells)
        counts = found.setdefault(key, np.zeros(len(CLASSES), np.int64))
        if (cls := geojson.nucleus_class(cells[columns.cls])) is not None:
            counts[cls] += 1
    for (name, case), counts in found.items():
        yield Row.counted(name, _ki67(counts), case)


# --- grouping and pairing ---------------------------------------------------------------------------------------------


def pair_cases(
    first: Results, second: Results, *, pattern: re.Pattern[str] | None = None, cases: Mapping[str, str] | None = None
) -> PairedCases:
    """Group the rows of two sets of results by case, and pair the cases by name.

    The case of a row is its cell in the case column; else that of the row with the same file name in the other set;
    else the group of the pattern; else the file name without folder and suffix. Rows of one case are pooled: their
    nuclei are added up; without counts the mean of their indices is taken.

    Parameters
    ----------
    first, second
        The two sets.
    pattern
        Regular expression with one group, searched in the file name without folder and suffix; None to pool nothing
        by names.
    cases
        Case by file name without folder and suffix, for rows without a case.

    Raises
    ------
    KinetError
        If rows of one set have the same name, and nothing says that they are one case; the pattern fits no name; or no
        case is in both sets.
    """
    known = {stem(row.name): row.case for results in (first, second) for row in results.rows if row.case}
    known = {**(cases or {}), **known}
    if pattern and not any(_group(pattern, row.name) for results in (first, second) for row in results.rows):
        raise KinetError(
            f"expected names that the pattern {pattern.pattern!r} fits, found {first.rows[0].name} and "
            f"{second.rows[0].name}"
        )
    a, b = (_by_case(results, known, pattern) for results in (first, second))
    both = [name for name in a if name in b]
    if not both:
        raise KinetError(
            f"no case is in both: {first.path} has {_listed(a)}; {second.path} has {_listed(b)}. Group them by a "
            "pattern of the names or by a column, or rename them"
        )
    pairs = [(name, x, y) for name in both if (x := a[name]) is not None and (y := b[name]) is not None]
    return PairedCases(
        tuple(name for name, _, _ in pairs),
        np.array([x for _, x, _ in pairs], np.float64),
        np.array([y for _, _, y in pairs], np.float64),
        tuple(name for name in a if name not in b),
        tuple(name for name in b if name not in a),
        tuple(name for name in both if a[name] is None or b[name] is None),
    )


def to_json(first: Results, second: Results, cases: PairedCases, agreement: IndexAgreement) -> str:
    """Return a comparison as JSON, schema 1; indices and differences are fractions."""
    sets = (("a", first, cases.only_first), ("b", second, cases.only_second))
    document = {
        "schema": SCHEMA,
        **{
            key: {"path": str(results.path), "notes": list(results.notes), "only_here": list(left)}
            for key, results, left in sets
        },
        "agreement": agreement.record(),
        "cases": cases.records("a", "b"),
        "without_index": list(cases.without_index),
        "notice": NOTICE,
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def stem(name: str) -> str:
    """Return a file name without folder and suffixes; names of cases that are not files stay as they are."""
    base = re.split(r"[/\\]", name)[-1]
    while suffix := next((s for s in _FILE_SUFFIXES if base.lower().endswith(s) and len(base) > len(s)), ""):
        base = base[: -len(suffix)]
    return base


def read_cases(folder: Path, column: str) -> dict[str, str]:
    """Return the cases of labelled fields, by file name without folder and suffix.

    Parameters
    ----------
    folder
        Folder of the fields; it or its parent has an ``index.csv`` with the column image.
    column
        Column of the cases.

    Raises
    ------
    KinetError
        If there is no such table, or it cannot be read or lacks one of the columns.
    """
    table = next((path for path in (folder / _FIELD_LIST, folder.parent / _FIELD_LIST) if path.is_file()), None)
    if table is None:
        raise KinetError(f"{folder}: expected an {_FIELD_LIST} with the column {column!r}, found none")

    def wanted(header: Sequence[str]) -> tuple[str, str] | None:
        named = {_plain(name): name for name in reversed(header)}
        name = next((named[plain] for plain in _NAME_COLUMNS if plain in named), "")
        case = _column(header, column)
        return (name, case) if name and case else None

    (name, case), lines = points.read_rows(table, wanted, f"a table with the columns image and {column!r}")
    return {stem(cells[name]): cells[case] for _, cells in lines if cells[case]}


def _by_case(results: Results, known: Mapping[str, str], pattern: re.Pattern[str] | None) -> dict[str, float | None]:
    """Return the index of each case."""
    grouped: dict[str, list[Row]] = {}
    is_group: dict[str, bool] = {}
    for row in results.rows:
        name = stem(row.name)
        group = row.case or known.get(name, "") or _group(pattern, row.name)
        grouped.setdefault(group or name, []).append(row)
        is_group[group or name] = is_group.get(group or name, True) and bool(group)
    for name, rows in grouped.items():
        if len(rows) > 1 and not is_group[name]:
            raise KinetError(
                f"{results.path}: expected one row for each case, found {len(rows)} for {shown(name)} "
                f"({_listed(row.name for row in rows)}). Group them by a pattern of the names or by a column"
            )
    return {name: _pooled(rows) for name, rows in grouped.items()}


def _group(pattern: re.Pattern[str] | None, name: str) -> str:
    """Return the group of a pattern in the stem of a name; empty if it does not fit."""
    found = pattern.search(stem(name)) if pattern else None
    return (found[1] or "") if found else ""


def _pooled(rows: Sequence[Row]) -> float | None:
    counts = [row.counts for row in rows if row.counts]
    if len(counts) == len(rows):
        return Ki67(sum(c.positive for c in counts), sum(c.tumor for c in counts)).index
    indices = [row.index for row in rows if row.index is not None]
    return sum(indices) / len(indices) if indices else None


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(map(printable, every[:3])) + (f" and {len(every) - 3} more" if len(every) > 3 else "")
