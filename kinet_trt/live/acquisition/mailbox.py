"""Mailbox: hands the newest of something to one taker, and never makes the giver wait."""

from __future__ import annotations

import threading
import time
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A slot for one thing. `put` replaces what nobody took; `take` waits for something new.

    Parameters
    ----------
    every
        The giver waits instead of replacing: for a taker that must see everything, such as a file that is written.
    """

    def __init__(self, *, every: bool = False) -> None:
        self._every = every
        self._lock = threading.Condition()
        self._thing: T | None = None
        self._closed = False
        self._skipped = 0

    @property
    def closed(self) -> bool:
        """Whether nothing will come any more; what lies in the slot can still be taken."""
        with self._lock:
            return self._closed and self._thing is None

    @property
    def skipped(self) -> int:
        """Things that gave way to newer ones before they were taken."""
        with self._lock:
            return self._skipped

    def put(self, thing: T) -> None:
        """Lay a thing into the slot; after `close` it is dropped."""
        with self._lock:
            if self._every:
                self._lock.wait_for(lambda: self._thing is None or self._closed)
            if self._closed:
                return
            self._skipped += self._thing is not None
            self._thing = thing
            self._lock.notify_all()

    def take(self, timeout: float) -> T | None:
        """Take what lies there, or the next thing that comes within ``timeout`` s; None: nothing came, or closed."""
        end = time.monotonic() + timeout
        with self._lock:
            # In short intervals: on Windows Ctrl-C is not heard while a lock is waited for.
            while self._thing is None and not self._closed and (left := end - time.monotonic()) > 0:
                self._lock.wait(min(left, 0.5))
            thing, self._thing = self._thing, None
            self._lock.notify_all()
            return thing

    def close(self) -> None:
        """Let nothing in any more, and wake who waits."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
