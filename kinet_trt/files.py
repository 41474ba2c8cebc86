"""Writing files so that a crash never leaves half of one, and nothing is overwritten by accident."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from kinet_trt.errors import KinetError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file beside its place and rename it into place: readers see the old file or the new one, never half.

    Parameters
    ----------
    path
        Where it goes; missing folders are made.
    content
        Bytes, or text that is written as UTF-8 with plain newlines.

    Raises
    ------
    KinetError
        If it cannot be written; an old file is then as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".kinet-", suffix=".part", dir=path.parent)
    except OSError as error:
        raise KinetError(f"{path}: cannot be written: {error.strerror or error}") from error
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o666 & ~_umask())  # mkstemp makes private files
        part.replace(path)
    except OSError as error:
        raise KinetError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
