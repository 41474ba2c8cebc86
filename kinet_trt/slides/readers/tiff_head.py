"""What a TIFF's directories state, read without a package that decodes its pixels.

TIFF 6.0 (Adobe 1992), and BigTIFF, whose offsets have eight bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MAX_IMAGE_PIXELS = 178_956_970
"""px above which a picture is not read in one piece: Pillow's limit."""

_SUBFILE, _WIDTH, _HEIGHT, _DESCRIPTION, _TILE_WIDTH, _SUB_IMAGES = 254, 256, 257, 270, 322, 330
_WANTED = (_SUBFILE, _WIDTH, _HEIGHT, _TILE_WIDTH, _SUB_IMAGES)
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_ASCII = (1, 2, 7)  # types of a text
_PAGES, _TAGS = 64, 4096  # of a TIFF that are looked at
_LONGEST_TEXT = 1 << 26  # bytes


def is_slide(path: Path) -> bool:
    """Return whether a TIFF is a tiled pyramid, or larger than one picture may be; False for what is no TIFF.

    A pyramid is one that says so (sub-images, reduced pages), or whose tiled pages show the first one's proportions at
    smaller sizes: Aperio and some exporters do not mark their levels.
    """
    whole = None
    try:
        with path.open("rb") as file:
            for number, (page, _) in enumerate(_pages(file)):
                tiled, size = bool(page.get(_TILE_WIDTH)), (page.get(_WIDTH, 0), page.get(_HEIGHT, 0))
                if size[0] * size[1] > MAX_IMAGE_PIXELS or (tiled and _SUB_IMAGES in page):
                    return True
                if number == 0 and tiled:
                    whole = size
                # A camera's picture may have a small one beside it, in strips.
                if number and tiled and (page.get(_SUBFILE, 0) & 1 or (whole and is_level(whole, size))):
                    return True
    except (OSError, ValueError, struct.error, OverflowError):
        return False
    return False


def is_level(whole: tuple[int, int], size: tuple[int, int]) -> bool:
    """Return whether a picture has the proportions of a larger one, to 1 px, as a level of its pyramid has.

    Parameters
    ----------
    whole, size
        Width and height of the larger and of the smaller picture, px.
    """
    if min(*whole, *size) < 1:
        return False
    ratio = max(whole[0] / size[0], whole[1] / size[1])
    return ratio > 1 and all(abs(a / ratio - b) <= 1 for a, b in zip(whole, size, strict=True))


def is_tiled(path: Path) -> bool:
    """Return whether a file is a TIFF whose first page is stored in tiles."""
    try:
        with path.open("rb") as file:
            return any(bool(page.get(_TILE_WIDTH)) for page, _ in _pages(file, most=1))
    except (OSError, ValueError, struct.error, OverflowError):
        return False


def description(path: Path) -> str:
    """Return the description of a TIFF's first page; empty where there is none, or the file is no TIFF.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for _, text in _pages(file, most=1):
                if text and text[1] <= _LONGEST_TEXT:
                    file.seek(text[0])
                    return file.read(text[1]).rstrip(b"\0").decode("utf-8", "replace")
    except (ValueError, struct.error, OverflowError):
        pass
    return ""


def _pages(file: BinaryIO, most: int = _PAGES) -> Iterator[tuple[dict[int, int], tuple[int, int] | None]]:
    """Yield of each directory that the file chains the first value of the wanted tags, and place and size of its text.

    The place is the file's offset, the size is bytes.
    """
    order = {b"II": "<", b"MM": ">"}.get(file.read(2))
    if order is None:
        return
    (magic,) = struct.unpack(f"{order}H", file.read(2))
    if magic == 43:
        file.read(4)
    elif magic != 42:
        return
    offset, count, entry = ("Q", "Q", "HHQ") if magic == 43 else ("I", "H", "HHI")
    room = struct.calcsize(f"={offset}")

    def number(kind: str) -> int:
        (value,) = struct.unpack(f"{order}{kind}", file.read(struct.calcsize(f"={kind}")))
        return int(value)

    place = number(offset)
    for _ in range(most):
        if not place:
            return
        file.seek(place)
        found, text = {}, None
        tags = number(count)
        if tags > _TAGS:
            return
        for _ in range(tags):
            tag, kind, values = struct.unpack(f"{order}{entry}", file.read(struct.calcsize(f"={entry}")))
            data = file.read(room)
            form = _NUMBERS.get(kind)
            if tag in _WANTED and form and values:
                size = struct.calcsize(f"={form}")
                # Several values are stored elsewhere: that they exist is enough.
                found[tag] = int(struct.unpack(f"{order}{form}", data[:size])[0]) if size <= room else 1
            elif tag == _DESCRIPTION and kind in _ASCII:
                (elsewhere,) = struct.unpack(f"{order}{offset}", data)
                text = (file.tell() - room if values <= room else elsewhere), values
        place = number(offset)
        yield found, text
