"""Draw nuclei: rings for ``count --overlay``, and a figure with legend and scale bar."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from kinet_trt.core.detections import COLOURS, OTHER_COLOUR, Detections
from kinet_trt.core.frame import Frame
from kinet_trt.core.geometry import rescale
from kinet_trt.core.notice import NOTICE

RING_UM = 2.6
"""Radius of a ring, µm: about that of a nucleus."""
_SUBPIXEL = 4  # bits of OpenCV's fixed-point coordinates
_MIN_WIDTH = 900  # of a figure, px; smaller pictures are enlarged
_HALO, _BLACK, _WHITE = (255, 212, 59), (17, 17, 17), (255, 255, 255)


@dataclass(frozen=True, eq=False)
class Marks:
    """Nuclei with the same symbol in a figure."""

    words: str  # entry in the legend
    cls: str  # class name, which determines shape and colour
    places: NDArray[np.floating]  # centres x, y, px of the picture [n, 2]
    small: bool = False  # a small white symbol: not counted in this picture
    by_hand: bool = False  # a yellow halo: corrected by a person


def draw(frame: Frame, detections: Detections, mpp: float) -> NDArray[np.uint8]:
    """Draw a ring on each nucleus in the colour of its class; ``mpp`` of the frame determines its size."""
    picture = frame.pixels.copy()
    radius = max(2.0, RING_UM / mpp)
    thickness = max(1, round(radius / 7))
    shift = 1 << _SUBPIXEL
    for x, y, cls in zip(detections.x, detections.y, detections.cls, strict=True):
        colour = COLOURS.get(detections.classes[cls], OTHER_COLOUR)
        centre = (round(float(x) * shift), round(float(y) * shift))
        cv2.circle(picture, centre, round(radius * shift), colour, thickness, cv2.LINE_AA, _SUBPIXEL)
    return picture


def add_label(pixels: NDArray[np.uint8], words: str) -> NDArray[np.uint8]:
    """Return a picture, RGB uint8 [H, W, 3], with white words on black in the upper left corner."""
    picture = Image.fromarray(pixels)
    size = max(12, picture.width // 60)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    draw.rectangle((0, 0, font.getlength(words) + size, 1.8 * size), _BLACK)
    _text(draw, size / 2, 0.3 * size, words, font, _WHITE)
    return np.asarray(picture)


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode RGB pixels, uint8 [H, W, 3], as PNG."""
    _, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return data.tobytes()


def figure(
    pixels: NDArray[np.uint8],
    marks: Sequence[Marks],
    mpp: float,
    caption: str,
    outlines: Iterable[Sequence[tuple[float, float]]] = (),
) -> NDArray[np.uint8]:
    """Draw a picture with its nuclei and a scale bar; below it a caption, a legend with numbers, and the notice.

    Symbols are a circle (positive), a square (negative), a triangle (non-tumour) and a diamond (other classes), in the
    order of ``marks``. ``pixels``, RGB uint8 [H, W, 3], are enlarged by a whole factor if they are less than 900 px
    wide. ``outlines`` are those of the counted region, px of ``pixels``.
    """
    height, width = pixels.shape[:2]
    factor = max(1, -(-_MIN_WIDTH // width))
    size = (width * factor, height * factor)
    picture = np.array(cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC) if factor > 1 else pixels, np.uint8)
    radius = max(4.0, RING_UM / mpp * factor)
    for ring in outlines:
        corners = rescale(np.asarray(ring), factor)
        _line(picture, corners, _BLACK, 6)
        _line(picture, corners, _WHITE, 2)
    for group in marks:
        for x, y in rescale(group.places, factor):
            _mark(picture, float(x), float(y), radius, group)
    scaled = Image.fromarray(picture)
    _scale_bar(scaled, mpp / factor)
    strip = _strip(scaled.width, marks, caption)
    whole = Image.new("RGB", (scaled.width, scaled.height + strip.height), _WHITE)
    whole.paste(scaled, (0, 0))
    whole.paste(strip, (0, scaled.height))
    return np.asarray(whole)


def round_length(length: float) -> float:
    """Return the largest of 1, 2 and 5 times a power of ten that does not exceed a length."""
    power = 10.0 ** math.floor(math.log10(length))
    return power * max(k for k in (1, 2, 5) if k * power <= length)


def _mark(picture: NDArray[np.uint8], x: float, y: float, radius: float, group: Marks) -> None:
    r = radius * (0.5 if group.small else 1)
    shape = _SHAPES.get(group.cls, _DIAMOND) * r + (x, y)
    width = 1 if group.small else max(2, round(r / 6))
    colour = _BLACK if group.small else COLOURS.get(group.cls, OTHER_COLOUR)
    if group.by_hand:
        _line(picture, shape, _HALO, width + 6)
    _line(picture, shape, _WHITE, width + 2)
    _line(picture, shape, colour, width)


def _line(picture: NDArray[np.uint8], corners: NDArray[np.floating], colour: tuple[int, int, int], width: int) -> None:
    fixed = np.round(corners * (1 << _SUBPIXEL)).astype(np.int32)
    cv2.polylines(picture, [fixed], True, colour, width, cv2.LINE_AA, _SUBPIXEL)


def _scale_bar(picture: Image.Image, mpp: float) -> None:
    """Draw a white scale bar of a round length on black in the lower left corner."""
    length = round_length(picture.width * mpp / 5)
    px = round(length / mpp)
    size = max(14, picture.width // 60)
    words = f"{length:g} µm" if length < 1000 else f"{length / 1000:g} mm"
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    x, y, edge = size, picture.height - 2 * size, size // 2
    wide = max(px, round(font.getlength(words)))
    draw.rectangle((x - edge, y - 1.6 * size, x + wide + edge, y + size), _BLACK)
    draw.rectangle((x, y, x + px - 1, y + size // 3), _WHITE)
    _text(draw, x, y - 1.4 * size, words, font, _WHITE)


def _strip(width: int, marks: Sequence[Marks], caption: str) -> Image.Image:
    """Draw caption, legend and notice, black on white."""
    size = max(14, width // 60)
    font, line, edge = ImageFont.load_default(size), round(1.6 * size), size
    top = edge / 2
    texts: list[tuple[float, float, str]] = []
    keys: list[tuple[float, float, Marks]] = []
    for words in _wrapped(caption, font, width - 2 * edge):
        texts.append((edge, top, words))
        top += line
    left = float(edge)
    for group in marks:
        words = f"{group.words}: {len(group.places):,}"
        wide = font.getlength(words) + 3.5 * size
        if left > edge and left + wide > width:
            left, top = float(edge), top + line
        keys.append((left + size / 2, top + 0.75 * size, group))
        texts.append((left + 1.4 * size, top, words))
        left += wide
    top += line if marks else 0
    for words in _wrapped(NOTICE, font, width - 2 * edge):
        texts.append((edge, top, words))
        top += line
    picture = np.full((round(top) + edge // 2, width, 3), 255, np.uint8)
    for x, y, group in keys:
        _mark(picture, x, y, size / 2, group)
    drawn = Image.fromarray(picture)
    draw = ImageDraw.Draw(drawn)
    for x, y, words in texts:
        _text(draw, x, y, words, font, _BLACK)
    return drawn


_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _wrapped(words: str, font: _Font, width: float) -> list[str]:
    rows = [""]
    for word in words.split():
        longer = f"{rows[-1]} {word}".strip()
        if rows[-1] and font.getlength(longer) > width:
            rows.append(word)
        else:
            rows[-1] = longer
    return rows


def _text(draw: ImageDraw.ImageDraw, x: float, y: float, words: str, font: _Font, colour: tuple[int, int, int]) -> None:
    """Draw text; the font of Pillow has no micro sign, so draw u with a stem."""
    draw.text((x, y), words.replace("µ", "u"), colour, font)
    size = font.getbbox("u")
    for k, char in enumerate(words):
        if char == "µ":
            left = x + font.getlength(words[:k].replace("µ", "u")) + size[0]
            stem = max(1, round((size[3] - size[1]) / 7))
            draw.rectangle((left, y + size[3] - 2 * stem, left + stem - 1, y + size[3] + 2 * stem), colour)


_TURN = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_DIAMOND = np.array([(0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)])
_SHAPES = {
    "positive": np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1),
    "negative": 0.86 * np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]),
    "non_tumor": np.array([(0.0, -1.15), (1.05, 0.65), (-1.05, 0.65)]),
}
"""Symbols with radius 1."""
