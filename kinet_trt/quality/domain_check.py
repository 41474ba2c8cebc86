"""Unlike: whether a field looks like the training data; if not, in which way, in words.

It measures one window of at most 720 x 720 px at the model's um/px, about the median nucleus:

- appearance: colour and structure, as `kinet_trt.quality.appearance` measures them. A score of these, with size and
  spectrum, says whether the picture shows H-DAB stained tissue at all; one with both stains on a bright background may
  score higher.
- hue: optical density by hue. Haematoxylin is blue, DAB brown; eosin is magenta, between the two on the far side of
  grey. White is taken once as the picture has it, channel by channel, and once as grey: a pink veil is white to itself.
- sharpness and contrast, as `kinet_trt.quality.focus` measures them.
- size: how wide what is dark is (the share of stain that morphological openings of growing radius take away, Matheron
  1975, by its quartiles) and the mean profile of optical density about the nuclei that were found, to 20 px. A linear
  score of these says whether nuclei look half as large as they should.
- spectrum: the share of each half octave in the picture's power (Welch 1967). A second score, of size and spectrum,
  says whether nuclei look twice as large, or the picture holds no more detail than half its resolution could.

The limits are in `kinet_trt.quality.domain_table` and `kinet_trt.quality.tissue_table`, written by
``benchmarks/unlike.py`` and ``benchmarks/tissue.py``; docs/unlike.md says what they catch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.frame import Frame
from kinet_trt.core.geometry import rescale
from kinet_trt.quality.appearance import appearance
from kinet_trt.quality.domain_table import DARK, FOREIGN, LARGE, MAGENTA, SMALL
from kinet_trt.quality.focus import MIN_CONTRAST, MIN_SHARPNESS, contrast_and_sharpness
from kinet_trt.quality.tissue_table import BIAS, NUMBERS

Cause = Literal["other", "dark", "empty", "stain", "blurred", "small", "large"]

MIN_SIDE = 128
"""Shorter side in model px below which a picture is too small to be judged."""
RADII = (1, 2, 3, 4, 5, 7, 9, 12, 16)
"""Radii of the openings, px of half the model's resolution."""
RINGS = (4, 6, 8, 10, 12, 16, 20)
"""Distances from a nucleus's centre at which its profile is taken, model px."""
SIZE_FEATURES = 4 + 1 + len(RINGS)
"""How many numbers tell of size: mean and quartiles of the openings' log2 radius, log2 of the profile's half width, and
the profile itself."""

OCTAVES = 12
"""How many numbers tell of the spectrum: the log share of each half octave from 1/91 to 0.7 periods a px."""

MAX_Z = 6.0
"""Spreads from the usual value beyond which a number counts no more: one alone must not decide."""

ALLOWANCE = 1.5
"""What the score of tissue may be, instead of 0, where a picture shows both stains."""

_WINDOW = 720  # model px
_TILE = 128  # model px: what a spectrum is taken of; 4 x 4 such tiles spread over the window
_REACH = 24  # model px about a nucleus
_BLOCK, _GLASS = 16, 0.93  # px; share of the brightest block's level above which a block is glass
_PATCHES = 80  # nuclei whose profile is taken
_LEAST_NUCLEI = 5
_STAINED = 0.15  # sum of optical densities above which a px bears stain
_COLOURED = 0.04  # distance from grey above which a stained px has a hue
_EOSIN = 0.06  # the same at hues of eosin: a mixture of haematoxylin and DAB has them too, but is paler
_PALE = 0.08  # share of all stain that stands in for hues that are missing: a trace of magenta alone is no eosin
_BINS = 72  # of 5 degrees


@dataclass(frozen=True)
class Features:
    """What was measured of a field.

    Attributes
    ----------
    magenta
        Optical density at hues of eosin, as a share of that at hues of eosin and DAB: the larger of the two whites.
    foreign
        Share of optical density at hues that neither stain nor a mixture of both has (green).
    darkness
        How far the median brightness lies below the brightest, as a share of the range: above one half the background
        is darker than what stands out of it. 0 where the median is bright.
    contrast, sharpness
        See `kinet_trt.quality.focus`.
    size
        `SIZE_FEATURES` numbers; NaN for what needs more nuclei than were found.
    spectrum
        `OCTAVES` numbers.
    appearance, both_stains
        See `kinet_trt.quality.appearance.Appearance`.
    """

    magenta: float
    foreign: float
    darkness: float
    contrast: float
    sharpness: float
    size: tuple[float, ...]
    spectrum: tuple[float, ...]
    appearance: tuple[float, ...]
    both_stains: bool

    @property
    def tissue(self) -> tuple[float, ...]:
        """What the score of tissue is made of: appearance, width of dark structures, and shares of the spectrum.

        The width is that of the coarsest quarter. The half octaves are those of 64 to 32 px, and of 5 px: finer ones
        tell one camera from another, not tissue from other things.
        """
        return (*self.appearance, self.size[3], *self.spectrum[2:5], self.spectrum[8])


@dataclass(frozen=True)
class DeviationScore:
    """A score of how far numbers are from their usual values; above 0 they are too far.

    ``bias + sum(below * max(0, -z) + above * max(0, z))`` with ``z = (number - usual) / spread``, limited to `MAX_Z`
    either way. No weight is negative: a number that is unusual never makes up for another.
    """

    usual: tuple[float, ...]
    spread: tuple[float, ...]
    below: tuple[float, ...]
    above: tuple[float, ...]
    bias: float

    def value(self, numbers: tuple[float, ...]) -> float:
        """Return the score."""
        z = (np.asarray(numbers) - np.asarray(self.usual)) / np.asarray(self.spread)
        z = np.clip(z, -MAX_Z, MAX_Z)
        return self.bias + float(np.maximum(-z, 0) @ np.asarray(self.below) + np.maximum(z, 0) @ np.asarray(self.above))


@cache
def _tissue() -> DeviationScore:
    usual, spread, below, above = zip(*NUMBERS, strict=True)
    return DeviationScore(usual, spread, below, above, BIAS)


@dataclass(frozen=True)
class LinearScore:
    """A linear score ``bias + sum(weight * (sign - mean) / deviation)``; above 0 says yes. What is NaN adds nothing."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    weight: tuple[float, ...]
    bias: float

    def value(self, signs: tuple[float, ...]) -> float:
        """Return the score."""
        z = (np.asarray(signs) - np.asarray(self.mean)) / np.asarray(self.deviation)
        return self.bias + float(np.nan_to_num(z) @ np.asarray(self.weight))


class DomainCheck:
    """Says how a counted frame is unlike the training data: a `kinet_trt.live.acquisition.results.FrameCheck`.

    Parameters
    ----------
    mpp
        The model's um/px.
    """

    def __init__(self, mpp: float) -> None:
        self._mpp = mpp

    def __call__(self, frame: Frame, detections: Detections) -> str:
        """Return sentences; empty where the field looks like the training data or cannot be judged.

        Parameters
        ----------
        frame
            The picture; without um/px the model's is assumed.
        detections
            Its nuclei, px of the frame.
        """
        signs = measure_field(frame, detections, self._mpp)
        return "" if signs is None else describe(find_causes(signs), frame.mpp or self._mpp)


def find_causes(
    signs: Features,
    large: LinearScore | None = None,
    small: LinearScore | None = None,
    tissue: DeviationScore | None = None,
) -> tuple[Cause, ...]:
    """Return what is wrong; where one thing explains the others, only that.

    Parameters
    ----------
    signs
        From `measure`.
    large, small, tissue
        Scores of size and spectrum, of size, and of `Features.tissue`; None: those of the tables.
    """
    if signs.contrast < MIN_CONTRAST and signs.darkness <= DARK:
        return ("empty",)
    score = (tissue or _tissue()).value(signs.tissue)
    found: list[Cause] = ["other"] if score > ALLOWANCE * signs.both_stains else []
    stain = signs.magenta > MAGENTA or signs.foreign > FOREIGN
    if found and signs.darkness > DARK:  # densely stained tissue is dark too, but it is tissue
        # A dark section of another stain looks the same.
        return (*found, "dark", "stain") if stain else (*found, "dark")
    if stain:
        found.append("stain")
    if signs.sharpness < MIN_SHARPNESS:
        found.append("blurred")
    if (large or LinearScore(*LARGE)).value(signs.size + signs.spectrum) > 0:
        found.append("large")
    elif (small or LinearScore(*SMALL)).value(signs.size) > 0:
        found.append("small")
    return tuple(found)


def describe(found: tuple[Cause, ...], mpp: float, *, slide: bool = False) -> str:
    """Return the causes in words; empty without any.

    Parameters
    ----------
    found
        From `find_causes`.
    mpp
        um/px that was counted at.
    slide
        Whether most of a slide is meant, not one field.
    """
    if not found:
        return ""
    words: dict[Cause, str] = {
        "dark": "the background is dark, as in fluorescence, but the model is for brightfield images",
        "empty": "there is hardly any tissue in it",
        "stain": "the stain does not look like haematoxylin and DAB",
        "blurred": "it is blurred",
        "small": f"nuclei look about half as large as expected: is {mpp:g} um/px right?",
        "large": f"nuclei look about twice as large as expected, or fine detail is missing: is {mpp:g} um/px right?",
    }
    if "other" in found:
        subject = "Most of this slide" if slide else "This"
        said = f"{subject} does not look like H-DAB stained tissue: the counts mean nothing."
        found = tuple(cause for cause in found if cause not in ("other", "stain"))
        opening = " If it is tissue: "
    else:
        said, opening = "", f"{'Most of the tissue' if slide else 'This field'} is unlike the training data: "
    if not found:
        return said
    text = "; ".join(words[cause] for cause in found)
    return f"{said}{opening}{text}{'' if text.endswith('?') else '.'}"


def measure_field(frame: Frame, detections: Detections, model_mpp: float) -> Features | None:
    """Measure a field.

    Parameters
    ----------
    frame
        The picture; without um/px the model's is assumed.
    detections
        Its nuclei, px of the frame.
    model_mpp
        The model's um/px.

    Returns
    -------
    Features or None
        None for a picture without colour, of which counting says so, and for one that is too small to be judged.
    """
    scale = (frame.mpp or model_mpp) / model_mpp
    if min(frame.height, frame.width) * scale < MIN_SIDE or frame.is_grey:
        return None
    pixels, x, y = _window(frame, detections, scale)
    contrast, sharpness = contrast_and_sharpness(cv2.extractChannel(pixels, 1).astype(np.float32))
    magenta, foreign = _hues(pixels)
    seen = appearance(_without_glass(pixels))
    return Features(
        magenta=magenta,
        foreign=foreign,
        darkness=_darkness(pixels),
        contrast=contrast,
        sharpness=sharpness,
        size=(*_widths(pixels), *_profile(pixels, x, y)),
        spectrum=_spectrum(pixels),
        appearance=seen.numbers,
        both_stains=seen.both_stains,
    )


def _window(
    frame: Frame, detections: Detections, scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """Return the window at the model's um/px, and the nuclei in it, px of the window."""
    side = math.ceil(_WINDOW / scale)
    x, y = detections.x.astype(np.float64), detections.y.astype(np.float64)
    middle = (np.median(x), np.median(y)) if len(detections) else (frame.width / 2, frame.height / 2)
    left, top = (
        int(min(max(0, centre - side / 2), max(0, whole - side)))
        for centre, whole in zip(middle, (frame.width, frame.height), strict=True)
    )
    part = frame.pixels[top : top + side, left : left + side]
    height, width = (max(1, round(length * scale)) for length in part.shape[:2])
    if (height, width) != part.shape[:2]:
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        part = cv2.resize(part, (width, height), interpolation=way).astype(np.uint8, copy=False)
    return np.ascontiguousarray(part), rescale(x - left, scale), rescale(y - top, scale)


def _without_glass(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut the window down to what is not glass where that lies within half of it."""
    height, width = pixels.shape[:2]
    blocks = cv2.resize(pixels, (width // _BLOCK, height // _BLOCK), interpolation=cv2.INTER_AREA).min(axis=2)
    rows, columns = (np.flatnonzero((blocks < _GLASS * float(blocks.max())).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return pixels
    (top, bottom), (left, right) = ((int(side[0]) * _BLOCK, (int(side[-1]) + 1) * _BLOCK) for side in (rows, columns))
    if min(bottom - top, right - left) < MIN_SIDE or 2 * (bottom - top) * (right - left) > height * width:
        return pixels
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def _hues(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Return ``magenta`` and ``foreign`` of `Features`."""
    few = np.ascontiguousarray(pixels[::4, ::4]).reshape(-1, 3)
    own = np.maximum(np.percentile(few, 97, axis=0), 60)
    by_own, by_grey = _hue_shares(few, own), _hue_shares(few, np.full(3, own.max()))
    magenta = []
    for shares in (by_own, by_grey):
        eosin, brown = shares[_at(75) : _at(135)].sum(), shares[_at(135) : _at(225)].sum()
        magenta.append(float(eosin / (eosin + brown + _PALE)))
    return max(magenta), float(by_own[_at(225) : _at(315)].sum())


def _hue_shares(pixels: NDArray[np.uint8], white: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what share of the stain in pixels [n, 3] has the hue of each bin; grey has none."""
    levels = np.arange(1, 257)[:, None] / (white + 1)
    tables = np.clip(-np.log10(levels), 0, 2.4).astype(np.float32)
    red, green, blue = (tables[pixels[:, channel], channel] for channel in range(3))
    total = red + green + blue
    stained = total > _STAINED
    red, green, blue, total = red[stained], green[stained], blue[stained], total[stained]
    along = (red - blue) / np.float32(math.sqrt(2))  # blue > 0 > brown
    across = (2 * green - red - blue) / np.float32(math.sqrt(6))  # magenta > 0 > green
    bins = np.floor(np.arctan2(across, along) * np.float32(_BINS / (2 * math.pi))).astype(np.intp) % _BINS
    # The darkest px are full of noise, and would outweigh all others.
    weight = np.minimum(total, 1)
    least = np.where((bins >= _at(75)) & (bins < _at(135)), np.float32(_EOSIN), np.float32(_COLOURED))
    coloured = weight * (np.hypot(along, across) >= least * total)
    return np.bincount(bins, coloured, _BINS) / max(1e-6, float(weight.sum()))


def _at(degrees: int) -> int:
    return degrees * _BINS // 360


def _darkness(pixels: NDArray[np.uint8]) -> float:
    few = np.ascontiguousarray(pixels[::4, ::4])
    low, middle, high = np.percentile(few @ np.full(3, 1 / 3, np.float32), (5, 50, 95))
    return float((high - middle) / (high - low + 1)) if middle < 128 else 0.0


def _density(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the sum of the three optical densities."""
    table = -np.log10(np.maximum(np.arange(256, dtype=np.float32), 6) / 255)
    return np.asarray(cv2.transform(cv2.LUT(pixels, table.astype(np.float32)), np.ones((1, 3), np.float32)))


def _widths(pixels: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """Return mean and quartiles of the log2 radius at which openings take the stain away."""
    height, width = pixels.shape[:2]
    half = cv2.resize(pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    stain = cv2.medianBlur(np.clip(80 * _density(half.astype(np.uint8)), 0, 255).astype(np.uint8), 3)
    before, eroded, reached = float(stain.sum()), stain, 0
    taken = []
    for radius in RADII:
        for step in range(reached, radius):
            eroded = cv2.erode(eroded, _element(step))
        reached, opened = radius, eroded
        for step in range(radius):
            opened = cv2.dilate(opened, _element(step))
        left = float(opened.sum())
        taken.append(max(0.0, before - left) + 1)
        before = left
    shares, logs = np.array(taken) / sum(taken), np.log2(RADII)
    first, second, third = (float(q) for q in np.interp((0.25, 0.5, 0.75), np.cumsum(shares), logs))
    return float(shares @ logs), first, second, third


def _element(step: int) -> NDArray[np.uint8]:
    """Return a cross and a square in turn: together they make an octagon, which is nearly a disc."""
    shape = cv2.MORPH_RECT if step % 2 else cv2.MORPH_CROSS
    return cv2.getStructuringElement(shape, (3, 3)).astype(np.uint8, copy=False)


def _profile(pixels: NDArray[np.uint8], x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, ...]:
    """Return log2 of the half width, px, and the heights at `RINGS` of the mean nucleus, from 0 to 1."""
    height, width = pixels.shape[:2]
    column, row = np.round(x).astype(np.intp), np.round(y).astype(np.intp)
    inside = (column >= _REACH) & (column < width - _REACH) & (row >= _REACH) & (row < height - _REACH)
    column, row = column[inside], row[inside]
    if len(column) < _LEAST_NUCLEI:
        return (math.nan,) * (1 + len(RINGS))
    chosen = np.linspace(0, len(column) - 1, min(len(column), _PATCHES)).astype(np.intp)
    patch = np.zeros((2 * _REACH + 1, 2 * _REACH + 1), np.float64)
    for centre in chosen:
        r, c = row[centre], column[centre]
        patch += _density(np.ascontiguousarray(pixels[r - _REACH : r + _REACH + 1, c - _REACH : c + _REACH + 1]))
    away = np.hypot(*np.mgrid[-_REACH : _REACH + 1, -_REACH : _REACH + 1]).astype(np.intp).ravel()
    profile = (np.bincount(away, patch.ravel()) / np.bincount(away))[:_REACH]
    high, low = profile[:4].mean(), profile[6:].min()
    below = np.flatnonzero(profile < (high + low) / 2)
    half = int(below[0]) if len(below) else _REACH
    span = max(float(high - low), 1e-3 * len(chosen))
    # A dark px beside a pale centre must not outweigh everything else.
    rings = (float(np.clip((profile[ring] - low) / span, -0.5, 2)) for ring in RINGS)
    return (math.log2(half + 1), *rings)


def _spectrum(pixels: NDArray[np.uint8]) -> tuple[float, ...]:
    height, width = pixels.shape[:2]
    tops, lefts = (np.unique(np.linspace(0, side - _TILE, 4).astype(int)) for side in (height, width))
    hann, octave = _waves()
    power = np.zeros((_TILE, _TILE), np.float32)
    for top in tops:
        for left in lefts:
            tile = cv2.transform(pixels[top : top + _TILE, left : left + _TILE], np.full((1, 3), 1 / 3, np.float32))
            tile = tile.astype(np.float32)
            waves = cv2.dft((tile - tile.mean()) * hann, flags=cv2.DFT_COMPLEX_OUTPUT)
            power += waves[..., 0] ** 2 + waves[..., 1] ** 2
    shares = np.bincount(octave, power.ravel(), OCTAVES + 1)[:OCTAVES]
    return tuple(float(v) for v in np.log(shares / max(1e-9, float(shares.sum())) + 1e-9))


@cache
def _waves() -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return Hann's window [128, 128], and for each px of its transform, as a row, the half octave; else `OCTAVES`."""
    hann = np.outer(np.hanning(_TILE), np.hanning(_TILE)).astype(np.float32)
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.fftfreq(_TILE)[None])
    octave = np.floor(2 * np.log2(np.maximum(frequency, 1e-6) * _TILE / 1.4)).astype(np.intp)
    return hann, np.where((octave >= 0) & (octave < OCTAVES), octave, OCTAVES).ravel()
