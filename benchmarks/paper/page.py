"""Page ``docs/paper.md``: results of the runs beside those of the paper."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results import Results
from studies import SHOWN, Budget, Run, all_runs

from kinet_trt.core.files import write_atomic

PUBLISHED = {
    "fcn8s": (0.825, 0.615, 0.705, "5.087 ± 2.846", 0.779, 0.560, 0.649, 0.525),
    "unet": (0.859, 0.650, 0.740, "6.009 ± 3.017", 0.769, 0.581, 0.660, 0.550),
    "fcrn-a": (0.976, 0.511, 0.671, "2.137 ± 1.805", 0.853, 0.439, 0.578, 0.590),
    "fcrn-b": (0.979, 0.543, 0.698, "2.037 ± 1.556", 0.869, 0.486, 0.622, 0.637),
    "sfcn-opi": (0.952, 0.680, 0.793, "6.023 ± 2.760", 0.863, 0.616, 0.716, 0.561),
    "frcn": (0.880, 0.841, 0.860, "4.604 ± 2.293", 0.787, 0.750, 0.768, 0.680),
    "kinet": (0.861, 0.938, 0.898, "2.018 ± 1.821", 0.771, 0.841, 0.804, 0.724),
}
"""Table I of Xing et al. 2019: detection P, R, F1 and distance (px), classification P, R, F1, and the area."""
PIPELINE = "python benchmarks/paper/run.py --budget {}"


def figures(documents: Sequence[dict[str, Any]], task: str) -> list[float]:
    """Return the F1 of the seeds that did not diverge."""
    return [document[task][2] for document in documents if "diverged" not in document]


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return mean and standard deviation over seeds."""
    if not values:
        return "–"
    more = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{more}"


def write(budget: Budget, results: Path, docs: Path) -> list[Path]:
    """Write the page and its figures, and return their paths."""
    found = Results(budget, results)
    drawn = {
        "paper-labels.svg": labels_figure(found),
        "paper-gamma.svg": curves_figure(found, "gamma", budget.gammas),
        "paper-lambda.svg": curves_figure(found, "lambda", budget.lambdas),
    }
    for name, image in drawn.items():
        write_atomic(docs / name, image)
    write_atomic(docs / "paper.md", text(found))
    return [docs / "paper.md", *(docs / name for name in drawn)]


def text(found: Results) -> str:
    """Return the page."""
    budget = found.budget
    runs = all_runs(budget)
    done = [document for run in runs if (document := found.get(run))]
    parts = [
        "# The paper's tables, reproduced\n",
        "Every system of the paper's evaluation (Xing et al. 2019, section IV), trained and evaluated with "
        "this repository. Numbers marked *paper* are the published ones, on the paper's own images.\n",
        _budget_text(budget, done, len(runs)),
        "## Results\n",
        *(f"- {sentence}" for sentence in verdicts(found, done)),
        "\n## Table I: the networks\n",
        _table(found),
        _cost_table(found),
        "## Figure 6: fewer labels, with and without regions\n",
        "![F1 by the share of fields that keep their nuclei](paper-labels.svg)\n",
        _labels_table(found),
        "## Figure 7: joint training, or by stages\n",
        _stages_table(found),
        "## Figure 8: gamma, the weight of nuclei relative to regions\n",
        "![Precision and recall for each gamma](paper-gamma.svg)\n",
        _weights_table(found, "gamma", budget.gammas),
        "## Figure 9: lambda, the weight of pixels far from nuclei\n",
        "![Precision and recall for each lambda](paper-lambda.svg)\n",
        _weights_table(found, "lambda", budget.lambdas),
        _differences(),
    ]
    return "\n".join(parts) + "\n"


def _budget_text(budget: Budget, done: Sequence[dict[str, Any]], wanted: int) -> str:
    devices = ", ".join(sorted({document["device"] for document in done})) or "no device yet"
    fields = next((d["fields"] for d in done if d["run"]["network"] == "kinet" and d["run"]["fraction"] == 1), None)
    counted = (
        f" {fields['labelled']} fields for training, {fields['validating']} for the threshold, "
        f"{fields['judging']} for testing."
        if fields
        else ""
    )
    return (
        f"**Budget `{budget.name}`**, {budget.purpose}: {budget.iterations} iterations of {budget.batch} crops of "
        f"{budget.size} px (the paper: 100,000 of 16 crops of 200 px), {budget.width} channels at full resolution, "
        f"{_seeds_text(budget, done)}, on {devices}. {len(done)} of {wanted} runs are done.{counted} ± is the "
        "standard deviation over seeds, not over fields (for distances, over nuclei); a number without it is of one "
        "seed, and differences of a few hundredths may be chance.\n\n<!-- not run: takes hours -->\n```\n"
        + "".join(f"{PIPELINE.format(budget.name)}{option}\n" for option in ("", " --costs", " --page"))
        + "```\n"
    )


def _seeds_text(budget: Budget, done: Sequence[dict[str, Any]]) -> str:
    ran = [document["run"]["seed"] for document in done]
    runs = ", ".join(str(ran.count(seed)) for seed in budget.seeds)
    return f"seeds {', '.join(map(str, budget.seeds))} ({runs} runs)"


def verdicts(found: Results, done: Sequence[dict[str, Any]]) -> list[str]:
    """Return sentences on the lead of KiNet, joint training, regions, and runs that diverged."""
    lines = []
    for task in ("detection", "classification"):
        means = {name: float(np.mean(f)) for name in found.budget.networks if (f := figures(found.seeds(name), task))}
        if "kinet" in means and len(means) > 1:
            other = max((name for name in means if name != "kinet"), key=lambda name: means[name])
            ours, theirs = f"KiNet ({means['kinet']:.3f})", f"{SHOWN[other]} ({means[other]:.3f})"
            leads = means["kinet"] > means[other]
            here = f"{ours} leads, next is {theirs}" if leads else f"{ours} does not lead, {theirs} does"
            lines.append(f"{task.capitalize()} F1: {here} (paper: KiNet leads by {_published_lead(task):.3f}).")
    for task in ("detection", "classification"):
        if gains := _gains(found, task, "skinet"):
            lines.append(
                f"{task.capitalize()}, joint training against training by stages: {np.mean(gains):+.3f} F1 on average, "
                f"better with {sum(gain > 0 for gain in gains)} of {len(gains)} seeds (paper: about 0.01 better)."
            )
        shares = [_gains(found, task, "okinet", fraction) for fraction in found.budget.fractions]
        if helped := [float(np.mean(gains)) for gains in shares if gains]:
            lines.append(
                f"{task.capitalize()}, with regions against without: better at {sum(gain > 0 for gain in helped)} of "
                f"{len(helped)} shares of labels, {min(helped):+.3f} to {max(helped):+.3f} F1 (paper: at every one)."
            )
    diverged = [
        f"{SHOWN[run['network']]} with lambda {run['lam']:g}, gamma {run['gamma']:g}, seed {run['seed']}"
        for run in sorted((d["run"] for d in done if "diverged" in d), key=lambda run: json.dumps(run))
    ]
    lines.append(f"Diverged: {'; '.join(diverged) if diverged else 'no run'} (paper: lambda 50 and 500).")
    return lines


def _published_lead(task: str) -> float:
    column = 2 if task == "detection" else 6
    kinet = float(PUBLISHED["kinet"][column])
    return kinet - max(float(row[column]) for name, row in PUBLISHED.items() if name != "kinet")


def _gains(found: Results, task: str, other: str, fraction: float = 1.0) -> list[float]:
    """Return the difference in F1 of KiNet and another network, for each seed that both have."""
    gains = []
    for seed in found.budget.seeds:
        pair = [found.get(Run(name, seed, fraction)) for name in ("kinet", other)]
        values = [document[task][2] for document in pair if document and "diverged" not in document]
        if len(values) == 2:
            gains.append(values[0] - values[1])
    return gains


def _table(found: Results) -> str:
    rows = [
        "| network | detection P | R | F1 | paper F1 | distance, px | paper | class. P | R | F1 | paper F1 | AUC "
        "| paper |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in found.budget.networks:
        good = [d for d in found.seeds(name) if "diverged" not in d]
        columns = [spread([d["detection"][i] for d in good]) for i in range(3)]
        columns += [spread([d["classification"][i] for d in good]) for i in range(3)]
        distances = [d["distance"] for d in good if d["distance"]]
        away = (
            f"{np.mean([m for m, _ in distances]):.2f} ± {np.mean([s for _, s in distances]):.2f}" if distances else "–"
        )
        p = PUBLISHED[name]
        cells = [
            SHOWN[name],
            *columns[:3],
            f"{p[2]:.3f}",
            away,
            p[3],
            *columns[3:],
            f"{p[6]:.3f}",
            spread([d["auc"] for d in good]),
            f"{p[7]:.3f}",
        ]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows) + "\n"


def _cost_table(found: Results) -> str:
    sizes = found.costs("sizes.json")
    timed = [found.costs(name) for name in ("cpu.json", "gpu.json")]
    if not sizes:
        return "Costs were not measured with this budget.\n"
    kinds = list(dict.fromkeys((r["runtime"], r["precision"]) for t in timed if t for r in t["rows"]))
    taken = {(r["network"], r["runtime"], r["precision"]): r["network_ms"] for t in timed if t for r in t["rows"]}
    rows = [
        "| network | parameters, M | MACs per px, k | " + " | ".join(f"{a} {b}, ms" for a, b in kinds) + " |",
        "|---" * (3 + len(kinds)) + "|",
    ]
    for name, size in sizes.items():
        times = [f"{taken[(name, *kind)]:.1f}" if (name, *kind) in taken else "–" for kind in kinds]
        cells = [SHOWN[name], f"{size['parameters'] / 1e6:.2f}", f"{size['macs_per_px'] / 1e3:.1f}", *times]
        rows.append("| " + " | ".join(cells) + " |")
    where = [
        f"{t['side']} x {t['side']} px, medians of {t['rounds']} interleaved rounds, on "
        f"{t['machine'].get('gpu') or str(t['machine'].get('cpu', '')).split(' avx')[0]}"
        for t in timed
        if t
    ]
    return "\n".join(rows) + f"\n\nThe network alone, {'; '.join(where)}. KiNet without its region branch.\n"


def _labels_table(found: Results) -> str:
    rows = ["| labelled fields | KiNet detection | oKiNet | KiNet classification | oKiNet |", "|---|---|---|---|---|"]
    for fraction in found.budget.fractions:
        cells = [
            spread(figures(found.seeds(name, fraction=fraction), task))
            for task in ("detection", "classification")
            for name in ("kinet", "okinet")
        ]
        rows.append(f"| {fraction:.0%} | " + " | ".join(cells) + " |")
    note = "both grow up to 60% and little beyond; KiNet is better at each share."
    return "\n".join(rows) + f"\n\nPaper (its figure has no numbers in the text): {note}\n"


def _stages_table(found: Results) -> str:
    rows = ["| | detection F1 | classification F1 |", "|---|---|---|"]
    for name in ("kinet", "skinet", "frcn"):
        cells = [spread(figures(found.seeds(name), task)) for task in ("detection", "classification")]
        rows.append(f"| {SHOWN[name]} | " + " | ".join(cells) + " |")
    note = "Paper: KiNet about 0.01 above sKiNet in both; both well above FRCN (0.860 and 0.768).\n"
    return "\n".join(rows) + f"\n\n{note}"


def _weights_table(found: Results, which: str, values: Sequence[float]) -> str:
    rows = [f"| {which} | detection F1 | classification F1 | AUC |", "|---|---|---|---|"]
    for value in values:
        documents = _at(found, which, value)
        if documents and all("diverged" in d for d in documents):
            rows.append(f"| {value:g} | diverged | diverged | diverged |")
            continue
        cells = [spread(figures(documents, task)) for task in ("detection", "classification")]
        cells.append(spread([d["auc"] for d in documents if "diverged" not in d]))
        rows.append(f"| {value:g} | " + " | ".join(cells) + " |")
    note = {
        "gamma": "Paper: low below 1, stable from 5 to 50, classification slightly lower at 100.",
        "lambda": "Paper: better above 1 than below, very poor at 0, exploding gradients at 50 and 500.",
    }
    return "\n".join(rows) + f"\n\n{note[which]}\n"


def _at(found: Results, which: str, value: float) -> list[dict[str, Any]]:
    return found.seeds("kinet", gamma=value) if which == "gamma" else found.seeds("kinet", lam=value)


def _differences() -> str:
    return (
        "## What differs from the paper\n\n"
        "- **Tissue**: mostly breast and glioma fields of seven sources, and one pancreatic field; the paper has 114 "
        "images of 38 pancreatic cases. The test set here is 9 fields and a third of the pancreatic one.\n"
        "- **Labels**: most sources do not label non-tumour nuclei, and one counts inside a region only; losses and "
        "figures ignore unlabelled classes. Regions were not drawn: they are the surroundings of labelled nuclei.\n"
        "- **Scale**: tumour nuclei are about 20 px across, in the paper about 32. Matching is within 16 px "
        "nevertheless; proximity maps reach 10 px.\n"
        "- **Regime**: AdamW with a decaying learning rate, stain augmentation, clipped gradients and losses divided "
        "by the number of pixels, the same for every network; the paper's is SGD for 100,000 iterations, and without "
        "clipping it diverges here. A clipped gradient cannot explode, so a large lambda may not diverge here.\n"
        "- **Networks**: each from its own paper, at one common width; changes are documented in its module, "
        "`export/networks`. None is pre-trained.\n"
        "- **Threshold**: chosen on validation fields for each network; the paper uses half of the largest "
        "peak, and so do the curves and areas.\n"
    )


def labels_figure(found: Results) -> bytes:
    """Draw Figure 6."""
    figure = Figure(figsize=(8, 3.2), layout="tight")
    for axes, task in zip(figure.subplots(1, 2), ("detection", "classification"), strict=True):
        for name, style in (("kinet", "o-"), ("okinet", "s--")):
            points = [(100 * f, figures(found.seeds(name, fraction=f), task)) for f in found.budget.fractions]
            points = [(x, values) for x, values in points if values]
            deviations = [np.std(values, ddof=1) if len(values) > 1 else 0 for _, values in points]
            means = [np.mean(values) for _, values in points]
            axes.errorbar([x for x, _ in points], means, deviations, fmt=style, capsize=2, label=SHOWN[name])
        _dress(axes, "labelled fields, %", f"{task} F1")
    return _svg(figure)


def curves_figure(found: Results, which: str, values: Sequence[float]) -> bytes:
    """Draw Figure 8 or 9: precision over recall, averaged over seeds at each relative threshold."""
    figure = Figure(figsize=(8, 3.6), layout="tight")
    for axes, task in zip(figure.subplots(1, 2), ("detection", "classification"), strict=True):
        for value in values:
            good = [d for d in _at(found, which, value) if "diverged" not in d]
            if good:
                recall, precision = np.mean([d["curves"][task] for d in good], axis=0).T
                axes.plot(recall, precision, ".-", markersize=4, label=f"{which} {value:g}")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        _dress(axes, f"{task} recall", "precision")
    return _svg(figure)


def _dress(axes: Axes, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "kinet-trt"}):  # reproducible files
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
