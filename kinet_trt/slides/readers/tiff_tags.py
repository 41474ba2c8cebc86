"""Directories of a TIFF (TIFF 6.0, Adobe 1992, and BigTIFF), read without the packages that decode pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MAX_IMAGE_PIXELS = 178_956_970
"""Maximum size of an image that is read as a whole, px: Pillow's limit."""

_SUBFILE, _WIDTH, _HEIGHT, _DESCRIPTION, _TILE_WIDTH, _SUB_IMAGES = 254, 256, 257, 270, 322, 330
_WANTED = (_SUBFILE, _WIDTH, _HEIGHT, _TILE_WIDTH, _SUB_IMAGES)
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_TEXT_TYPES = (1, 2, 7)
_MAX_PAGES, _MAX_TAGS = 64, 4096
_MAX_TEXT_BYTES = 1 << 26


def is_slide(path: Path) -> bool:
    """Return whether a TIFF is a tiled pyramid, or too large for one image; False if the file is not a TIFF.

    A pyramid has sub-images or reduced pages, or smaller tiled pages with the proportions of the first one: Aperio and
    some exporters do not mark their levels.
    """
    full_size = None
    try:
        with path.open("rb") as file:
            for number, (page, _) in enumerate(_pages(file)):
                tiled, size = bool(page.get(_TILE_WIDTH)), (page.get(_WIDTH, 0), page.get(_HEIGHT, 0))
                if size[0] * size[1] > MAX_IMAGE_PIXELS or (tiled and _SUB_IMAGES in page):
                    return True
                if number == 0 and tiled:
                    full_size = size
                # A camera image may have a thumbnail, which is stored in strips.
                if number and tiled and (page.get(_SUBFILE, 0) & 1 or (full_size and is_level(full_size, size))):
                    return True
    except (OSError, ValueError, struct.error, OverflowError):
        return False
    return False


def is_level(full_size: tuple[int, int], size: tuple[int, int]) -> bool:
    """Return whether an image has the proportions of a larger one, within 1 px, like a level of its pyramid.

    Sizes are width and height, px.
    """
    if min(*full_size, *size) < 1:
        return False
    ratio = max(full_size[0] / size[0], full_size[1] / size[1])
    return ratio > 1 and all(abs(a / ratio - b) <= 1 for a, b in zip(full_size, size, strict=True))


def is_tiled(path: Path) -> bool:
    """Return whether a file is a TIFF whose first page is stored in tiles."""
    try:
        with path.open("rb") as file:
            return any(bool(page.get(_TILE_WIDTH)) for page, _ in _pages(file, max_pages=1))
    except (OSError, ValueError, struct.error, OverflowError):
        return False


def description(path: Path) -> str:
    """Return the description of the first page of a TIFF; empty if it has none, or is not a TIFF."""
    try:
        with path.open("rb") as file:
            for _, text in _pages(file, max_pages=1):
                if text and text[1] <= _MAX_TEXT_BYTES:
                    file.seek(text[0])
                    return file.read(text[1]).rstrip(b"\0").decode("utf-8", "replace")
    except (ValueError, struct.error, OverflowError):
        pass
    return ""


def _pages(file: BinaryIO, max_pages: int = _MAX_PAGES) -> Iterator[tuple[dict[int, int], tuple[int, int] | None]]:
    """Yield, for each directory, the first value of each wanted tag, and offset and size of its description, bytes."""
    byte_order = {b"II": "<", b"MM": ">"}.get(file.read(2))
    if byte_order is None:
        return
    (magic,) = struct.unpack(f"{byte_order}H", file.read(2))
    if magic == 43:
        file.read(4)
    elif magic != 42:
        return
    offset, count, entry = ("Q", "Q", "HHQ") if magic == 43 else ("I", "H", "HHI")
    value_size = struct.calcsize(f"={offset}")

    def read_number(kind: str) -> int:
        (value,) = struct.unpack(f"{byte_order}{kind}", file.read(struct.calcsize(f"={kind}")))
        return int(value)

    position = read_number(offset)
    for _ in range(max_pages):
        if not position:
            return
        file.seek(position)
        found, text = {}, None
        tag_count = read_number(count)
        if tag_count > _MAX_TAGS:
            return
        for _ in range(tag_count):
            tag, kind, values = struct.unpack(f"{byte_order}{entry}", file.read(struct.calcsize(f"={entry}")))
            data = file.read(value_size)
            code = _NUMBERS.get(kind)
            if tag in _WANTED and code and values:
                size = struct.calcsize(f"={code}")
                # Several values are stored at another offset; only their presence matters.
                found[tag] = int(struct.unpack(f"{byte_order}{code}", data[:size])[0]) if size <= value_size else 1
            elif tag == _DESCRIPTION and kind in _TEXT_TYPES:
                (text_offset,) = struct.unpack(f"{byte_order}{offset}", data)
                text = (file.tell() - value_size if values <= value_size else text_offset), values
        position = read_number(offset)
        yield found, text
