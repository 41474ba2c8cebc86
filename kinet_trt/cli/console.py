"""Terminal output of the command line: tables and progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from kinet_trt.core.errors import printable
from kinet_trt.core.ki67 import ENOUGH, Bands, Ki67, Statement, class_name
from kinet_trt.core.logs import is_quiet
from kinet_trt.core.notice import NOTICE

if TYPE_CHECKING:
    from pathlib import Path

    from kinet_trt.calibration.int8 import Quantised
    from kinet_trt.counting.pictures import Counted
    from kinet_trt.counting.together import Together
    from kinet_trt.deploy.build import Built, Speed
    from kinet_trt.deploy.triton.package import Packaged
    from kinet_trt.diagnostics.doctor import Finding, Row
    from kinet_trt.evaluation.evaluate import Evaluation
    from kinet_trt.inference.counter import NucleusCounter
    from kinet_trt.slides.count import CountedSlide

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0
"""How often long work reports its progress where no bar can be shown."""
_ENDLESS = 100_000  # columns: more than any line has


def _console() -> Console:
    """Return standard output; a file or a pipe gets lines of any length, not cut or wrapped."""
    # File names are text: nothing in them is markup or an emoji.
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _ENDLESS
    return console


def _print_rows(
    console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, bold: Sequence[bool] = ()
) -> None:
    """Print a table; where the terminal is too narrow for it, each row as a block of lines, so that nothing is cut.

    Parameters
    ----------
    console
        Where to.
    headers, rows
        Text of the cells.
    left
        Columns that are aligned left; the others are numbers.
    bold
        Rows that are printed bold; none if it is empty.
    """
    styles = ["bold" if is_bold else None for is_bold in bold] or [None] * len(rows)
    columns = list(zip(headers, *rows, strict=True))
    width = sum(max(cell_len(line) for cell in column for line in cell.split("\n")) for column in columns)
    if width + len(columns) - 1 <= console.width:
        table = Table(box=None, pad_edge=False)
        for number, header in enumerate(headers):
            table.add_column(header, justify="left" if number < left else "right", no_wrap=True)
        for row, style in zip(rows, styles, strict=True):
            table.add_row(*row, style=style)
        console.print(table)
        return
    for row, style in zip(rows, styles, strict=True):
        console.print(row[0], style=style, soft_wrap=True)
        pairs = [
            f"{header} {cell}".replace("\n", " ").strip()
            for header, cell in zip(headers[1:], row[1:], strict=True)
            if cell
        ]
        line = ""
        for pair in pairs:
            if line and cell_len(f"  {line}, {pair},") > console.width:
                console.print(f"  {line},", style=style, soft_wrap=True)
                line = ""
            line = f"{line}, {pair}" if line else pair
        console.print(f"  {line}", style=style, soft_wrap=True)


def tab_separated(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with a tab between cells and a line per row."""
    cells = [[printable(cell.replace("\n", " ")) for cell in row] for row in (headers, *rows)]
    return "".join("\t".join(row) + "\n" for row in cells)


def note(text: str, *, err: bool = False) -> None:
    """Print a line that ``--quiet`` leaves out, such as the name of a file that was written."""
    if not is_quiet():
        print(printable(text), file=sys.stderr if err else sys.stdout)


class Bars(Progress):
    """Progress bars on standard error; where that is no terminal, a line every ten seconds instead.

    Parameters
    ----------
    quiet
        Show neither.
    file
        Where to; None: standard error.
    clock
        Current time in s.
    """

    def __init__(
        self, *, quiet: bool = False, file: IO[str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        out = Console(stderr=True, file=file, markup=False, emoji=False, quiet=quiet)
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, max_width=32)),
            console=out,
            transient=True,
            disable=not out.is_terminal,
            get_time=clock,
            # One image may take minutes: the rate of the last half minute, rich's default, would often be unknown.
            speed_estimate_period=3600.0,
        )
        self._last = clock()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task; see rich."""
        super().update(task_id, **changes)
        self._line(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Add to what is done of a task."""
        super().advance(task_id, advance)
        self._line(task_id)

    def _line(self, task_id: TaskID) -> None:
        """Print how far a task is, where nothing else shows it and the last line is old."""
        now = self.get_time()
        if not self.disable or now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        task = next(task for task in self.tasks if task.id == task_id)
        total = "" if task.total is None else f" of {task.total:,.0f}"
        left = "" if not task.time_remaining else f", {duration(task.time_remaining)} left"
        named = f" ({task.fields['note']})" if task.fields["note"] else ""
        self.console.print(f"{task.description}: {task.completed:,.0f}{total} done{left}{named}", soft_wrap=True)


def _bar() -> Bars:
    return Bars(quiet=is_quiet())


def track(items: Sequence[T], what: str, names: Sequence[str] = ()) -> Iterator[T]:
    """Yield the items; with more than one, show progress on standard error, with the names of the items."""
    if len(items) < 2:
        yield from items
        return
    with _bar() as bar:
        task = bar.add_task(what, total=len(items), note="")
        for number, item in enumerate(items):
            bar.update(task, note=printable(names[number]) if names else "")
            yield item
            bar.advance(task)


@contextmanager
def counting(images: Sequence[Path]) -> Iterator[tuple[Iterator[Path], Callable[[int, int], None]]]:
    """Provide the images, with a progress bar over them, and a function that shows the progress of a slide."""
    with _bar() as bar:
        every = bar.add_task("Counting", total=len(images), note="", visible=len(images) > 1)
        of_slide: list[TaskID] = []

        def report(done: int, total: int) -> None:
            if not of_slide:
                # Begun here, so that tiles of an earlier run do not make the time left look short.
                of_slide.append(bar.add_task("Tiles", total=total, completed=done, note=""))
            bar.update(of_slide[0], completed=done)

        def each() -> Iterator[Path]:
            for image in images:
                bar.update(every, note=printable(image.name))
                yield image
                bar.advance(every)
                while of_slide:
                    bar.remove_task(of_slide.pop())

        yield each(), report


@contextmanager
def steps(what: str) -> Iterator[Callable[[int, int], None]]:
    """Provide a function that shows the number of finished steps and of all steps."""
    with _bar() as bar:
        task = bar.add_task(what, total=None, note="")
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def stages(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Provide a function that shows the current stage, its finished steps and all of its steps."""
    with _bar() as bar:
        task = bar.add_task(what, total=None, note="")
        yield lambda stage, done, total: bar.update(task, completed=done, total=total, note=stage)


def duration(seconds: float) -> str:
    """Return an estimated duration in words, like ``about 70 s`` or ``about 3.5 h``."""
    if seconds < 100:
        return f"about {max(10, round(seconds, -1)):.0f} s"
    if seconds < 100 * 60:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"


@contextmanager
def training_bar() -> Iterator[Callable[[Any], None]]:
    """Provide a function that shows the progress of training: the loss, and F1 after a validation."""
    with _bar() as bar:
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


def show_counted(
    counted: Sequence[Counted | CountedSlide],
    counter: NucleusCounter,
    bands: Bands | None,
    together: Together | None = None,
) -> None:
    """Print a table of counted images, and the result of one image or of all together in sentences."""
    console = _console()
    statements = [one.statement(bands) for one in counted]
    total = together.statement(bands) if together else None
    several = len(counted) > 1
    headers, rows = _counted_rows(counted, statements, counter, together, total)
    bold = [bool(statement.warning) for statement in [*statements, *([total] if total else [])]]
    _print_rows(console, headers, rows, bold=bold[: len(rows)])
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
        console.print(f"?: provisional, fewer than {ENOUGH} tumour nuclei.", soft_wrap=True)
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


def evaluation_rows(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the paper's metrics: by source and together."""
    # Not at the top: it needs NumPy, and the doctor shows its table where NumPy cannot be loaded too.
    from kinet_trt.core.detections import CLASSES

    rows = []
    for source, one in [*evaluation.by_source().items(), ("together", evaluation.at_threshold)]:
        own = [f for f in evaluation.fields if f.field.source == source] or evaluation.fields
        labelled = {name for f in own for name in f.field.labelled}
        score, d = one.detection, one.distance
        distance = f"{d.mean():.2f} +- {d.std():.2f}" if len(d) else "-"
        figures = [f"{value:.3f}" for value in (score.precision, score.recall, score.f1)]
        initials = " ".join({"positive": "+", "negative": "-", "non_tumor": "o"}[n] for n in CLASSES if n in labelled)
        rows.append(
            [
                printable(source) or "fields",
                *(str(len(own)), str(score.true), *figures, distance, f"{one.weighted[2]:.3f}", initials),
            ]
        )
    return ["source", "fields", "nuclei", "P", "R", "F1", "px off", "class F1", "labelled"], rows


def show_evaluation(evaluation: Evaluation, counter: NucleusCounter) -> None:
    """Print the paper's metrics: by source and together, by class, and the index."""
    from kinet_trt.core.detections import CLASSES

    console = _console()
    pooled = evaluation.at_threshold
    _print_rows(console, *evaluation_rows(evaluation))
    console.print(
        "labelled: + positive, - negative, o non-tumour; detections of classes that are not labelled do not count."
    )
    for name, score in zip(CLASSES, pooled.per_class, strict=True):
        console.print(
            f"{class_name(name):<10} precision {score.precision:.3f}, recall {score.recall:.3f}, F1 {score.f1:.3f} "
            f"({score.true} nuclei)",
            soft_wrap=True,
        )
    precision, recall, f1 = pooled.weighted
    console.print(
        f"weighted   precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}; AUC {evaluation.auc:.3f}",
        soft_wrap=True,
    )
    errors = evaluation.index_errors
    if errors:
        near = sum(e <= 0.10 for e in errors)
        console.print(
            f"Ki67 index off by {100 * sum(errors) / len(errors):.1f} points on average; "
            f"within 10 points on {near} of {len(errors)} fields.",
            soft_wrap=True,
        )
    engine = counter.engine
    console.print(f"{engine.card.name} on {engine.runtime}, {engine.precision}, threshold {counter.threshold}.")
    console.print(NOTICE, soft_wrap=True)


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
    _print_rows(_console(), *bench_rows(rows), left=3)


def show_regions(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print what the regions of fields hold."""
    _print_rows(_console(), headers, rows)


def show_packaged(packaged: Packaged, repository: Path) -> None:
    """Print the files that were written for a server, and how to start it."""
    console = _console()
    card = packaged.card
    for line in (
        f"{packaged.folder}: {card.name} in {card.precision}{', now fused' if packaged.fused_here else ''}",
        f"  output   up to {card.capacity:,} nuclei per frame",
        f"  serve    tritonserver --model-repository={repository.resolve()}",
        f'  client   pip install "tritonclient[grpc]" numpy opencv-python-headless; {packaged.folder / "client.py"}',
        NOTICE,
    ):
        console.print(line, soft_wrap=True)


def show_built(built: Built) -> None:
    """Print a summary of a build: file, frame sizes, loss of accuracy."""
    from kinet_trt.engines.tensorrt.engine_file import card_path

    console = _console()
    card, path = built.card, built.path
    console.print(
        f"{path}: {card.name} in {card.precision}, {path.stat().st_size / 1e6:.1f} MB, {built.seconds:.1f} s",
        soft_wrap=True,
    )
    if built.quantised:
        for line in _int8(built.quantised):
            console.print(f"  INT8     {line}", soft_wrap=True)
    if same := built.halved:
        console.print(
            f"  FP16     on a simulated field: {same.same} nuclei found in FP16 and FP32, {same.only_second} only in "
            f"FP16, {same.only_first} only in FP32",
            soft_wrap=True,
        )
    if built.speed:
        console.print(f"  speed    {_speed(built.speed)}", soft_wrap=True)
    if card.capacity:
        console.print(f"  fused    finds up to {card.capacity:,} nuclei per frame", soft_wrap=True)
    if card.profile:
        (_, *least), (_, *best), (batch, *largest) = card.profile
        sides = [f"{width}x{height}" for height, width in (least, best, largest)]
        size = sides[0] if least == largest else f"{sides[0]} to {sides[2]}, fastest at {sides[1]}"
        number = f"up to {batch} at a time" if batch > 1 else "one at a time"
        console.print(f"  frames   {size} px (width x height), {number}", soft_wrap=True)
        console.print(f"  runtime  {card.runtime} {card.runtime_version}", soft_wrap=True)
        console.print(f"  GPU      {card.gpu}", soft_wrap=True)
        console.print(f"  card     {card_path(path)}: keep it beside the engine", soft_wrap=True)
    console.print(NOTICE, soft_wrap=True)


def _speed(speed: Speed) -> str:
    """Return how fast a built model is here."""
    if speed.why_not:
        return speed.why_not
    ratio = speed.ratio
    words = f"{ratio:.1f} times faster than FP32" if ratio > 1.05 else "as fast as FP32"
    if ratio < 0.95:
        words = f"{1 / ratio:.1f} times slower than FP32"
    height, width = speed.side
    return (
        f"{words} on this machine: {speed.after_ms:.0f} ms instead of {speed.before_ms:.0f} ms for a field of "
        f"{width}x{height} px"
    )


def _int8(done: Quantised) -> Iterator[str]:
    """Yield lines on the calibration of INT8 and its cost."""
    choice, plan, cost = done.report.choice, done.report.plan, done.report.cost
    left = {
        "glass": choice.glass,
        "without colour": choice.grey,
        "duplicate": choice.duplicates,
        "unreadable": choice.unreadable,
    }
    out = ", ".join(f"{len(paths)} {why}" for why, paths in left.items() if paths)
    yield f"calibrated on {len(choice.calibration)} images{f' (skipped: {out})' if out else ''}: " + ", ".join(
        printable(picture.path.name) for picture in choice.calibration
    )
    if plan.floating:
        yield f"{len(plan.floating)} layers stay in floating point: {', '.join(plan.floating)}"
    detection, classification = cost.against_fp32
    yield (
        f"on {cost.pictures} other images, with the FP32 result as ground truth: detection F1 {detection:.3f}, "
        f"classification F1 {classification:.3f}"
    )
    if cost.before and cost.after:
        yield (
            f"on {cost.labelled} labelled nuclei, FP32 -> INT8: detection F1 {cost.before[0]:.3f} -> "
            f"{cost.after[0]:.3f}, classification F1 {cost.before[1]:.3f} -> {cost.after[1]:.3f}"
        )
    how = "" if cost.from_labels else ", estimated from the nuclei that changed"
    yield f"loss: {max(0.0, cost.loss):.2f} points of F1{how}"


def _figures_of(ki67: Ki67) -> str:
    """Return an index and its interval, %."""
    if ki67.index is None or ki67.interval is None:
        return "-"
    low, high = ki67.interval
    return f"{100 * ki67.index:.1f} ({100 * low:.1f} - {100 * high:.1f})"


def show_model(document: dict[str, Any]) -> None:
    """Print what :func:`kinet_trt.onnx_graph.inspect.inspect_file` found."""
    console = _console()
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(no_wrap=True, style="dim")
    facts.add_column(overflow="fold")

    def add(name: str, value: str) -> None:
        facts.add_row(name, plain(value))

    add("file", f"{document['file']}, {_bytes(document['size_bytes'])}")
    add("sha256", document["sha256"])
    if "opset" in document:
        opset = ", ".join(f"{name} {number}" for name, number in document["opset"].items())
        add("written by", f"{document['producer'] or 'unknown'}; opset {opset or 'unknown'}")
    for way in ("inputs", "outputs"):
        for port in document.get(way, []):
            add(way[:-1], f"{port['name']}: {port['dtype']} [{', '.join(map(str, port['shape']))}]")
    for name, value in (document["card"] or {}).items():
        if value not in ("", {}, ()) and name not in ("name", "notice", "model_sha256", "version"):
            add(_label(name), value[:12] if name.endswith("sha256") else _words(value))
    if card := document["card"]:
        console.print(plain(card["name"]))
    console.print(facts)
    if "layers" in document:
        console.print()
        _show_layers(console, document)
    if memory := document.get("memory"):
        unknown = f"; {n} tensors of unknown size left out" if (n := memory["unknown_tensors"]) else ""
        console.print(
            f"Memory: weights {_bytes(memory['weights_bytes'])}; activations "
            f"{_bytes(memory['activations_bytes'])} for {memory['tile']} x {memory['tile']} px "
            f"({memory['activations']}; a runtime takes up to twice as much{unknown}).",
            soft_wrap=True,
        )
    for remark in document["notes"]:
        console.print(remark, soft_wrap=True)
    if card:
        console.print(NOTICE, soft_wrap=True)


def _show_layers(console: Console, document: dict[str, Any]) -> None:
    rows = []
    for row in [*document["layers"], {"type": "together", "stored": "", "computed": "", **document["total"]}]:
        macs = row.get("macs_per_pixel", 0)
        rows.append(
            [
                plain(row["type"]).replace("\n", " "),
                str(row["count"]),
                f"{row['parameters']:,}" if row["parameters"] else "",
                f"{row['bytes'] / 1e3:,.0f}" if row["bytes"] else "",
                row["stored"],
                row["computed"],
                "?" if macs is None else f"{macs:,.0f}" if macs else "",
            ]
        )
    _print_rows(console, ["layer", "count", "parameters", "kB", "stored", "computed", "MAC/px"], rows)


def _label(name: str) -> str:
    return {"mpp": "um/px", "nms_radius": "NMS radius", "roi": "ROI branch"}.get(name, name.replace("_", " "))


def _words(value: Any) -> str:
    """Return a card's value as a person reads it."""
    if isinstance(value, dict):
        return "\n".join(f"{name.replace('_', ' ')} {_words(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"


def plain(text: str) -> str:
    """Return text from a file without control characters, except line breaks."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def show_doctor(rows: Sequence[Row], findings: Sequence[Finding], verdict: str) -> None:
    """Print what :mod:`kinet_trt.diagnostics.doctor` found."""
    console = _console()
    marks = {
        "fine": Text("ok", "green"),
        "warning": Text("warning", "yellow"),
        "problem": Text("PROBLEM", "bold red"),
        "absent": Text("-", "dim"),
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(marks[row.level], row.about, plain(row.says))
    console.print(table)
    if findings:
        console.print("\nSuggested fixes:")
    # A terminal wraps sentences at words; commands are never wrapped.
    for finding in findings:
        says = f"{finding.about}: {plain(finding.says)}{':' if finding.mend else '.'}"
        console.print(Text(" ").join([marks[finding.level], Text(says)]))
        for command in finding.mend:
            console.print(f"    {plain(command)}", style="bold", soft_wrap=True)
    console.print(f"\n{verdict}")
