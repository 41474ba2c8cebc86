"""Benchmark: time the stages of a count, interleaved with baselines."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import KinetError
from kinet_trt.core.frame import Frame, fit
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.diagnostics.machine import cpu
from kinet_trt.evaluation.figures import encode
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.models.card import ModelCard
from kinet_trt.peaks.reference import find_peaks
from kinet_trt.simulation import simulate

SCHEMA = 1
STAGES = ("prepare", "network", "peaks", "whole")
PACKAGES = ("kinet-trt", "numpy", "opencv-python-headless", "openvino", "onnxruntime", "torch", "scikit-image")

Run = Callable[[], Mapping[str, float]]
"""One timed run: seconds by stage, ``"whole"`` among them."""


@dataclass(frozen=True)
class Candidate:
    """A counter or a baseline to be timed; ``run`` counts a frame once and returns the time it took."""

    name: str
    runtime: str
    precision: str
    run: Run


@dataclass(frozen=True)
class Setting:
    """A model and how it is opened; see :class:`kinet_trt.inference.counter.NucleusCounter`."""

    model: Path | None
    precision: str = "auto"
    runtime: str = "auto"
    threads: int | None = None

    def open(self) -> NucleusCounter:
        """Return a counter."""
        return NucleusCounter(self.model, precision=self.precision, runtime=self.runtime, threads=self.threads)


Baselines = Callable[[Sequence[ModelCard], Frame], Mapping[str, Sequence[Candidate]]]
"""Return baselines by name, one per model."""


def measure(
    settings: Sequence[Setting],
    frame: Frame,
    rounds: int,
    yardsticks: Baselines | None = None,
    report: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Time models and baselines, interleaved, on a frame; return the content of the JSON, schema 1.

    That is the machine, and a row for each candidate. ``report`` is called after each run with the numbers of finished
    runs and of all runs.
    """
    counters = [setting.open() for setting in settings]
    ours = [
        replace(candidate(counter, frame), name=name)
        for counter, name in zip(counters, _names(settings, counters), strict=True)
    ]
    others = yardsticks([counter.engine.card for counter in counters], frame) if yardsticks else {}
    candidates = list({id(one): one for one in [*ours, *(one for group in others.values() for one in group)]}.values())
    times = dict(zip(map(id, candidates), interleave(candidates, rounds, report), strict=True))
    rows = []
    for i, (setting, one) in enumerate(zip(settings, ours, strict=True)):
        compared = {name: float(np.median(times[id(group[i])][:, -1])) for name, group in others.items()}
        rows.append(row(one, times[id(one)], cold_start(setting, frame.width, frame.height), compared))
    rows += [row(one, times[id(one)], {}, {}) for one in candidates[len(ours) :]]
    return {
        "schema": SCHEMA,
        "size": [frame.width, frame.height],
        "rounds": rounds,
        "machine": machine(),
        "rows": rows,
    }


def _names(settings: Sequence[Setting], counters: Sequence[NucleusCounter]) -> list[str]:
    """Return the names of the models, or of their files where two models share a name."""
    files = {(counter.card.name, setting.model) for counter, setting in zip(counters, settings, strict=True)}
    shared = {name for name, times in Counter(name for name, _ in files).items() if times > 1}
    return [
        setting.model.stem if setting.model and counter.card.name in shared else counter.card.name
        for counter, setting in zip(counters, settings, strict=True)
    ]


def candidate(counter: NucleusCounter, frame: Frame) -> Candidate:
    """Return a counter as a candidate with the stages prepare, network and peaks.

    If the engine finds the peaks, they are part of the network stage. A frame larger than one tile is an error: tiling
    would be timed, not the engine.
    """
    engine, card = counter.engine, counter.engine.card
    if max(frame.width, frame.height) > card.tile:
        raise KinetError(
            f"bench: expected a frame of at most {card.tile} px a side, found {frame.width} x {frame.height}"
        )

    def run() -> Mapping[str, float]:
        start = time.perf_counter()
        fitted = fit(frame, card.mpp, card.multiple)
        prepared = time.perf_counter()
        if engine.detects:
            engine.detect(fitted.pixels[None], card.threshold)
            end = time.perf_counter()
            return {"prepare": prepared - start, "network": end - prepared, "whole": end - start}
        maps = engine.run(fitted.pixels[None])[0]
        ran = time.perf_counter()
        find_peaks(maps, card.threshold, card.nms_radius, card.classes)
        end = time.perf_counter()
        return {"prepare": prepared - start, "network": ran - prepared, "peaks": end - ran, "whole": end - start}

    return Candidate(card.name, engine.runtime, engine.precision, run)


def interleave(
    candidates: Sequence[Candidate], rounds: int, report: Callable[[int, int], None]
) -> list[NDArray[np.float64]]:
    """Run all candidates in turn, so that a slow phase of the machine affects all of them.

    An untimed run precedes each timed run: in continuous use the caches hold data of the same network. Returns the
    times of each candidate, s, float64 [rounds, stages]; NaN for stages that it does not have.
    """
    times: list[list[list[float]]] = [[] for _ in candidates]
    total, done = 2 * rounds * len(candidates), 0
    for _ in range(rounds):
        for own, one in zip(times, candidates, strict=True):
            for counts in (False, True):
                took = one.run()
                if counts:
                    own.append([took.get(stage, float("nan")) for stage in STAGES])
                done += 1
                report(done, total)
    return [np.array(own) for own in times]


def accuracy(
    settings: Sequence[Setting], fields: Sequence[LabelledField], report: Callable[[int, int], None] = lambda *_: None
) -> list[dict[str, float]]:
    """Return ``detection_f1`` and ``classification_f1`` of each setting, all fields pooled; needs the extra ``eval``.

    ``report`` is called after each field with the numbers of finished fields and of all fields, over all settings.
    """
    from kinet_trt.evaluation.evaluate import Evaluation, evaluate_field

    reached = []
    for number, setting in enumerate(settings):
        counter, done = setting.open(), []
        for field in fields:
            done.append(evaluate_field(counter, field))
            report(number * len(fields) + len(done), len(settings) * len(fields))
        pooled = Evaluation(tuple(done)).at_threshold
        reached.append({"detection_f1": pooled.detection.f1, "classification_f1": pooled.weighted[2]})
    return reached


def latency_plot(rows: Sequence[Mapping[str, Any]], size: Sequence[int], target: str = ".png") -> bytes:
    """Plot F1 against median latency, with the Pareto front; needs matplotlib (extra ``eval``).

    Rows of :func:`measure` with the results of :func:`accuracy` are plotted; ``size`` is width and height of the timed
    frame, px, and ``target`` the name of the file, .png or .svg.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="tight")
    axes = figure.add_subplot()
    measured = [row for row in rows if "detection_f1" in row]
    latency = [row["whole_ms"]["p50"] for row in measured]
    for name, marker in (("detection", "o"), ("classification", "s")):
        f1 = [row[f"{name}_f1"] for row in measured]
        (dots,) = axes.plot(latency, f1, marker, label=f"{name} F1")
        best = pareto_front(latency, f1)
        axes.plot([latency[i] for i in best], [f1[i] for i in best], "-", color=dots.get_color(), lw=1, alpha=0.5)
    for row, x in zip(measured, latency, strict=True):
        label = f"{row['model']}\n{row['runtime'].split()[0]} {row['precision']}"
        axes.annotate(label, (x, row["detection_f1"]), (0, 7), textcoords="offset points", ha="center", fontsize=7)
    axes.set(xscale="log", xlabel=f"ms for {size[0]} x {size[1]} px, median", ylabel="F1")
    for formatted in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatted("{x:g}")
    axes.margins(0.25)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    return encode(figure, target)


def pareto_front(cost: Sequence[float], gain: Sequence[float]) -> list[int]:
    """Return the indices of the Pareto-optimal points (low cost, high gain) by increasing cost."""
    best: list[int] = []
    for i in sorted(range(len(cost)), key=lambda i: (cost[i], -gain[i])):
        if not best or gain[i] > gain[best[-1]]:
            best.append(i)
    return best


def simulated_frame(width: int, height: int) -> Frame:
    """Return a simulated field to count."""
    return Frame(simulate.field(1, width, height)[0], simulate.NOMINAL_MPP)


_COLD = """
import json, sys, time
start = time.perf_counter()
from pathlib import Path
from kinet_trt.evaluation.benchmark import Setting, simulated_frame
model, precision, runtime, threads, width, height = sys.argv[1:]
drawing = time.perf_counter()
frame = simulated_frame(int(width), int(height))
drawn = time.perf_counter()
counter = Setting(Path(model) if model else None, precision, runtime, int(threads) if threads else None).open()
counter(frame)
seconds = time.perf_counter() - start - (drawn - drawing)
status = Path("/proc/self/status")
peak = None
if status.is_file():  # getrusage would give the parent's peak, which an exec inherits
    peak = next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "peak_memory_mib": peak}))
"""


def cold_start(setting: Setting, width: int, height: int) -> dict[str, float | None]:
    """Open a model and count once in a new process.

    Returns ``seconds`` from the start of the imports to the nuclei, without drawing the field, and ``peak_memory_mib``
    (None where the system does not report it).
    """
    threads = str(setting.threads or "")
    arguments = [str(setting.model or ""), setting.precision, setting.runtime, threads, str(width), str(height)]
    done = subprocess.run([sys.executable, "-c", _COLD, *arguments], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise KinetError(f"bench: counting in a new process failed: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, float | None] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(
    one: Candidate, times: NDArray[np.float64], cold: Mapping[str, float | None], yardsticks: Mapping[str, float]
) -> dict[str, Any]:
    """Return the results of one candidate.

    ``cold`` is from :func:`cold_start`, or empty; ``yardsticks`` is the median time of each baseline, s, by name:
    ``published`` gives ``speedup_over_published``.
    """
    whole = times[:, STAGES.index("whole")]
    stages = {
        f"{stage}_ms": {f"p{q}": round(1000 * float(np.percentile(column, q)), 3) for q in (50, 90, 99)}
        for stage, column in zip(STAGES, times.T, strict=True)
        if not np.isnan(column).any()
    }
    median = float(np.median(whole))
    return {
        "model": one.name,
        "runtime": one.runtime,
        "precision": one.precision,
        **stages,
        "frames_per_second": round(1 / median, 2),
        **({"cold_start_s": cold["seconds"], "peak_memory_mib": cold["peak_memory_mib"]} if cold else {}),
        **{f"speedup_over_{name}": round(seconds / median, 2) for name, seconds in yardsticks.items()},
    }


def machine() -> dict[str, Any]:
    """Return CPU, system and package versions."""
    name, features = cpu()
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": " ".join([name, *features]),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }
