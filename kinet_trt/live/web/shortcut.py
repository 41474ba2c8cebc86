"""A desktop shortcut that starts the live page without a terminal."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from kinet_trt.core.errors import KinetError
from kinet_trt.core.files import write_atomic

NAME = "KiNet live"
_MARK = "made by kinet-trt"  # files without it are not replaced


def install(arguments: Sequence[str], platform: str = sys.platform) -> list[Path]:
    """Install the shortcut on the desktop, on Linux also in the applications menu; return the files.

    It runs ``kinet-trt`` with these arguments in the current folder. ``platform`` is that of `sys.platform`.
    """
    try:
        home = Path.home()
    except RuntimeError as error:
        raise KinetError("there is no home folder to put a shortcut in") from error
    command, folder = [sys.executable, "-m", "kinet_trt", *arguments], Path.cwd()
    desktop = home / "Desktop"
    if platform == "win32":
        places, text = [desktop / f"{NAME}.cmd"], windows(command, folder)
    elif platform == "darwin":
        places, text = [desktop / f"{NAME}.command"], shell(command, folder)
    else:
        menu = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "applications"
        places = [menu / "kinet-trt-live.desktop", *([desktop / "kinet-trt-live.desktop"] if desktop.is_dir() else [])]
        text = desktop_entry(command, folder)
    for place in places:
        if place.exists() and _MARK not in place.read_text("utf-8", "replace"):
            raise KinetError(f"{place}: exists and was not {_MARK}: rename it, then try again")
    for place in places:
        write_atomic(place, text)
        if platform != "win32":
            place.chmod(0o755)
    return places


def desktop_entry(command: Sequence[str], folder: Path) -> str:
    """Return a ``.desktop`` file (Desktop Entry Specification 1.5) that runs in a terminal."""
    icon = resources.files("kinet_trt.live.web") / "page" / "icon.svg"
    lines = [
        "[Desktop Entry]",
        f"# {_MARK}",
        "Type=Application",
        f"Name={NAME}",
        "Comment=Count Ki67 under the microscope. For research use only.",
        f"Exec={_value(' '.join(map(_argument, command)))}",
        f"Path={_value(str(folder))}",
        f"Icon={_value(str(icon))}",
        "Terminal=true",
        "Categories=Science;MedicalSoftware;",
    ]
    return "\n".join(lines) + "\n"


def shell(command: Sequence[str], folder: Path) -> str:
    """Return a shell script."""
    return f"#!/bin/sh\n# {_MARK}\ncd {shlex.quote(str(folder))} || exit 1\nexec {shlex.join(command)}\n"


def windows(command: Sequence[str], folder: Path) -> str:
    """Return a batch file that keeps its window open after an error."""
    here, line = (text.replace("%", "%%") for text in (f'cd /d "{folder}"', subprocess.list2cmdline(command)))
    return f"@echo off\r\nrem {_MARK}\r\nchcp 65001 > nul\r\n{here}\r\n{line}\r\nif errorlevel 1 pause\r\n"


def _argument(text: str) -> str:
    """Quote an argument of ``Exec``."""
    escaped = "".join(f"\\{c}" if c in '"`$\\' else c for c in text).replace("%", "%%")
    return f'"{escaped}"'


def _value(text: str) -> str:
    """Escape a string value, after the escapes of ``Exec``."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
