"""Writing files so that a crash never leaves half of one, and nothing is overwritten by accident."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from kinet_trt.errors import KinetError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file beside its place and rename it into place: readers see the old file or the new one, never half.

    Parameters
    ----------
    path
        Where it goes; missing folders are made.
    content
        Bytes, or text that is written as UTF-8 with plain newlines (bytes of an odd file name come out as they were).

    Notes
    -----
    What exists and is no file (a pipe, a device) is written to, not replaced; of a link, the target is replaced.

    Raises
    ------
    KinetError
        If it cannot be written; an old file is then as it was.
    """
    try:
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        place = path.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists() and not place.is_file() and not place.is_dir():
            place.write_bytes(data)
            return
        part = place.with_name(f".kinet-{secrets.token_hex(8)}.part")
        try:
            # Not tempfile: its files are private whatever the umask says.
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise KinetError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error


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
