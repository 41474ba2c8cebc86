"""The clock by which the live page tells how old a picture or an order is."""

from __future__ import annotations

import time


def now() -> float:
    """Return s on a clock that is never set back, and that counts while the machine sleeps where the system has one."""
    boot: int | None = getattr(time, "CLOCK_BOOTTIME", None)  # Linux
    return time.monotonic() if boot is None else time.clock_gettime(boot)
