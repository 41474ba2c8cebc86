"""``kinet-trt package``: write a model for a Triton server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinet_trt.cli.terminal import print_lines, stdout_console
from kinet_trt.core.notice import NOTICE


def package(
    triton: Annotated[Path, typer.Option("--triton", metavar="DIR", help="Triton model repository to write into.")],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="A .onnx, or a fused .engine. Default: the built-in model.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name on the server. Default: the model card's.")] = None,
    instances: Annotated[int, typer.Option(min=1, help="Frames counted at the same time on each GPU.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace a model of this name that is there.")] = False,
) -> None:
    """Write a model for a Triton server. Includes the configuration, labels and an example client."""
    from kinet_trt.deploy.triton.package import package as write

    packaged = write(model, triton, name=name, instances=instances, force=force)
    card = packaged.card
    lines = (
        f"{packaged.folder}: {card.name} in {card.precision}{', now fused' if packaged.fused_here else ''}",
        f"  output   up to {card.capacity:,} nuclei per frame",
        f"  serve    tritonserver --model-repository={triton.resolve()}",
        f'  client   pip install "tritonclient[grpc]" numpy opencv-python-headless; {packaged.folder / "client.py"}',
        NOTICE,
    )
    print_lines(stdout_console(), lines)
