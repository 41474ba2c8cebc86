"""``kinet-trt compare``: agreement of two sets of results by case."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinet_trt.cli.agreement import agreement_remarks, agreement_rows
from kinet_trt.cli.options import (
    GRADE_RANGES,
    BandsOption,
    CaseOption,
    FormatOption,
    JsonOption,
    PatternOption,
    parse_pattern,
    require,
)
from kinet_trt.cli.outputs import check_names, check_targets, write, write_results
from kinet_trt.cli.terminal import print_lines, print_rows, stdout_console
from kinet_trt.core.errors import KinetError, printable
from kinet_trt.core.notice import NOTICE


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="JSON of count, GeoJSON or table, or a folder of them.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The same; the reference, if there is one.")],
    pattern: PatternOption = None,
    case: CaseOption = None,
    index_a: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the indices in tables of A.")] = None,
    index_b: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the indices in tables of B.")] = None,
    bands: BandsOption = "net",
    json_file: JsonOption = None,
    format_: FormatOption = "table",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw scatter and Bland-Altman plot (.png or .svg).")
    ] = None,
) -> None:
    """Compare two sets of results by case: ICC, Bland-Altman, kappa. Differences are A - B."""
    if plot:
        require("compare --plot", "eval", "matplotlib")
    from kinet_trt.evaluation.agreement_plot import agreement_plot
    from kinet_trt.evaluation.cases import pair_cases, read_results, to_json
    from kinet_trt.evaluation.statistics import index_agreement

    targets = {"--json": json_file, "--plot": str(plot) if plot else None}
    stdout_has_data = check_names(targets, format_)
    grouping = parse_pattern(pattern)
    check_targets(targets, [first, second])
    a, b = (
        read_results(path, index_column=column or "", case_column=case or "")
        for path, column in ((first, index_a), (second, index_b))
    )
    if case and not any(row.case for row in (*a.rows, *b.rows)):
        raise KinetError(f"--case {case}: expected a table with this column, found none in {first} and {second}")
    cases = pair_cases(a, b, pattern=grouping)
    if not cases.names:
        raise KinetError(f"{first} and {second}: expected cases with an index in both, found none")
    agreement = index_agreement(cases.first, cases.second, GRADE_RANGES[bands])
    name_a, name_b = _names(first, second, index_a, index_b)
    table = agreement_rows(agreement)
    if not stdout_has_data:
        print_rows(stdout_console(), *table)
        remarks = [f"A: {printable(name_a)}; B: {printable(name_b)}. Differences are A - B."]
        remarks += agreement_remarks(agreement, cases, "A", "B")
        print_lines(stdout_console(), [*remarks, *map(printable, (*a.notes, *b.notes)), NOTICE])
    if plot:
        write(str(plot), agreement_plot(cases, agreement, name_a, name_b, str(plot)), stdout_has_data)
    write_results(json_file, format_, to_json(a, b, cases, agreement), table, stdout_has_data)


def _names(first: Path, second: Path, index_a: str | None, index_b: str | None) -> tuple[str, str]:
    """Return the names of both sets: the columns of one table, else the files, with their folders if they are equal."""
    if first == second and index_a and index_b:
        return index_a, index_b
    return (first.name, second.name) if first.name != second.name else (str(first), str(second))
