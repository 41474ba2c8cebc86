"""Atomic writes and CSV text."""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from kinet_trt.core.errors import KinetError


def write_atomic(path: Path, content: bytes | str | Iterable[str]) -> None:
    """Write a temporary file and rename it, so that readers see the old file or the new one.

    Missing folders are created, a link is followed, and a pipe or a device is written to directly. Text is written as
    UTF-8 (see :func:`encoded`). An iterable is written part by part; if it raises, or the file cannot be written, the
    old file stays.
    """
    try:
        parts = [content] if isinstance(content, (bytes, str)) else content
        place = path.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists() and not place.is_file() and not place.is_dir():
            with place.open("wb") as file:
                file.writelines(map(encoded, parts))
            return
        part = place.with_name(f".kinet-{secrets.token_hex(8)}.part")
        try:
            # tempfile would ignore the umask.
            with part.open("xb") as file:
                file.writelines(map(encoded, parts))
                file.flush()
                os.fsync(file.fileno())
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise KinetError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error


def encoded(text: bytes | str) -> bytes:
    """Return text as UTF-8; surrogate escapes, as in file names that are not UTF-8, become their original bytes."""
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return a CSV table with a line feed after each row; cells with line breaks of any kind are quoted."""
    lines = _Lines()
    # Before Python 3.13 the csv module leaves a carriage return bare unless it ends lines.
    csv.writer(lines, lineterminator="\r\n").writerows(rows)
    return "".join(lines)


class _Lines(list[str]):
    def write(self, line: str) -> None:
        """Store a line that the csv module writes."""
        self.append(f"{line[:-2]}\n")
