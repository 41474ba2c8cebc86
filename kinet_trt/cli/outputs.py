"""Checks on the files that a command will write, and writing them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

from kinet_trt.cli.terminal import note, tab_separated
from kinet_trt.core.errors import KinetError
from kinet_trt.core.files import encoded, write_atomic

SUFFIXES = {
    "--json": (".json",),
    "--csv": (".csv",),
    "--summary": (".csv", ".xlsx"),
    "--report": (".html", ".htm"),
    "--plot": (".png", ".svg"),
    "--agreement-plot": (".png", ".svg"),
}
"""Suffixes of the files that an option writes; a name without a suffix is accepted."""
_FILE_SUFFIXES = (".geojson", ".json", ".csv", ".png", ".svg", ".jpg", ".jpeg", ".tif", ".tiff", ".zip")


def check_names(
    targets: dict[str, str | None],
    format_: str = "table",
    *,
    folders: dict[str, Path | None] | None = None,
    out: tuple[str, ...] = (),
) -> bool:
    """Check the names of files and folders to write, before any work.

    ``targets`` are file names by option, ``-`` for standard output; ``format_`` is the value of ``--format``, and
    anything but a table is data on standard output; ``folders`` are folders by option; ``out`` are the suffixes of
    ``--out``. Returns whether data goes to standard output: nothing else may be printed there.

    Raises BadParameter if a suffix is not one of the option's, a folder looks like a file, or two options write to
    standard output; a KinetError if the package that writes a type of file is missing.
    """
    for option, target in targets.items():
        expected = out if option == "--out" else SUFFIXES[option]
        suffix = Path(target or "").suffix
        if suffix and suffix.lower() not in expected:
            raise typer.BadParameter(
                f"{option} {target}: expected a name that ends in {' or '.join(expected)}, found {suffix}"
            )
        if option == "--summary" and target and target != "-":
            from kinet_trt.io.tables import check_suffix

            check_suffix(Path(target))
    for option, folder in (folders or {}).items():
        if folder and folder.suffix.lower() in _FILE_SUFFIXES and not os.path.isdir(folder):
            raise typer.BadParameter(f"{option} {folder}: expected a folder, found the name of a {folder.suffix} file")
    data = [option for option, target in targets.items() if target == "-"]
    data += [f"--format {format_}"] if format_ != "table" else []
    if len(data) > 1:
        raise typer.BadParameter(f"{' and '.join(data)} both write to standard output: name a file for one of them")
    return bool(data)


def check_targets(targets: dict[str, str | None], inputs: Sequence[Path]) -> None:
    """Raise if a file to write is an input, another file to write, or a folder."""
    taken = {os.path.abspath(path): str(path) for path in inputs}
    for option, target in targets.items():
        if not target or target == "-":
            continue
        absolute = os.path.abspath(target)
        if absolute in taken:
            raise typer.BadParameter(f"{option} {target}: the same file as {taken[absolute]}")
        if os.path.isdir(target):
            raise KinetError(f"{target}: cannot be written: it is a folder, expected a file name")
        taken[absolute] = f"that of {option}"


def existing(target: str | None) -> list[Path]:
    """Return the file that writing to a target would replace, unless it is empty."""
    path = Path(target or "-")
    return [path] if target != "-" and path.is_file() and path.stat().st_size else []


def check_existing(paths: Sequence[Path], force: bool) -> None:
    """Raise if one of these files exists and ``--force`` was not given; the caller passes those that need it."""
    if paths and not force:
        others = f" ({len(paths)} such files)" if len(paths) > 1 else ""
        raise KinetError(f"{paths[0]} exists already{others}: --force replaces {'them' if others else 'it'}")


def report_written(paths: Sequence[Path], err: bool = False) -> None:
    """Print the names of files that were written; more than three in a folder are summed up."""
    for folder in dict.fromkeys(path.parent for path in paths):
        inside = [path for path in paths if path.parent == folder]
        if len(inside) > 3:
            note(f"written: {len(inside):,} files in {folder}", err=err)
            continue
        for path in inside:
            note(f"written: {path}", err=err)


def write(target: str, content: str | bytes | Iterable[str], err: bool = False) -> None:
    """Write to a file, or to standard output if the target is ``-``; ``err``: report it on standard error."""
    if target == "-":
        # Bytes: a text stream would translate line ends, and fail on names that it cannot encode.
        parts = [content] if isinstance(content, (str, bytes)) else content
        sys.stdout.buffer.writelines(map(encoded, parts))
        sys.stdout.buffer.flush()
    else:
        write_atomic(Path(target), content)
        report_written([Path(target)], err)


def write_results(
    json_file: str | None, format_: str, text: str, table: tuple[Sequence[str], Sequence[Sequence[str]]], err: bool
) -> None:
    """Write JSON to the file of ``--json``, and what ``--format`` asks for to standard output."""
    if json_file:
        write(json_file, text, err)
    if format_ == "json":
        write("-", text)
    elif format_ == "plain":
        write("-", tab_separated(*table))


def write_json(target: str | None, document: dict[str, Any]) -> None:
    """Write a document to a file or to standard output; None: do nothing."""
    if target:
        write(target, json.dumps(document, indent=1, ensure_ascii=False) + "\n", target == "-")
