"""Reproduce the paper's Table I and Figures 6 to 9 on the fields beside the repository, and write docs/paper.md.

    python benchmarks/paper/run.py --budget small            # trains; an interrupted run resumes
    python benchmarks/paper/run.py --budget small --costs    # times the networks, on an otherwise idle machine
    python benchmarks/paper/run.py --budget small --page     # writes the tables, docs/paper.md and its figures

Several processes share the runs. A GPU is used if there is one. Checkpoints and results of runs are in
runs/paper/BUDGET, which git ignores; --page collects the results in one table per study, in
benchmarks/results/paper/BUDGET.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import costs
import page
import torch
from kinet_trt.export import checkpoint
from kinet_trt.export.training import Progress, TrainingRun, is_finished, train, train_by_stages
from results import Results
from scores import score
from studies import BUDGETS, STUDIES, Budget, Run, all_runs
from study_fields import split_for_study, with_labels

from kinet_trt.core.errors import KinetError
from kinet_trt.core.files import write_atomic
from kinet_trt.core.lock_file import LockFile
from kinet_trt.datasets.labelled import read_fields

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 15


def main() -> None:
    """Run the command line."""
    options = _options()
    budget = BUDGETS[options.budget]
    results = options.results / budget.name
    if options.costs:
        _costs(budget, results, options.rounds, options.side)
    elif options.page:
        Results(budget, results).collect(options.work / budget.name)
        for path in page.write(budget, results, options.docs):
            print(path)
    else:
        work = options.work / budget.name
        for run in all_runs(budget, tuple(options.studies)):
            lock = LockFile(work / run.name)
            if lock.acquire():  # otherwise another process is training it
                done(run, budget, options.data, results, work, options.workers)
                lock.release()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", choices=list(BUDGETS), required=True)
    parser.add_argument("--costs", action="store_true", help="measure parameters, multiplications and time")
    parser.add_argument("--page", action="store_true", help="write docs/paper.md")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=STUDIES)
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare crops; 0: none")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of timing")
    parser.add_argument("--side", type=int, default=costs.SIDE, help="side of the frame for timing, px")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "paper")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "paper")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    return parser.parse_args()


def done(run: Run, budget: Budget, data: Path, results: Path, work: Path, workers: int) -> dict[str, Any]:
    """Return the result of a run, from the tables or its file; train it if it has not finished."""
    if known := Results(budget, results).get(run):
        return known
    file = work / f"{run.name}.json"
    if file.exists():
        return json.loads(file.read_text())  # type: ignore[no-any-return]
    print(f"{run.name} ...", flush=True)
    fields, test_fields = split_for_study(read_fields(data))
    fields = with_labels(fields, run.fraction, run.seed)
    config, recipe, out = run.config(budget.width), budget.recipe(run.lam, run.gamma), work / f"{run.name}.pt"
    if not config.roi:
        fields = [f for f in fields if f.labelled]
    document: dict[str, Any] = {
        "run": {"network": run.network, "seed": run.seed, "fraction": run.fraction, "gamma": run.gamma, "lam": run.lam},
        "budget": {
            "name": budget.name,
            "iterations": budget.iterations,
            "batch": budget.batch,
            "size": budget.size,
            "width": budget.width,
        },
        "fields": {
            "labelled": sum(bool(f.labelled) and f.split != "val" for f in fields),
            "regions_alone": sum(not f.labelled for f in fields),
            "validating": sum(f.split == "val" for f in fields),
            "judging": len(test_fields),
        },
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
    }
    losses: list[float] = []

    def follow(progress: Progress) -> None:
        losses.append(progress.loss)

    begun = time.perf_counter()
    try:
        if not is_finished(out, recipe):
            training = TrainingRun(fields, out, config, recipe, seed=run.seed, workers=workers, report=follow)
            (train_by_stages if run.network == "skinet" else train)(training)
    except KinetError as error:
        if "diverged" not in str(error):
            raise
        document |= {"diverged": str(error)}
    else:
        made = checkpoint.load(out)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        document |= {
            "seconds": round(time.perf_counter() - begun, 1),  # since the last start
            "last_loss": losses[-1] if losses else None,
            "threshold": made.info.threshold,
            "validation": made.info.metrics,
            **score(made.network.to(device), made.info, test_fields),
        }
    write_atomic(file, json.dumps(document, indent=1) + "\n")
    return document


def _costs(budget: Budget, results: Path, rounds: int, side: int) -> None:
    write_atomic(results / "sizes.json", json.dumps(costs.sizes(budget.networks, budget.width), indent=1) + "\n")
    if torch.cuda.is_available():
        timed = costs.on_gpu(budget.networks, budget.width, rounds, side)
        write_atomic(results / "gpu.json", json.dumps(timed, indent=1) + "\n")
    else:
        timed = costs.on_cpu(budget.networks, budget.width, rounds, side)
        write_atomic(results / "cpu.json", json.dumps(timed, indent=1) + "\n")


if __name__ == "__main__":
    main()
