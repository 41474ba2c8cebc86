"""Timing in turn, and figures that fill a JSON file as they come: a crash or a time limit loses none of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kinet_trt.core.files import write_atomic

Run = Callable[[], float | None]
"""Runs once; returns how long that took, ms, or None: it is to be timed by the host's clock."""


class Record:
    """Figures by name; the file holds all of them after each :meth:`put`."""

    def __init__(self, path: Path) -> None:
        self.path, self.figures = path, dict[str, Any]()

    def put(self, **figures: Any) -> None:
        """Add figures and write the file."""
        self.figures.update(figures)
        write_atomic(self.path, json.dumps(self.figures, indent=1) + "\n")


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """Return p50 and p99, ms, and how many they are of."""
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
    """Run everything in turn, so that a slow spell meets all alike, and return figures by name.

    Parameters
    ----------
    runs
        What is timed; one that fails is left out from then on, and its figures say why.
    rounds, warm_up
        How often each runs, and how often before that without being timed.
    limit_s
        No round begins later than this, s; at least one is run.
    clock
        Of the host, s.
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
