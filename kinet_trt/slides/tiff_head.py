"""Whether a TIFF is a slide: seen in its directories, without a package that decodes it.

TIFF 6.0 (Adobe 1992), and BigTIFF, whose offsets have eight bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LARGEST_PICTURE = 178_956_970
"""px above which a picture is not read in one piece: Pillow's limit."""

_SUBFILE, _WIDTH, _HEIGHT, _TILE_WIDTH, _SUB_IMAGES = 254, 256, 257, 322, 330
_WANTED = (_SUBFILE, _WIDTH, _HEIGHT, _TILE_WIDTH, _SUB_IMAGES)
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_PAGES, _TAGS = 64, 4096  # of a TIFF that are looked at


def is_slide(path: Path) -> bool:
    """Say whether a TIFF is a tiled pyramid, or larger than one picture may be; what is no TIFF is not."""
    try:
        with path.open("rb") as file:
            for number, page in enumerate(_pages(file)):
                tiled = bool(page.get(_TILE_WIDTH))
                if page.get(_WIDTH, 0) * page.get(_HEIGHT, 0) > LARGEST_PICTURE or (tiled and _SUB_IMAGES in page):
                    return True
                # A camera's picture may have a small one beside it, in strips.
                if number and tiled and page.get(_SUBFILE, 0) & 1:
                    return True
    except (OSError, ValueError, struct.error, OverflowError):
        return False
    return False


def _pages(file: BinaryIO) -> Iterator[dict[int, int]]:
    """Yield the first value of the wanted tags of each directory that the file chains."""
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
    for _ in range(_PAGES):
        if not place:
            return
        file.seek(place)
        found = {}
        tags = number(count)
        if tags > _TAGS:
            return
        for _ in range(tags):
            tag, kind, values = struct.unpack(f"{order}{entry}", file.read(struct.calcsize(f"={entry}")))
            data = file.read(room)
            form = _NUMBERS.get(kind)
            if tag in _WANTED and form and values:
                size = struct.calcsize(f"={form}")
                # Several values stand elsewhere: that they are there is enough.
                found[tag] = int(struct.unpack(f"{order}{form}", data[:size])[0]) if size <= room else 1
        place = number(offset)
        yield found
