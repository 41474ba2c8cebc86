"""``kinet-trt import-weights``: convert the authors' weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinet_trt.cli.options import require
from kinet_trt.cli.outputs import check_names, check_targets


def import_weights(
    file: Annotated[Path, typer.Argument(help="State dict of the authors' release, like ki67net-best.pth.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint to write, a .pt.")],
    calibrate: Annotated[
        Path | None, typer.Option(metavar="FIELDS", help="Estimate the running statistics of the norms on these.")
    ] = None,
) -> None:
    """Convert the authors' weights to a checkpoint. The differences are reported."""
    require("import-weights", "train", "torch", "lap")
    from kinet_trt.export.import_weights import import_weights as convert

    check_names({"--out": str(out)}, out=(".pt",))
    check_targets({"--out": str(out)}, [file])
    imported = convert(file, out, calibrate)
    typer.echo(f"{out}: " + "\n".join(imported.sentences()))
