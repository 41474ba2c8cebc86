"""The desktop shortcut starts the command that was typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet_trt import KinetError
from kinet_trt.live.web.shortcut import NAME, desktop_entry, install, shell, windows

ODD = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)


def parsed(entry: str) -> tuple[list[str], str]:
    """Return the arguments of Exec and the Path of an entry, parsed by the specification."""
    values = dict(line.split("=", 1) for line in entry.split("\n") if "=" in line)

    def value(key: str) -> str:
        out, text = "", iter(values[key])
        for c in text:
            out += {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "s": " "}[next(text)] if c == "\\" else c
        return out

    arguments, rest = [], iter(value("Exec"))
    for c in rest:
        assert c in '" '
        if c == '"':
            word = ""
            while (c := next(rest)) != '"':
                word += next(rest) if c == "\\" else c
            arguments.append(word.replace("%%", "%"))
    return arguments, value("Path")


@given(st.lists(ODD, min_size=1, max_size=4), ODD)
def test_desktop_entry_starts_the_command(command, folder):
    assert parsed(desktop_entry(command, Path("/") / folder.strip("/"))) == (
        command,
        str(Path("/") / folder.strip("/")),
    )


@pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX")
def test_shell_script_starts_the_command(tmp_path):
    folder = tmp_path / "a 'folder' $HOME"
    folder.mkdir()
    odd = ["live", "sim:seed=7", "--title", 'it\'s "odd" $(echo x) `y` %d \\ é', "*"]
    show = "import json, os, sys; print(json.dumps([os.getcwd(), sys.argv[1:]]))"
    script = tmp_path / "x.command"
    script.write_text(shell([sys.executable, "-c", show, *odd], folder))
    out = subprocess.run(["/bin/sh", str(script)], capture_output=True, check=True)
    assert json.loads(out.stdout) == [str(folder), odd]


def test_batch_file_quotes_folder_and_command():
    lines = windows(["C:\\py thon.exe", "-m", "kinet_trt", "live", "C:\\100% images"], Path("C:\\a b")).split("\r\n")
    assert 'cd /d "C:\\a b"' in lines
    assert '"C:\\py thon.exe" -m kinet_trt live "C:\\100%% images"' in lines


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux", [".local/share/applications/kinet-trt-live.desktop", "Desktop/kinet-trt-live.desktop"]),
        ("darwin", [f"Desktop/{NAME}.command"]),
        ("win32", [f"Desktop/{NAME}.cmd"]),
    ],
)
def test_shortcut_is_installed_and_replaces_only_its_own_files(tmp_path, monkeypatch, platform, expected):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    (tmp_path / "Desktop").mkdir()
    written = install(["live", "0"], platform)
    assert [str(path.relative_to(tmp_path)) for path in written] == expected
    assert install(["live", "sim:"], platform) == written
    assert all("sim:" in path.read_text() for path in written)
    if platform != "win32" and os.name == "posix":
        assert all(os.access(path, os.X_OK) for path in written)
    written[-1].write_text("somebody else's")
    with pytest.raises(KinetError, match="rename it"):
        install(["live", "0"], platform)
    assert written[-1].read_text() == "somebody else's"
    assert "sim:" in written[0].read_text() or len(written) == 1


def test_command_line_installs_the_shortcut_without_counting(tmp_path, monkeypatch, run):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "platform", "linux")
    code, out, _ = run("live", "sim:", "--auto", "--install-shortcut", "--title", "a b")
    assert code == 0
    written = tmp_path / "data" / "applications" / "kinet-trt-live.desktop"
    assert str(written) in out
    arguments, folder = parsed(written.read_text())
    assert arguments == [sys.executable, "-m", "kinet_trt", "live", "sim:", "--auto", "--title", "a b"]
    assert folder == str(Path.cwd())
