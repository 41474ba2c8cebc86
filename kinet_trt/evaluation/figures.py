"""Encode figures of matplotlib (extra ``eval``)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 130


def encode(figure: Figure, target: str) -> bytes:
    """Return a figure as SVG if the name of the file ends in .svg, else as PNG; equal figures give equal bytes."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    if Path(target).suffix.lower() == ".svg":
        # Text stays text, and nothing in the file depends on chance or time.
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "kinet-trt"}):
            figure.savefig(buffer, format="svg", metadata={"Date": None})
    else:
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
