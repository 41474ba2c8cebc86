"""Rolling: percentiles and rates of the last seconds."""

from __future__ import annotations

import math
import threading
from collections import deque


class Rolling:
    """Values of the last seconds. Safe to use from several threads.

    Parameters
    ----------
    seconds
        How long a value counts.
    most
        Values that are kept at most; older ones give way.
    """

    def __init__(self, seconds: float, most: int = 10_000) -> None:
        self.seconds = seconds
        self._values: deque[tuple[float, float]] = deque(maxlen=most)
        self._lock = threading.Lock()

    def add(self, value: float, now: float) -> None:
        """Add a value; ``now`` is s on a clock that does not jump, as in the methods below."""
        with self._lock:
            self._values.append((now, value))

    def percentile(self, share: float, now: float) -> float | None:
        """Return the least value that at least ``share`` of the values do not exceed; None without values."""
        values = sorted(self._recent(now))
        return values[max(0, math.ceil(share * len(values)) - 1)] if values else None

    def rate(self, now: float) -> float:
        """Return values a second: of the whole span, or since the first one while they are younger."""
        with self._lock:
            times = [time for time, _ in self._values if time > now - self.seconds]
        if len(times) < 2:
            return len(times) / self.seconds
        return (len(times) - 1) / max(times[-1] - times[0], 1e-6)

    def _recent(self, now: float) -> list[float]:
        with self._lock:
            while self._values and self._values[0][0] <= now - self.seconds:
                self._values.popleft()
            return [value for _, value in self._values]
