"""Interleaved timing, and figures that are written to a JSON file at once, so that a crash loses none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kinet_trt.core.files import write_atomic

Run = Callable[[], float | None]
"""Function to time; returns its duration, ms, or None to be timed by the host's clock."""


class Record:
    """Figures by name; :meth:`put` writes all of them to the file."""

    def __init__(self, path: Path) -> None:
        self.path, self.figures = path, dict[str, Any]()

    def put(self, **figures: Any) -> None:
        """Add figures and write the file."""
        self.figures.update(figures)
        write_atomic(self.path, json.dumps(self.figures, indent=1) + "\n")


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """Return p50 and p99, ms, and the number of values."""
    return {
        "p50_ms": round(float(np.percentile(milliseconds, 50)), 4),
        "p99_ms": round(float(np.percentile(milliseconds, 99)), 4),
        "runs": len(milliseconds),
    }


def in_turn(
    runs: Mapping[str, Run],
    rounds: int,
    warm_up: int = 3,
    limit_s: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, Any]]:
    """Run all functions in turn, so that slow phases affect all alike, and return figures by name.

    Parameters
    ----------
    runs
        Functions to time; one that fails is skipped afterwards, and its figures state the error.
    rounds, warm_up
        Number of timed runs of each, and of untimed runs before.
    limit_s
        Time after which no new round starts, s; at least one is run.
    clock
        Clock of the host, s.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    failed: dict[str, str] = {}
    started = clock()
    for number in range(warm_up + rounds):
        if number > warm_up and clock() - started > limit_s:
            break
        for name, run in runs.items():
            if name in failed:
                continue
            before = clock()
            try:
                took = run()
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"[:600]
                continue
            if number >= warm_up:
                times[name].append(1000 * (clock() - before) if took is None else took)
    return {name: {"why": failed[name]} if name in failed else summary(own) for name, own in times.items()}
