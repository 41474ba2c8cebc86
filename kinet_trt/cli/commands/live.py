"""``kinet-trt live``: count the frames of a camera."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kinet_trt.cli.options import (
    GRADE_RANGES,
    BandsOption,
    HotSpotOption,
    ModelOption,
    MppOption,
    Precision,
    ProtocolOption,
    RuntimeOption,
    ThreadsOption,
    ThresholdOption,
    parse_threshold,
    require,
)


def live(
    source: Annotated[
        str, typer.Argument(help="Camera: 0, rtsp://..., a video, a folder, mm:CONFIG.cfg, gst:..., sim:")
    ],
    sessions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Session file. Default: in the user's data folder."),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of a new session.")] = "",
    reader: Annotated[str, typer.Option(help="Name of the reader of a new session.")] = "",
    auto: Annotated[bool, typer.Option("--auto", help="Capture automatically when the stage stops.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; other machines need the access token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default: 8765; 0 selects a free one.")] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    hot_spot: HotSpotOption = 500,
    protocol: ProtocolOption = None,
    bands: BandsOption = "net",
    shortcut: Annotated[
        bool, typer.Option("--install-shortcut", help="Create a desktop shortcut for this command, and exit.")
    ] = False,
    headless: Annotated[
        bool, typer.Option("--headless", help="No page: print one JSON line per counted frame.")
    ] = False,
    frames: Annotated[int | None, typer.Option(min=1, help="With --headless: stop after this many frames.")] = None,
    detections: Annotated[bool, typer.Option("--detections", help="With --headless: include each nucleus.")] = False,
    model: ModelOption = None,
    mpp: MppOption = None,
    threshold: ThresholdOption = None,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Numeric precision. Default: int8 for the built-in model.")
    ] = "auto",
    runtime: RuntimeOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Count the live picture of a microscope. JSON lines: see python -m pydoc kinet_trt.live.acquisition.headless."""
    from kinet_trt.camera import open_source
    from kinet_trt.core.protocols import check_protocol
    from kinet_trt.inference.counter import NucleusCounter

    if not headless:
        if frames or detections:
            raise typer.BadParameter("--frames and --detections require --headless")
        require("live", "live", "fastapi", "uvicorn", "websockets")
    check_protocol(protocol, hot_spot)
    minimum = parse_threshold(threshold)
    camera = open_source(source, every_frame=headless)
    if shortcut:
        from kinet_trt.live.web.shortcut import install

        arguments = [argument for argument in sys.argv[1:] if argument != "--install-shortcut"]
        for path in install(arguments, sys.platform):
            typer.echo(f"written: {path}")
        return

    def show(text: str) -> None:
        typer.echo(text, err=headless)

    # ONNX Runtime computes a quantized model in FP32, and takes longer for it.
    if model is None and precision == "auto" and runtime != "onnxruntime":
        precision = "int8"
    counter = NucleusCounter(model, threshold=minimum, precision=precision, threads=threads, runtime=runtime)
    if headless:
        from kinet_trt.live.acquisition.headless import run

        raise typer.Exit(run(camera, counter, sys.stdout.buffer, show, mpp=mpp, frames=frames, detections=detections))
    from kinet_trt.live.web import app

    options = app.Options(
        store=sessions,
        host=host,
        port=port,
        mpp=mpp,
        title=title,
        reader=reader,
        bands=GRADE_RANGES[bands],
        hot_spot=hot_spot,
        protocol=protocol,
        auto=auto,
        browser=browser,
    )
    raise typer.Exit(app.run(camera, counter, options, show))
