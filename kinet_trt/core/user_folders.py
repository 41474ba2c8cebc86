"""The user's folders for kinet-trt's files."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_path, user_data_path

from kinet_trt.core.errors import KinetError

_APP = "kinet-trt"


def user_cache() -> Path | None:
    """Return the folder for files that can be made again; None without a home folder."""
    folder = user_cache_path(_APP, appauthor=False, opinion=False)
    return folder if folder.is_absolute() else None


def user_data() -> Path | None:
    """Return the folder for files that must be kept; None without a home folder."""
    folder = user_data_path(_APP, appauthor=False)
    return folder if folder.is_absolute() else None


def sessions_file() -> Path:
    """Return the default session file, ``sessions.kinet`` in :func:`user_data`; an error without a home folder."""
    folder = user_data()
    if folder is None:
        raise KinetError("no home folder for the sessions: give a session file (kinet-trt live: --sessions FILE)")
    return folder / "sessions.kinet"
