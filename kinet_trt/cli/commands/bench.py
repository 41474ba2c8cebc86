"""``kinet-trt bench``: time the stages of a count."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kinet_trt.cli.options import FormatOption, JsonOption, RuntimeOption, ThreadsOption, parse_size, require
from kinet_trt.cli.outputs import check_names, write, write_results
from kinet_trt.cli.progress import steps
from kinet_trt.cli.terminal import print_rows, stdout_console
from kinet_trt.core.errors import printable


def bench(
    fields: Annotated[Path | None, typer.Argument(help="Folder of labelled fields, to measure accuracy too.")] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option("--model", "-m", help="Model files. Default: the built-in model."),
    ] = None,
    precisions: Annotated[list[str] | None, typer.Option("--precision", help="Compute precisions.")] = None,
    runtime: RuntimeOption = "auto",
    threads: ThreadsOption = None,
    size: Annotated[str, typer.Option(metavar="WxH", help="Width and height of the frame, px.")] = "608x608",
    rounds: Annotated[int, typer.Option(min=3, help="Number of timed runs.")] = 20,
    yardsticks: Annotated[bool, typer.Option(help="Compare with PyTorch in eager mode (extra train).")] = True,
    split: Annotated[str | None, typer.Option(help="With FIELDS: use only those of this split, like val.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With FIELDS: draw latency and accuracy (.png or .svg).")
    ] = None,
    json_file: JsonOption = None,
    format_: FormatOption = "table",
) -> None:
    """Time the stages of a count. Models, precisions and PyTorch are timed in turn."""
    from kinet_trt.datasets.labelled import read_split
    from kinet_trt.evaluation.benchmark import Baselines, Setting, accuracy, latency_plot, measure, simulated_frame

    width, height = parse_size(size)
    targets = {"--json": json_file, "--plot": str(plot) if plot else None}
    stdout_has_data = check_names(targets, format_)
    if (plot or split) and not fields:
        raise typer.BadParameter("--plot and --split require FIELDS, a folder of labelled fields")
    if fields:
        require("bench", "eval", "lap", *(["matplotlib"] if plot else []))
        labelled = read_split(fields, split)
    frame = simulated_frame(width, height)
    chosen: list[Path | None] = [*models] if models else [None]
    settings = [Setting(model, p, runtime, threads) for model in chosen for p in precisions or ["auto"]]
    compare: Baselines | None = None
    if yardsticks:
        require("bench", "train", "torch", "skimage")
        from kinet_trt.export.baselines import eager_pytorch

        compare = eager_pytorch
    with steps("Timing") as report:
        document = measure(settings, frame, rounds, compare, report)
    if fields:
        with steps("Evaluating") as report:
            for row, reached in zip(document["rows"], accuracy(settings, labelled, report), strict=False):
                row.update(reached)
    text = json.dumps(document, indent=1) + "\n"
    if not stdout_has_data:
        show_bench(document["rows"])
    if plot:
        write(str(plot), latency_plot(document["rows"], document["size"], str(plot)), stdout_has_data)
    write_results(json_file, format_, text, bench_rows(document["rows"]), stdout_has_data)


def bench_rows(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the figures of :func:`kinet_trt.evaluation.benchmark.row`; ms are medians."""
    accurate = any("detection_f1" in row for row in rows)
    faster = ("times faster\nthan published", "times faster\nthan PyTorch")
    columns = ("model", "runtime", "precision", "prep", "net", "peaks", "ms", "p99", *faster, "cold s", "MiB")
    table = []
    for row in rows:
        parts = [f"{stage}_ms" for stage in ("prepare", "network", "peaks")]
        stages = [f"{row[part]['p50']:.1f}" if part in row else "" for part in parts]
        ratios = [f"{row[s]:.1f}" if (s := f"speedup_over_{name}") in row else "" for name in ("published", "eager")]
        cold = f"{row['cold_start_s']:.2f}" if row.get("cold_start_s") else ""
        memory = f"{row['peak_memory_mib']:.0f}" if row.get("peak_memory_mib") else ""
        whole = [f"{row['whole_ms'][p]:.0f}" for p in ("p50", "p99")]
        runtime = row["runtime"].split()[0]
        f1 = [f"{row[n]:.3f}" if n in row else "" for n in ("detection_f1", "classification_f1")] if accurate else []
        name = printable(row["model"])
        table.append([name, runtime, row["precision"], *stages, *whole, *ratios, cold, memory, *f1])
    return [*columns, *(("F1", "class F1") if accurate else ())], table


def show_bench(rows: Sequence[dict[str, Any]]) -> None:
    """Print the figures of :func:`kinet_trt.evaluation.benchmark.row`; ms are medians."""
    print_rows(stdout_console(), *bench_rows(rows), left=3)
