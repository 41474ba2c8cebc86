"""Registration of captured fields by their content.

Two fields are linked only if two independent criteria agree: their optical density correlates in the overlap, and their
nuclei coincide far more often than by chance. Doubtful cases (blank glass, a rotated camera, a repeating pattern) are
not linked: a missing link at worst counts nuclei twice, with a caution, while a wrong link would remove nuclei.

Offsets are um between the upper left corners of fields, x right, y down.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.live.session.layout import lay_out
from kinet_trt.live.session.pairing import pair
from kinet_trt.live.session.records import Link

VERSION = 1
"""Version of these rules; sessions registered by another version are registered again."""
STEP_UM = 1.36
"""um/px of the pictures for correlation: a nucleus is 4 to 5 px wide."""
MATCH_UM = 2.5
"""Maximum distance of a nucleus in two fields, um: less than half the distance of neighbouring nuclei."""

_BACKGROUND_UM = 12.0  # smoother structure is illumination, not tissue
_LEVELS = 28  # levels of the int8 picture per standard deviation
_MAX_PIXELS = 60_000  # of such a picture; larger fields use a coarser step
_PEAKS = 6
_SEARCH_UM = 5.0  # maximum error of a correlation peak
_MIN_OVERLAP, _MIN_SIDE_UM = 0.06, 15.0
_MIN_PAIRS, _MIN_SHARE, _MIN_LIKENESS = 8, 0.55, 0.35
_MIN_EVIDENCE = 25.0  # nats: chance gives as many pairs once in e^25
_MAX_ROTATION, _MAX_STRETCH = math.radians(1.5), 0.03
_AMBIGUOUS = 0.75


@dataclass(frozen=True, eq=False)
class FieldFeatures:
    """Features of a field for registration, 40 kB."""

    id: int
    width: float  # um
    height: float
    picture: NDArray[np.int8]  # optical density without its smooth part, [rows, columns]
    step: float  # um/px of the picture
    x: NDArray[np.float64]  # the model's nuclei, um from the upper left corner
    y: NDArray[np.float64]
    stage: tuple[float, float] | None = None  # x, y, um; None if unknown
    _spectra: dict[tuple[float, int, int], NDArray[np.complex64]] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def extract(
        cls,
        identity: int,
        pixels: NDArray[np.uint8],
        detections: Detections,
        mpp: float,
        stage: tuple[float, float] | None = None,
    ) -> FieldFeatures:
        """Extract the features of a field, RGB uint8 [height, width, 3], with the model's nuclei, px."""
        height, width = pixels.shape[0] * mpp, pixels.shape[1] * mpp
        step = STEP_UM
        while height * width / step**2 > _MAX_PIXELS:
            step *= 2
        rows, columns = max(1, round(height / step)), max(1, round(width / step))
        small = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32)
        density = -np.log((small + 1) / 256).sum(axis=2)
        sigma = _BACKGROUND_UM / step
        density -= cv2.GaussianBlur(density, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
        spread = float(density.std())
        if spread > 0:
            density *= _LEVELS / spread
        picture = np.clip(np.round(density), -127, 127).astype(np.int8)
        x = (detections.x.astype(np.float64) + 0.5) * mpp
        y = (detections.y.astype(np.float64) + 0.5) * mpp
        return cls(identity, width, height, picture, step, x, y, stage)

    def at(self, step: float) -> NDArray[np.float32]:
        """Return the picture at its own step or a coarser one, float32."""
        picture = self.picture.astype(np.float32)
        if step > self.step:
            size = (max(1, round(self.width / step)), max(1, round(self.height / step)))
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)
        return picture

    def spectrum(self, step: float, rows: int, columns: int) -> NDArray[np.complex64]:
        """Return the half-whitened Fourier transform, padded with zeros; cached for the next pair."""
        key = (step, rows, columns)
        if key not in self._spectra:
            picture = self.at(step)
            # Taper the edges, so that they are no features.
            fade = [np.minimum(1, (np.minimum(np.arange(n), np.arange(n)[::-1]) + 1) / 6) for n in picture.shape]
            transform = np.fft.rfft2(picture * np.outer(*fade).astype(np.float32), (rows, columns))
            # Half-whitening gives sharp peaks without amplifying sensor noise to the level of tissue.
            transform /= np.sqrt(np.abs(transform) + 1e-6)
            if len(self._spectra) > 2:
                self._spectra.clear()
            self._spectra[key] = transform.astype(np.complex64)
        return self._spectra[key]


@dataclass(frozen=True)
class Alignment:
    """Agreement of two fields at an offset."""

    dx: float  # from the first field to the second, um
    dy: float
    pairs: int  # of nuclei within `MATCH_UM`
    share: float  # 2 pairs / (nuclei of both in the overlap)
    evidence: float  # Chernoff bound on -log of the probability of as many pairs by chance, nats
    likeness: float  # normalised cross-correlation of the pictures in the overlap

    @property
    def is_reliable(self) -> bool:
        """Whether both criteria are met."""
        return (
            self.pairs >= _MIN_PAIRS
            and self.share >= _MIN_SHARE
            and self.evidence >= _MIN_EVIDENCE
            and self.likeness >= _MIN_LIKENESS
        )


def join(first: FieldFeatures, second: FieldFeatures) -> Link | None:
    """Return the link between two fields; None if they do not overlap, or not reliably.

    Peaks of their cross-correlation are candidate offsets; each is refined with the nuclei of both fields and tested.
    """
    fits: list[Alignment] = []
    for dx, dy in _candidates(first, second)[0]:
        inside = _overlap(first, second, dx, dy)
        if inside is None or _likeness(first, second, dx, dy, inside) < _MIN_LIKENESS / 2:
            continue
        found = _refine(first, second, dx, dy)
        if found is not None and all(math.hypot(found.dx - f.dx, found.dy - f.dy) > MATCH_UM for f in fits):
            fits.append(found)
    fits.sort(key=lambda f: f.evidence, reverse=True)
    if not fits or not fits[0].is_reliable:
        return None
    best = fits[0]
    if any(f.pairs >= _MIN_PAIRS and f.share >= _AMBIGUOUS * best.share for f in fits[1:]):
        return None  # a repeating pattern
    return Link(first.id, second.id, best.dx, best.dy, best.pairs, round(best.likeness, 4))


def _candidates(
    first: FieldFeatures, second: FieldFeatures, coarser: int = 1
) -> tuple[list[tuple[float, float]], float]:
    """Return candidate offsets, um, the best first; and the height of the best peak over the noise."""
    step = max(first.step, second.step) * coarser
    sides = [one.at(step).shape for one in (first, second)]
    rows, columns = (cv2.getOptimalDFTSize(a + b) for a, b in zip(*sides, strict=True))
    columns += columns % 2
    product = first.spectrum(step, rows, columns) * np.conj(second.spectrum(step, rows, columns))
    surface = np.fft.irfft2(product, (rows, columns)).astype(np.float32)
    found, spread, best = [], float(surface.std()) or 1.0, float(surface.max())
    for _ in range(_PEAKS):
        row, column = divmod(int(surface.argmax()), columns)
        # Zero padding distinguishes a shift from its complement.
        down = row - rows if row > sides[0][0] else row
        right = column - columns if column > sides[0][1] else column
        found.append((right * step, down * step))
        _erase_peak(surface, row, column)
    return found, best / spread


def _erase_peak(surface: NDArray[np.float32], row: int, column: int) -> None:
    """Erase a peak, with wrap-around at the edges."""
    rows = np.arange(row - 3, row + 4) % surface.shape[0]
    columns = np.arange(column - 3, column + 4) % surface.shape[1]
    surface[np.ix_(rows, columns)] = -np.inf


def _refine(first: FieldFeatures, second: FieldFeatures, dx: float, dy: float) -> Alignment | None:
    """Refine an offset with the nuclei of both fields; None with too few pairs."""
    for radius in (_SEARCH_UM, _SEARCH_UM, MATCH_UM, MATCH_UM):
        inside = _overlap(first, second, dx, dy)
        if inside is None:
            return None
        a, b = _within(first, inside, 0, 0), _within(second, inside, dx, dy)
        i, j, _ = pair(first.x[a], first.y[a], second.x[b] + dx, second.y[b] + dy, radius)
        if len(i) < _MIN_PAIRS:
            return None
        ax, ay, bx, by = first.x[a][i], first.y[a][i], second.x[b][j], second.y[b][j]
        dx, dy = float(np.median(ax - bx)), float(np.median(ay - by))
    inside = _overlap(first, second, dx, dy)
    if inside is None or _is_rotated(ax, ay, bx, by):
        return None
    close = np.hypot(ax - bx - dx, ay - by - dy) <= MATCH_UM
    dx, dy = float((ax - bx)[close].mean()), float((ay - by)[close].mean())
    left, top, right, bottom = inside
    density = len(b) / ((right - left) * (bottom - top))
    chance = -math.expm1(-density * math.pi * MATCH_UM**2)
    pairs = len(i)
    return Alignment(
        dx,
        dy,
        pairs,
        2 * pairs / (len(a) + len(b)),
        _evidence(pairs, len(a), chance),
        _likeness(first, second, dx, dy, inside),
    )


def _overlap(
    first: FieldFeatures, second: FieldFeatures, dx: float, dy: float
) -> tuple[float, float, float, float] | None:
    """Return left, top, right, bottom of the overlap, um in the first field; None if it is too small."""
    left, top = max(0.0, dx), max(0.0, dy)
    right, bottom = min(first.width, dx + second.width), min(first.height, dy + second.height)
    if min(right - left, bottom - top) < _MIN_SIDE_UM:
        return None
    smaller = min(first.width * first.height, second.width * second.height)
    return (left, top, right, bottom) if (right - left) * (bottom - top) >= _MIN_OVERLAP * smaller else None


def _within(field: FieldFeatures, inside: tuple[float, float, float, float], dx: float, dy: float) -> NDArray[np.intp]:
    """Return the nuclei of a field in an overlap, without those at its edge."""
    x, y, (left, top, right, bottom), rim = field.x + dx, field.y + dy, inside, 1.0
    return np.flatnonzero((x > left + rim) & (x < right - rim) & (y > top + rim) & (y < bottom - rim))


def _is_rotated(
    ax: NDArray[np.float64], ay: NDArray[np.float64], bx: NDArray[np.float64], by: NDArray[np.float64]
) -> bool:
    """Return whether the pairs show a rotation or scaling (least squares of a similarity: Umeyama 1991)."""
    ax, ay, bx, by = ax - ax.mean(), ay - ay.mean(), bx - bx.mean(), by - by.mean()
    along, across = float((ax * bx + ay * by).sum()), float((ay * bx - ax * by).sum())
    size = float((bx * bx + by * by).sum())
    if size == 0:
        return True
    return abs(math.atan2(across, along)) > _MAX_ROTATION or abs(math.hypot(along, across) / size - 1) > _MAX_STRETCH


def _evidence(pairs: int, n: int, chance: float) -> float:
    """Return n KL(pairs/n || chance) if there are more pairs than by chance (Chernoff 1952), otherwise 0."""
    share = min(pairs / n, 1.0) if n else 0.0
    chance = min(max(chance, 1e-9), 1 - 1e-9)
    if share <= chance:
        return 0.0
    rest = (1 - share) * math.log((1 - share) / (1 - chance)) if share < 1 else 0.0
    return n * (share * math.log(share / chance) + rest)


def _likeness(
    first: FieldFeatures, second: FieldFeatures, dx: float, dy: float, inside: tuple[float, float, float, float]
) -> float:
    """Return the normalised cross-correlation of two fields in their overlap."""
    step = max(first.step, second.step)
    a, b = first.at(step), second.at(step)
    left, top = math.ceil(inside[0] / step), math.ceil(inside[1] / step)
    columns, rows = math.floor(inside[2] / step) - left, math.floor(inside[3] / step) - top
    if columns < 4 or rows < 4:
        return 0.0
    # Resample the second at the pixels of the first, with subpixel shift.
    shift = np.array([[1.0, 0.0, left - dx / step], [0.0, 1.0, top - dy / step]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    b = cv2.warpAffine(b, shift, (columns, rows), flags=flags, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    a = a[top : top + rows, left : left + columns]
    if a.shape != b.shape:
        b = b[: a.shape[0], : a.shape[1]]
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size > 0 else 0.0


class Registration:
    """Links fields one by one as they are captured. Not thread-safe.

    A new field is compared with the last ones, with those near it by stage position, with those around the position
    that its first links give, and, if there are several groups, with the most similar fields of other groups, so that a
    path that returns is closed.
    """

    RECENT, NEAR, AROUND, ELSEWHERE = 2, 4, 6, 3
    """Number of fields of each kind to compare with."""

    def __init__(self) -> None:
        self.fields: dict[int, FieldFeatures] = {}
        self.links: list[Link] = []

    def add(self, field: FieldFeatures) -> list[Link]:
        """Link a field with earlier ones; return the links from them to this one."""
        found: dict[int, Link] = {}
        tried: set[int] = set()

        def attempt(candidates: Sequence[int]) -> None:
            for other in candidates:
                if other not in tried:
                    tried.add(other)
                    if link := join(self.fields[other], field):
                        found[other] = link

        if len(field.x) >= _MIN_PAIRS:
            earlier = list(self.fields)
            attempt([*earlier[: -1 - self.RECENT : -1], *self._near_stage(field)])
            # Twice: the first links give a position, and fields around it are the next candidates.
            for _ in range(2):
                attempt(self._around(field, list(found.values())))
                if not found or lay_out(earlier, self.links, balanced=False).group_count > 1:
                    attempt(self._elsewhere(field, list(found.values()), tried))
        self.fields[field.id] = field
        links = [found[other] for other in sorted(found)]
        self.links += links
        return links

    def add_known(self, field: FieldFeatures, links: Sequence[Link]) -> None:
        """Add a field with known links, from an earlier run."""
        self.fields[field.id] = field
        self.links += links

    def forget(self, field: int) -> None:
        """Remove a field."""
        self.fields.pop(field, None)
        self.links = [link for link in self.links if field not in (link.first, link.second)]

    def _near_stage(self, field: FieldFeatures) -> list[int]:
        """Return the fields nearest by stage position: candidates, as a stage may be rotated or use other units."""
        if field.stage is None:
            return []
        distance = {
            name: math.hypot(field.stage[0] - other.stage[0], field.stage[1] - other.stage[1])
            for name, other in self.fields.items()
            if other.stage is not None
        }
        return sorted(distance, key=distance.__getitem__)[: self.NEAR]

    def _around(self, field: FieldFeatures, found: Sequence[Link]) -> list[int]:
        """Return the fields that overlap a field most at the position that its links give."""
        if not found:
            return []
        placed = lay_out([*self.fields, field.id], [*self.links, *found], balanced=False).placed
        field_placed, share = placed[field.id], dict[int, float]()
        for name, other in self.fields.items():
            other_placed = placed[name]
            if other_placed.group != field_placed.group:
                continue
            overlap = _overlap(other, field, field_placed.x - other_placed.x, field_placed.y - other_placed.y)
            if overlap:
                share[name] = (overlap[2] - overlap[0]) * (overlap[3] - overlap[1])
        return sorted(share, key=lambda name: -share[name])[: self.AROUND]

    def _elsewhere(self, field: FieldFeatures, found: Sequence[Link], tried: set[int]) -> list[int]:
        """Return the fields of other groups that correlate best with a field."""
        placed = lay_out([*self.fields, field.id], [*self.links, *found], balanced=False).placed
        own_group = placed[field.id].group
        peak = {
            name: _candidates(other, field, coarser=2)[1]
            for name, other in self.fields.items()
            if placed[name].group != own_group and name not in tried
        }
        return sorted(peak, key=lambda name: -peak[name])[: self.ELSEWHERE]
