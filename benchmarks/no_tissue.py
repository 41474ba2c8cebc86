"""Random drawings without tissue: screens, text, labels, charts, cartoons, light. RGB uint8."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Draw = Callable[[np.random.Generator, int, int], Pixels]
_WORDS = re.findall(
    r"\S+",
    "field nuclei tumour index grade slide case report positive negative count stain section block level margin of the "
    "and with from 12 7.5 2026 Ki67 H-DAB mm biopsy left right",
)


def _canvas(width: int, height: int, colour: Any) -> Pixels:
    return np.full((height, width, 3), colour, np.uint8)


def _colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in rng.integers(low, high, 3))
    return red, green, blue


def _write(rng: np.random.Generator, shown: Pixels, box: tuple[int, int, int, int], size: float, colour: Any) -> None:
    """Fill the box left, top, right, bottom with lines of words."""
    left, top, right, bottom = box
    step = int(34 * size)
    for base in range(top + step, bottom, step):
        words = " ".join(rng.choice(_WORDS, 40))
        letters = max(1, int((right - left) / (17 * size)))
        line = words[: int(rng.integers(max(1, letters // 2), letters + 1))]
        cv2.putText(shown, line, (left, base), cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1 + (size > 0.8), cv2.LINE_AA)


def text(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """Draw a page of text, tinted like paper."""
    shown = _canvas(width, height, rng.integers([235, 228, 205], 256))
    ink = [(20, 20, 30), (10, 20, 120), (90, 50, 30)][int(rng.integers(3))]
    _write(rng, shown, (20, 10, width - 10, height - 10), float(rng.uniform(0.4, 0.9)), ink)
    return shown


def screen(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """Draw windows with title bars, panels, buttons and text, light or dark."""
    dark = rng.random() < 0.4
    ground, ink = ((32, 34, 40), (220, 220, 225)) if dark else ((245, 246, 248), (30, 32, 40))
    shown = _canvas(width, height, ground)
    accent = _colour(rng, 20, 220)
    cv2.rectangle(shown, (0, 0), (width, 36), accent, -1)
    cv2.rectangle(shown, (0, 36), (width // 5, height), tuple(max(0, v - 12) for v in ground), -1)
    _write(rng, shown, (10, 50, width // 5 - 6, height), 0.4, ink)
    for _ in range(6):
        left, top = int(rng.integers(width // 5, width - 80)), int(rng.integers(40, height - 50))
        right, bottom = left + int(rng.integers(70, 300)), top + int(rng.integers(30, 200))
        face = tuple(min(255, v + int(rng.integers(-12, 20))) for v in ground)
        cv2.rectangle(shown, (left, top), (right, bottom), [max(0, v) for v in face], -1)
        cv2.rectangle(shown, (left, top), (right, bottom), (150, 150, 155), 1)
        _write(rng, shown, (left + 8, top + 4, right - 8, bottom - 4), float(rng.uniform(0.35, 0.6)), ink)
        cv2.rectangle(shown, (left + 8, bottom - 26), (left + 60, bottom - 8), _colour(rng), -1)
    return shown


def label(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """Draw a slide's label: a few words, a bar code, a square code, a tinted ground."""
    shown = _canvas(width, height, rng.integers([200, 200, 180], 256))
    for line in range(3):
        words = " ".join(rng.choice(_WORDS, 3))
        at = (width // 12, int(height * (0.15 + 0.13 * line)))
        cv2.putText(shown, words, at, cv2.FONT_HERSHEY_DUPLEX, width / 520, (20, 20, 40), 2, cv2.LINE_AA)
    left = width // 12
    while left < width * 0.55:
        wide = int(rng.integers(1, 7))
        cv2.rectangle(shown, (left, int(height * 0.55)), (left + wide, int(height * 0.9)), (15, 15, 15), -1)
        left += wide + int(rng.integers(2, 8))
    code = (rng.random((21, 21)) < 0.5).astype(np.uint8) * 225 + 15
    side = int(min(width, height) * 0.35)
    square = cv2.resize(code, (side, side), interpolation=cv2.INTER_NEAREST)[..., None]
    shown[-side - height // 12 : -(height // 12), -side - width // 12 : -(width // 12)] = square
    return shown


def bars(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """Draw colour bars over a grey wedge."""
    level = int(rng.choice([191, 255]))
    colours = [[level * (k >> bit & 1) for bit in (1, 2, 0)] for k in range(7, -1, -1)]
    shown = cv2.resize(np.array([colours], np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    wedge = np.linspace(0, 255, width).astype(np.uint8)
    shown[int(height * 0.75) :] = wedge[None, :, None]
    return _noisy(rng, shown.astype(np.uint8), 2)


def chart(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """Draw a test chart: patches of colour, a star of lines and rings."""
    shown = _canvas(width, height, int(rng.integers(60, 200)))
    across, down = width // 7, height // 8
    for row in range(4):
        for column in range(6):
            corner = (across // 2 + column * across, down // 2 + row * down)
            cv2.rectangle(
                shown, corner, (corner[0] + int(0.85 * across), corner[1] + int(0.85 * down)), _colour(rng), -1
            )
    for centre, way in (((width // 4, int(height * 0.78)), 0), ((3 * width // 4, int(height * 0.78)), 1)):
        y, x = np.mgrid[:height, :width]
        angle, away = np.arctan2(y - centre[1], x - centre[0]), np.hypot(y - centre[1], x - centre[0])
        wave = np.sin(36 * angle) if way == 0 else np.sin(away * away / (2 * height))
        inside = away < min(width, height) * 0.2
        shown[inside] = np.where(wave[inside] > 0, 245, 10)[:, None]
    return _noisy(rng, shown, 3)


def drawing(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """Draw flat shapes with outlines, as a cartoon."""
    shown = _canvas(width, height, _colour(rng, 150))
    for _ in range(int(rng.integers(8, 25))):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(12, width // 3)), int(rng.integers(12, height // 3)))
        turn, colour = float(rng.uniform(0, 180)), _colour(rng)
        if rng.random() < 0.5:
            cv2.ellipse(shown, centre, axes, turn, 0, 360, colour, -1, cv2.LINE_AA)
            cv2.ellipse(shown, centre, axes, turn, 0, 360, (20, 20, 20), 2, cv2.LINE_AA)
        else:
            corners = cv2.boxPoints((centre, axes, turn)).astype(np.int32)
            cv2.fillPoly(shown, [corners], colour, cv2.LINE_AA)
            cv2.polylines(shown, [corners], True, (20, 20, 20), 2, cv2.LINE_AA)
    return shown


def plot(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """Draw axes with curves and points, as in a paper."""
    shown = _canvas(width, height, 255)
    left, bottom = width // 10, height - height // 10
    cv2.rectangle(shown, (left, height // 12), (width - width // 15, bottom), (0, 0, 0), 1)
    x = np.linspace(left, width - width // 15, 60)
    for _ in range(5):
        y = height / 2 + np.cumsum(rng.normal(0, height / 40, 60))
        points, colour = np.stack([x, np.clip(y, height / 12, bottom)], axis=1).astype(np.int32), _colour(rng, 0, 200)
        cv2.polylines(shown, [points], False, colour, 2, cv2.LINE_AA)
        for point in points[::3]:
            cv2.circle(shown, [int(v) for v in point], 4, colour, -1, cv2.LINE_AA)
    _write(rng, shown, (left, 0, width, height // 12), 0.5, (0, 0, 0))
    _write(rng, shown, (left, bottom, width, height), 0.4, (0, 0, 0))
    return shown


def gradient(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """Draw a gradient between colours with camera noise."""
    corners = rng.integers(0, 256, (2, 2, 3)).astype(np.float32)
    return _noisy(rng, cv2.resize(corners, (width, height), interpolation=cv2.INTER_CUBIC), float(rng.uniform(0, 3)))


def noise(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """Draw noise of any level, independent or smooth."""
    fine = rng.integers(0, 256, (height, width, 3)).astype(np.float32)
    width_of = float(rng.choice([0, 1, 3, 8]))
    if width_of:
        fine = cv2.GaussianBlur(fine, (0, 0), width_of)
        fine = (fine - fine.mean()) / fine.std() * 60 + 128
    return np.clip(fine, 0, 255).astype(np.uint8)


def _noisy(rng: np.random.Generator, shown: NDArray[Any], deviation: float) -> Pixels:
    return np.clip(shown + rng.normal(0, deviation, shown.shape), 0, 255).astype(np.uint8)


DRAWN: Mapping[str, Draw] = {
    draw.__name__: draw for draw in (text, screen, label, bars, chart, drawing, plot, gradient, noise)
}
