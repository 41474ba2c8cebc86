"""Lock files."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from kinet_trt.core.errors import KinetError
from kinet_trt.core.lock_file import LockFile

HOLD = """
import sys
from pathlib import Path
from kinet_trt.core.lock_file import LockFile
lock = LockFile(Path(sys.argv[1]))
assert lock.acquire()
lock.write_note("here")
print("locked", flush=True)
sys.stdin.read()
"""


def test_lock_belongs_to_one_process_and_ends_when_that_is_killed(tmp_path):
    path = tmp_path / "s.kinet"
    lock = LockFile(path)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "locked\n"
        assert not lock.acquire()
        assert lock.read_note() == "here"
    finally:
        other.kill()
        other.communicate()
    assert lock.acquire()
    assert lock.read_note() == ""
    assert not LockFile(path).acquire()
    lock.write_note("http://127.0.0.1:1/")
    assert LockFile(path).read_note() == "http://127.0.0.1:1/"
    lock.release()
    lock.release()
    assert LockFile(path).read_note() == ""
    again = LockFile(path)
    assert again.acquire()
    again.release()


def test_lock_can_be_released_by_another_thread(tmp_path):
    lock = LockFile(tmp_path / "a")
    assert lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert LockFile(tmp_path / "a").acquire()


def test_lock_that_cannot_be_written_is_a_kinet_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KinetError, match="cannot be written"):
        LockFile(tmp_path / "file" / "s.kinet").acquire()
