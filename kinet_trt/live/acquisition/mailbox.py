"""One-slot mailbox between two threads."""

from __future__ import annotations

import threading
import time
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A slot for one item. `put` replaces an item that was not taken; `take` waits for a new one.

    With ``every``, `put` waits until the slot is empty instead of replacing, for a consumer that must receive every
    item.
    """

    def __init__(self, *, every: bool = False) -> None:
        self._every = every
        self._lock = threading.Condition()
        self._item: T | None = None
        self._closed = False
        self._skipped = 0

    @property
    def closed(self) -> bool:
        """Whether it was closed and its last item was taken."""
        with self._lock:
            return self._closed and self._item is None

    @property
    def skipped(self) -> int:
        """Number of items that were replaced before they were taken."""
        with self._lock:
            return self._skipped

    def put(self, item: T) -> None:
        """Put an item into the slot; after `close` it is dropped."""
        with self._lock:
            if self._every:
                self._lock.wait_for(lambda: self._item is None or self._closed)
            if self._closed:
                return
            self._skipped += self._item is not None
            self._item = item
            self._lock.notify_all()

    def take(self, timeout: float) -> T | None:
        """Return the item, waiting for one up to ``timeout`` s; None after the timeout, or if empty and closed."""
        end = time.monotonic() + timeout
        with self._lock:
            # In short intervals: on Windows Ctrl-C does not interrupt waiting for a lock.
            while self._item is None and not self._closed and (left := end - time.monotonic()) > 0:
                self._lock.wait(min(left, 0.5))
            item, self._item = self._item, None
            self._lock.notify_all()
            return item

    def close(self) -> None:
        """Accept no more items, and wake waiting threads."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
