"""Files that contain several images: which one is the slide, and a remark about the others."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ASIDE = re.compile(r"(?<![a-z])(label|macro|thumb(nail)?|overview)(?![a-z])", re.IGNORECASE)
_SMALL = 0.1
"""Share of the slide's area below which another image is a copy or an overview."""


def is_aside(name: str) -> bool:
    """Return whether an image is named a label, macro, thumbnail or overview. These are never read."""
    return _ASIDE.search(name) is not None


def others_remark(chosen: tuple[int, int], others: Sequence[tuple[tuple[int, int], str]]) -> tuple[str, ...]:
    """Return a sentence about images that are not counted although they may contain tissue, or nothing.

    Sizes are width and height, px: of the image that is read (``chosen``), and of each other image with its name.
    """
    area = chosen[0] * chosen[1]
    left = [size for size, name in others if not is_aside(name) and size[0] * size[1] >= _SMALL * area]
    if not left:
        return ()
    sizes = ", ".join(f"{width} x {height} px" for width, height in left[:3])
    return (
        f"The file contains {len(left) + 1} images; the largest ({chosen[0]} x {chosen[1]} px) was counted, "
        f"{len(left)} not ({sizes}{', ...' if len(left) > 3 else ''}): export the others to count them.",
    )
