"""The command line: each command is a few lines over the library."""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from kinet_trt.core.errors import KinetError, MissingExtraError, printable
from kinet_trt.core.logs import be_quiet, be_verbose, to_terminal
from kinet_trt.core.notice import NOTICE
from kinet_trt.core.telemetry import switch_off
from kinet_trt.core.units import MAX_MPP, MIN_MPP, is_mpp

if TYPE_CHECKING:
    from kinet_trt.counting.pictures import Counted
    from kinet_trt.inference.counter import Threshold
    from kinet_trt.slides.count import CountedSlide, Work

SUFFIXES = {
    "--json": (".json",),
    "--csv": (".csv",),
    "--summary": (".csv", ".xlsx"),
    "--plot": (".png",),
}
"""How the names of files end that an option writes; a name without a suffix is taken as it is."""
_FILE_SUFFIXES = (".geojson", ".json", ".csv", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".zip")


class Commands(TyperGroup):
    """The commands; each of them takes --verbose and --quiet, too, so that these may stand anywhere in the line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        general = [option for option in self.params if option.name in ("verbose", "quiet")]
        for command in self.commands.values():
            command.params += general


app = typer.Typer(
    name="kinet-trt",
    help=f"Count nuclei in Ki67-stained tissue. {NOTICE}",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _um_per_px(text: str) -> float:
    """Return a pixel size; a decimal comma is read as a point."""
    try:
        mpp = float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)
    except ValueError:
        mpp = float("nan")
    if not is_mpp(mpp):
        raise typer.BadParameter(f"expected µm/px from {MIN_MPP:g} to {MAX_MPP:g}, like 0.34, found {text!r}")
    return mpp


Model = Annotated[
    Path | None, typer.Option("--model", "-m", help="Model file, .onnx or .engine. Default: the built-in model.")
]
Precision = Annotated[Literal["auto", "fp32", "bf16", "fp16", "int8"], typer.Option(help="Compute precision.")]
Runtime = Annotated[Literal["auto", "openvino", "onnxruntime"], typer.Option(help="Inference runtime.")]
Mpp = Annotated[
    float | None,
    typer.Option(
        parser=_um_per_px, metavar="UM/PX", help="Pixel size, like 0.34. Default: from the file, else the model's."
    ),
]
ThresholdText = Annotated[
    str | None,
    typer.Option("--threshold", metavar="T", help="Minimum peak height; relative:T is relative to the highest peak."),
]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write JSON; - writes to standard output.")
]
NucleiCsv = Annotated[
    str | None,
    typer.Option("--csv", metavar="FILE", help="Write CSV, one row per nucleus; - writes to standard output."),
]
Format = Annotated[
    Literal["table", "plain", "json"],
    typer.Option("--format", help="Standard output: a table, tab-separated rows, or JSON."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of CPU threads. Default: all.")]
HotSpotSize = Annotated[int, typer.Option("--hot-spot", min=10, help="Hot-spot size in tumour nuclei.")]
BandsName = Annotated[Literal["net", "none"], typer.Option("--bands", help="Grade ranges: those of NET, or none.")]


def main() -> None:
    """Run the command line; an error of the user gives one message and exit status 1."""
    switch_off()
    to_terminal()
    for stream in (sys.stdout, sys.stderr):
        # A file name with characters that the terminal cannot encode (Windows' code pages) must not end the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except KinetError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kinet-trt {package_version('kinet-trt')}")
        raise typer.Exit


def _verbose(wanted: bool) -> None:
    if wanted:
        be_verbose()


def _quiet(wanted: bool) -> None:
    if wanted:
        be_quiet()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", callback=_verbose, expose_value=False, help="Print more details."),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", callback=_quiet, expose_value=False, help="Print no progress and no notes."),
    ] = False,
) -> None:
    del version, verbose, quiet


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("demo"),
    model: Model = None,
    precision: Precision = "auto",
) -> None:
    """Count a simulated field and a real one. Labelled fields to try commands on are written, too."""
    from kinet_trt.core.ki67 import Ki67, class_name
    from kinet_trt.demo import demo as fields
    from kinet_trt.inference.counter import NucleusCounter

    counter = NucleusCounter(model, precision=precision)
    typer.echo(f"{counter.engine.card.name} on {counter.engine.runtime}, {counter.engine.precision}")
    for shown in (fields.simulated(counter, out), fields.real(counter, out)):
        typer.echo(f"\n{shown.title}")
        for name, n in shown.detections.counts().items():
            known = f"   (truth {shown.truth[name]})" if shown.truth else ""
            typer.echo(f"  {class_name(name):<10} {n:5d}{known}")
        typer.echo(f"  {shown.ki67.sentences()[0]}")
        if shown.truth:
            index = Ki67.of(shown.truth).index or 0.0
            typer.echo(f"  The true index is {100 * index:.1f}%.")
        if score := shown.score:
            typer.echo(
                f"  {score.paired} of {score.true} nuclei found ({score.recall:.1%}), "
                f"{score.detected - score.paired} false positives; detection F1 {score.f1:.3f}."
            )
        typer.echo(f"  Overlay: {shown.overlay}")
    typer.echo(f"\n{fields.LABELLED} simulated fields with their nuclei: {fields.labelled(out)}")
    typer.echo(f"Next: kinet-trt count {out / 'real.png'} --overlay {out / 'overlays'}")
    typer.echo(f"\n{NOTICE}")


@app.command()
def count(
    images: Annotated[
        list[Path], typer.Argument(help="Images, slides, folders or patterns.", metavar="IMAGE|SLIDE|FOLDER...")
    ],
    model: Model = None,
    mpp: Mpp = None,
    threshold: ThresholdText = None,
    precision: Precision = "auto",
    runtime: Runtime = "auto",
    threads: Threads = None,
    bands: BandsName = "net",
    json_file: JsonFile = None,
    csv_file: NucleiCsv = None,
    summary: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write a table, one row per image: .csv or .xlsx; - writes CSV."),
    ] = None,
    format_: Format = "table",
    geojson: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write NAME.geojson for QuPath into this folder.")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write NAME_overlay.png into this folder.")
    ] = None,
    region: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Slides only: count inside these areas, GeoJSON from QuPath.")
    ] = None,
    hot_spot: HotSpotSize = 500,
    together: Annotated[bool, typer.Option("--together", help="Pool the images of one case.")] = False,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Slides only: count on this Dask scheduler's workers; local starts some."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace existing files of --geojson, --overlay and --summary.")
    ] = False,
) -> None:
    """Count the nuclei of images and whole slides. An interrupted slide is resumed."""
    from kinet_trt.cli.console import counting, note, show_counted
    from kinet_trt.core.ki67 import NET
    from kinet_trt.counting.pictures import (
        Outputs,
        count_image,
        find_images,
        json_parts,
        output_names,
        skipped,
        summary_table,
        table_parts,
    )
    from kinet_trt.counting.together import Together
    from kinet_trt.inference.counter import NucleusCounter
    from kinet_trt.slides.count import count_slide
    from kinet_trt.slides.region import read_region
    from kinet_trt.slides.slide import is_slide

    least = _threshold(threshold)
    targets = {"--json": json_file, "--csv": csv_file, "--summary": summary}
    has_data = _check_names(targets, format_, folders={"--geojson": geojson, "--overlay": overlay})
    found = find_images(images, slides=True)
    for line in skipped(images, found):
        typer.echo(f"Warning: {line}", err=True)
    _check_targets(targets, found)
    outputs = Outputs(geojson, overlay, output_names(found))
    _check_existing([*outputs.existing(), *_existing(summary)], force)
    slides = {image for image in found if is_slide(image)}
    if region and (pictures := [image for image in found if image not in slides]):
        raise typer.BadParameter(f"--region is for slides only, and {pictures[0]} is a picture")
    areas = read_region(region) if region else None
    counter = NucleusCounter(model, threshold=least, precision=precision, threads=threads, runtime=runtime)

    counted: list[Counted | CountedSlide] = []
    errors: list[tuple[Path, str]] = []
    written: list[Path] = []
    with _interruptible(), _work_on(cluster, model) as work, counting(found) as (each, report):
        for image in each:
            try:
                if image in slides:
                    whole, small = count_slide(
                        counter,
                        image,
                        mpp,
                        region=areas,
                        hot_spot=hot_spot,
                        work=work,
                        report=report,
                        tell=lambda text: note(text, err=True),
                    )
                    counted.append(whole)
                    outputs.write_slide(whole, small)
                else:
                    field, frame = count_image(counter, image, mpp, hot_spot)
                    counted.append(field)
                    outputs.write(field, frame)
                written += outputs.paths(image)
            except KinetError as error:
                errors.append((image, str(error)))
    total = Together.of(counted) if together else None
    if not has_data and counted:
        show_counted(counted, counter, NET if bands == "net" else None, total)
    for one in counted:
        for remark in one.remarks:
            typer.echo(f"Warning: {printable(one.image)}: {remark}", err=True)
    messages = [f"{printable(image)}: {message}" for image, message in errors]
    contents: list[tuple[str | None, Callable[[str], str | bytes | Iterable[str]]]] = [
        (json_file, lambda _: json_parts(counter, counted, errors, total)),
        (csv_file, lambda _: table_parts(counted)),
        (summary, lambda target: summary_table(counter, counted, total, target)),
        ("-" if format_ == "json" else None, lambda _: json_parts(counter, counted, errors, total)),
        ("-" if format_ == "plain" else None, lambda _: summary_table(counter, counted, total, "plain")),
    ]
    _say_written(written, has_data)
    for target, content in contents:
        if target:
            try:
                _write(target, content(target), has_data)
            except KinetError as error:
                messages.append(str(error))
    for message in messages:
        typer.echo(f"Error: {message}", err=True)
    if messages:
        raise typer.Exit(1)


@app.command()
def live(
    source: Annotated[
        str, typer.Argument(help="Camera: 0, rtsp://..., a video, a folder, mm:CONFIG.cfg, gst:..., sim:")
    ],
    sessions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Session file. Default: in the user's data folder."),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of a new session.")] = "",
    reader: Annotated[str, typer.Option(help="Name of the reader of a new session.")] = "",
    auto: Annotated[bool, typer.Option("--auto", help="Capture automatically when the stage stops.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; other machines need the access token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default: 8765; 0 selects a free one.")] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    hot_spot: HotSpotSize = 500,
    bands: BandsName = "net",
    shortcut: Annotated[
        bool, typer.Option("--install-shortcut", help="Create a desktop shortcut for this command, and exit.")
    ] = False,
    headless: Annotated[
        bool, typer.Option("--headless", help="No page: print one JSON line per counted frame.")
    ] = False,
    frames: Annotated[int | None, typer.Option(min=1, help="With --headless: stop after this many frames.")] = None,
    detections: Annotated[bool, typer.Option("--detections", help="With --headless: include each nucleus.")] = False,
    model: Model = None,
    mpp: Mpp = None,
    threshold: ThresholdText = None,
    precision: Precision = "auto",
    runtime: Runtime = "auto",
    threads: Threads = None,
) -> None:
    """Count the live picture of a microscope. JSON lines: see python -m pydoc kinet_trt.live.acquisition.headless."""
    from kinet_trt.camera.source import open_source
    from kinet_trt.inference.counter import NucleusCounter

    if not headless:
        if frames or detections:
            raise typer.BadParameter("--frames and --detections require --headless")
        _need("live", "live", "fastapi", "uvicorn", "websockets")
    least = _threshold(threshold)
    camera = open_source(source, every_frame=headless)
    if shortcut:
        from kinet_trt.live.web.shortcut import install

        typed = [one for one in sys.argv[1:] if one != "--install-shortcut"]
        for path in install(typed, sys.platform):
            typer.echo(f"written: {path}")
        return

    def tell(text: str) -> None:
        typer.echo(text, err=headless)

    counter = NucleusCounter(model, threshold=least, precision=precision, threads=threads, runtime=runtime)
    if headless:
        from kinet_trt.live.acquisition import headless as lines

        raise typer.Exit(
            lines.run(camera, counter, sys.stdout.buffer, tell, mpp=mpp, frames=frames, detections=detections)
        )
    from kinet_trt.core.ki67 import NET
    from kinet_trt.live.web import app as serve

    options = serve.Options(
        store=sessions,
        host=host,
        port=port,
        mpp=mpp,
        title=title,
        reader=reader,
        bands=NET if bands == "net" else None,
        hot_spot=hot_spot,
        auto=auto,
        browser=browser,
    )
    raise typer.Exit(serve.run(camera, counter, options, tell))


@app.command("eval")
def evaluate(
    fields: Annotated[Path, typer.Argument(help="Folder of labelled fields.")],
    model: Model = None,
    classes: Annotated[str | None, typer.Option(help="Labelled classes, like positive,negative.")] = None,
    split: Annotated[str | None, typer.Option(help="Use only the fields of this split, like val.")] = None,
    mpp: Mpp = None,
    threshold: ThresholdText = None,
    precision: Precision = "auto",
    runtime: Runtime = "auto",
    threads: Threads = None,
    json_file: JsonFile = None,
    format_: Format = "table",
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the precision-recall curve (PNG).")] = None,
    overlay: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw false negatives and false positives into this folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files of --overlay.")] = False,
) -> None:
    """Evaluate a model on labelled fields. The metrics are those of the paper."""
    _need("eval", "eval", "lap", *(["matplotlib"] if plot else []))
    from kinet_trt.cli.console import evaluation_rows, show_evaluation, tab_separated, track
    from kinet_trt.core.files import write_atomic
    from kinet_trt.counting.pictures import Outputs, output_names
    from kinet_trt.datasets.labelled import guess, label, read_fields, with_nuclei
    from kinet_trt.evaluation.evaluate import Evaluation, curve_png, evaluate_field, picture, to_json
    from kinet_trt.inference.counter import NucleusCounter
    from kinet_trt.io.overlay import to_png

    least = _threshold(threshold)
    targets = {"--json": json_file, "--plot": str(plot) if plot else None}
    has_data = _check_names(targets, format_, folders={"--overlay": overlay})
    chosen = with_nuclei([f for f in read_fields(fields, mpp) if split in (None, f.split)])
    if not chosen:
        raise KinetError(f"{fields}: no fields with nuclei" + (f" of the split {split!r}" if split else ""))
    if classes:
        chosen = label(chosen, classes.split(","))
    elif sentence := guess(chosen):
        typer.echo(sentence, err=has_data)
    outputs = Outputs(None, overlay, output_names([f.image for f in chosen]))
    _check_targets(targets, [f.image for f in chosen])
    _check_existing(outputs.existing(), force)
    counter = NucleusCounter(model, threshold=least, precision=precision, threads=threads, runtime=runtime)
    done = []
    for f in track(chosen, "Evaluating", [f.image.name for f in chosen]):
        one = evaluate_field(counter, f, mpp)
        done.append(one)
        if overlay:
            write_atomic(outputs.overlay_of(f.image), to_png(picture(one, one.mpp / counter.engine.card.mpp)))
    evaluation = Evaluation(tuple(done))
    if not has_data:
        show_evaluation(evaluation, counter)
    _say_written([path for f in chosen for path in outputs.paths(f.image)], has_data)
    if plot:
        _write(str(plot), curve_png(evaluation, counter.engine.card.name), has_data)
    if json_file:
        _write(json_file, to_json(counter, evaluation), has_data)
    if format_ == "json":
        _write("-", to_json(counter, evaluation))
    elif format_ == "plain":
        _write("-", tab_separated(*evaluation_rows(evaluation)))


@app.command()
def bench(
    fields: Annotated[Path | None, typer.Argument(help="Folder of labelled fields, to measure accuracy too.")] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option("--model", "-m", help="Model files. Default: the built-in model."),
    ] = None,
    precisions: Annotated[list[str] | None, typer.Option("--precision", help="Compute precisions.")] = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    size: Annotated[str, typer.Option(metavar="WxH", help="Width and height of the frame, px.")] = "608x608",
    rounds: Annotated[int, typer.Option(min=3, help="Number of timed runs.")] = 20,
    yardsticks: Annotated[bool, typer.Option(help="Compare with PyTorch in eager mode (extra train).")] = True,
    split: Annotated[str | None, typer.Option(help="With FIELDS: use only those of this split, like val.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With FIELDS: draw latency and accuracy (PNG).")
    ] = None,
    json_file: JsonFile = None,
    format_: Format = "table",
) -> None:
    """Time the stages of a count. Models, precisions and PyTorch are timed in turn."""
    from kinet_trt.cli.console import bench_rows, show_bench, steps, tab_separated
    from kinet_trt.datasets.labelled import read_fields, with_nuclei
    from kinet_trt.evaluation.benchmark import Setting, Yardsticks, accuracy, frame_of, measure, plot_png

    width, height = _size(size)
    targets = {"--json": json_file, "--plot": str(plot) if plot else None}
    has_data = _check_names(targets, format_)
    if (plot or split) and not fields:
        raise typer.BadParameter("--plot and --split require FIELDS, a folder of labelled fields")
    if fields:
        _need("bench", "eval", "lap", *(["matplotlib"] if plot else []))
        labelled = with_nuclei([f for f in read_fields(fields) if split in (None, f.split)])
        if not labelled:
            raise KinetError(f"{fields}: no fields with nuclei" + (f" of the split {split!r}" if split else ""))
    frame = frame_of(width, height)
    chosen: list[Path | None] = [*models] if models else [None]
    settings = [Setting(model, p, runtime, threads) for model in chosen for p in precisions or ["auto"]]
    compare: Yardsticks | None = None
    if yardsticks:
        _need("bench", "train", "torch", "skimage")
        from kinet_trt.export.yardsticks import eager_pytorch

        compare = eager_pytorch
    with steps("Timing") as report:
        document = measure(settings, frame, rounds, compare, report)
    if fields:
        with steps("Evaluating") as report:
            for row, reached in zip(document["rows"], accuracy(settings, labelled, report), strict=False):
                row.update(reached)
    text = json.dumps(document, indent=1) + "\n"
    if not has_data:
        show_bench(document["rows"])
    if plot:
        _write(str(plot), plot_png(document["rows"], document["size"]), has_data)
    if json_file:
        _write(json_file, text, has_data)
    if format_ == "json":
        _write("-", text)
    elif format_ == "plain":
        _write("-", tab_separated(*bench_rows(document["rows"])))


@app.command()
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
    classes: Annotated[str | None, typer.Option(help="Labelled classes, like positive,negative.")] = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            parser=_um_per_px, metavar="UM/PX", help="Pixel size of the fields. Default: from the file, else 0.34."
        ),
    ] = None,
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
    _need("train", "train", "torch", "lap", *(["onnx"] if start and start.suffix != ".pt" else []))
    from kinet_trt.cli.console import training_bar
    from kinet_trt.export.workshop import train_fields

    _check_names({"--out": str(out)}, out=(".pt",))
    with training_bar() as report:
        traits = train_fields(
            fields,
            out,
            recipe=recipe,
            network=network,
            architecture=architecture,
            width=width,
            activation=activation,
            roi=roi,
            dropout=dropout,
            iterations=iterations,
            factors=dict(_pairs("--weight", weight)),
            partial=_pairs("--partial", partial),
            classes=classes.split(",") if classes else None,
            mpp=mpp,
            start=start,
            teacher=teacher,
            unlabelled=unlabelled,
            regions=regions,
            seed=seed,
            quick=quick,
            report=report,
        )
    typer.echo(f"{out}: threshold {traits.threshold:g}, {out.stat().st_size / 1e6:.1f} MB")
    for name, value in traits.metrics.items():
        typer.echo(f"  {name:<32} {value:.3f}")
    for state in (out.with_name(f"{out.stem}.roi.last.pt"), out.with_suffix(".last.pt")):
        if state.exists():
            size = f"{state.stat().st_size / 1e6:.1f} MB"
            typer.echo(f"{state}: {size}, needed only to resume this run with more --iterations")
    checkpoint, model, folder = (shlex.quote(str(path)) for path in (out, out.with_suffix(".onnx"), fields))
    typer.echo(f"Next: kinet-trt export {checkpoint} -o {model}, then kinet-trt eval {folder} -m {model}")


@app.command()
def regions(
    fields: Annotated[Path, typer.Argument(help="Folder of images, with or without labelled nuclei.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the pictures, NAME_regions.png.")],
    drawn: Annotated[
        Path | None,
        typer.Option("--regions", metavar="DIR", help="Regions of the fields: NAME.geojson, in any subfolder."),
    ] = None,
    box: Annotated[
        str | None, typer.Option(metavar="LEFT,TOP,RIGHT,BOTTOM", help="Draw only this part of each image, in px.")
    ] = None,
    grid: Annotated[int, typer.Option(min=5, help="Distance of the grid lines in px.")] = 50,
    mpp: Mpp = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing pictures.")] = False,
) -> None:
    """Draw fields with a pixel grid and their regions, and count the labelled nuclei in each kind of region."""
    from kinet_trt.cli.console import show_regions, track
    from kinet_trt.core.files import write_atomic
    from kinet_trt.export import region_check as drawing
    from kinet_trt.io.overlay import to_png

    part = _box(box) if box else None
    found = drawing.read(fields, drawn, mpp)
    pictures = [out / f"{field.name}_regions.png" for field in found]
    _check_existing([picture for picture in pictures if picture.exists()], force)
    for field, picture in zip(track(found, "Drawing", [f.name for f in found]), pictures, strict=True):
        write_atomic(picture, to_png(drawing.draw(field, part, grid)))
    _say_written(pictures, err=False)
    show_regions(*drawing.rows(found))


@app.command("import-weights")
def import_weights(
    file: Annotated[Path, typer.Argument(help="State dict of the authors' release, like ki67net-best.pth.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint to write, a .pt.")],
    calibrate: Annotated[
        Path | None, typer.Option(metavar="FIELDS", help="Estimate the running statistics of the norms on these.")
    ] = None,
) -> None:
    """Convert the authors' weights to a checkpoint. The differences are reported."""
    _need("import-weights", "train", "torch", "lap")
    from kinet_trt.export.import_weights import import_weights as take

    _check_names({"--out": str(out)}, out=(".pt",))
    _check_targets({"--out": str(out)}, [file])
    imported = take(file, out, calibrate)
    typer.echo(f"{out}: " + "\n".join(imported.sentences()))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of kinet-trt train.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="ONNX file to write, a .onnx.")],
    precision: Annotated[Literal["fp32", "fp16"], typer.Option(help="Precision of weights and computation.")] = "fp32",
    half_weights: Annotated[
        bool, typer.Option("--half-weights", help="Store FP16, compute in FP32: half the file size.")
    ] = False,
    roi: Annotated[bool, typer.Option("--roi", help="Output the tumour-region map, too.")] = False,
    images: Annotated[Path | None, typer.Option(help="Images to compare on. Default: simulated fields.")] = None,
) -> None:
    """Convert a checkpoint to an ONNX model. It gets a model card and is compared with PyTorch."""
    _need("export", "train", "torch", "onnx", "onnxscript", "onnxsim")
    from kinet_trt.export.workshop import export_checkpoint

    _check_names({"--out": str(out)}, out=(".onnx",))
    card, parity = export_checkpoint(checkpoint, out, precision, half_weights, roi, images)
    same = parity.agreement
    typer.echo(f"{out}: {card.network}, {card.precision}, {out.stat().st_size / 1e6:.1f} MB")
    typer.echo(
        f"Compared with PyTorch on {parity.images} fields: max error {parity.max_error:.2g}; "
        f"{same.same} detections the same, {same.only_first} only in PyTorch, {same.only_second} only in ONNX."
    )


@app.command()
def report(
    file: Annotated[
        Path | None,
        typer.Argument(help="Session file of kinet-trt live. Default: the one that it uses.", metavar="SESSION"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="HTML file to write.")] = None,
    session: Annotated[int | None, typer.Option(help="Number of the session, if the file holds several.")] = None,
    csv_file: NucleiCsv = None,
    summary: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write a table, one row per field: .csv or .xlsx; - writes CSV."),
    ] = None,
    geojson: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write field-NNN.geojson and .png for QuPath into this folder.")
    ] = None,
    hot_spot: HotSpotSize = 500,
    bands: BandsName = "net",
    force: Annotated[
        bool, typer.Option("--force", help="Replace existing files of --out, --summary and --geojson.")
    ] = False,
) -> None:
    """Write the report of a session. Without a file to write, list the sessions."""
    from kinet_trt.cli.console import note
    from kinet_trt.core.files import sessions_file
    from kinet_trt.core.ki67 import NET
    from kinet_trt.io.tables import encode, to_csv
    from kinet_trt.live.session.export import nuclei_csv, summary_rows, write_geojson
    from kinet_trt.live.session.report import build, choose, listing
    from kinet_trt.live.session.session import OpenSession
    from kinet_trt.live.session.store import Store

    targets = {"--out": str(out) if out else None, "--csv": csv_file, "--summary": summary}
    has_data = _check_names(targets, folders={"--geojson": geojson}, out=(".html", ".htm"))
    path = file or sessions_file()
    if file is None and not path.exists():
        raise KinetError(f"{path}: no sessions yet: kinet-trt live creates this file; or name a session file")
    _check_targets(targets, [path])
    with Store.open(path, create=False) as store:
        if not (out or csv_file or summary or geojson):
            if file is None:
                note(f"Sessions in {path}:", err=True)
            typer.echo("\n".join(listing(store)))
            return
        chosen = choose(store, session)
        _check_existing([*_existing(targets["--out"]), *_existing(summary)], force)
        if out:
            html = build(store, chosen.id, bands=NET if bands == "net" else None, hot_spot=hot_spot)
            _write(str(out), html, has_data)
        if not (csv_file or summary or geojson):
            return
        counted = OpenSession(store, chosen.id).count()
        if geojson:
            _say_written(write_geojson(store, counted, geojson, force=force), has_data)
        if csv_file:
            _write(csv_file, nuclei_csv(counted), has_data)
        if summary:
            rows, total = summary_rows(counted, chosen, hot_spot)
            _write(summary, to_csv(rows) if summary == "-" else encode(rows, Path(summary), total), has_data)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="Model file: .onnx, .engine, or a .pt of kinet-trt train.")],
    json_file: JsonFile = None,
) -> None:
    """Show the card, layers and memory of a model. The model is not run."""
    from kinet_trt.cli.console import show_model
    from kinet_trt.onnx_graph.inspect import inspect_file

    _check_names({"--json": json_file})
    _check_targets({"--json": json_file}, [file])
    if file.suffix.lower() == ".pt":
        _need("inspect", "train", "torch")
        from kinet_trt.export.checkpoint import describe

        document = describe(file)
    else:
        document = inspect_file(file)
    if json_file != "-":
        show_model(document)
    if json_file:
        _write(json_file, json.dumps(document, indent=1, ensure_ascii=False) + "\n", json_file == "-")


@app.command()
def doctor(json_file: JsonFile = None) -> None:
    """Check the installation and suggest fixes."""
    from kinet_trt.cli.console import show_doctor, steps
    from kinet_trt.diagnostics import doctor as look

    _check_names({"--json": json_file})
    _check_targets({"--json": json_file}, [])
    with steps("Checking") as report:
        seen = look.look(report)
    if json_file != "-":
        show_doctor(look.rows(seen), look.findings(seen), look.verdict(seen))
    if json_file:
        _write(json_file, json.dumps(look.to_json(seen), indent=1, ensure_ascii=False) + "\n")
    if not seen.counts:
        raise typer.Exit(1)


@app.command()
def build(
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: NAME.engine (TensorRT) or NAME.onnx (CPU).")],
    model: Annotated[Path | None, typer.Argument(help="Model file, a .onnx. Default: the built-in model.")] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        typer.Option(help="Default: fp16, or the model's own."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Fields to calibrate int8 on, preferably labelled.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WxH", help="Width and height of frames, px. Repeated: a range, fastest at the first. Default: any."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Maximum number of frames at a time.")] = 1,
    fused: Annotated[bool, typer.Option("--fused", help="Find the nuclei inside the model: no code after it.")] = False,
    runtime: Annotated[
        Literal["auto", "tensorrt", "tensorrt-rtx"], typer.Option(help="Builder of an engine.")
    ] = "auto",
    max_loss: Annotated[float, typer.Option(min=0, max=100, help="Maximum loss of F1 by int8, in points.")] = 0.5,
    force: Annotated[bool, typer.Option("--force", help="Replace a NAME.engine.json that is no model card.")] = False,
) -> None:
    """Compile a model. The result is a TensorRT engine, or an ONNX model in another precision for the CPU."""
    _need("build", "build", "onnx", *(["lap"] if precision == "int8" else []))
    from kinet_trt.cli.console import show_built, stages
    from kinet_trt.deploy import build as builder

    with stages("Building") as report:
        built = builder.build(
            model,
            out,
            precision,
            calibration=calibration,
            sizes=[(height, width) for width, height in map(_size, size or [])],
            batch=batch,
            fused=fused,
            runtime=runtime,
            max_loss=max_loss,
            force=force,
            timed=True,
            report=report,
        )
    show_built(built)


@app.command()
def package(
    triton: Annotated[Path, typer.Option("--triton", metavar="DIR", help="Triton model repository to write into.")],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="A .onnx, or a fused .engine. Default: the built-in model.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name on the server. Default: the model card's.")] = None,
    instances: Annotated[int, typer.Option(min=1, help="Frames counted at the same time on each GPU.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace a model of this name that is there.")] = False,
) -> None:
    """Write a model for a Triton server. Includes the configuration, labels and an example client."""
    from kinet_trt.cli.console import show_packaged
    from kinet_trt.deploy.triton.package import package as write

    show_packaged(write(model, triton, name=name, instances=instances, force=force), triton)


def _size(text: str) -> tuple[int, int]:
    """Return width and height."""
    try:
        width, height = (int(side) for side in text.lower().split("x"))
    except ValueError:
        width = height = 0
    if min(width, height) < 1:
        raise typer.BadParameter(f"--size: expected WxH (width x height) like 1920x1200, found {text!r}")
    return width, height


def _box(text: str) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a part of an image, px."""
    try:
        left, top, right, bottom = map(int, text.split(","))
    except ValueError:
        left = top = right = bottom = 0
    if not (0 <= left < right and 0 <= top < bottom):
        raise typer.BadParameter(f"--box: expected LEFT,TOP,RIGHT,BOTTOM in px, like 0,0,300,300, found {text!r}")
    return left, top, right, bottom


def _need(command: str, extra: str, *modules: str) -> None:
    """Raise unless an extra's packages can be imported."""
    from importlib.util import find_spec

    for module in modules:
        absent = sys.modules[module] is None if module in sys.modules else find_spec(module) is None
        if absent:
            raise MissingExtraError(f"kinet-trt {command}", extra, module)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn Ctrl-C into a message and its usual exit status, 130."""
    try:
        yield
    except KeyboardInterrupt as stop:
        typer.echo(str(stop) or "Interrupted.", err=True)
        raise typer.Exit(130) from None


@contextmanager
def _work_on(cluster: str | None, model: Path | None) -> Iterator[Work | None]:
    """Provide the function that counts a slide's tiles on a cluster; None: they are counted in this process."""
    if cluster is None:
        yield None
        return
    _need("count --cluster", "cluster", "distributed")
    from kinet_trt.slides.dask import connect, work_on

    with connect(cluster) as client:
        yield work_on(client, model)


def _pairs(option: str, values: list[str] | None) -> list[tuple[str, str]]:
    """Split ``NAME=VALUE`` options."""
    pairs = [value.partition("=")[::2] for value in values or []]
    if wrong := [name for name, value in pairs if not name or not value]:
        raise typer.BadParameter(f"{option}: expected NAME=VALUE, found {wrong[0]!r}")
    return pairs


def _threshold(text: str | None) -> Threshold | None:
    from kinet_trt.inference.counter import Threshold

    try:
        return Threshold.parse(text.replace(",", ".")) if text else None
    except KinetError as error:
        raise typer.BadParameter(str(error)) from None


def _check_names(
    targets: dict[str, str | None],
    format_: str = "table",
    *,
    folders: dict[str, Path | None] | None = None,
    out: tuple[str, ...] = (),
) -> bool:
    """Check the names of files and folders to write, before any work.

    Parameters
    ----------
    targets
        File names by option; ``-`` is standard output.
    format_
        Value of ``--format``: anything but a table is data on standard output.
    folders
        Folders by option.
    out
        Suffixes of ``--out``.

    Returns
    -------
    bool
        Whether standard output is for data, so that nothing else may be printed there.

    Raises
    ------
    BadParameter
        If a suffix is not one of the option's, a folder looks like a file, or two options write to standard output.
    KinetError
        If the package that writes a type of file is missing.
    """
    for option, target in targets.items():
        expected = out if option == "--out" else SUFFIXES[option]
        suffix = Path(target or "").suffix
        if suffix and suffix.lower() not in expected:
            raise typer.BadParameter(
                f"{option} {target}: expected a name that ends in {' or '.join(expected)}, found {suffix}"
            )
        if option == "--summary" and target and target != "-":
            from kinet_trt.io.tables import check_suffix

            check_suffix(Path(target))
    for option, folder in (folders or {}).items():
        if folder and folder.suffix.lower() in _FILE_SUFFIXES and not os.path.isdir(folder):
            raise typer.BadParameter(f"{option} {folder}: expected a folder, found the name of a {folder.suffix} file")
    data = [option for option, target in targets.items() if target == "-"]
    data += [f"--format {format_}"] if format_ != "table" else []
    if len(data) > 1:
        raise typer.BadParameter(f"{' and '.join(data)} both write to standard output: name a file for one of them")
    return bool(data)


def _check_targets(targets: dict[str, str | None], images: Sequence[Path]) -> None:
    """Raise if a file to write is an input, another file to write, or a folder."""
    taken = {os.path.abspath(image): str(image) for image in images}
    for option, target in targets.items():
        if not target or target == "-":
            continue
        place = os.path.abspath(target)
        if place in taken:
            raise typer.BadParameter(f"{option} {target}: the same file as {taken[place]}")
        if os.path.isdir(target):
            raise KinetError(f"{target}: cannot be written: it is a folder, expected a file name")
        taken[place] = f"that of {option}"


def _existing(target: str | None) -> list[Path]:
    """Return a file that writing to a target would replace; an empty one is no loss."""
    path = Path(target or "-")
    return [path] if target != "-" and path.is_file() and path.stat().st_size else []


def _check_existing(paths: Sequence[Path], force: bool) -> None:
    """Raise if files would be replaced that need ``--force``: derived names, and documents that people edit."""
    if paths and not force:
        others = f" ({len(paths)} such files)" if len(paths) > 1 else ""
        raise KinetError(f"{paths[0]} exists already{others}: --force replaces {'them' if others else 'it'}")


def _say_written(paths: Sequence[Path], err: bool) -> None:
    """Print the names of files that were written; of many, their number and folder."""
    from kinet_trt.cli.console import note

    for folder in dict.fromkeys(path.parent for path in paths):
        inside = [path for path in paths if path.parent == folder]
        if len(inside) > 3:
            note(f"written: {len(inside):,} files in {folder}", err=err)
            continue
        for path in inside:
            note(f"written: {path}", err=err)


def _write(target: str, content: str | bytes | Iterable[str], err: bool = False) -> None:
    """Write to a file, or to standard output where the target is ``-``; ``err``: report it on standard error."""
    from kinet_trt.core.files import encoded, write_atomic

    if target == "-":
        # Bytes: a text stream would translate line ends, and fail on names that it cannot encode.
        parts = [content] if isinstance(content, (str, bytes)) else content
        sys.stdout.buffer.writelines(map(encoded, parts))
        sys.stdout.buffer.flush()
    else:
        write_atomic(Path(target), content)
        _say_written([Path(target)], err)
