"""Where captured fields lie beside one another, from what they show.

Two fields are joined only where two independent witnesses agree: their optical density correlates in the overlap, and
their nuclei stand at the same places far more often than chance would have it. Whatever is unclear (blank glass, a
turned camera, a pattern that fits at several places) stays apart: a field that is not joined at worst counts a nucleus
twice and the page says so, while one that is joined wrongly would delete nuclei that are there.

Places are um: the upper left corner of a field, x right, y down.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.live.session.pairing import pair
from kinet_trt.live.session.records import Link

VERSION = 1
"""Of the rules here; a session that was registered by other rules is registered again."""
STEP_UM = 1.36
"""um/px of the pictures that are correlated: a nucleus is 4 to 5 px across."""
MATCH_UM = 2.5
"""Largest distance of one nucleus in two fields, um: less than half of what two nuclei keep from each other."""

_BACKGROUND_UM = 12.0  # what is smoother than this is light and not tissue: vignetting
_LEVELS = 28  # of the int8 picture, per standard deviation
_LARGEST = 60_000  # px of such a picture; a larger field takes a coarser step
_PEAKS = 6
_SEARCH_UM = 5.0  # a peak of the correlation is this near to the truth
_LEAST_OVERLAP, _LEAST_SIDE_UM = 0.06, 15.0
_LEAST_PAIRS, _LEAST_SHARE, _LEAST_LIKENESS = 8, 0.55, 0.35
_LEAST_EVIDENCE = 25.0  # nats: chance gives as many pairs once in e^25
_MOST_TURN, _MOST_STRETCH = math.radians(1.5), 0.03
_AMBIGUOUS = 0.75
_CONTRADICTION_UM = 4.0


@dataclass(frozen=True, eq=False)
class FieldFeatures:
    """What registration keeps of a field: 40 kB, not its pixels.

    Attributes
    ----------
    field
        Which.
    width, height
        um.
    picture
        Optical density without its smooth part, int8 [h, w].
    step
        um/px of the picture.
    x, y
        The model's nuclei, um from the upper left corner, float64 [n].
    stage
        Stage position x, y, um; None when it is not known.
    """

    field: int
    width: float
    height: float
    picture: NDArray[np.int8]
    step: float
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    stage: tuple[float, float] | None = None
    _spectra: dict[tuple[float, int, int], NDArray[np.complex64]] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        field: int,
        pixels: NDArray[np.uint8],
        detections: Detections,
        mpp: float,
        stage: tuple[float, float] | None = None,
    ) -> FieldFeatures:
        """Look at a field.

        Parameters
        ----------
        field
            Its name in links.
        pixels
            RGB, uint8 [height, width, 3].
        detections
            The model's nuclei, px.
        mpp
            um/px.
        stage
            Stage position, um; None when it is not known.
        """
        height, width = pixels.shape[0] * mpp, pixels.shape[1] * mpp
        step = STEP_UM
        while height * width / step**2 > _LARGEST:
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
        return cls(field, width, height, picture, step, x, y, stage)

    def at(self, step: float) -> NDArray[np.float32]:
        """Return the picture at a step that is its own or coarser, float32."""
        picture = self.picture.astype(np.float32)
        if step > self.step:
            size = (max(1, round(self.width / step)), max(1, round(self.height / step)))
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)
        return picture

    def spectrum(self, step: float, rows: int, columns: int) -> NDArray[np.complex64]:
        """Return the whitened Fourier transform, padded with zeros; kept for the next pair."""
        key = (step, rows, columns)
        if key not in self._spectra:
            picture = self.at(step)
            # Edges that fade out, so that they are no feature themselves.
            fade = [np.minimum(1, (np.minimum(np.arange(n), np.arange(n)[::-1]) + 1) / 6) for n in picture.shape]
            transform = np.fft.rfft2(picture * np.outer(*fade).astype(np.float32), (rows, columns))
            # Half-whitened: sharp peaks, without raising the sensor's noise to the level of the tissue.
            transform /= np.sqrt(np.abs(transform) + 1e-6)
            if len(self._spectra) > 2:
                self._spectra.clear()
            self._spectra[key] = transform.astype(np.complex64)
        return self._spectra[key]


@dataclass(frozen=True)
class Alignment:
    """How well two fields agree at an offset.

    Attributes
    ----------
    dx, dy
        From the first's corner to the second's, um.
    pairs
        Nuclei of both within :data:`MATCH_UM` of each other.
    share
        2 pairs / (nuclei of both in the overlap).
    evidence
        Chernoff's bound on -log of the probability that chance pairs as many, nats.
    likeness
        Normalised cross-correlation of the pictures in the overlap.
    """

    dx: float
    dy: float
    pairs: int
    share: float
    evidence: float
    likeness: float

    @property
    def sure(self) -> bool:
        """Whether both witnesses agree."""
        return (
            self.pairs >= _LEAST_PAIRS
            and self.share >= _LEAST_SHARE
            and self.evidence >= _LEAST_EVIDENCE
            and self.likeness >= _LEAST_LIKENESS
        )


def join(first: FieldFeatures, second: FieldFeatures) -> Link | None:
    """Find where the second field lies beside the first.

    Peaks of their cross-correlation propose offsets; each is refined on the nuclei of both and then judged.

    Returns
    -------
    Link or None
        None where they do not overlap, or where it is not sure that they do.
    """
    fits: list[Alignment] = []
    for dx, dy in _proposals(first, second)[0]:
        inside = _overlap(first, second, dx, dy)
        if inside is None or _likeness(first, second, dx, dy, inside) < _LEAST_LIKENESS / 2:
            continue
        found = _refine(first, second, dx, dy)
        if found is not None and all(math.hypot(found.dx - f.dx, found.dy - f.dy) > MATCH_UM for f in fits):
            fits.append(found)
    fits.sort(key=lambda f: f.evidence, reverse=True)
    if not fits or not fits[0].sure:
        return None
    best = fits[0]
    if any(f.pairs >= _LEAST_PAIRS and f.share >= _AMBIGUOUS * best.share for f in fits[1:]):
        return None  # a pattern that fits at several places
    return Link(first.field, second.field, best.dx, best.dy, best.pairs, round(best.likeness, 4))


def _proposals(
    first: FieldFeatures, second: FieldFeatures, coarser: int = 1
) -> tuple[list[tuple[float, float]], float]:
    """Return offsets that the pictures propose, um, the best first; and how far the best stands out of the noise."""
    step = max(first.step, second.step) * coarser
    sides = [view.picture.shape if view.step == step else view.at(step).shape for view in (first, second)]
    rows, columns = (cv2.getOptimalDFTSize(a + b) for a, b in zip(*sides, strict=True))
    columns += columns % 2
    product = first.spectrum(step, rows, columns) * np.conj(second.spectrum(step, rows, columns))
    surface = np.fft.irfft2(product, (rows, columns)).astype(np.float32)
    found, spread, best = [], float(surface.std()) or 1.0, float(surface.max())
    for _ in range(_PEAKS):
        row, column = divmod(int(surface.argmax()), columns)
        # Zeros pad the pictures, so that a shift is told from its complement.
        down = row - rows if row > sides[0][0] else row
        right = column - columns if column > sides[0][1] else column
        found.append((right * step, down * step))
        _blot(surface, row, column)
    return found, best / spread


def _blot(surface: NDArray[np.float32], row: int, column: int) -> None:
    """Take a peak out, around the edges too."""
    rows = np.arange(row - 3, row + 4) % surface.shape[0]
    columns = np.arange(column - 3, column + 4) % surface.shape[1]
    surface[np.ix_(rows, columns)] = -np.inf


def _refine(first: FieldFeatures, second: FieldFeatures, dx: float, dy: float) -> Alignment | None:
    """Shift the second field so that its nuclei meet the first's, and judge; None where too few could meet."""
    for radius in (_SEARCH_UM, _SEARCH_UM, MATCH_UM, MATCH_UM):
        inside = _overlap(first, second, dx, dy)
        if inside is None:
            return None
        a, b = _within(first, inside, 0, 0), _within(second, inside, dx, dy)
        i, j, _ = pair(first.x[a], first.y[a], second.x[b] + dx, second.y[b] + dy, radius)
        if len(i) < _LEAST_PAIRS:
            return None
        ax, ay, bx, by = first.x[a][i], first.y[a][i], second.x[b][j], second.y[b][j]
        dx, dy = float(np.median(ax - bx)), float(np.median(ay - by))
    inside = _overlap(first, second, dx, dy)
    if inside is None or _turned(ax, ay, bx, by):
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
    """Return left, top, right, bottom of the overlap, um of the first; None when it is too small to judge."""
    left, top = max(0.0, dx), max(0.0, dy)
    right, bottom = min(first.width, dx + second.width), min(first.height, dy + second.height)
    if min(right - left, bottom - top) < _LEAST_SIDE_UM:
        return None
    smaller = min(first.width * first.height, second.width * second.height)
    return (left, top, right, bottom) if (right - left) * (bottom - top) >= _LEAST_OVERLAP * smaller else None


def _within(view: FieldFeatures, inside: tuple[float, float, float, float], dx: float, dy: float) -> NDArray[np.intp]:
    """Return the nuclei of a view that lie in an overlap, but not where its edge makes them doubtful."""
    x, y, (left, top, right, bottom), rim = view.x + dx, view.y + dy, inside, 1.0
    return np.flatnonzero((x > left + rim) & (x < right - rim) & (y > top + rim) & (y < bottom - rim))


def _turned(ax: NDArray[np.float64], ay: NDArray[np.float64], bx: NDArray[np.float64], by: NDArray[np.float64]) -> bool:
    """Return whether the pairs tell of another angle or scale (least squares of a similarity: Umeyama 1991)."""
    ax, ay, bx, by = ax - ax.mean(), ay - ay.mean(), bx - bx.mean(), by - by.mean()
    along, across = float((ax * bx + ay * by).sum()), float((ay * bx - ax * by).sum())
    size = float((bx * bx + by * by).sum())
    if size == 0:
        return True
    return abs(math.atan2(across, along)) > _MOST_TURN or abs(math.hypot(along, across) / size - 1) > _MOST_STRETCH


def _evidence(pairs: int, n: int, chance: float) -> float:
    """Return n KL(pairs/n || chance) where pairs are more than chance gives (Chernoff 1952), else 0."""
    share = min(pairs / n, 1.0) if n else 0.0
    chance = min(max(chance, 1e-9), 1 - 1e-9)
    if share <= chance:
        return 0.0
    rest = (1 - share) * math.log((1 - share) / (1 - chance)) if share < 1 else 0.0
    return n * (share * math.log(share / chance) + rest)


def _likeness(
    first: FieldFeatures, second: FieldFeatures, dx: float, dy: float, inside: tuple[float, float, float, float]
) -> float:
    """Return the normalised cross-correlation of two views in their overlap."""
    step = max(first.step, second.step)
    a, b = first.at(step), second.at(step)
    left, top = math.ceil(inside[0] / step), math.ceil(inside[1] / step)
    columns, rows = math.floor(inside[2] / step) - left, math.floor(inside[3] / step) - top
    if columns < 4 or rows < 4:
        return 0.0
    # The second at the first's pixels; the shift is a fraction of a pixel too.
    shift = np.array([[1.0, 0.0, left - dx / step], [0.0, 1.0, top - dy / step]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    b = cv2.warpAffine(b, shift, (columns, rows), flags=flags, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    a = a[top : top + rows, left : left + columns]
    if a.shape != b.shape:
        b = b[: a.shape[0], : a.shape[1]]
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size > 0 else 0.0


# --- many fields ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """Where a field lies.

    Attributes
    ----------
    place
        Fields of one place are joined; numbered from 0 by their first field. Places are not known to one another.
    x, y
        Upper left corner, um from that of the place's first field.
    """

    place: int
    x: float
    y: float


@dataclass(frozen=True)
class Layout:
    """Where all fields lie.

    Attributes
    ----------
    placed
        By field, in the order of capture.
    contradictions
        Links that others, with more nuclei, speak against; they are not used.
    """

    placed: Mapping[int, Placed]
    contradictions: tuple[Link, ...] = ()

    @property
    def places(self) -> int:
        """Number of places."""
        return len({one.place for one in self.placed.values()})


def lay_out(fields: Sequence[int], links: Sequence[Link], *, balanced: bool = True) -> Layout:
    """Turn links between pairs into a place for every field.

    The links with most nuclei make a tree; the others must agree with it; then all that agree are balanced by least
    squares, weighted by their nuclei, so that small errors do not add up along a path.

    Parameters
    ----------
    fields
        In the order of capture.
    links
        Between them; those of other fields are left out.
    balanced
        Whether places are balanced; without it they are a little less exact, and quick.
    """
    root = {f: f for f in fields}
    at = dict.fromkeys(fields, (0.0, 0.0))
    members = {f: [f] for f in fields}
    used: list[Link] = []
    against: list[Link] = []
    known = [one for one in links if one.first in root and one.second in root and one.first != one.second]
    for link in sorted(known, key=lambda one: (-one.pairs, one.first, one.second)):
        a, b = root[link.first], root[link.second]
        x = at[link.first][0] + link.dx - at[link.second][0]
        y = at[link.first][1] + link.dy - at[link.second][1]
        if a == b:
            (used if math.hypot(x, y) <= _CONTRADICTION_UM else against).append(link)
            continue
        if len(members[a]) < len(members[b]):
            a, b, x, y = b, a, -x, -y
        for f in members.pop(b):
            root[f], at[f] = a, (at[f][0] + x, at[f][1] + y)
            members[a].append(f)
        used.append(link)
    placed: dict[int, Placed] = {}
    order = {f: n for n, f in enumerate(fields)}
    groups = sorted((sorted(group, key=order.__getitem__) for group in members.values()), key=lambda g: order[g[0]])
    for number, group in enumerate(groups):
        x0, y0 = at[group[0]]
        solved = [(at[f][0] - x0, at[f][1] - y0) for f in group]
        if balanced:
            solved = _balance(group, [link for link in used if root[link.first] == root[group[0]]])
        for f, (x, y) in zip(group, solved, strict=True):
            placed[f] = Placed(number, x, y)
    return Layout({f: placed[f] for f in fields}, tuple(against))


def _balance(group: Sequence[int], links: Sequence[Link]) -> list[tuple[float, float]]:
    """Solve the places of joined fields by weighted least squares; the first field stays at 0, 0."""
    n = len(group)
    if n == 1:
        return [(0.0, 0.0)]
    index = {f: k for k, f in enumerate(group)}
    matrix, wanted = np.zeros((n, n)), np.zeros((n, 2))
    for link in links:
        a, b, weight = index[link.first], index[link.second], float(link.pairs)
        offset = weight * np.array([link.dx, link.dy])
        matrix[a, a] += weight
        matrix[b, b] += weight
        matrix[a, b] -= weight
        matrix[b, a] -= weight
        wanted[b] += offset
        wanted[a] -= offset
    solved = np.linalg.solve(matrix[1:, 1:], wanted[1:])
    return [(0.0, 0.0), *((float(x), float(y)) for x, y in solved)]


class Registration:
    """Joins fields one by one as they are captured.

    A new field is held to the last ones, to those that the stage says are near, to those that lie where its first
    partners put it, and, where places are apart, to the fields of the other places that look most like it: so a path
    that returns is closed. Not safe for several threads at once.

    Attributes
    ----------
    views
        By field, in the order of capture.
    links
        Found so far.
    """

    RECENT, NEAR, AROUND, ELSEWHERE = 2, 4, 6, 3
    """How many fields of each kind are tried."""

    def __init__(self) -> None:
        self.views: dict[int, FieldFeatures] = {}
        self.links: list[Link] = []

    def add(self, view: FieldFeatures) -> list[Link]:
        """Join a field with those before it.

        Parameters
        ----------
        view
            The new field.

        Returns
        -------
        list of Link
            From earlier fields to this one; none when it stays apart.
        """
        found: dict[int, Link] = {}
        tried: set[int] = set()

        def attempt(candidates: Sequence[int]) -> None:
            for other in candidates:
                if other not in tried:
                    tried.add(other)
                    if link := join(self.views[other], view):
                        found[other] = link

        if len(view.x) >= _LEAST_PAIRS:
            earlier = list(self.views)
            attempt([*earlier[: -1 - self.RECENT : -1], *self._near_stage(view)])
            # Twice: the first partners place the field, and what lies around it there are the next.
            for _ in range(2):
                attempt(self._around(view, list(found.values())))
                if (
                    not found
                    or len({one.place for one in lay_out(earlier, self.links, balanced=False).placed.values()}) > 1
                ):
                    attempt(self._elsewhere(view, list(found.values()), tried))
        self.views[view.field] = view
        links = [found[other] for other in sorted(found)]
        self.links += links
        return links

    def know(self, view: FieldFeatures, links: Sequence[Link]) -> None:
        """Take over a field that was joined before, in an earlier run."""
        self.views[view.field] = view
        self.links += links

    def forget(self, field: int) -> None:
        """Leave a field out."""
        self.views.pop(field, None)
        self.links = [link for link in self.links if field not in (link.first, link.second)]

    def layout(self) -> Layout:
        """Return where the fields lie."""
        return lay_out(list(self.views), self.links)

    def _near_stage(self, view: FieldFeatures) -> list[int]:
        """Return the fields nearest by stage position. It only proposes: a stage may be turned, or in other units."""
        if view.stage is None:
            return []
        distance = {
            name: math.hypot(view.stage[0] - other.stage[0], view.stage[1] - other.stage[1])
            for name, other in self.views.items()
            if other.stage is not None
        }
        return sorted(distance, key=distance.__getitem__)[: self.NEAR]

    def _around(self, view: FieldFeatures, found: Sequence[Link]) -> list[int]:
        """Return the fields that overlap a field most, where its links put it."""
        if not found:
            return []
        placed = lay_out([*self.views, view.field], [*self.links, *found], balanced=False).placed
        here, share = placed[view.field], dict[int, float]()
        for name, other in self.views.items():
            there = placed[name]
            if there.place != here.place:
                continue
            overlap = _overlap(other, view, here.x - there.x, here.y - there.y)
            if overlap:
                share[name] = (overlap[2] - overlap[0]) * (overlap[3] - overlap[1])
        return sorted(share, key=lambda name: -share[name])[: self.AROUND]

    def _elsewhere(self, view: FieldFeatures, found: Sequence[Link], tried: set[int]) -> list[int]:
        """Return the fields of other places whose picture correlates best with this one's."""
        placed = lay_out([*self.views, view.field], [*self.links, *found], balanced=False).placed
        here = placed[view.field].place
        peak = {
            name: _proposals(other, view, coarser=2)[1]
            for name, other in self.views.items()
            if placed[name].place != here and name not in tried
        }
        return sorted(peak, key=lambda name: -peak[name])[: self.ELSEWHERE]
