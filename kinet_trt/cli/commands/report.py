"""``kinet-trt report``: write the report of a live session."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinet_trt.cli.options import GRADE_RANGES, BandsOption, CsvOption, HotSpotOption, ProtocolOption
from kinet_trt.cli.outputs import check_existing, check_names, check_targets, existing, report_written, write
from kinet_trt.cli.terminal import note
from kinet_trt.core.errors import KinetError


def report(
    file: Annotated[
        Path | None,
        typer.Argument(help="Session file of kinet-trt live. Default: the one that it uses.", metavar="SESSION"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="HTML file to write.")] = None,
    session: Annotated[int | None, typer.Option(help="Number of the session, if the file holds several.")] = None,
    csv_file: CsvOption = None,
    summary: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write a table, one row per field: .csv or .xlsx; - writes CSV."),
    ] = None,
    geojson: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write field-NNN.geojson and .png for QuPath into this folder.")
    ] = None,
    hot_spot: HotSpotOption = 500,
    protocol: ProtocolOption = None,
    bands: BandsOption = "net",
    force: Annotated[
        bool, typer.Option("--force", help="Replace existing files of --out, --summary and --geojson.")
    ] = False,
) -> None:
    """Write the report of a session. Without a file to write, list the sessions."""
    from kinet_trt.core.protocols import check_protocol
    from kinet_trt.core.user_folders import sessions_file
    from kinet_trt.io.tables import encode, to_csv
    from kinet_trt.live.session.export import nuclei_csv, summary_rows, write_geojson
    from kinet_trt.live.session.report import build, choose, listing
    from kinet_trt.live.session.session import OpenSession
    from kinet_trt.live.session.store import Store

    check_protocol(protocol, hot_spot)
    targets = {"--out": str(out) if out else None, "--csv": csv_file, "--summary": summary}
    stdout_has_data = check_names(targets, folders={"--geojson": geojson}, out=(".html", ".htm"))
    path = file or sessions_file()
    if file is None and not path.exists():
        raise KinetError(f"{path}: no sessions yet: kinet-trt live creates this file; or name a session file")
    check_targets(targets, [path])
    with Store.open(path, create=False) as store:
        if not (out or csv_file or summary or geojson):
            if file is None:
                note(f"Sessions in {path}:", err=True)
            typer.echo("\n".join(listing(store)))
            return
        chosen = choose(store, session)
        check_existing([*existing(targets["--out"]), *existing(summary)], force)
        if out:
            html = build(store, chosen.id, bands=GRADE_RANGES[bands], hot_spot=hot_spot, protocol=protocol)
            write(str(out), html, stdout_has_data)
        if not (csv_file or summary or geojson):
            return
        counted = OpenSession(store, chosen.id).count()
        if geojson:
            report_written(write_geojson(store, counted, geojson, force=force), stdout_has_data)
        if csv_file:
            write(csv_file, nuclei_csv(counted), stdout_has_data)
        if summary:
            rows, total = summary_rows(counted, chosen, hot_spot)
            write(summary, to_csv(rows) if summary == "-" else encode(rows, Path(summary), total), stdout_has_data)
