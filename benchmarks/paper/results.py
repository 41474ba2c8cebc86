"""Results of the runs: one JSON file per run while the runs go on, then one table per study.

A run that belongs to several studies is in the table of the first one.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from studies import STUDIES, Budget, Run, all_runs, runs_of

from kinet_trt.core.files import write_atomic

FIELDS = ("labelled", "regions_alone", "validating", "judging")
TASKS = ("detection", "classification")
CLASSES = ("positive", "negative", "non_tumor")


class Results:
    """Results of the runs of a budget.

    Attributes
    ----------
    budget
        The budget.
    folder
        Tables of its studies, and JSON files of the costs of its networks.
    """

    def __init__(self, budget: Budget, folder: Path) -> None:
        self.budget, self.folder = budget, folder
        self._documents: dict[Run, dict[str, Any]] = {}
        for study in STUDIES:
            if (table := folder / f"{study}.csv").exists():
                with table.open(newline="", encoding="utf-8") as file:
                    self._documents |= dict(map(_from_row, csv.DictReader(file)))

    def get(self, run: Run) -> dict[str, Any] | None:
        """Return the result of a run; None if it has not finished."""
        return self._documents.get(run)

    def seeds(self, network: str, fraction: float = 1.0, gamma: float = 25.0, lam: float = 5.0) -> list[dict[str, Any]]:
        """Return the results of all seeds that have finished."""
        found = (self.get(Run(network, seed, fraction, gamma, lam)) for seed in self.budget.seeds)
        return [document for document in found if document]

    def costs(self, name: str) -> dict[str, Any]:
        """Return a file that ``--costs`` has written; empty if there is none."""
        file = self.folder / name
        return json.loads(file.read_text()) if file.exists() else {}

    def collect(self, work: Path) -> None:
        """Add the finished runs of a working folder, and write the tables."""
        for run in all_runs(self.budget):
            file = work / f"{run.name}.json"
            if run not in self._documents and file.exists():
                # As read from a table, so that the page does not depend on where a result comes from.
                self._documents |= dict([_from_row(_to_row(run, json.loads(file.read_text())))])
        written: set[Run] = set()
        for study in STUDIES:
            runs = [run for seed in self.budget.seeds for run in runs_of(study, self.budget, seed)]
            new = [run for run in dict.fromkeys(runs) if run in self._documents and run not in written]
            if new:
                rows = [_to_row(run, self._documents[run]) for run in new]
                text = io.StringIO()
                table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
                table.writeheader()
                table.writerows(rows)
                write_atomic(self.folder / f"{study}.csv", text.getvalue())
            written |= set(new)


def _to_row(run: Run, document: dict[str, Any]) -> dict[str, str]:
    row: dict[str, Any] = {"network": run.network, "fraction": run.fraction, "gamma": run.gamma, "lam": run.lam}
    row |= {"seed": run.seed, **document["fields"]}
    row |= {name: document.get(name) for name in ("device", "torch", "seconds", "threshold")}
    for task in TASKS:
        values = document.get(task) or [None] * 3
        row |= {f"{task}_{name}": value for name, value in zip(("precision", "recall", "f1"), values, strict=True)}
    distance = document.get("distance") or [None, None]
    row |= {"distance_mean": distance[0], "distance_std": distance[1]}
    row |= {name: document.get(name) for name in ("nuclei", "auc")}
    row |= {f"{name}_f1": document.get("by_class", {}).get(name) for name in CLASSES}
    for task in TASKS:
        curve = document.get("curves", {}).get(task, [])
        row[f"{task}_curve"] = " ".join(f"{recall:.4f}:{precision:.4f}" for recall, precision in curve)
    row["diverged"] = document.get("diverged")
    return {name: _text(value) for name, value in row.items()}


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _from_row(row: dict[str, str]) -> tuple[Run, dict[str, Any]]:
    def number(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    fraction, gamma, lam = (float(row[name]) for name in ("fraction", "gamma", "lam"))
    run = Run(row["network"], int(row["seed"]), fraction, gamma, lam)
    document: dict[str, Any] = {
        "run": asdict(run),
        "fields": {name: int(row[name]) for name in FIELDS},
        "device": row["device"],
        "torch": row["torch"] or None,
        "seconds": number("seconds"),
    }
    if row["diverged"]:
        return run, document | {"diverged": row["diverged"]}
    for task in TASKS:
        document[task] = [number(f"{task}_{name}") for name in ("precision", "recall", "f1")]
    distance = [number("distance_mean"), number("distance_std")]
    document |= {
        "threshold": number("threshold"),
        "distance": None if None in distance else distance,
        "nuclei": int(row["nuclei"]) if row["nuclei"] else None,
        "auc": number("auc"),
        "by_class": {name: number(f"{name}_f1") for name in CLASSES},
        "curves": {
            task: [[float(value) for value in point.split(":")] for point in row[f"{task}_curve"].split()]
            for task in TASKS
        },
    }
    return run, document
