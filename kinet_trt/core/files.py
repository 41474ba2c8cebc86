"""Writing files so that a crash never leaves half of one, and nothing is overwritten by accident."""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from kinet_trt.core.errors import KinetError


def write_atomic(path: Path, content: bytes | str | Iterable[str]) -> None:
    """Write a file beside its place and rename it into place: readers see the old file or the new one, never half.

    Parameters
    ----------
    path
        Where it goes; missing folders are made.
    content
        Bytes, or text that is written as UTF-8 with plain newlines (bytes of an odd file name come out as they were);
        what is too long for memory may come in parts, and an error in between leaves the old file too.

    Notes
    -----
    What exists and is no file (a pipe, a device) is written to, not replaced; of a link, the target is replaced.

    Raises
    ------
    KinetError
        If it cannot be written; an old file is then as it was.
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
            # Not tempfile: its files are private whatever the umask says.
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
    """Return text as UTF-8; bytes of an odd file name come out as they were."""
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return a CSV table with one line feed per row; cells with a line break of any kind stand in quotes."""
    lines = _Lines()
    # Before Python 3.13 the csv module leaves a carriage return bare unless it ends lines.
    csv.writer(lines, lineterminator="\r\n").writerows(rows)
    return "".join(lines)


class _Lines(list[str]):
    def write(self, line: str) -> None:
        """Keep a line that the csv module writes."""
        self.append(f"{line[:-2]}\n")
