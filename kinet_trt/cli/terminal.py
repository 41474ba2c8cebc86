"""Tables and notes on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from kinet_trt.core.errors import printable
from kinet_trt.core.logs import is_quiet

if TYPE_CHECKING:
    from kinet_trt.inference.counter import NucleusCounter

_UNLIMITED = 100_000  # columns: more than any line has


def stdout_console() -> Console:
    """Return a console on standard output; lines in a file or pipe are neither cut nor wrapped."""
    # File names are text: nothing in them is markup or an emoji.
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _UNLIMITED
    return console


def print_rows(
    console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, bold: Sequence[bool] = ()
) -> None:
    """Print a table; on a terminal that is too narrow for it, print each row as a block of lines.

    The first ``left`` columns are left-aligned, the others are numbers; ``bold`` are the rows to print in bold.
    """
    styles = ["bold" if is_bold else None for is_bold in bold] or [None] * len(rows)
    columns = list(zip(headers, *rows, strict=True))
    width = sum(max(cell_len(line) for cell in column for line in cell.split("\n")) for column in columns)
    if width + len(columns) - 1 <= console.width:
        table = Table(box=None, pad_edge=False)
        for number, header in enumerate(headers):
            table.add_column(header, justify="left" if number < left else "right", no_wrap=True)
        for row, style in zip(rows, styles, strict=True):
            table.add_row(*row, style=style)
        print_table(console, table)
        return
    for row, style in zip(rows, styles, strict=True):
        console.print(row[0], style=style, soft_wrap=True)
        pairs = [
            f"{header} {cell}".replace("\n", " ").strip()
            for header, cell in zip(headers[1:], row[1:], strict=True)
            if cell
        ]
        line = ""
        for pair in pairs:
            if line and cell_len(f"  {line}, {pair},") > console.width:
                console.print(f"  {line},", style=style, soft_wrap=True)
                line = ""
            line = f"{line}, {pair}" if line else pair
        console.print(f"  {line}", style=style, soft_wrap=True)


def print_table(console: Console, table: Table) -> None:
    """Print a table, in a file or pipe without the spaces that fill its last column."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as printed:
        console.print(table)
    console.file.writelines(f"{line.rstrip()}\n" for line in printed.get().splitlines())


def print_lines(console: Console, lines: Sequence[str]) -> None:
    """Print lines that the terminal wraps, not rich."""
    for line in lines:
        console.print(line, soft_wrap=True)


def engine_line(counter: NucleusCounter) -> str:
    """Return the model, runtime, precision and threshold of a counter."""
    engine = counter.engine
    return f"{engine.card.name} on {engine.runtime}, {engine.precision}, threshold {counter.threshold}"


def tab_separated(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with a tab between cells and a line per row."""
    cells = [[printable(cell.replace("\n", " ")) for cell in row] for row in (headers, *rows)]
    return "".join("\t".join(row) + "\n" for row in cells)


def note(text: str, *, err: bool = False) -> None:
    """Print a line that ``--quiet`` leaves out, such as the name of a file that was written."""
    if not is_quiet():
        print(printable(text), file=sys.stderr if err else sys.stdout)


def plain(text: str) -> str:
    """Return text from a file without control characters, except line breaks."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
