"""``kinet-trt doctor``: check the installation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from kinet_trt.cli.options import JsonOption
from kinet_trt.cli.outputs import check_names, check_targets, write_json
from kinet_trt.cli.progress import steps
from kinet_trt.cli.terminal import plain, print_table, stdout_console

if TYPE_CHECKING:
    from kinet_trt.diagnostics.checks import Finding
    from kinet_trt.diagnostics.doctor import Row


def doctor(json_file: JsonOption = None) -> None:
    """Check the installation and suggest fixes."""
    from kinet_trt.diagnostics.checks import findings
    from kinet_trt.diagnostics.doctor import rows, to_json, verdict
    from kinet_trt.diagnostics.installation import examine

    check_names({"--json": json_file})
    check_targets({"--json": json_file}, [])
    with steps("Checking") as report:
        installation = examine(report)
    if json_file != "-":
        show_doctor(rows(installation), findings(installation), verdict(installation))
    write_json(json_file, to_json(installation))
    if not installation.counts:
        raise typer.Exit(1)


def show_doctor(rows: Sequence[Row], findings: Sequence[Finding], verdict: str) -> None:
    """Print a table of the installation, and suggested fixes."""
    console = stdout_console()
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
        table.add_row(marks[row.level], row.component, plain(row.message))
    print_table(console, table)
    if findings:
        console.print("\nSuggested fixes:")
    # A terminal wraps sentences at words; commands are never wrapped.
    for finding in findings:
        message = f"{finding.component}: {plain(finding.message)}{':' if finding.fixes else '.'}"
        console.print(Text(" ").join([marks[finding.level], Text(message)]))
        for command in finding.fixes:
            console.print(f"    {plain(command)}", style="bold", soft_wrap=True)
    console.print(f"\n{verdict}")
