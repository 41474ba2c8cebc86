from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from kinet_trt.core.errors import KinetError
from kinet_trt.core.files import write_atomic

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions and special files")


@pytest.mark.parametrize(
    ("content", "stored"),
    [(b"\x00\r\n\xff", b"\x00\r\n\xff"), ("a\nµ\n", b"a\n\xc2\xb5\n"), (b"", b""), ("", b"")],
)
def test_write_atomic_keeps_bytes_and_encodes_text_as_utf8(tmp_path, content, stored):
    write_atomic(tmp_path / "out", content)
    assert (tmp_path / "out").read_bytes() == stored


def test_write_atomic_creates_folders_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "a" / "b µ" / "out.json"
    write_atomic(path, "1")
    write_atomic(path, "2")
    assert path.read_text() == "2"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_write_atomic_keeps_the_old_file_on_failure(tmp_path, monkeypatch, step):
    path = tmp_path / "model.engine"
    write_atomic(path, b"old")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    for owner in (os, Path):  # pathlib of Python 3.10 keeps its own reference to os.replace
        if hasattr(owner, step):
            monkeypatch.setattr(owner, step, full)
    with pytest.raises(KinetError, match=r"model\.engine: cannot be written: No space left on device"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_keeps_the_old_file_on_interruption(tmp_path, monkeypatch):
    path = tmp_path / "model.engine"
    write_atomic(path, b"old")

    def interrupted(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_shows_the_old_file_until_the_new_one_is_complete(tmp_path, monkeypatch):
    path = tmp_path / "out"
    write_atomic(path, b"old")
    seen = []
    fsync = os.fsync

    def look(handle):
        fsync(handle)
        seen.append(path.read_bytes())

    monkeypatch.setattr(os, "fsync", look)
    write_atomic(path, b"new" * 100_000)
    assert seen[0] == b"old"
    assert path.read_bytes() == b"new" * 100_000


def test_write_atomic_over_a_folder_is_a_kinet_error(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(KinetError, match="cannot be written"):
        write_atomic(tmp_path / "out", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_write_atomic_below_a_file_is_a_kinet_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(KinetError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "out", "x")
    with pytest.raises(KinetError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "below" / "out", "x")


def test_write_atomic_with_a_long_name_is_a_kinet_error(tmp_path):
    with pytest.raises(KinetError, match="cannot be written"):
        write_atomic(tmp_path / ("n" * 300), "x")
    assert list(tmp_path.iterdir()) == []


@posix_only
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_write_atomic_follows_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "out", "x")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == mode


@posix_only
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write into a read-only folder")
def test_write_atomic_in_a_read_only_folder_is_a_kinet_error(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "out").write_text("old")
    folder.chmod(0o555)
    try:
        with pytest.raises(KinetError, match="cannot be written: Permission denied"):
            write_atomic(folder / "out", "new")
    finally:
        folder.chmod(0o755)
    assert (folder / "out").read_text() == "old"


@posix_only
def test_write_atomic_in_threads_does_not_change_the_umask(tmp_path, monkeypatch):
    # Reading the umask sets it for the whole process, so threads must not interfere.
    umask, inside = os.umask, threading.Event()
    crossed = threading.Event()

    def slow_umask(mask):
        old = umask(mask)
        if threading.current_thread() is first and not inside.is_set():
            inside.set()
            crossed.wait(1)
        return old

    first = threading.Thread(target=write_atomic, args=(tmp_path / "a", "x"))
    before = umask(0o077)
    monkeypatch.setattr(os, "umask", slow_umask)
    try:
        first.start()
        while first.is_alive() and not inside.wait(0.01):
            pass
        if inside.is_set():
            second = threading.Thread(target=write_atomic, args=(tmp_path / "b", "x"))
            second.start()
            second.join(0.5)
            crossed.set()
            second.join()
        first.join()
        mode_of_second = stat.S_IMODE((tmp_path / "b").stat().st_mode) if (tmp_path / "b").exists() else 0o600
        assert mode_of_second == 0o600
    finally:
        monkeypatch.undo()
        umask(before)


@posix_only
def test_write_atomic_does_not_replace_a_pipe_or_device(tmp_path):
    # `--json /dev/null` as root must not replace /dev/null by a file.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomic(pipe, b"x")
        assert stat.S_ISFIFO(pipe.stat().st_mode)
    finally:
        os.close(reader)


@posix_only
def test_write_atomic_of_surrogates_is_a_kinet_error_or_succeeds(tmp_path):
    # os.fsdecode returns such text for a file name in Latin-1, and CSV files contain file names.
    name = os.fsdecode(b"schnitt_\xe4.png")
    try:
        write_atomic(tmp_path / "out.csv", f"{name},1,2\n")
    except KinetError:
        assert list(tmp_path.iterdir()) == []
    else:
        assert (tmp_path / "out.csv").exists()


def test_write_atomic_of_parts_keeps_the_old_file_on_an_error(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, (f"line {n}\n" for n in range(3)))
    assert path.read_text() == "line 0\nline 1\nline 2\n"

    def breaks():
        yield "half"
        raise KinetError("no more")

    with pytest.raises(KinetError, match="no more"):
        write_atomic(path, breaks())
    assert path.read_text() == "line 0\nline 1\nline 2\n"
    assert list(tmp_path.iterdir()) == [path]
