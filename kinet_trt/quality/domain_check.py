"""Domain check: compare a field with the training data, and describe out-of-distribution fields.

The features are measured on a window of at most 720 x 720 px at the model's µm/px about the median nucleus:

- appearance (`kinet_trt.quality.appearance`): its score, together with size and spectrum, detects pictures that are not
  H-DAB stained tissue.
- hue: optical density by hue. Haematoxylin is blue, DAB brown, eosin magenta. The white point is measured per channel,
  and again as grey, because a pink veil is white to itself.
- sharpness and contrast (`kinet_trt.quality.focus`).
- size: the width of dark structures (granulometry by morphological openings, Matheron 1975) and the mean profile of
  optical density about the nuclei. A linear score detects nuclei of half the expected size.
- spectrum: the power in each half octave (Welch 1967). A linear score of size and spectrum detects nuclei of twice the
  expected size, and pictures without fine detail.

``benchmarks/unlike.py`` and ``benchmarks/tissue.py`` fit the limits; docs/unlike.md has the detection rates.
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
from kinet_trt.quality.stain import chroma
from kinet_trt.quality.tissue_table import BIAS, NUMBERS

Cause = Literal["other", "dark", "empty", "stain", "blurred", "small", "large"]

MIN_SIDE = 128
"""Minimum of the shorter side, model px; smaller pictures are not checked."""
RADII = (1, 2, 3, 4, 5, 7, 9, 12, 16)
"""Radii of the openings, px at half the model's resolution."""
RINGS = (4, 6, 8, 10, 12, 16, 20)
"""Distances from the centre of a nucleus at which its profile is sampled, model px."""
SIZE_FEATURES = 4 + 1 + len(RINGS)
"""Number of size features: mean and quartiles of log2 of the radius, log2 of the half width, and the profile."""

OCTAVES = 12
"""Number of spectrum features: log share of each half octave from 1/91 to 0.7 periods per px."""
MAX_Z = 6.0
"""Limit of standardised features, so that one alone does not decide."""
ALLOWANCE = 1.5
"""Limit of the tissue score for pictures with both stains, instead of 0."""

_WINDOW = 720  # model px
_TILE = 128  # model px: tile of a spectrum; 4 x 4 tiles cover the window
_REACH = 24  # radius of a profile, model px
_BLOCK, _GLASS = 16, 0.93  # px; brightness, relative to the brightest block, above which a block is glass
_MAX_PROFILES, _MIN_PROFILES = 80, 5
_COLOURED = 0.04  # distance from grey above which a stained px has a hue
_EOSIN = 0.06  # the same at hues of eosin, which a mixture of haematoxylin and DAB has too, but paler
_PALE = 0.08  # added to the denominator, so that a trace of magenta alone is not eosin
_BINS = 72  # of 5 degrees


@dataclass(frozen=True)
class Features:
    """Features of a field; see also `kinet_trt.quality.focus` and `kinet_trt.quality.appearance.Appearance`.

    Darkness is the distance of the median brightness from the maximum, as a share of the range; 0 if the median is
    bright. Above 0.5 the background is darker than the structures.
    """

    magenta: float  # share of eosin in the optical density of eosin and DAB: the larger value of the two white points
    foreign: float  # share of optical density at hues of neither stain (green)
    darkness: float
    contrast: float
    sharpness: float
    size: tuple[float, ...]  # SIZE_FEATURES numbers; NaN if there are too few nuclei
    spectrum: tuple[float, ...]  # OCTAVES numbers
    appearance: tuple[float, ...]
    both_stains: bool

    @property
    def tissue(self) -> tuple[float, ...]:
        """Features of the tissue score: appearance, third quartile of the width, and half octaves at 64 to 32 and 5 px.

        Finer half octaves depend on the camera.
        """
        return (*self.appearance, self.size[3], *self.spectrum[2:5], self.spectrum[8])


@dataclass(frozen=True)
class DeviationScore:
    """Score of the deviation of features from their usual values; above 0 the deviation is too large.

    ``bias + sum(below * max(0, -z) + above * max(0, z))`` with ``z = (feature - usual) / spread``, limited to
    `MAX_Z`. All weights are non-negative, so that unusual features do not cancel.
    """

    usual: tuple[float, ...]
    spread: tuple[float, ...]
    below: tuple[float, ...]
    above: tuple[float, ...]
    bias: float

    def value(self, numbers: tuple[float, ...]) -> float:
        """Return the score."""
        z = np.clip((np.asarray(numbers) - self.usual) / self.spread, -MAX_Z, MAX_Z)
        return self.bias + float(np.maximum(-z, 0) @ self.below + np.maximum(z, 0) @ self.above)


@cache
def _tissue() -> DeviationScore:
    usual, spread, below, above = zip(*NUMBERS, strict=True)
    return DeviationScore(usual, spread, below, above, BIAS)


@dataclass(frozen=True)
class LinearScore:
    """Linear score ``bias + sum(weight * (feature - mean) / deviation)``; positive above 0. NaN is ignored."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    weight: tuple[float, ...]
    bias: float

    def value(self, features: tuple[float, ...]) -> float:
        """Return the score."""
        z = (np.asarray(features) - self.mean) / self.deviation
        return self.bias + float(np.nan_to_num(z) @ self.weight)


class DomainCheck:
    """Check whether a counted frame is out-of-distribution: a `kinet_trt.live.acquisition.results.FrameCheck`.

    Parameters
    ----------
    mpp
        The model's µm/px.
    """

    def __init__(self, mpp: float) -> None:
        self._mpp = mpp

    def __call__(self, frame: Frame, detections: Detections) -> str:
        """Return a warning; empty if the field is in-distribution or cannot be checked; see `measure_field`."""
        features = measure_field(frame, detections, self._mpp)
        return "" if features is None else describe(find_causes(features), frame.mpp or self._mpp)


def find_causes(
    features: Features, large: LinearScore | None = None, small: LinearScore | None = None
) -> tuple[Cause, ...]:
    """Return the reasons why features are out-of-distribution, without those that follow from others.

    The scores of size and spectrum (``large``) and of size (``small``) default to the tables.
    """
    if features.contrast < MIN_CONTRAST and features.darkness <= DARK:
        return ("empty",)
    score = _tissue().value(features.tissue)
    found: list[Cause] = ["other"] if score > ALLOWANCE * features.both_stains else []
    stain = features.magenta > MAGENTA or features.foreign > FOREIGN
    if found and features.darkness > DARK:  # densely stained tissue is dark but not "other"
        return (*found, "dark", "stain") if stain else (*found, "dark")
    if stain:
        found.append("stain")
    if features.sharpness < MIN_SHARPNESS:
        found.append("blurred")
    if (large or LinearScore(*LARGE)).value(features.size + features.spectrum) > 0:
        found.append("large")
    elif (small or LinearScore(*SMALL)).value(features.size) > 0:
        found.append("small")
    return tuple(found)


def describe(found: tuple[Cause, ...], mpp: float, *, slide: bool = False) -> str:
    """Return a warning with the causes; empty without any. ``slide``: they apply to most of a slide."""
    if not found:
        return ""
    words: dict[Cause, str] = {
        "dark": "the background is dark, as in fluorescence, but the model is for brightfield images",
        "empty": "there is hardly any tissue in it",
        "stain": "the stain does not look like haematoxylin and DAB",
        "blurred": "it is blurred",
        "small": f"nuclei look about half as large as expected: is {mpp:g} µm/px right?",
        "large": f"nuclei look about twice as large as expected, or fine detail is missing: is {mpp:g} µm/px right?",
    }
    if "other" in found:
        subject = "Most of this slide" if slide else "This"
        warning = f"{subject} does not look like H-DAB stained tissue: the counts mean nothing."
        found = tuple(cause for cause in found if cause not in ("other", "stain"))
        opening = " If it is tissue: "
    else:
        warning, opening = "", f"{'Most of the tissue' if slide else 'This field'} is unlike the training data: "
    if not found:
        return warning
    text = "; ".join(words[cause] for cause in found)
    return f"{warning}{opening}{text}{'' if text.endswith('?') else '.'}"


def measure_field(frame: Frame, detections: Detections, model_mpp: float) -> Features | None:
    """Measure a field; None for a picture without colour, or smaller than `MIN_SIDE`.

    Nuclei are in px of the frame; without µm/px, the model's is assumed.
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
    """Return the window at the model's µm/px, and x and y of the nuclei, px of the window."""
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
    """Crop the window to the bounding box of tissue if that covers at most half of it."""
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
    """Return the share of stain in each hue bin, for pixels [n, 3]; grey has no hue."""
    stain, _ = chroma(pixels, white)
    hue = np.arctan2(stain.magenta, stain.blue)
    bins = np.floor(hue * np.float32(_BINS / (2 * math.pi))).astype(np.intp) % _BINS
    limit = np.where((bins >= _at(75)) & (bins < _at(135)), np.float32(_EOSIN), np.float32(_COLOURED))
    coloured = stain.weight * (np.hypot(stain.blue, stain.magenta) >= limit * stain.total)
    return np.bincount(bins, coloured, _BINS) / max(1e-6, float(stain.weight.sum()))


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
    """Return mean and quartiles of log2 of the radius at which openings remove the stain."""
    height, width = pixels.shape[:2]
    half = cv2.resize(pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    stain = cv2.medianBlur(np.clip(80 * _density(half.astype(np.uint8)), 0, 255).astype(np.uint8), 3)
    before, eroded, reached = float(stain.sum()), stain, 0
    removed = []
    for radius in RADII:
        for step in range(reached, radius):
            eroded = cv2.erode(eroded, _element(step))
        reached, opened = radius, eroded
        for step in range(radius):
            opened = cv2.dilate(opened, _element(step))
        left = float(opened.sum())
        removed.append(max(0.0, before - left) + 1)
        before = left
    shares, logs = np.array(removed) / sum(removed), np.log2(RADII)
    first, second, third = (float(q) for q in np.interp((0.25, 0.5, 0.75), np.cumsum(shares), logs))
    return float(shares @ logs), first, second, third


def _element(step: int) -> NDArray[np.uint8]:
    """Return a cross and a square alternately; their combination approximates a disc."""
    shape = cv2.MORPH_RECT if step % 2 else cv2.MORPH_CROSS
    return cv2.getStructuringElement(shape, (3, 3)).astype(np.uint8, copy=False)


def _profile(pixels: NDArray[np.uint8], x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, ...]:
    """Return log2 of the half width, px, and the profile of the mean nucleus at `RINGS`, from 0 to 1."""
    height, width = pixels.shape[:2]
    column, row = np.round(x).astype(np.intp), np.round(y).astype(np.intp)
    inside = (column >= _REACH) & (column < width - _REACH) & (row >= _REACH) & (row < height - _REACH)
    column, row = column[inside], row[inside]
    if len(column) < _MIN_PROFILES:
        return (math.nan,) * (1 + len(RINGS))
    chosen = np.linspace(0, len(column) - 1, min(len(column), _MAX_PROFILES)).astype(np.intp)
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
    # Limit the effect of a dark px beside a pale centre.
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
    """Return a Hann window [128, 128], and the half octave of each px of its transform; `OCTAVES` for others."""
    hann = np.outer(np.hanning(_TILE), np.hanning(_TILE)).astype(np.float32)
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.fftfreq(_TILE)[None])
    octave = np.floor(2 * np.log2(np.maximum(frequency, 1e-6) * _TILE / 1.4)).astype(np.intp)
    return hann, np.where((octave >= 0) & (octave < OCTAVES), octave, OCTAVES).ravel()
