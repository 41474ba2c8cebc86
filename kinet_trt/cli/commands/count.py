"""``kinet-trt count``: count images and slides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinet_trt.cli.options import (
    GRADE_RANGES,
    BandsOption,
    CsvOption,
    FormatOption,
    HotSpotOption,
    HotSpotsOption,
    JsonOption,
    ModelOption,
    MppOption,
    PrecisionOption,
    ProtocolOption,
    RuntimeOption,
    ThreadsOption,
    ThresholdOption,
    parse_density,
    parse_stain,
    parse_threshold,
    require,
)
from kinet_trt.cli.outputs import check_existing, check_names, check_targets, existing, report_written, write
from kinet_trt.cli.progress import counting_progress
from kinet_trt.cli.terminal import engine_line, note, print_lines, print_rows, stdout_console
from kinet_trt.core.errors import KinetError, printable
from kinet_trt.core.ki67 import MIN_TUMOR_NUCLEI, Bands, Ki67, Statement
from kinet_trt.core.notice import NOTICE

if TYPE_CHECKING:
    from rich.console import Console

    from kinet_trt.core.protocols import ProtocolCount
    from kinet_trt.core.result import CountResult
    from kinet_trt.core.stain_scoring import HScore
    from kinet_trt.counting.run import CountRun
    from kinet_trt.slides.count import TileCounter


def count(
    images: Annotated[
        list[Path], typer.Argument(help="Images, slides, folders or patterns.", metavar="IMAGE|SLIDE|FOLDER...")
    ],
    model: ModelOption = None,
    mpp: MppOption = None,
    threshold: ThresholdOption = None,
    precision: PrecisionOption = "auto",
    runtime: RuntimeOption = "auto",
    threads: ThreadsOption = None,
    bands: BandsOption = "net",
    json_file: JsonOption = None,
    csv_file: CsvOption = None,
    summary: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write a table, one row per image: .csv or .xlsx; - writes CSV."),
    ] = None,
    format_: FormatOption = "table",
    geojson: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write NAME.geojson for QuPath into this folder.")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write NAME_overlay.png into this folder.")
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write a printable page (.html) with pictures, counts, index and notes."),
    ] = None,
    region: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Slides only: count inside these areas, GeoJSON from QuPath.")
    ] = None,
    hot_spot: HotSpotOption = 500,
    hot_spots: HotSpotsOption = None,
    protocol: ProtocolOption = None,
    positive_above: Annotated[
        float | None,
        typer.Option(
            parser=parse_density,
            metavar="OD",
            help="A tumour nucleus of this DAB optical density or more is positive, below it negative. Default: the "
            "network decides.",
        ),
    ] = None,
    h_score: Annotated[
        bool, typer.Option("--h-score", help="Also compute the H-score of the tumour nuclei from the DAB density.")
    ] = False,
    h_score_cuts: Annotated[
        str | None,
        typer.Option(
            metavar="OD,OD,OD",
            help="Lowest DAB optical density of 1+, 2+ and 3+; implies --h-score. [0.2,0.4,0.6]",
        ),
    ] = None,
    together: Annotated[bool, typer.Option("--together", help="Pool the images of one case.")] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Slides only: count on a Dask scheduler's workers; 'local' starts workers on this machine.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace existing files of --geojson, --overlay, --report and --summary.")
    ] = False,
) -> None:
    """Count the nuclei of images and whole slides. An interrupted slide is resumed."""
    from kinet_trt.core.protocols import check_protocol
    from kinet_trt.counting.find import find_images, skipped_files
    from kinet_trt.counting.geojson_and_overlays import Outputs, output_names
    from kinet_trt.counting.report import Case, build, make_case, picture_side
    from kinet_trt.counting.run import count_files
    from kinet_trt.inference.counter import NucleusCounter
    from kinet_trt.slides.region import read_region
    from kinet_trt.slides.slide import is_slide

    minimum = parse_threshold(threshold)
    stain = parse_stain(positive_above, h_score, h_score_cuts)
    check_protocol(protocol, hot_spot)
    targets = {"--json": json_file, "--csv": csv_file, "--summary": summary, "--report": report}
    stdout_has_data = check_names(targets, format_, folders={"--geojson": geojson, "--overlay": overlay})
    found = find_images(images, slides=True)
    for line in skipped_files(images, found):
        typer.echo(f"Warning: {line}", err=True)
    check_targets(targets, found)
    outputs = Outputs(geojson, overlay, output_names(found))
    check_existing([*outputs.existing(), *existing(summary), *existing(report)], force)
    if region and (pictures := [image for image in found if not is_slide(image)]):
        raise typer.BadParameter(f"--region is for slides only, and {pictures[0]} is an image")
    areas = read_region(region) if region else None
    cases: list[Case] = []
    side = picture_side(len(found))
    counter = NucleusCounter(model, threshold=minimum, precision=precision, threads=threads, runtime=runtime)
    with _interruptible(), _tile_counter(cluster, model) as tile_counter, counting_progress(found) as (files, on_tiles):
        run = count_files(
            files,
            counter,
            mpp,
            region=areas,
            hot_spot=hot_spot,
            stain=stain,
            hot_spots=hot_spots,
            protocol=protocol,
            pool=together,
            outputs=outputs,
            on_counted=(lambda counted, pixels: cases.append(make_case(counted, pixels, side))) if report else None,
            tile_counter=tile_counter,
            on_tiles=on_tiles,
            notify=lambda text: note(text, err=True),
        )
    if not stdout_has_data and run.results:
        show_run(run, GRADE_RANGES[bands])
    for result in run.results:
        for remark in result.remarks:
            typer.echo(f"Warning: {printable(result.image)}: {remark}", err=True)
    failed = {image for image, _ in run.errors}
    paths = [path for r in run.results if r.image not in failed for path in outputs.paths(r.image)]
    report_written(paths, stdout_has_data)
    errors = [f"{printable(image)}: {message}" for image, message in run.errors]
    contents: list[tuple[str | None, Callable[[str], str | bytes | Iterable[str]]]] = [
        (json_file, lambda _: run.to_json()),
        (csv_file, lambda _: run.to_csv()),
        (summary, run.summary),
        (report, lambda _: build(run, cases, bands=GRADE_RANGES[bands], hot_spot=hot_spot)),
        ("-" if format_ == "json" else None, lambda _: run.to_json()),
        ("-" if format_ == "plain" else None, lambda _: run.summary("plain")),
    ]
    for target, content in contents:
        try:
            if target:
                write(target, content(target), stdout_has_data)
        except KinetError as error:
            errors.append(str(error))
    for message in errors:
        typer.echo(f"Error: {message}", err=True)
    if errors:
        raise typer.Exit(1)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn Ctrl-C into a message and its usual exit status, 130."""
    try:
        yield
    except KeyboardInterrupt as stop:
        typer.echo(str(stop) or "Interrupted.", err=True)
        raise typer.Exit(130) from None


@contextmanager
def _tile_counter(cluster: str | None, model: Path | None) -> Iterator[TileCounter | None]:
    """Provide the function that counts a slide's tiles on a cluster; None if this process counts them."""
    if cluster is None:
        yield None
        return
    require("count --cluster", "cluster", "distributed")
    from kinet_trt.slides.dask import cluster_tile_counter, connect

    with connect(cluster) as client:
        yield cluster_tile_counter(client, model)


def show_run(run: CountRun, bands: Bands | None) -> None:
    """Print a table of the results, and the result of one image, or of all images pooled, in sentences."""
    from kinet_trt.core.protocols import statement_bands

    console = stdout_console()
    results, pooled, engine = run.results, run.pooled, run.counter.engine
    protocol = results[0].protocol
    net = statement_bands(protocol.name if protocol else None, bands)
    statements = [result.statement(net) for result in results]
    total = pooled.statement(net) if pooled else None
    several = len(results) > 1
    headers, rows = _rows(run, statements, total)
    bold = [bool(statement.warning) for statement in [*statements, *([total] if total else [])]]
    print_rows(console, headers, rows, bold=bold[: len(rows)])
    if several and total is None:
        _show_notes(console, results, statements)
    else:
        statement = total or statements[0]
        for sentence in statement.sentences():
            console.print(sentence, style="bold" if sentence == statement.warning else None, soft_wrap=True)
        in_image = ""
        if several and pooled and pooled.hot_spot_image:
            in_image = f"in {printable(pooled.hot_spot_image.name)}, "
        if spot := pooled.hot_spot if pooled else results[0].hot_spot:
            position = f"within {spot.radius:,.0f} µm of px {spot.x:,.0f}, {spot.y:,.0f}"
            print_lines(console, [f"The hot spot lies {in_image}{position}."])
    lines = [*_field_lines(run, ranges=bands is not None), *_stain_lines(run)]
    if several and any("?" in cell for row in rows for cell in row[-3:]):
        lines.append(f"?: provisional, fewer than {MIN_TUMOR_NUCLEI} tumour nuclei.")
    if unknown := sum(result.mpp_source == "model" for result in results):
        count_text = f" of {unknown} of {len(results)} images" if several else ""
        lines.append(f"The µm/px{count_text} is not known: the model's {engine.card.mpp:g} was used; --mpp sets it.")
    print_lines(console, lines)
    scales = {_scale(result) for result in results}
    scale = f", {scales.pop().replace(' ', ' µm/px ')}" if len(scales) == 1 else ""
    console.print(f"{engine_line(run.counter)}{scale}.", style="dim", soft_wrap=True)
    print_lines(console, [NOTICE])


def _field_lines(run: CountRun, *, ranges: bool) -> list[str]:
    """Return sentences on the hot spots and the protocol of one image or of all together."""
    result = run.pooled or (run.results[0] if len(run.results) == 1 else None)
    if result is None:
        fields = run.results[0].protocol or run.results[0].hot_spots
        return ["--json lists the fields of each image, --geojson draws them."] if fields else []
    spots = [pair[0] if isinstance(pair, tuple) else pair for pair in result.hot_spots or ()]
    lines = [
        f"Hot spot {number}: {100 * (spot.ki67.index or 0):.1f}%, within {spot.radius:,.0f} µm of px "
        f"{spot.x:,.0f}, {spot.y:,.0f}."
        for number, spot in enumerate(spots, 1)
    ]
    no_range = result.unlike or not ranges
    return [*lines, *(result.protocol.sentences(ranges=not no_range) if result.protocol else [])]


def _stain_lines(run: CountRun) -> list[str]:
    """Return sentences on the positivity cut-off and the H-score."""
    from kinet_trt.core.stain_scoring import positive_sentence

    first = run.results[0]
    lines = [] if first.positive_above is None else [positive_sentence(first.positive_above)]
    h_score = run.pooled.h_score if run.pooled else first.h_score
    if h_score and (run.pooled or len(run.results) == 1):
        lines.append(h_score.sentence())
    elif h_score:
        lines.append(f"H-score: lowest DAB optical density of 1+, 2+ and 3+: {h_score.cut_text}.")
    return lines


def _rows(run: CountRun, statements: Sequence[Statement], total: Statement | None) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table."""
    from kinet_trt.core.detections import class_name

    results, pooled = run.results, run.pooled
    has_spots = any(statement.hot_spot for statement in statements)
    scales = [_scale(result) for result in results]
    has_h_scores = any(result.h_score for result in results)
    has_scales = len({*scales}) > 1  # one scale for all is not worth a column
    headers = [
        "image",
        *(["µm/px"] if has_scales else []),
        *map(class_name, run.counter.engine.card.classes),
        "Ki67 % (95%)",
        *(["H-score"] if has_h_scores else []),
        *(["hot spot"] if has_spots else []),
        *([f"{protocol.name} %"] if (protocol := results[0].protocol) else []),
    ]
    rows = [
        (printable(result.image.name), scale, result.counts, statement, result.h_score, result.protocol)
        for result, scale, statement in zip(results, scales, statements, strict=True)
    ]
    if pooled and total and len(results) > 1:
        rows.append(("pooled", "", pooled.counts, total, pooled.h_score, pooled.protocol))
    table = []
    for name, scale, counts, statement, h_score, protocol in rows:
        spot = statement.hot_spot
        spot_text = f"{100 * (spot.index or 0):.1f}{_range(statement, spot)}" if spot else ""
        table.append(
            [
                name,
                *([scale] if has_scales else []),
                *map(str, counts.values()),
                f"{_percent(statement.average)}{_range(statement, statement.average)}",
                *([_h_score(h_score)] if has_h_scores else []),
                *([spot_text] if has_spots else []),
                *([_protocol(protocol)] if protocol else []),
            ]
        )
    return headers, table


def _h_score(h_score: HScore | None) -> str:
    return "-" if h_score is None or h_score.score is None else f"{h_score.score:.1f}"


def _protocol(counted: ProtocolCount) -> str:
    return (
        "-" if counted.index is None else f"{100 * counted.index:.1f}{' (incomplete)' if counted.provisional else ''}"
    )


def _scale(result: CountResult) -> str:
    return f"{result.mpp:.4g} ({result.mpp_source})"


def _range(statement: Statement, ki67: Ki67) -> str:
    """Return the grade range of an index, with a ? while it is provisional."""
    name = statement.range_of(ki67)
    return f" {name}{'?' if ki67.provisional else ''}" if name else ""


def _percent(ki67: Ki67) -> str:
    """Return an index and its interval in %."""
    if ki67.index is None or ki67.interval is None:
        return "-"
    low, high = ki67.interval
    return f"{100 * ki67.index:.1f} ({100 * low:.1f} - {100 * high:.1f})"


def _show_notes(console: Console, results: Sequence[CountResult], statements: Sequence[Statement]) -> None:
    """Print notes on the rows of several images."""
    warned = [(printable(r.image.name), s) for r, s in zip(results, statements, strict=True) if s.warning]
    if differing := [name for name, statement in warned if not statement.no_range]:
        console.print(
            f"The hot spot is in a different range from the average: {', '.join(differing)}. WHO grades by the hot "
            "spot.",
            style="bold",
            soft_wrap=True,
        )
    if out_of_distribution := [name for name, statement in warned if statement.no_range]:
        names = ", ".join(out_of_distribution)
        print_lines(
            console, [f"No grade range is given where an image looks unlike the model's training data: {names}."]
        )
    print_lines(console, ["Each image is counted separately; --together pools the images of one case."])
