"""SQLite errors as messages for people."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from kinet_trt.core.errors import KinetError


@contextlib.contextmanager
def sqlite_errors(path: Path, *, content: str, kept: str, repair: str) -> Iterator[None]:
    """Raise what SQLite raises as a KinetError that names the file and what to do.

    So are text that is not UTF-8 and an integer above 64 bits. ``content`` is what the file should contain, such as "a
    session file"; ``kept`` what a failed write leaves intact, such as "earlier tiles are kept"; ``repair`` what to do
    about a damaged file, such as "restore it from a copy".
    """
    try:
        yield
    except sqlite3.Error as error:
        reason = str(error)
        if "full" in reason or "disk I/O" in reason:
            message = f"cannot be written: the disk is full or failing ({reason}); {kept}"
        elif "readonly" in reason or "unable to open" in reason:
            message = f"cannot be written: no right to write the file or its folder ({reason})"
        elif "locked" in reason or "busy" in reason:
            message = "another program is writing to it: close that program, or wait and try again"
        elif isinstance(error, sqlite3.ProgrammingError):
            message = f"the file is closed: {reason}"
        else:
            message = f"not {content}, or a damaged file ({reason}): {repair}"
        raise KinetError(f"{path}: {message}") from error
    except UnicodeDecodeError as error:
        raise KinetError(f"{path}: not {content}, or a damaged file: {repair}") from error
    except OverflowError as error:
        raise KinetError(f"{path}: a number is too large: it identifies no entry of this file") from error
