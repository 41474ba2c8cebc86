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
from kinet_trt.cli.terminal import plain, stdout_console

if TYPE_CHECKING:
    from kinet_trt.diagnostics.doctor import Finding, Row


def doctor(json_file: JsonOption = None) -> None:
    """Check the installation and suggest fixes."""
    from kinet_trt.diagnostics import doctor as look

    check_names({"--json": json_file})
    check_targets({"--json": json_file}, [])
    with steps("Checking") as report:
        seen = look.look(report)
    if json_file != "-":
        show_doctor(look.rows(seen), look.findings(seen), look.verdict(seen))
    write_json(json_file, look.to_json(seen))
    if not seen.counts:
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
