"""``kinet-trt eval``: evaluate a model on labelled fields."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinet_trt.cli.agreement import agreement_remarks, agreement_rows
from kinet_trt.cli.options import (
    GRADE_RANGES,
    BandsOption,
    FormatOption,
    JsonOption,
    ModelOption,
    MppOption,
    PatternOption,
    PrecisionOption,
    RuntimeOption,
    ThreadsOption,
    ThresholdOption,
    parse_pattern,
    parse_threshold,
    require,
)
from kinet_trt.cli.outputs import check_existing, check_names, check_targets, report_written, write, write_results
from kinet_trt.cli.progress import track
from kinet_trt.cli.terminal import engine_line, print_lines, print_rows, stdout_console
from kinet_trt.core.errors import KinetError, printable
from kinet_trt.core.notice import NOTICE

if TYPE_CHECKING:
    from kinet_trt.evaluation.evaluate import Evaluation


def evaluate(
    fields: Annotated[Path, typer.Argument(help="Folder of labelled fields.")],
    model: ModelOption = None,
    classes: Annotated[str | None, typer.Option(help="Labelled classes, like positive,negative.")] = None,
    split: Annotated[str | None, typer.Option(help="Use only the fields of this split, like val.")] = None,
    mpp: MppOption = None,
    threshold: ThresholdOption = None,
    precision: PrecisionOption = "auto",
    runtime: RuntimeOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
    format_: FormatOption = "table",
    pattern: PatternOption = None,
    case: Annotated[
        str | None,
        typer.Option("--case", metavar="COLUMN", help="Pool the fields of a case, named in this column of index.csv."),
    ] = None,
    bands: BandsOption = "net",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the precision-recall curve (.png or .svg).")
    ] = None,
    agreement_plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the index: scatter and Bland-Altman plot (.png or .svg).")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw false negatives and false positives into this folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files of --overlay.")] = False,
) -> None:
    """Evaluate a model on labelled fields: the metrics of the paper, and agreement of the index by field or case."""
    require("eval", "eval", "lap", *(["matplotlib"] if plot or agreement_plot else []))
    from kinet_trt.core.files import write_atomic
    from kinet_trt.counting.geojson_and_overlays import Outputs, output_names
    from kinet_trt.datasets.labelled import class_list_warning, read_split, with_classes
    from kinet_trt.evaluation.agreement_plot import agreement_plot as draw_agreement
    from kinet_trt.evaluation.cases import read_cases
    from kinet_trt.evaluation.evaluate import Evaluation, curve_plot, evaluate_field, index_cases, marked, to_json
    from kinet_trt.evaluation.statistics import index_agreement
    from kinet_trt.inference.counter import NucleusCounter
    from kinet_trt.io.overlay import to_png

    minimum, grouping = parse_threshold(threshold), parse_pattern(pattern)
    plots = {"--plot": plot, "--agreement-plot": agreement_plot}
    targets = {"--json": json_file, **{option: str(target) if target else None for option, target in plots.items()}}
    stdout_has_data = check_names(targets, format_, folders={"--overlay": overlay})
    case_of = read_cases(fields, case) if case else None
    chosen = read_split(fields, split, mpp)
    if classes:
        chosen = with_classes(chosen, classes.split(","))
    elif sentence := class_list_warning(chosen):
        typer.echo(sentence, err=stdout_has_data)
    outputs = Outputs(None, overlay, output_names([f.image for f in chosen]))
    check_targets(targets, [f.image for f in chosen])
    check_existing(outputs.existing(), force)
    counter = NucleusCounter(model, threshold=minimum, precision=precision, threads=threads, runtime=runtime)
    done = []
    for f in track(chosen, "Evaluating", [f.image.name for f in chosen]):
        one = evaluate_field(counter, f, mpp)
        done.append(one)
        for path in outputs.paths(f.image):
            write_atomic(path, to_png(marked(f.pixels(), one.found, one.true, one.mpp / counter.card.mpp)))
    evaluation = Evaluation(tuple(done))
    table = evaluation_rows(evaluation)
    cases = index_cases(evaluation, pattern=grouping, cases=case_of)
    agreement = index_agreement(cases.first, cases.second, GRADE_RANGES[bands]) if cases.names else None
    if not stdout_has_data:
        console = stdout_console()
        print_rows(console, *table)
        print_lines(console, list(_remarks(evaluation)))
        if agreement:
            print_rows(console, *agreement_rows(agreement))
            print_lines(console, list(agreement_remarks(agreement, cases, "model", "annotations")))
        print_lines(console, [f"{engine_line(counter)}.", NOTICE])
    report_written([path for f in chosen for path in outputs.paths(f.image)], stdout_has_data)
    name = counter.engine.card.name
    if plot:
        write(str(plot), curve_plot(evaluation, name, str(plot)), stdout_has_data)
    if agreement_plot and agreement:
        drawing = draw_agreement(cases, agreement, name, "annotations", str(agreement_plot))
        write(str(agreement_plot), drawing, stdout_has_data)
    write_results(json_file, format_, to_json(counter, evaluation, cases, agreement), table, stdout_has_data)
    if agreement_plot and not agreement:
        raise KinetError(f"{agreement_plot}: not drawn, because no field has tumour nuclei in both")


def evaluation_rows(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the paper's metrics: by source, and pooled."""
    from kinet_trt.core.detections import CLASSES

    rows = []
    for source, one in [*evaluation.by_source().items(), ("pooled", evaluation.at_threshold)]:
        source_fields = [f for f in evaluation.fields if f.field.source == source] or evaluation.fields
        labelled = {name for f in source_fields for name in f.field.labelled}
        score, d = one.detection, one.distance
        distance = f"{d.mean():.2f} +- {d.std():.2f}" if len(d) else "-"
        figures = [f"{value:.3f}" for value in (score.precision, score.recall, score.f1)]
        initials = " ".join({"positive": "+", "negative": "-", "non_tumor": "o"}[n] for n in CLASSES if n in labelled)
        rows.append(
            [
                printable(source) or "fields",
                *(str(len(source_fields)), str(score.true), *figures, distance, f"{one.weighted[2]:.3f}", initials),
            ]
        )
    return ["source", "fields", "nuclei", "P", "R", "F1", "px off", "class F1", "labelled"], rows


def _remarks(evaluation: Evaluation) -> Iterator[str]:
    """Yield the metrics by class, and the error of the index."""
    from kinet_trt.core.detections import CLASSES, class_name

    pooled = evaluation.at_threshold
    yield "labelled: + positive, - negative, o non-tumour; detections of classes that are not labelled do not count."
    for name, score in zip(CLASSES, pooled.per_class, strict=True):
        yield (
            f"{class_name(name):<10} precision {score.precision:.3f}, recall {score.recall:.3f}, F1 {score.f1:.3f} "
            f"({score.true} nuclei)"
        )
    precision, recall, f1 = pooled.weighted
    yield f"weighted   precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}; AUC {evaluation.auc:.3f}"
    if errors := evaluation.index_errors:
        yield (
            f"Ki67 index off by {100 * sum(errors) / len(errors):.1f} points on average; "
            f"within 10 points on {sum(e <= 0.10 for e in errors)} of {len(errors)} fields."
        )
