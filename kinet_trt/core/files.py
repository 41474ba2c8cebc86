"""Writing files so that a crash never leaves half of one, and nothing is overwritten by accident."""

from __future__ import annotations

import csv
import os
import secrets
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

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


def user_cache() -> Path | None:
    """Return the user's folder for what can be made again, ``kinet-trt`` in it; None where there is no home folder."""
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        named = Path(os.environ.get(variable, ""))
        if named.is_absolute():
            return named / "kinet-trt"
    try:
        return Path.home() / ".cache" / "kinet-trt"
    except RuntimeError:
        return None


def user_data() -> Path | None:
    """Return the user's folder for what must not be lost, ``kinet-trt`` in it; None where there is no home folder."""
    for variable in ("XDG_DATA_HOME", "LOCALAPPDATA"):
        named = Path(os.environ.get(variable, ""))
        if named.is_absolute():
            return named / "kinet-trt"
    try:
        return Path.home() / ".local" / "share" / "kinet-trt"
    except RuntimeError:
        return None


def sessions_file() -> Path:
    """Return the session file of this user: ``sessions.kinet`` in :func:`user_data`.

    Raises
    ------
    KinetError
        If there is no home folder.
    """
    folder = user_data()
    if folder is None:
        raise KinetError("no home folder for the sessions: give a session file (kinet-trt live: --sessions FILE)")
    return folder / "sessions.kinet"


class Claim:
    """A file's name beside it that one program at a time holds; it is free again when that program ends, however.

    Parameters
    ----------
    path
        What is claimed; the claim is ``NAME.lock`` beside it, and stays there, empty of meaning, when it is free.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.name}.lock")
        self._file: BinaryIO | None = None

    def take(self) -> bool:
        """Return whether it could be taken; False: another program has it.

        Raises
        ------
        KinetError
            If the file cannot be made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+b")
        except OSError as error:
            raise KinetError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        try:
            _lock(file)
        except OSError:
            file.close()
            return False
        self._file = file
        return True

    def say(self, text: str) -> None:
        """Tell those who find it taken something, such as where to find its holder."""
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(text.encode())
            self._file.flush()

    def said(self) -> str:
        """Return what the holder told."""
        try:
            return self.path.read_bytes()[:1000].decode("utf-8", "replace")
        except OSError:
            return ""

    def release(self) -> None:
        """Give it back."""
        if self._file is not None:
            self.say("")
            self._file.close()
            self._file = None


if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    def _lock(file: BinaryIO) -> None:
        # A byte far behind what is written: on Windows nobody can read a locked one.
        file.seek(1 << 30)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


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
