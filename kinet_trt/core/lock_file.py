"""Lock files: one process at a time uses a file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from kinet_trt.core.errors import KinetError


class LockFile:
    """Lock a file for one process; the lock ends with the process, also when it is killed.

    The lock is ``NAME.lock`` beside the file; ``NAME.lock.txt`` holds the note of its holder.
    """

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path.with_name(f"{path.name}.lock"), thread_local=False)
        self._note = path.with_name(f"{path.name}.lock.txt")

    def acquire(self) -> bool:
        """Return True if the lock was acquired, False if another process or object holds it."""
        try:
            self._note.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
            self._note.unlink(missing_ok=True)  # of a process that was killed
        except Timeout:
            return False
        except OSError as error:
            raise KinetError(f"{self._lock.lock_file}: cannot be written: {error.strerror or error}") from error
        return True

    def write_note(self, text: str) -> None:
        """Leave a note for processes that find the file locked, such as the address of its holder."""
        self._note.write_text(text, "utf-8")

    def read_note(self) -> str:
        """Return the note of the lock's holder; empty if there is none."""
        try:
            return self._note.read_text("utf-8")
        except OSError:
            return ""

    def release(self) -> None:
        """Release the lock, if acquired."""
        if self._lock.is_locked:
            with suppress(OSError):
                self._note.unlink(missing_ok=True)
            self._lock.release()
