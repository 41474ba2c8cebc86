"""``kinet-trt train``: train a network."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kinet_trt.cli.options import FieldsMppOption, require
from kinet_trt.cli.outputs import check_names
from kinet_trt.cli.progress import bars, duration


def train(
    fields: Annotated[Path, typer.Argument(help="Folder of labelled fields.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint to write, a .pt.")],
    recipe: Annotated[
        Literal["paper", "best", "tune"] | None,
        typer.Option(help="The paper's recipe, ours, or ours for few fields. Default: paper, or tune with --from."),
    ] = None,
    network: Annotated[
        Literal["kinet", "okinet", "skinet", "fcn8s", "unet", "fcrn-a", "fcrn-b", "sfcn-opi", "frcn"],
        typer.Option(help="KiNet; okinet: no region task; skinet: trained in stages; others: compared in the paper."),
    ] = "kinet",
    architecture: Annotated[
        Literal["paper", "release", "half"] | None,
        typer.Option(
            help="KiNet as in the paper, as in the authors' release, or at half resolution (fastest on CPUs)."
        ),
    ] = None,
    width: Annotated[int | None, typer.Option(help="Channels of the finest level. Default: 32, or as --from.")] = None,
    activation: Annotated[
        Literal["elu", "relu"] | None, typer.Option(help="Activation function. Default: elu for KiNet, else relu.")
    ] = None,
    roi: Annotated[bool, typer.Option(help="Train the tumour-region branch, too.")] = True,
    dropout: Annotated[
        float | None, typer.Option(min=0, max=0.95, help="Channel dropout rate. Default: 0.5, or as --from.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Number of iterations. Default: the recipe's.")] = None,
    weight: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE=F", help="Sample a source F times as often.")
    ] = None,
    partial: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE=CLASS", help="A source that labels only some nuclei of a class.")
    ] = None,
    detection_only: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="A source in which every nucleus is marked, but not with its class."),
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Labelled classes, like positive,negative.")] = None,
    mpp: FieldsMppOption = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Initial weights and network: a .pt, an exported .onnx, or kinet-edge."),
    ] = None,
    teacher: Annotated[Path | None, typer.Option(help="Checkpoint to distil from, in addition to the labels.")] = None,
    unlabelled: Annotated[Path | None, typer.Option(help="Images without labels, to distil on.", metavar="DIR")] = None,
    regions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Regions of the fields: NAME.geojson, in any subfolder.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of weights and crops.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A test of about a minute, with 8 channels.")] = False,
) -> None:
    """Train a network on labelled fields. An interrupted run is resumed."""
    require("train", "train", "torch", "lap", *(["onnx"] if start and start.suffix != ".pt" else []))
    from kinet_trt.export.train_folder import TrainOptions, train_folder

    check_names({"--out": str(out)}, out=(".pt",))
    options = TrainOptions(
        recipe=recipe,
        network=network,
        architecture=architecture,
        width=width,
        activation=activation,
        roi=roi,
        dropout=dropout,
        iterations=iterations,
        weight=dict(_pairs("--weight", weight)),
        partial=_pairs("--partial", partial),
        detection_only=detection_only or (),
        classes=classes.split(",") if classes else None,
        mpp=mpp,
        start=start,
        teacher=teacher,
        unlabelled=unlabelled,
        regions=regions,
        seed=seed,
        quick=quick,
    )
    with training_bar() as report:
        info = train_folder(fields, out, options, report)
    typer.echo(f"{out}: threshold {info.threshold:g}, {out.stat().st_size / 1e6:.1f} MB")
    for name, value in info.metrics.items():
        typer.echo(f"  {name:<32} {value:.3f}")
    for state in (out.with_name(f"{out.stem}.roi.last.pt"), out.with_suffix(".last.pt")):
        if state.exists():
            size = f"{state.stat().st_size / 1e6:.1f} MB"
            typer.echo(f"{state}: {size}, needed only to resume this run with more --iterations")
    checkpoint, model, folder = (shlex.quote(str(path)) for path in (out, out.with_suffix(".onnx"), fields))
    typer.echo(f"Next: kinet-trt export {checkpoint} -o {model}, then kinet-trt eval {folder} -m {model}")


def _pairs(option: str, values: list[str] | None) -> list[tuple[str, str]]:
    """Split ``NAME=VALUE`` options."""
    pairs = [value.partition("=")[::2] for value in values or []]
    if wrong := [name for name, value in pairs if not name or not value]:
        raise typer.BadParameter(f"{option}: expected NAME=VALUE, found {wrong[0]!r}")
    return pairs


@contextmanager
def training_bar() -> Iterator[Callable[[Any], None]]:
    """Provide a function that shows the progress of training: the loss, and F1 after a validation."""
    with bars() as bar:
        task = bar.add_task("Training", total=None, note="")
        last = ""
        figure = ""

        def report(progress: Any) -> None:
            nonlocal last, figure
            validation = progress.validation
            if validation is not None:
                last = ", ".join(f"{s or 'fields'} {d:.3f}/{c:.3f}" for s, (d, c) in validation.by_source.items())
                figure = f", F1 {validation.figure:.3f}"
                what = f"{progress.iteration}: loss {progress.loss:.4g}" if progress.iteration else "start"
                bar.console.print(
                    f"{what}; threshold {validation.threshold:g}; detection/classification F1 {last}",
                    highlight=False,
                )
            if progress.seconds is not None:
                bar.console.print(f"{duration(progress.seconds)} left on this machine", highlight=False)
            bar.update(
                task, completed=progress.iteration, total=progress.iterations, note=f"loss {progress.loss:.4g}{figure}"
            )

        yield report
