"""Clock for the age of frames and requests."""

from __future__ import annotations

import time


def now() -> float:
    """Return s of a monotonic clock, which on Linux also runs while the machine sleeps."""
    boot: int | None = getattr(time, "CLOCK_BOOTTIME", None)  # Linux
    return time.monotonic() if boot is None else time.clock_gettime(boot)
