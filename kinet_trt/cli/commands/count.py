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
    JsonOption,
    ModelOption,
    MppOption,
    PrecisionOption,
    RuntimeOption,
    ThreadsOption,
    ThresholdOption,
    parse_threshold,
    require,
)
from kinet_trt.cli.outputs import check_existing, check_names, check_targets, existing, report_written, write
from kinet_trt.cli.progress import counting
from kinet_trt.cli.terminal import note, print_rows, stdout_console
from kinet_trt.core.errors import KinetError, printable
from kinet_trt.core.ki67 import MIN_TUMOR_NUCLEI, Bands, Ki67, Statement
from kinet_trt.core.notice import NOTICE

if TYPE_CHECKING:
    from rich.console import Console

    from kinet_trt.counting.pictures import Counted
    from kinet_trt.counting.together import Together
    from kinet_trt.inference.counter import NucleusCounter
    from kinet_trt.slides.count import CountedSlide, Work


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
    region: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Slides only: count inside these areas, GeoJSON from QuPath.")
    ] = None,
    hot_spot: HotSpotOption = 500,
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

    minimum = parse_threshold(threshold)
    targets = {"--json": json_file, "--csv": csv_file, "--summary": summary}
    has_data = check_names(targets, format_, folders={"--geojson": geojson, "--overlay": overlay})
    found = find_images(images, slides=True)
    for line in skipped(images, found):
        typer.echo(f"Warning: {line}", err=True)
    check_targets(targets, found)
    outputs = Outputs(geojson, overlay, output_names(found))
    check_existing([*outputs.existing(), *existing(summary)], force)
    slides = {image for image in found if is_slide(image)}
    if region and (pictures := [image for image in found if image not in slides]):
        raise typer.BadParameter(f"--region is for slides only, and {pictures[0]} is a picture")
    areas = read_region(region) if region else None
    counter = NucleusCounter(model, threshold=minimum, precision=precision, threads=threads, runtime=runtime)

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
        show_counted(counted, counter, GRADE_RANGES[bands], total)
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
    report_written(written, has_data)
    for target, content in contents:
        if target:
            try:
                write(target, content(target), has_data)
            except KinetError as error:
                messages.append(str(error))
    for message in messages:
        typer.echo(f"Error: {message}", err=True)
    if messages:
        raise typer.Exit(1)


def show_counted(
    counted: Sequence[Counted | CountedSlide],
    counter: NucleusCounter,
    bands: Bands | None,
    together: Together | None = None,
) -> None:
    """Print a table of counted images, and the result of one image or of all together in sentences."""
    console = stdout_console()
    statements = [one.statement(bands) for one in counted]
    total = together.statement(bands) if together else None
    several = len(counted) > 1
    headers, rows = _counted_rows(counted, statements, counter, together, total)
    bold = [bool(statement.warning) for statement in [*statements, *([total] if total else [])]]
    print_rows(console, headers, rows, bold=bold[: len(rows)])
    if several and total is None:
        _show_each(console, counted, statements)
    else:
        _show_statement(console, total or statements[0])
        where = printable(together.hot_spot_image.name) if together and together.hot_spot_image and several else ""
        if spot := together.hot_spot if together else counted[0].hot_spot:
            console.print(
                f"The hot spot lies {f'in {where}, ' if where else ''}within {spot.radius:,.0f} um of "
                f"px {spot.x:,.0f}, {spot.y:,.0f}.",
                soft_wrap=True,
            )
    if several and any(
        _range_of(s, ki67).endswith("?") for s in statements for ki67 in (s.average, s.hot_spot) if ki67
    ):
        console.print(f"?: provisional, fewer than {MIN_TUMOR_NUCLEI} tumour nuclei.", soft_wrap=True)
    engine = counter.engine
    if unknown := sum(one.mpp_source == "model" for one in counted):
        of = f" of {unknown} of {len(counted)} images" if several else ""
        console.print(
            f"The um/px{of} is not known: the model's {engine.card.mpp:g} was used; --mpp sets it.", soft_wrap=True
        )
    scales = {_scale_of(one) for one in counted}
    scale = f", {scales.pop().replace(' ', ' um/px ')}" if len(scales) == 1 else ""
    how = f"{engine.card.name} on {engine.runtime}, {engine.precision}, threshold {counter.threshold}{scale}."
    console.print(how, style="dim", soft_wrap=True)
    console.print(NOTICE, soft_wrap=True)


def _counted_rows(
    counted: Sequence[Counted | CountedSlide],
    statements: Sequence[Statement],
    counter: NucleusCounter,
    together: Together | None,
    total: Statement | None,
) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table."""
    from kinet_trt.core.detections import class_name

    spots = any(statement.hot_spot for statement in statements)
    classes = map(class_name, counter.engine.card.classes)
    scales = [_scale_of(one) for one in counted]
    several = len({*scales}) > 1  # one that holds for all is not worth a column
    headers = [
        "image",
        *(["um/px"] if several else []),
        *classes,
        "Ki67 % (95%)",
        *(["hot spot"] if spots else []),
    ]
    rows = [(printable(one.image.name), scale, one.counts) for one, scale in zip(counted, scales, strict=True)]
    if together and len(counted) > 1:
        rows.append(("together", "", together.counts))
    table = []
    for (name, scale, counts), statement in zip(rows, [*statements, *([total] if total else [])], strict=False):
        spot = statement.hot_spot
        table.append(
            [
                name,
                *([scale] if several else []),
                *map(str, counts.values()),
                f"{_figures_of(statement.average)}{_range_of(statement, statement.average)}",
                *([f"{100 * (spot.index or 0):.1f}{_range_of(statement, spot)}" if spot else ""] if spots else []),
            ]
        )
    return headers, table


def _scale_of(one: Counted | CountedSlide) -> str:
    return f"{one.mpp:.4g} ({one.mpp_source})"


def _range_of(statement: Statement, ki67: Ki67) -> str:
    """Return the range as a table shows it: with a ? while it is provisional."""
    name = statement.range_of(ki67)
    return f" {name}{'?' if ki67.provisional else ''}" if name else ""


def _show_statement(console: Console, statement: Statement) -> None:
    for sentence in statement.sentences():
        console.print(sentence, style="bold" if sentence == statement.warning else None, soft_wrap=True)


def _show_each(console: Console, counted: Sequence[Counted | CountedSlide], statements: Sequence[Statement]) -> None:
    """Print notes on the rows of several images."""
    named = [(printable(one.image.name), s) for one, s in zip(counted, statements, strict=True) if s.warning]
    differ = [name for name, s in named if not s.no_range]
    if differ:
        console.print(
            f"The hot spot lies in another range than the average: {', '.join(differ)}. WHO grades by the hot spot.",
            style="bold",
            soft_wrap=True,
        )
    if none := [name for name, s in named if s.no_range]:
        console.print(
            f"No grade range is given where an image looks unlike the model's training data: {', '.join(none)}.",
            soft_wrap=True,
        )
    console.print("Each image is counted separately; --together pools the images of one case.", soft_wrap=True)


def _figures_of(ki67: Ki67) -> str:
    """Return an index and its interval, %."""
    if ki67.index is None or ki67.interval is None:
        return "-"
    low, high = ki67.interval
    return f"{100 * ki67.index:.1f} ({100 * low:.1f} - {100 * high:.1f})"


@contextmanager
def _work_on(cluster: str | None, model: Path | None) -> Iterator[Work | None]:
    """Provide the function that counts a slide's tiles on a cluster; None: they are counted in this process."""
    if cluster is None:
        yield None
        return
    require("count --cluster", "cluster", "distributed")
    from kinet_trt.slides.dask import connect, work_on

    with connect(cluster) as client:
        yield work_on(client, model)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn Ctrl-C into a message and its usual exit status, 130."""
    try:
        yield
    except KeyboardInterrupt as stop:
        typer.echo(str(stop) or "Interrupted.", err=True)
        raise typer.Exit(130) from None
