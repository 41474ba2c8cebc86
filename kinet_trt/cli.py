"""The command line: one command is a few lines over the library."""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kinet_trt import NOTICE
from kinet_trt.errors import KinetError, MissingExtraError, printable
from kinet_trt.logs import be_verbose, to_terminal
from kinet_trt.telemetry import switch_off

if TYPE_CHECKING:
    from kinet_trt.count import Counted
    from kinet_trt.counter import Threshold
    from kinet_trt.slides.counted import CountedSlide, Work

app = typer.Typer(
    name="kinet-trt",
    help=f"Count nuclei in Ki67-stained tissue. {NOTICE}",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[
    Path | None, typer.Option("--model", "-m", help="A .onnx or .engine model; left out: the small one inside.")
]
Precision = Annotated[Literal["auto", "fp32", "bf16", "fp16", "int8"], typer.Option(help="What to compute in.")]
Runtime = Annotated[Literal["auto", "openvino", "onnxruntime"], typer.Option(help="What runs the model.")]
Mpp = Annotated[float | None, typer.Option(help="um/px of the images; left out: the file's tag or the model's.")]
ThresholdText = Annotated[
    str | None, typer.Option("--threshold", help="Least peak height; or relative:XI (the paper).")
]
JsonFile = Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write JSON; - is standard output.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; left out: all.")]


def main() -> None:
    """Run the command line; a user's error is one message and exit status 1."""
    switch_off()
    to_terminal()
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal has no letters for (Windows' code pages) must not end the run.
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


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more of what is done.")] = False,
) -> None:
    del version
    if verbose:
        be_verbose()


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("demo"),
    model: Model = None,
    precision: Precision = "auto",
) -> None:
    """Count a simulated field with known ground truth and a real one, and write labelled fields to try commands on."""
    from kinet_trt import demo as fields
    from kinet_trt.counter import Counter
    from kinet_trt.ki67 import Ki67, class_name

    counter = Counter(model, precision=precision)
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
        list[Path], typer.Argument(help="Images, slides, folders or globs.", metavar="IMAGE|SLIDE|FOLDER...")
    ],
    model: Model = None,
    mpp: Mpp = None,
    threshold: ThresholdText = None,
    precision: Precision = "auto",
    runtime: Runtime = "auto",
    threads: Threads = None,
    bands: Annotated[Literal["net", "none"], typer.Option(help="Grade ranges: of NET, or none.")] = "net",
    json_file: JsonFile = None,
    csv_file: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Write CSV; - is standard output.")
    ] = None,
    geojson: Annotated[Path | None, typer.Option(metavar="DIR", help="Write STEM.geojson for QuPath.")] = None,
    overlay: Annotated[Path | None, typer.Option(metavar="DIR", help="Write STEM_overlay.png.")] = None,
    region: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of slides: count only in these areas, a QuPath GeoJSON.")
    ] = None,
    hot_spot: Annotated[int, typer.Option(min=10, help="Tumour nuclei of a hot spot.")] = 500,
    together: Annotated[bool, typer.Option("--together", help="Pool the images: they are of one case.")] = False,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Of slides: count them on this Dask scheduler's workers; or local."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files in --geojson and --overlay folders.")] = False,
) -> None:
    """Count the nuclei of images and whole slides; a slide that was interrupted is resumed."""
    from kinet_trt.count import Outputs, count_image, find_images, json_parts, output_names, skipped, table_parts
    from kinet_trt.counter import Counter
    from kinet_trt.ki67 import NET
    from kinet_trt.slides import is_slide
    from kinet_trt.slides.counted import count_slide
    from kinet_trt.slides.region import read_region
    from kinet_trt.terminal import counting, show_counted
    from kinet_trt.together import Together

    _check_mpp(mpp)
    least = _threshold(threshold)
    found = find_images(images, slides=True)
    for line in skipped(images, found):
        typer.echo(f"Warning: {line}", err=True)
    _check_targets({"--json": json_file, "--csv": csv_file}, found)
    outputs = Outputs(geojson, overlay, output_names(found))
    if not force and (existing := outputs.existing()):
        raise KinetError(f"{existing[0]} exists already ({len(existing)} such files): --force replaces them")
    slides = {image for image in found if is_slide(image)}
    if region and (pictures := [image for image in found if image not in slides]):
        raise typer.BadParameter(f"--region goes with slides, and {pictures[0]} is a picture")
    areas = read_region(region) if region else None
    counter = Counter(model, threshold=least, precision=precision, threads=threads, runtime=runtime)

    def tell(text: str) -> None:
        typer.echo(text, err=True)

    counted: list[Counted | CountedSlide] = []
    errors: list[tuple[Path, str]] = []
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
                        tell=tell,
                    )
                    counted.append(whole)
                    outputs.write_slide(whole, small)
                else:
                    field, frame = count_image(counter, image, mpp, hot_spot)
                    counted.append(field)
                    outputs.write(field, frame)
            except KinetError as error:
                errors.append((image, str(error)))
    total = Together.of(counted) if together else None
    if "-" not in (json_file, csv_file) and counted:
        show_counted(counted, counter, NET if bands == "net" else None, total)
    for one in counted:
        for remark in one.remarks:
            typer.echo(f"Warning: {printable(one.image)}: {remark}", err=True)
    messages = [f"{printable(image)}: {message}" for image, message in errors]
    for target in filter(None, (json_file, csv_file)):
        try:
            _write(target, json_parts(counter, counted, errors, total) if target == json_file else table_parts(counted))
        except KinetError as error:
            messages.append(str(error))
    for message in messages:
        typer.echo(f"Error: {message}", err=True)
    if messages:
        raise typer.Exit(1)


@app.command()
def live(
    source: Annotated[
        str, typer.Argument(help="A camera: 0, rtsp://..., a video, a folder, mm:CONFIG.cfg, gst:..., sim:")
    ],
    sessions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where sessions are kept; left out: the user's data folder.")
    ] = None,
    title: Annotated[str, typer.Option(help="Of a new session: what stands over its report.")] = "",
    reader: Annotated[str, typer.Option(help="Of a new session: who counts.")] = "",
    auto: Annotated[bool, typer.Option("--auto", help="Capture by itself when the stage rests.")] = False,
    host: Annotated[str, typer.Option(help="Where to serve the page; others than this machine need a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="8765; 0 takes a free one.")] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    hot_spot: Annotated[int, typer.Option(min=10, help="Tumour nuclei of a hot spot.")] = 500,
    bands: Annotated[Literal["net", "none"], typer.Option(help="Grade ranges: of NET, or none.")] = "net",
    shortcut: Annotated[
        bool, typer.Option("--install-shortcut", help="Put this command on the desktop, and end.")
    ] = False,
    headless: Annotated[
        bool, typer.Option("--headless", help="No page: one JSON line a counted frame on standard output.")
    ] = False,
    frames: Annotated[int | None, typer.Option(min=1, help="With --headless: stop after this many.")] = None,
    detections: Annotated[bool, typer.Option("--detections", help="With --headless: each nucleus too.")] = False,
    model: Model = None,
    mpp: Mpp = None,
    threshold: ThresholdText = None,
    precision: Precision = "auto",
    runtime: Runtime = "auto",
    threads: Threads = None,
) -> None:
    """Count what a camera on a microscope sees; python -m pydoc kinet_trt.live.headless explains the JSON lines."""
    from kinet_trt.camera import open_source
    from kinet_trt.counter import Counter

    if not headless:
        if frames or detections:
            raise typer.BadParameter("--frames and --detections go with --headless")
        _need("live", "live", "fastapi", "uvicorn", "websockets")
    _check_mpp(mpp)
    least = _threshold(threshold)
    camera = open_source(source, every_frame=headless)
    if shortcut:
        from kinet_trt.live.shortcut import install

        typed = [one for one in sys.argv[1:] if one != "--install-shortcut"]
        for path in install(typed, sys.platform):
            typer.echo(f"written: {path}")
        return

    def tell(text: str) -> None:
        typer.echo(text, err=headless)

    counter = Counter(model, threshold=least, precision=precision, threads=threads, runtime=runtime)
    if headless:
        from kinet_trt.live import headless as lines

        raise typer.Exit(
            lines.run(camera, counter, sys.stdout.buffer, tell, mpp=mpp, frames=frames, detections=detections)
        )
    from kinet_trt.ki67 import NET
    from kinet_trt.live import serve

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
    fields: Annotated[Path, typer.Argument(help="A folder of labelled fields.")],
    model: Model = None,
    classes: Annotated[str | None, typer.Option(help="Classes that are labelled, like positive,negative.")] = None,
    split: Annotated[str | None, typer.Option(help="Only the fields of this split, like val.")] = None,
    mpp: Mpp = None,
    threshold: ThresholdText = None,
    precision: Precision = "auto",
    runtime: Runtime = "auto",
    threads: Threads = None,
    json_file: JsonFile = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the precision-recall curve.")] = None,
    overlay: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw misses and inventions of each field.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files in the --overlay folder.")] = False,
) -> None:
    """Hold a model to labelled fields, by the paper's metrics."""
    _need("eval", "eval", "lap", *(["matplotlib"] if plot else []))
    from kinet_trt.count import Outputs, output_names
    from kinet_trt.counter import Counter
    from kinet_trt.evaluate import Evaluation, curve_png, evaluate_field, picture, to_json
    from kinet_trt.fields import guess, label, read_fields, with_nuclei
    from kinet_trt.files import write_atomic
    from kinet_trt.overlay import to_png
    from kinet_trt.terminal import show_evaluation, track

    _check_mpp(mpp)
    least = _threshold(threshold)
    chosen = with_nuclei([f for f in read_fields(fields, mpp) if split in (None, f.split)])
    if not chosen:
        raise KinetError(f"{fields}: no fields with nuclei" + (f" of the split {split!r}" if split else ""))
    if classes:
        chosen = label(chosen, classes.split(","))
    elif sentence := guess(chosen):
        typer.echo(sentence, err=json_file == "-")
    outputs = Outputs(None, overlay, output_names([f.image for f in chosen]))
    _check_targets({"--json": json_file, "--plot": str(plot) if plot else None}, [f.image for f in chosen])
    if not force and (existing := outputs.existing()):
        raise KinetError(f"{existing[0]} exists already ({len(existing)} such files): --force replaces them")
    counter = Counter(model, threshold=least, precision=precision, threads=threads, runtime=runtime)
    done = []
    for f in track(chosen, "Evaluating"):
        one = evaluate_field(counter, f, mpp)
        done.append(one)
        if overlay:
            write_atomic(outputs.overlay_of(f.image), to_png(picture(one, one.mpp / counter.engine.card.mpp)))
    evaluation = Evaluation(tuple(done))
    if json_file != "-":
        show_evaluation(evaluation, counter)
    if plot:
        write_atomic(plot, curve_png(evaluation, counter.engine.card.name))
    if json_file:
        _write(json_file, to_json(counter, evaluation))


@app.command()
def bench(
    fields: Annotated[Path | None, typer.Argument(help="Labelled fields: measure accuracy too.")] = None,
    models: Annotated[
        list[Path] | None, typer.Option("--model", "-m", help="Models; left out: the one inside.")
    ] = None,
    precisions: Annotated[list[str] | None, typer.Option("--precision", help="May be given several times.")] = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    size: Annotated[str, typer.Option(metavar="WxH", help="Of the frame, px.")] = "608x608",
    rounds: Annotated[int, typer.Option(min=3, help="How often each is timed.")] = 20,
    yardsticks: Annotated[bool, typer.Option(help="Compare with eager PyTorch (extra train).")] = True,
    split: Annotated[str | None, typer.Option(help="With FIELDS: only those of this split, like val.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="With FIELDS: draw latency and accuracy.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Time the stages of a count, in turn with what they are compared to."""
    from kinet_trt.bench import Setting, Yardsticks, accuracy, frame_of, measure, plot_png
    from kinet_trt.fields import read_fields, with_nuclei
    from kinet_trt.files import write_atomic
    from kinet_trt.terminal import show_bench, steps

    if (plot or split) and not fields:
        raise typer.BadParameter("--plot and --split: expected FIELDS too, a folder of labelled fields")
    if fields:
        _need("bench", "eval", "lap", *(["matplotlib"] if plot else []))
        labelled = with_nuclei([f for f in read_fields(fields) if split in (None, f.split)])
        if not labelled:
            raise KinetError(f"{fields}: no fields with nuclei" + (f" of the split {split!r}" if split else ""))
    try:
        width, height = (int(side) for side in size.lower().split("x"))
    except ValueError:
        raise typer.BadParameter(f"--size: expected WxH like 608x608, found {size!r}") from None
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
    if plot:
        write_atomic(plot, plot_png(document["rows"], document["size"]))
    if json_file != "-":
        show_bench(document["rows"])
    if json_file:
        _write(json_file, json.dumps(document, indent=1) + "\n")


@app.command()
def train(
    fields: Annotated[Path, typer.Argument(help="A folder of labelled fields.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint to write.")],
    recipe: Annotated[
        Literal["paper", "best", "tune"] | None,
        typer.Option(help="The paper's regime, ours, or ours for few fields; left out: paper, or tune with --from."),
    ] = None,
    network: Annotated[
        Literal["kinet", "okinet", "skinet", "fcn8s", "unet", "fcrn-a", "fcrn-b", "sfcn-opi", "frcn"],
        typer.Option(help="KiNet; without the region task; by stages; or one that its paper compares it with."),
    ] = "kinet",
    architecture: Annotated[
        Literal["paper", "release"] | None, typer.Option(help="KiNet's in the paper, or the release's.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Channels at full resolution; left out: 32, or those of --from.")
    ] = None,
    activation: Annotated[
        Literal["elu", "relu"] | None, typer.Option(help="After each convolution; left out: elu for KiNet, else relu.")
    ] = None,
    roi: Annotated[bool, typer.Option(help="Train the tumour-region branch too.")] = True,
    dropout: Annotated[
        float | None, typer.Option(min=0, max=0.95, help="Channel dropout rate; left out: 0.5, or that of --from.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    weight: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE=F", help="Draw a source F times as often.")
    ] = None,
    partial: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE=CLASS", help="A source that marks only some nuclei of a class.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Classes that are labelled, like positive,negative.")] = None,
    mpp: Annotated[float | None, typer.Option(help="um/px of the fields; left out: the file's tag or 0.34.")] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="What to begin with: a .pt, an exported .onnx, or kinet-edge. Its network counts."),
    ] = None,
    teacher: Annotated[Path | None, typer.Option(help="Checkpoint whose maps are imitated beside the labels.")] = None,
    unlabelled: Annotated[
        Path | None, typer.Option(help="Images without labels, for the teacher to speak of.", metavar="DIR")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and crops.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="About a minute, with 8 channels: to see that everything works.")
    ] = False,
) -> None:
    """Train a network on labelled fields; an interrupted run goes on where it was."""
    _need("train", "train", "torch", "lap", *(["onnx"] if start and start.suffix != ".pt" else []))
    from kinet_trt.export.workshop import train_fields
    from kinet_trt.terminal import training_bar

    _check_mpp(mpp)
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


@app.command("import-weights")
def import_weights(
    file: Annotated[Path, typer.Argument(help="A state dict of the authors' release, like ki67net-best.pth.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint to write.")],
    calibrate: Annotated[
        Path | None, typer.Option(metavar="FIELDS", help="Estimate the norms' running statistics on these.")
    ] = None,
) -> None:
    """Turn the weights of KiNet's authors into a checkpoint, and say what that changed."""
    _need("import-weights", "train", "torch", "lap")
    from kinet_trt.export.import_weights import import_weights as take

    _check_targets({"--out": str(out)}, [file])
    imported = take(file, out, calibrate)
    typer.echo(f"{out}: " + "\n".join(imported.sentences()))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of kinet-trt train.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="ONNX file to write.")],
    precision: Annotated[Literal["fp32", "fp16"], typer.Option(help="What it computes in, everywhere.")] = "fp32",
    half_weights: Annotated[
        bool, typer.Option("--half-weights", help="Store FP16, compute FP32: half the size.")
    ] = False,
    roi: Annotated[bool, typer.Option("--roi", help="Give the tumour-region map too.")] = False,
    images: Annotated[Path | None, typer.Option(help="Images for the check; left out: simulated fields.")] = None,
) -> None:
    """Turn a checkpoint into an ONNX model with a model card, and hold it to PyTorch."""
    _need("export", "train", "torch", "onnx", "onnxscript", "onnxsim")
    from kinet_trt.export.workshop import export_checkpoint

    card, parity = export_checkpoint(checkpoint, out, precision, half_weights, roi, images)
    same = parity.agreement
    typer.echo(f"{out}: {card.network}, {card.precision}, {out.stat().st_size / 1e6:.1f} MB")
    typer.echo(
        f"Against PyTorch on {parity.images} fields: max error {parity.max_error:.2g}; "
        f"{same.same} detections the same, {same.only_first} only in PyTorch, {same.only_second} only in ONNX."
    )


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="A session file of kinet-trt live.", metavar="SESSION")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="HTML file to write.")] = None,
    session: Annotated[int | None, typer.Option(help="Which, where the file holds several.")] = None,
    csv_file: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Write the nuclei as CSV; - is standard output.")
    ] = None,
    geojson: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write field-NNN.geojson and .png for QuPath.")
    ] = None,
    hot_spot: Annotated[int, typer.Option(min=10, help="Tumour nuclei of a hot spot.")] = 500,
    bands: Annotated[Literal["net", "none"], typer.Option(help="Grade ranges: of NET, or none.")] = "net",
    force: Annotated[bool, typer.Option("--force", help="Replace files in the --geojson folder.")] = False,
) -> None:
    """Write the report of a session; without a file to write, list the sessions."""
    from kinet_trt.files import write_atomic
    from kinet_trt.ki67 import NET
    from kinet_trt.live.export import nuclei_csv, write_geojson
    from kinet_trt.live.session import OpenSession
    from kinet_trt.live.store import Store
    from kinet_trt.report import build, choose, listing

    _check_targets({"--out": str(out) if out else None, "--csv": csv_file}, [file])
    with Store.open(file, create=False) as store:
        if not (out or csv_file or geojson):
            typer.echo("\n".join(listing(store)))
            return
        chosen = choose(store, session)
        if out:
            write_atomic(out, build(store, chosen.id, bands=NET if bands == "net" else None, hot_spot=hot_spot))
        if csv_file or geojson:
            counted = OpenSession(store, chosen.id).count()
            if geojson:
                write_geojson(store, counted, geojson, force=force)
            if csv_file:
                _write(csv_file, nuclei_csv(counted))


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A .onnx, a .engine, or a .pt of kinet-trt train.")],
    json_file: JsonFile = None,
) -> None:
    """Show a model's card, layers, precisions and memory; nothing of it is run."""
    from kinet_trt.inspect_model import inspect_file
    from kinet_trt.terminal import show_model

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
        _write(json_file, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


@app.command()
def doctor(json_file: JsonFile = None) -> None:
    """Say what is here, what does not fit together, and what mends it."""
    from kinet_trt import doctor as look
    from kinet_trt.terminal import show_doctor, steps

    _check_targets({"--json": json_file}, [])
    with steps("Looking") as report:
        seen = look.look(report)
    if json_file != "-":
        show_doctor(look.rows(seen), look.findings(seen), look.verdict(seen))
    if json_file:
        _write(json_file, json.dumps(look.to_json(seen), indent=1, ensure_ascii=False) + "\n")
    if not seen.counts:
        raise typer.Exit(1)


@app.command()
def build(
    out: Annotated[Path, typer.Option("--out", "-o", help="NAME.engine (TensorRT) or NAME.onnx (CPU).")],
    model: Annotated[Path | None, typer.Argument(help="A .onnx model; left out: the small one inside.")] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None, typer.Option(help="Left out: fp16, or what the model is already.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Fields for int8, better with labels.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="HxW", help="Of the frames, px. Several: all between, fastest at the first. None: any."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Most frames at a time.")] = 1,
    fused: Annotated[bool, typer.Option("--fused", help="Find the nuclei inside the model.")] = False,
    runtime: Annotated[
        Literal["auto", "tensorrt", "tensorrt-rtx"], typer.Option(help="What builds an engine.")
    ] = "auto",
    max_loss: Annotated[float, typer.Option(min=0, max=100, help="Points of F1 that int8 may cost.")] = 0.5,
    force: Annotated[bool, typer.Option("--force", help="Replace a NAME.engine.json that is no card.")] = False,
) -> None:
    """Compile a model: a TensorRT engine, or an ONNX model of another precision for the CPU."""
    _need("build", "build", "onnx", *(["lap"] if precision == "int8" else []))
    from kinet_trt import build as builder
    from kinet_trt.terminal import show_built, stages

    with stages("Building") as report:
        built = builder.build(
            model,
            out,
            precision,
            calibration=calibration,
            sizes=[_size(text) for text in size or []],
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
    triton: Annotated[Path, typer.Option("--triton", metavar="DIR", help="A Triton model repository to write into.")],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="A .onnx, or a fused .engine; left out: the small one inside.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the model on the server; left out: the card's.")] = None,
    instances: Annotated[int, typer.Option(min=1, help="Frames counted at a time, on each GPU.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace a model of this name written here before.")] = False,
) -> None:
    """Write a model as a server serves it: configuration, fused model, labels, a client to take from."""
    from kinet_trt.terminal import show_packaged
    from kinet_trt.triton import package as write

    show_packaged(write(model, triton, name=name, instances=instances, force=force), triton)


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise typer.BadParameter(f"--size: expected HxW like 1200x1920, found {text!r}") from None
    return height, width


def _need(command: str, extra: str, *modules: str) -> None:
    """Raise unless an extra's packages can be imported."""
    from importlib.util import find_spec

    for module in modules:
        absent = sys.modules[module] is None if module in sys.modules else find_spec(module) is None
        if absent:
            raise MissingExtraError(f"kinet-trt {command}", extra, module)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn Ctrl-C into a message and the exit status that shells expect of it, 130."""
    try:
        yield
    except KeyboardInterrupt as stop:
        typer.echo(str(stop) or "Interrupted.", err=True)
        raise typer.Exit(130) from None


@contextmanager
def _work_on(cluster: str | None, model: Path | None) -> Iterator[Work | None]:
    """Give what counts a slide's tiles on a cluster; None: they are counted here."""
    if cluster is None:
        yield None
        return
    _need("count --cluster", "cluster", "distributed")
    from kinet_trt.cluster import connect, work_on

    with connect(cluster) as client:
        yield work_on(client, model)


def _pairs(option: str, values: list[str] | None) -> list[tuple[str, str]]:
    """Split ``NAME=VALUE`` options."""
    pairs = [value.partition("=")[::2] for value in values or []]
    if wrong := [name for name, value in pairs if not name or not value]:
        raise typer.BadParameter(f"{option}: expected NAME=VALUE, found {wrong[0]!r}")
    return pairs


def _check_mpp(mpp: float | None) -> None:
    if mpp is not None and not 0.01 <= mpp <= 100:
        raise typer.BadParameter(f"--mpp: expected um/px from 0.01 to 100, found {mpp}")


def _threshold(text: str | None) -> Threshold | None:
    from kinet_trt.counter import Threshold

    try:
        return Threshold.parse(text) if text else None
    except KinetError as error:
        raise typer.BadParameter(str(error)) from None


def _check_targets(targets: dict[str, str | None], images: list[Path]) -> None:
    """Raise if what is to be written would replace an image or one another, or can be no file: before the work."""
    taken = {os.path.abspath(image): str(image) for image in images}
    for option, target in targets.items():
        if not target:
            continue
        place = target if target == "-" else os.path.abspath(target)
        if place in taken:
            raise typer.BadParameter(f"{option} {target}: that is {taken[place]} already")
        if target != "-" and os.path.isdir(target):
            raise KinetError(f"{target}: cannot be written: it is a folder, expected a file name")
        taken[place] = f"the file of {option}"


def _write(target: str, content: str | Iterable[str]) -> None:
    from kinet_trt.files import encoded, write_atomic

    if target == "-":
        # Bytes: a text stream would turn line ends and refuse names that it has no letters for.
        sys.stdout.buffer.writelines(map(encoded, [content] if isinstance(content, str) else content))
        sys.stdout.buffer.flush()
    else:
        write_atomic(Path(target), content)
