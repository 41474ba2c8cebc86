"""``kinet-trt demo``: count two fields and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinet_trt.cli.options import ModelOption, PrecisionOption
from kinet_trt.core.notice import NOTICE


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("demo"),
    model: ModelOption = None,
    precision: PrecisionOption = "auto",
) -> None:
    """Count a simulated field and a real one. Labelled fields to try commands on are written, too."""
    from kinet_trt.core.detections import class_name
    from kinet_trt.core.ki67 import Ki67
    from kinet_trt.demo import fields
    from kinet_trt.inference.counter import NucleusCounter

    counter = NucleusCounter(model, precision=precision)
    typer.echo(f"{counter.engine.card.name} on {counter.engine.runtime}, {counter.engine.precision}")
    for shown in (fields.simulated(counter, out), fields.real(counter, out)):
        typer.echo(f"\n{shown.title}")
        for name, n in shown.detections.counts().items():
            known = f"   (truth {shown.truth[name]})" if shown.truth else ""
            typer.echo(f"  {class_name(name):<10} {n:5d}{known}")
        typer.echo(f"  {shown.detections.ki67.sentences()[0]}")
        if shown.truth:
            index = Ki67.from_counts(shown.truth).index or 0.0
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
