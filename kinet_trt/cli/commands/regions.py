"""``kinet-trt regions``: draw fields with their regions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinet_trt.cli.options import FieldsMppOption
from kinet_trt.cli.outputs import check_existing, report_written
from kinet_trt.cli.progress import track
from kinet_trt.cli.terminal import print_rows, stdout_console


def regions(
    fields: Annotated[Path, typer.Argument(help="Folder of images, with or without labelled nuclei.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the pictures, NAME_regions.png.")],
    drawn: Annotated[
        Path | None,
        typer.Option("--regions", metavar="DIR", help="Regions of the fields: NAME.geojson, in any subfolder."),
    ] = None,
    box: Annotated[
        str | None, typer.Option(metavar="LEFT,TOP,RIGHT,BOTTOM", help="Draw only this part of each image, in px.")
    ] = None,
    grid: Annotated[int, typer.Option(min=5, help="Distance of the grid lines in px.")] = 50,
    mpp: FieldsMppOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing pictures.")] = False,
) -> None:
    """Draw fields with a pixel grid and their regions, and count the labelled nuclei in each kind of region."""
    from kinet_trt.core.files import write_atomic
    from kinet_trt.counting.geojson_and_overlays import output_names
    from kinet_trt.export import region_check as drawing
    from kinet_trt.io.overlay import to_png

    part = _box(box) if box else None
    found = drawing.read(fields, drawn, mpp)
    names = output_names([field.image for field in found])
    pictures = [out / f"{names[field.image]}_regions.png" for field in found]
    check_existing([picture for picture in pictures if picture.exists()], force)
    for field, picture in zip(track(found, "Drawing", [f.name for f in found]), pictures, strict=True):
        write_atomic(picture, to_png(drawing.draw(field, part, grid)))
    report_written(pictures, err=False)
    print_rows(stdout_console(), *drawing.rows(found))


def _box(text: str) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a part of an image, px."""
    try:
        left, top, right, bottom = map(int, text.split(","))
    except ValueError:
        left = top = right = bottom = 0
    if not (0 <= left < right and 0 <= top < bottom):
        raise typer.BadParameter(f"--box: expected LEFT,TOP,RIGHT,BOTTOM in px, like 0,0,300,300, found {text!r}")
    return left, top, right, bottom
