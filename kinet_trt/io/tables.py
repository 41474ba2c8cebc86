"""Summary tables with one row per picture, as CSV or Excel workbook (XLSX).

Text that a spreadsheet would run as a formula is escaped in both. The CSV of ``count --csv``, one row per nucleus, is
written by `kinet_trt.counting.run.CountRun.to_csv` from `kinet_trt.core.detections.Detections.records`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kinet_trt.core.detections import CLASSES, NAMES
from kinet_trt.core.errors import KinetError, printable
from kinet_trt.core.files import csv_text
from kinet_trt.core.ki67 import Ki67
from kinet_trt.core.notice import NOTICE
from kinet_trt.core.protocols import ProtocolCount
from kinet_trt.core.stain_scoring import INTENSITIES, HScore

SUFFIXES = (".csv", ".xlsx")
"""File types of a summary table."""

Cell = str | int | float | None
_FORMULA = ("=", "+", "-", "@")  # first characters of a formula
_MAX_WIDTH = 60  # of a column in a workbook, characters


@dataclass(frozen=True)
class Row:
    """One row of a summary table."""

    picture: str  # file name, or the field of a session
    counts: dict[str, int]
    hot_spot: Ki67 | None  # None with too few tumour nuclei
    mpp: float | None  # None for a total of pictures with different µm/px
    mpp_known: str  # source of the µm/px, as people read it
    model: str  # name and precision
    warnings: tuple[str, ...] = ()
    positive_above: float | None = None  # DAB optical density; without any the table has no such column
    h_score: HScore | None = None  # as positive_above
    protocol: ProtocolCount | None = None  # as positive_above
    case: str = ""  # such as the title of a session; without any case the table has no such column


def check_suffix(path: Path) -> None:
    """Raise a KinetError if the suffix is neither .csv nor .xlsx, or openpyxl is missing for the latter."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise KinetError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}, found {suffix or 'no suffix'}")
    if suffix == ".xlsx":
        try:
            import openpyxl  # noqa: F401
        except ImportError as error:
            raise KinetError(f"{path}: Excel needs openpyxl: pip install 'kinet-trt[xlsx]', or use .csv") from error


def to_csv(rows: Sequence[Row]) -> str:
    """Return the table as CSV: a header and one line per row."""
    return csv_text(
        [f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in row]
        for row in _cells(rows)
    )


def to_plain(rows: Sequence[Row]) -> str:
    """Return the table as text: a tab between cells, a header and one line per row."""
    return "".join("\t".join("" if cell is None else str(cell) for cell in row) + "\n" for row in _cells(rows))


def to_xlsx(rows: Sequence[Row], total: Row | None = None) -> bytes:
    """Return an Excel workbook with the rows in the sheet "Pictures", and before it a sheet "Total", if given."""
    from openpyxl import Workbook
    from openpyxl.styles import Alignment, Font
    from openpyxl.utils import get_column_letter

    book = Workbook()
    book.remove(book.active)
    for title, shown in ([("Total", [total])] if total else []) + [("Pictures", list(rows))]:
        sheet = book.create_sheet(title)
        cells = _cells(shown)
        for y, line in enumerate(cells, 1):
            for x, value in enumerate(line, 1):
                cell = sheet.cell(y, x, value)
                if isinstance(value, str):
                    # Keep text as text when somebody edits the cell.
                    cell.data_type, cell.quotePrefix = "s", value.startswith(_FORMULA)
                    cell.alignment = Alignment(wrap_text=True, vertical="top")
                else:
                    cell.alignment = Alignment(vertical="top")
                if y == 1:
                    cell.font = Font(bold=True)
        for x, column in enumerate(zip(*cells, strict=True), 1):
            longest = max(len(str(value)) for value in column if value is not None)
            sheet.column_dimensions[get_column_letter(x)].width = min(_MAX_WIDTH, longest + 2)
        sheet.freeze_panes = "B2"
    data = io.BytesIO()
    book.save(data)
    return data.getvalue()


def encode(rows: Sequence[Row], path: Path, total: Row | None = None) -> bytes:
    """Return the table in the file type of a path; raises as :func:`check_suffix`."""
    check_suffix(path)
    return to_xlsx(rows, total) if path.suffix.lower() == ".xlsx" else to_csv(rows).encode()


def _cells(rows: Sequence[Row]) -> list[list[Cell]]:
    """Return header and rows; indices are per cent, rounded to 0.01."""
    classes = [*CLASSES, *dict.fromkeys(name for row in rows for name in row.counts if name not in CLASSES)]
    with_case = any(row.case for row in rows)
    with_cut = any(row.positive_above is not None for row in rows)
    with_h_score = any(row.h_score for row in rows)
    with_protocol = any(row.protocol for row in rows)
    header = [
        *(["Case"] if with_case else []),
        "Picture",
        *(printable(NAMES.get(name, name).capitalize()) for name in classes),
        "Tumour nuclei",
        "Ki67 index (%)",
        "95% interval from (%)",
        "95% interval to (%)",
        "Hot spot nuclei",
        "Hot spot index (%)",
        "Hot spot 95% interval from (%)",
        "Hot spot 95% interval to (%)",
        "um/px",
        "um/px known from",
        "Model",
        "Warnings",
        "Notice",
        *(["Positive from DAB OD"] if with_cut else []),
        *(["H-score", *(f"H-score {name} nuclei" for name in INTENSITIES)] if with_h_score else []),
        *(["Protocol", "Protocol index (%)", "Protocol unweighted (%)", "Protocol fields"] if with_protocol else []),
    ]
    table: list[list[Cell]] = [[*header]]
    for row in rows:
        ki67, spot = Ki67.from_counts(row.counts), row.hot_spot
        table.append(
            [
                *([printable(row.case)] if with_case else []),
                printable(row.picture),
                *(row.counts.get(name, 0) for name in classes),
                ki67.tumor,
                *_percentages(ki67),
                spot.tumor if spot else None,
                *(_percentages(spot) if spot else (None, None, None)),
                None if row.mpp is None else float(f"{row.mpp:.6g}"),
                printable(row.mpp_known),
                printable(row.model),
                printable(" ".join(row.warnings)),
                NOTICE,
                *([row.positive_above] if with_cut else []),
                *(_h_score(row.h_score) if with_h_score else []),
                *(_protocol(row.protocol) if with_protocol else []),
            ]
        )
    return table


def _h_score(h_score: HScore | None) -> tuple[float | None, ...]:
    if h_score is None:
        return (None,) * (1 + len(INTENSITIES))
    return None if h_score.score is None else round(h_score.score, 2), *h_score.counts


def _protocol(counted: ProtocolCount | None) -> tuple[Cell, ...]:
    if counted is None:
        return (None,) * 4
    indices = (None if index is None else round(100 * index, 2) for index in (counted.index, counted.unweighted))
    return counted.name, *indices, len(counted.fields)


def _percentages(ki67: Ki67) -> tuple[float | None, float | None, float | None]:
    if ki67.index is None or ki67.interval is None:
        return None, None, None
    index, low, high = (round(100 * share, 2) for share in (ki67.index, *ki67.interval))
    return index, low, high
