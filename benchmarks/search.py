"""Search for the KiNet to ship: width, activation and head, by accuracy against time.

    python benchmarks/search.py FIELDS    # trains every candidate; an interrupted run resumes
    python benchmarks/search.py --time    # on an otherwise idle machine
    python benchmarks/search.py --draw    # docs/search.svg, and the table for docs/kinet-edge.md

The two architectures differ above all in their heads: ``paper`` gives each class two 3x3 convolutions of its own on
three maps of one width, ``release`` one 5x5 on six times the width. Training is far shorter than that of shipped
models: the figures compare candidates, and favour small ones. Results: benchmarks/results/search.json.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from kinet_trt.export import checkpoint
from kinet_trt.export.networks.base import NetworkConfig
from kinet_trt.export.networks.registry import build
from kinet_trt.export.recipes import BEST
from kinet_trt.export.to_onnx import export
from kinet_trt.export.training import TrainingRun, is_finished, train
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from kinet_trt.core.files import write_atomic
from kinet_trt.datasets.labelled import read_fields
from kinet_trt.evaluation.benchmark import Setting, machine, measure, pareto_front, simulated_frame

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "search.json"
WORK = ROOT / "runs" / "search"
ITERATIONS, SEED = 500, 0
SIDE, ROUNDS = 608, 15
FACTORS = {"pnet-figure": 2.5, "immunoratio": 0.6, "bcdata": 1.5}
CANDIDATES = {
    f"{architecture}, width {width}, {activation}": NetworkConfig(architecture, width, activation, False, dropout=0.1)
    for architecture, width, activation in (
        ("paper", 16, "relu"),
        ("paper", 8, "relu"),
        ("paper", 16, "elu"),
        ("release", 16, "relu"),
        ("paper", 24, "relu"),
        ("paper", 32, "relu"),
    )
}
SHIPPED = {"paper, width 16, relu": "kinet-edge", "paper, width 32, relu": "kinet"}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("fields", type=Path, nargs="?")
    what.add_argument("--time", action="store_true")
    what.add_argument("--draw", action="store_true")
    options = parser.parse_args()
    document = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"schema": 1, "candidates": {}}
    if options.fields:
        _train(document, options.fields)
    elif options.time:
        _time(document)
    else:
        write_atomic(ROOT / "docs" / "search.svg", picture(document))
        print(table(document))


def _keep(document: dict[str, Any]) -> None:
    write_atomic(RESULTS, json.dumps(document, indent=1) + "\n")


def _train(document: dict[str, Any], folder: Path) -> None:
    """Train the remaining candidates, and record the figures of their best validation."""
    recipe = replace(
        BEST, iterations=ITERATIONS, patience=ITERATIONS, every=ITERATIONS // 4, average=1 - 10 / ITERATIONS
    )
    fields = [replace(f, partial=("non_tumor",)) if f.source == "shidc" else f for f in read_fields(folder)]
    document |= {"iterations": ITERATIONS, "batch": recipe.batch, "size": recipe.crops.size, "seed": SEED}
    WORK.mkdir(parents=True, exist_ok=True)
    for name, config in CANDIDATES.items():
        if name in document["candidates"]:
            continue
        out = WORK / f"{name.replace(', ', '-').replace(' ', '')}.pt"
        if not is_finished(out, recipe):
            print(name, flush=True)
            train(TrainingRun(fields, out, config, recipe, FACTORS, seed=SEED))
        made = checkpoint.load(out)
        parameters = sum(p.numel() for p in made.network.parameters())
        document["candidates"][name] = {"parameters": parameters, "validation": made.info.metrics}
        _keep(document)


def _time(document: dict[str, Any]) -> None:
    """Record the time of each network in FP32 and in the engine's default precision, with random weights."""
    precisions = ("fp32", "auto")
    with tempfile.TemporaryDirectory() as folder:
        settings = []
        for number, config in enumerate(CANDIDATES.values()):
            torch.manual_seed(0)
            untrained = checkpoint.Checkpoint(build(config).eval(), checkpoint.ModelInfo(threshold=0.7))
            path = Path(folder) / f"{number}.onnx"
            path.write_bytes(export(untrained, str(number), "fp32", half_weights=False, roi=False)[0])
            settings += [Setting(path, precision) for precision in precisions]
        rows = measure(settings, simulated_frame(SIDE, SIDE), ROUNDS)["rows"]
    for i, name in enumerate(CANDIDATES):
        own = rows[len(precisions) * i : len(precisions) * (i + 1)]
        if name in document["candidates"]:
            times = {row["precision"]: row["network_ms"]["p50"] for row in own}
            document["candidates"][name]["network_ms"] = times
    document |= {"side": SIDE, "rounds": ROUNDS, "machine": machine()}
    _keep(document)


def _timed(document: dict[str, Any]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return the timed precisions and the candidates."""
    known = {name: c for name, c in document["candidates"].items() if "network_ms" in c}
    if not known:
        sys.exit(f"{RESULTS} has no times: run with --time first")
    return list(next(iter(known.values()))["network_ms"]), known


def picture(document: dict[str, Any]) -> bytes:
    """Draw mean F1 over time, one panel per precision.

    Circles: paper; squares: release; with their width. The line is the Pareto front, the ring marks the shipped model.
    """
    precisions, known = _timed(document)
    figure = Figure(figsize=(4.2 * len(precisions), 3.6), layout="tight")
    for axes, precision in zip(figure.subplots(1, len(precisions), squeeze=False)[0], precisions, strict=True):
        time = [c["network_ms"][precision] for c in known.values()]
        gain = [c["validation"]["figure"] for c in known.values()]
        best = pareto_front(time, gain)
        axes.plot([time[i] for i in best], [gain[i] for i in best], "-", color="0.7", zorder=0)
        for name, x, y in zip(known, time, gain, strict=True):
            config = CANDIDATES[name]
            kind = 0 if config.architecture == "paper" else 1
            axes.plot(x, y, "os"[kind], color=("tab:blue", "tab:orange")[kind])
            label = f"{config.width}{' ELU' if config.activation == 'elu' else ''}"
            if name in SHIPPED:
                axes.plot(x, y, "o", markersize=13, markerfacecolor="none", markeredgecolor="tab:red")
                label += f" {SHIPPED[name]}"
            axes.annotate(
                label,
                (x, y),
                (0, -14 if kind or config.activation == "elu" else 9),
                textcoords="offset points",
                ha="center",
                fontsize=7,
            )
        axes.set(xscale="log", xlabel=f"network, ms for {document['side']} px square, {precision}", ylabel="mean F1")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.tick_params(which="both", labelsize=7)
        axes.margins(0.2)
        axes.grid(alpha=0.3, which="both")
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "kinet-trt"}):  # reproducible files
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def table(document: dict[str, Any]) -> str:
    """Return the table of the documentation."""
    precisions, known = _timed(document)
    lines = [
        "| network | parameters, M | mean F1 | " + " | ".join(f"{p.upper()}, ms" for p in precisions) + " |",
        "|---" * (3 + len(precisions)) + "|",
    ]
    for name, c in sorted(known.items(), key=lambda item: float(item[1]["network_ms"][precisions[0]])):
        shown = f"**{name}** ({SHIPPED[name]})" if name in SHIPPED else name
        times = " | ".join(f"{c['network_ms'][p]:.0f}" for p in precisions)
        lines.append(f"| {shown} | {c['parameters'] / 1e6:.2f} | {c['validation']['figure']:.3f} | {times} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
