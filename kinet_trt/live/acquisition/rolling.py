"""Percentiles and rates over the last seconds."""

from __future__ import annotations

import math
import threading
from collections import deque


class Rolling:
    """Values of the last ``seconds``, at most ``max_values`` of them. Thread-safe."""

    def __init__(self, seconds: float, max_values: int = 10_000) -> None:
        self.seconds = seconds
        self._values: deque[tuple[float, float]] = deque(maxlen=max_values)
        self._lock = threading.Lock()

    def add(self, value: float, now: float) -> None:
        """Add a value; ``now`` is s of a monotonic clock, as in the methods below."""
        with self._lock:
            self._values.append((now, value))

    def percentile(self, share: float, now: float) -> float | None:
        """Return the lowest value that a share of at least ``share`` does not exceed; None without values."""
        values = sorted(value for _, value in self._recent(now))
        return values[max(0, math.ceil(share * len(values)) - 1)] if values else None

    def rate(self, now: float) -> float:
        """Return values per second, over the window or since the first value in it."""
        times = [time for time, _ in self._recent(now)]
        if len(times) < 2:
            return len(times) / self.seconds
        return (len(times) - 1) / max(times[-1] - times[0], 1e-6)

    def _recent(self, now: float) -> list[tuple[float, float]]:
        """Return times and values in the window."""
        with self._lock:
            while self._values and self._values[0][0] <= now - self.seconds:
                self._values.popleft()
            return list(self._values)
