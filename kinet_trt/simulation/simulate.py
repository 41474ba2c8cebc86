"""Simulated H-DAB (Ki67) fields and slides with exact ground truth.

A slide is endless and a pure function of its options. Tissue architecture is smooth lattice noise; nuclei are placed by
dart throwing on a jittered lattice; stain is added as optical density and converted to light by Beer-Lambert.

Lengths are in *units* of 0.34 µm, the nominal pixel; a tumour nucleus has a diameter of about 18 units. The µm/px does
not change the position of a nucleus in µm. Pixel i covers the µm from i * mpp to (i + 1) * mpp.

Nuclei are placed in fixed cells and pixels rendered in fixed tiles, so that overlapping regions agree bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import CLASSES
from kinet_trt.simulation.lattice import Reals, hash_bits, noise, normal, quantile, uniform
from kinet_trt.simulation.stain import REACH, background, stain_nuclei, transmit

__all__ = ["CLASSES", "NOMINAL_MPP", "TILE", "SimulatedSlide", "Truth", "field", "find_tissue"]


NOMINAL_MPP = 0.34
"""One unit, µm: at this µm/px a unit is a pixel."""

TILE = 200  # px: side of a rendered tile; three tiles cover the 596 px of the public pancreatic fields
Tile = tuple[int, int]
"""Column and row of a tile."""
Box = tuple[int, int, int, int]
"""Left, top, width and height, px of the slide."""
_SITE = 10.0  # units: side of a square with one candidate nucleus
_CELL = 32  # sites along the edge of a cell
_ROUNDS = 3  # of dart throwing; each reaches four sites further, the last one two
_RING = 4 * _ROUNDS - 2
_STEP = 4.0  # units between tissue samples when nuclei are placed
_SUBPIXEL = 64  # centres are multiples of 1/64 px, so that float32 is exact for any origin

_WHITE = (241.0, 240.0, 243.0)  # glass in R, G, B
_TUMOR, _LYMPHOCYTE, _SPINDLE = 0, 1, 2
_NUCLEUS = np.dtype(
    [("x", "f8"), ("y", "f8"), ("cls", "u1")]
    + [(name, "f4") for name in ("a", "b", "cos", "sin", "lobe", "soft", "h", "dab", "texture", "nucleolus", "cell")]
)


@dataclass(frozen=True)
class Truth:
    """Ground truth of a region in raster order (by y, then x): centres in px, pixel centres at integers."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    cls: NDArray[np.uint8]  # index in `CLASSES`

    def __len__(self) -> int:
        """Return the number of nuclei."""
        return len(self.x)


@dataclass(frozen=True)
class SimulatedSlide:
    """An endless simulated Ki67 slide. ``seed`` also determines the appearance: chromatin, cytoplasm, crowding."""

    seed: int = 0  # 0 to 2**64 - 1
    mpp: float = NOMINAL_MPP  # µm/px, 0.05 to 4; does not change the nuclei
    positive_fraction: float = 0.15  # mean share of positive tumour nuclei, 0 to 1; varies locally, with hot spots
    tumor_share: float = 0.6  # approximate share of tumour nests in the tissue, 0 to 1; the rest is stroma
    glass_share: float = 0.08  # approximate share of glass, 0 to 1: gaps and glandular lumens
    counterstain: float = 1.0  # strength of haematoxylin, 0 to 4
    dab: float = 1.0  # strength of DAB, 0 to 4
    # Rotation of both stain vectors about the grey axis of optical density, degrees, -180 to 180. Scanners and
    # laboratories differ by about 10; positive values turn haematoxylin towards purple, DAB towards yellow.
    hue_shift: float = 0.0

    def __post_init__(self) -> None:
        _expect("seed", self.seed, 0, 2**64 - 1, whole=True)
        _expect("mpp", self.mpp, 0.05, 4.0)
        for name in ("positive_fraction", "tumor_share", "glass_share"):
            _expect(name, getattr(self, name), 0.0, 1.0)
        for name in ("counterstain", "dab"):
            _expect(name, getattr(self, name), 0.0, 4.0)
        _expect("hue_shift", self.hue_shift, -180.0, 180.0)

    def region(self, x: int, y: int, width: int, height: int) -> tuple[NDArray[np.uint8], Truth]:
        """Render a rectangle of the slide from its upper left pixel x, y, which may be negative; sizes in px.

        Returns RGB uint8 [height, width, 3] and the nuclei with centres in [-0.5, width - 0.5) x [-0.5, height - 0.5).
        """
        for name, value, low in (("x", x, -(2**31)), ("y", y, -(2**31)), ("width", width, 1), ("height", height, 1)):
            _expect(name, value, low, 2**31, whole=True)
        cells: dict[tuple[int, int], NDArray[np.void]] = {}  # shared by tiles
        image = draw_box((x, y, width, height), lambda tile: _render(self, *tile, cells))
        return image, _truth(self, x, y, width, height, cells)

    def truth(self, x: int, y: int, width: int, height: int) -> Truth:
        """Return the ground truth of `region` without rendering it."""
        return _truth(self, x, y, width, height, {})


def tiles_of(box: Box) -> list[Tile]:
    """Return the tiles that a box touches, row by row."""
    left, top, width, height = box
    return [
        (tx, ty)
        for ty in range(top // TILE, (top + height - 1) // TILE + 1)
        for tx in range(left // TILE, (left + width - 1) // TILE + 1)
    ]


def draw_box(box: Box, draw_tile: Callable[[Tile], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return a box of the slide, RGB uint8 [height, width, 3], a new array; ``draw_tile`` returns a tile."""
    left, top, width, height = box
    image = np.empty((height, width, 3), np.uint8)
    for tile in tiles_of(box):
        pixels, x, y = draw_tile(tile), tile[0] * TILE, tile[1] * TILE
        x0, x1 = max(x, left), min(x + TILE, left + width)
        y0, y1 = max(y, top), min(y + TILE, top + height)
        image[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0 - y : y1 - y, x0 - x : x1 - x]
    return image


def field(seed: int, width: int = 596, height: int = 596, **options: float) -> tuple[NDArray[np.uint8], Truth]:
    """Render a region with tissue of `SimulatedSlide(seed, **options)`; returns as `SimulatedSlide.region`."""
    slide = SimulatedSlide(seed=seed, **options)
    _expect("width", width, 1, 2**31, whole=True)
    _expect("height", height, 1, 2**31, whole=True)
    return slide.region(*find_tissue(slide, width, height), width, height)


def find_tissue(slide: SimulatedSlide, width: int, height: int) -> tuple[int, int]:
    """Return the upper left pixel x, y of a region of that size, px, with tissue; deterministic."""
    best, found = -1.0, (0, 0)
    for attempt in range(12):
        sites = np.array([2 * attempt, 2 * attempt + 1])
        tx, ty = (int(v) for v in uniform(slide.seed, 90, sites, sites) * 4000 - 2000)
        xs = (tx * TILE + np.linspace(0, width, 48)) * slide.mpp / NOMINAL_MPP
        ys = (ty * TILE + np.linspace(0, height, 48)) * slide.mpp / NOMINAL_MPP
        tissue = _tissue(slide, xs, ys)
        bearing = float(np.mean(tissue.glass < 0))
        nest = float(np.mean((tissue.glass < 0) & (tissue.nest > 0)))
        # At least the average share of nests, and at most twice that of glass.
        good = min(1.0, bearing / max(1e-6, 1 - 2 * slide.glass_share)) + min(1.0, nest / max(1e-6, slide.tumor_share))
        if good > best + 1e-6:
            best, found = good, (tx * TILE, ty * TILE)
        if best >= 1.95:
            break
    return found


def _truth(
    slide: SimulatedSlide, x: int, y: int, width: int, height: int, cells: dict[tuple[int, int], NDArray[np.void]]
) -> Truth:
    nuclei = _gather(slide, x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5, cells)
    nuclei = nuclei[np.lexsort((nuclei["x"], nuclei["y"]))]
    return Truth((nuclei["x"] - x).astype(np.float32), (nuclei["y"] - y).astype(np.float32), nuclei["cls"].copy())


def _style(slide: SimulatedSlide) -> list[float]:
    """Return the appearance of a slide, 0 to 1 each: size, darkness, chromatin, cytoplasm, distance between nuclei."""
    return [float(v) for v in uniform(slide.seed, 40, np.arange(5), np.zeros(1, np.int64))]


# --- tissue -----------------------------------------------------------------------------------------------------------


class _Tissue(NamedTuple):
    """Maps on a grid, in standard deviations; `nest` and `glass` are above 0 inside."""

    nest: Reals
    glass: Reals
    lymph: Reals
    crowd: Reals
    hot: Reals


def _tissue(slide: SimulatedSlide, xs: Reals, ys: Reals) -> _Tissue:
    """Return the architecture at the grid ys x xs (units)."""
    seed = slide.seed
    septum = 0.25 * (1 - slide.tumor_share)  # thin fibrovascular strands between the nests
    share = min(1.0, slide.tumor_share / (2 * NormalDist().cdf(-septum)))
    nest = noise(seed, 1, xs, ys, 190, 80, 35) + np.float32(quantile(share))
    if slide.tumor_share < 1:
        nest = np.minimum(nest, np.abs(noise(seed, 2, xs, ys, 170, 60)) * np.float32(1.5) - np.float32(1.5 * septum))
    gaps = noise(seed, 3, xs, ys, 240, 90, 40, 15) + np.float32(quantile(0.7 * slide.glass_share))
    lumens = noise(seed, 4, xs, ys, 26, 13, 6) + np.float32(quantile(0.3 * slide.glass_share))
    glass = np.maximum(gaps, lumens) if slide.glass_share < 1 else np.full_like(gaps, 9)
    lymph, crowd = noise(seed, 5, xs, ys, 110, 45), noise(seed, 6, xs, ys, 320, 75)
    return _Tissue(nest, glass, lymph, crowd, noise(seed, 7, xs, ys, 260, 70))


# --- nuclei -----------------------------------------------------------------------------------------------------------


def _gather(
    slide: SimulatedSlide,
    left: float,
    top: float,
    right: float,
    bottom: float,
    cells: dict[tuple[int, int], NDArray[np.void]],
) -> NDArray[np.void]:
    """Return the nuclei with left <= x < right, top <= y < bottom (slide pixels), in a fixed order."""
    edge = _CELL * _SITE * NOMINAL_MPP / slide.mpp
    # The slack is for centres that are rounded over the edge of their cell.
    first_x, first_y, last_x, last_y = (
        math.floor((v + 0.5 + slack) / edge)
        for v, slack in ((left, -0.02), (top, -0.02), (right, 0.02), (bottom, 0.02))
    )
    found = []
    for cy in range(first_y, last_y + 1):
        for cx in range(first_x, last_x + 1):
            if (cx, cy) not in cells:
                cells[cx, cy] = _place(slide, cx, cy)
            nuclei = cells[cx, cy]
            x, y = nuclei["x"], nuclei["y"]
            found.append(nuclei[(x >= left) & (x < right) & (y >= top) & (y < bottom)])
    return np.concatenate(found)


def _place(slide: SimulatedSlide, cx: int, cy: int) -> NDArray[np.void]:
    """Return the nuclei of one cell; x, y in pixels of the slide."""
    seed = slide.seed
    i = np.arange(cx * _CELL - _RING, (cx + 1) * _CELL + _RING)[None, :]
    j = np.arange(cy * _CELL - _RING, (cy + 1) * _CELL + _RING)[:, None]
    x = (i + uniform(seed, 10, i, j).astype(np.float64)) * _SITE
    y = (j + uniform(seed, 11, i, j).astype(np.float64)) * _SITE

    steps = np.arange(round(i.size * _SITE / _STEP)) * _STEP + _STEP / 2
    maps = _tissue(slide, i[0, 0] * _SITE + steps, j[0, 0] * _SITE + steps)
    column = np.minimum(((x - i[0, 0] * _SITE) / _STEP).astype(np.int64), len(steps) - 1)
    row = np.minimum(((y - j[0, 0] * _SITE) / _STEP).astype(np.int64), len(steps) - 1)
    at = _Tissue(*(m[row, column] for m in maps))

    # Kind of each site and its minimum distance from others (at most 2 sites: see `_throw`).
    draw = uniform(seed, 12, i, j)
    tumor = (at.nest > 0.04) & (draw > 0.02)
    lymphocyte = ~tumor & ((draw < 0.02) | (at.lymph > 1.1))
    kind = np.where(tumor, _TUMOR, np.where(lymphocyte, _LYMPHOCYTE, _SPINDLE)).astype(np.uint8)
    loose = np.clip(
        (14.5 + 2.5 * _style(slide)[4] + 1.6 * at.crowd) * (0.75 + 0.5 * uniform(seed, 14, i, j)), 11.5, 20.0
    )
    room = np.select([tumor, lymphocyte], [loose, 11.3], 17.0)
    crowded = np.exp(-np.maximum(at.crowd, 0))  # towards 1 nests dissolve into single cells
    alive = (at.glass < -0.1) & (draw < np.select([tumor, lymphocyte], [crowded, 0.8], 0.16 + 0.06 * at.lymph))
    kept = _throw(x, y, room, hash_bits(seed, 13, i, j), alive)

    inner = np.zeros_like(kept)
    inner[_RING:-_RING, _RING:-_RING] = kept[_RING:-_RING, _RING:-_RING]
    rows, columns = np.nonzero(inner)
    slope_y, slope_x = np.gradient(maps.nest)
    along = np.arctan2(slope_x, -slope_y)[row, column][rows, columns]  # parallel to the edge of the nests
    nuclei = _draw(slide, i[0, columns], j[rows, 0], kind[inner], _Tissue(*(m[inner] for m in at)), along)
    scale = NOMINAL_MPP / slide.mpp
    for axis, place in (("x", x[inner]), ("y", y[inner])):
        nuclei[axis] = np.round((place * scale - 0.5) * _SUBPIXEL) / _SUBPIXEL
    return nuclei


def _throw(x: Reals, y: Reals, room: Reals, rank: NDArray[np.uint64], alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the sites to keep by rank, none nearer than the mean of two rooms; valid `_RING` sites inside the edge.

    A site is kept if no conflicting neighbour outranks it; its conflicting neighbours are removed. Each round reaches
    four sites, so that the result is local and independent of the cell.
    """
    offsets = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if (dy, dx) != (0, 0)]
    shift = {o: (lambda m, o=o: np.roll(m, o, axis=(0, 1))) for o in offsets}
    conflict = {}
    for o in offsets:
        near = (room + shift[o](room)) / 2
        conflict[o] = (x - shift[o](x)) ** 2 + (y - shift[o](y)) ** 2 < near * near
    outranked = {o: conflict[o] & (shift[o](rank) > rank) for o in offsets}
    kept = np.zeros_like(alive)
    for _ in range(_ROUNDS):
        wins = alive.copy()
        for o in offsets:
            wins &= ~(outranked[o] & shift[o](alive))
        kept |= wins
        alive = alive & ~wins
        for o in offsets:
            alive &= ~(conflict[o] & shift[o](wins))
    return kept


def _draw(
    slide: SimulatedSlide,
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    kind: NDArray[np.uint8],
    at: _Tissue,
    along: Reals,
) -> NDArray[np.void]:
    """Return nuclei with class, shape and stain."""
    seed = slide.seed
    u = [uniform(seed, 20 + k, i, j) for k in range(8)]
    n = [normal(seed, 30 + k, i, j) for k in range(4)]
    tumor, lymphocyte = kind == _TUMOR, kind == _LYMPHOCYTE
    # Hot spots do not change the mean: part of a standard normal number is shared by the neighbourhood.
    positive = tumor & (0.5 * at.hot + math.sqrt(0.75) * n[0] < quantile(slide.positive_fraction))
    style = _style(slide)

    nuclei = np.zeros(len(i), _NUCLEUS)
    nuclei["cls"] = np.where(positive, 0, np.where(tumor, 1, 2))
    far = u[4] > 0.75  # out of focus: softer and paler
    size = (0.92 + 0.16 * style[0]) * np.exp(0.12 * n[1]) * np.where(positive, 1.07, 1.0)
    length = np.select([tumor, lymphocyte], [8.9 * size, 6.0 + 0.9 * u[0]], 7.5 + 5.0 * u[0])
    nuclei["a"], angle = length, np.where(kind == _SPINDLE, along + 0.3 * n[2], 2 * math.pi * u[2])
    nuclei["b"] = np.select([tumor, lymphocyte], [length * (0.64 + 0.34 * u[1]), length * 0.93], 2.4 + 2.0 * u[1])
    nuclei["cos"], nuclei["sin"] = np.cos(angle), np.sin(angle)
    nuclei["lobe"] = 0.16 * (u[3] - 0.5)
    nuclei["soft"] = np.where(far, 3.5, 1.1)
    nuclei["h"] = np.select([tumor, lymphocyte], [0.32 + 0.12 * style[1], 0.55], 0.4) * np.exp(0.25 * n[3])
    nuclei["h"] *= np.where(positive, 0.6, 1.0) * np.where(far, 0.6, 1.0)
    nuclei["dab"] = np.where(positive, 0.3 + 2.0 * u[5] ** 1.5, 0.0)
    nuclei["texture"] = np.select([tumor, lymphocyte], [0.2 + 0.15 * style[2], 0.14], 0.15)
    nuclei["nucleolus"] = np.where(tumor, np.clip(2 * u[6] - 1, 0, 1) * 1.2 * style[2], 0.0)
    nuclei["cell"] = np.where(tumor, 13.0 + 2.5 * u[7], 0.0)
    return nuclei


# --- light ------------------------------------------------------------------------------------------------------------


def _render(
    slide: SimulatedSlide, tx: int, ty: int, cells: dict[tuple[int, int], NDArray[np.void]]
) -> NDArray[np.uint8]:
    """Render tile (tx, ty): RGB uint8 [TILE, TILE, 3]."""
    scale = NOMINAL_MPP / slide.mpp
    sigma = max(0.35, 0.6 * scale)  # px: point spread function of the microscope, about 0.2 µm, and of the pixel
    pad = math.ceil(3 * sigma)
    px, py = (np.arange(t * TILE - pad, (t + 1) * TILE + pad) for t in (tx, ty))
    xs, ys = (px + 0.5) / scale, (py + 0.5) / scale
    tissue = _tissue(slide, xs, ys)
    haem, dab = background(slide.seed, tissue.nest, tissue.glass, xs, ys)

    reach = math.ceil(REACH * scale) + 1
    nuclei = _gather(slide, px[0] - reach, py[0] - reach, px[-1] + reach, py[-1] + reach, cells)
    seed = slide.seed
    grain = noise(seed, 60, xs, ys, 2.4, 1.1)
    stain_nuclei(nuclei, grain, px, py, haem, dab, scale=scale, cytoplasm=_style(slide)[3])

    drift = np.exp(0.14 * noise(seed, 8, xs, ys, 1500, 500)) * np.float32(slide.counterstain)
    light = transmit(haem * drift, dab * np.float32(slide.dab), slide.hue_shift)
    blurred = cv2.GaussianBlur(light, (2 * pad + 1, 2 * pad + 1), sigma)[pad:-pad, pad:-pad]

    # Sensor noise, partly common to the channels: overlapping sums of the four 16-bit parts of a hash.
    bits = hash_bits(seed, 9, px[None, pad:-pad], py[pad:-pad, None])
    piece = [((bits >> np.uint64(16 * k)) & np.uint64(0xFFFF)).astype(np.float32) / np.float32(65536) for k in range(4)]
    sensor = np.stack([piece[0] + piece[1] + piece[k] for k in (2, 3)] + [piece[0] + piece[2] + piece[3]], axis=-1)
    value = blurred * np.array(_WHITE, np.float32) + (sensor - np.float32(1.5)) * np.float32(3.0)
    pixels: NDArray[np.uint8] = np.clip(np.round(value), 0, 255).astype(np.uint8)
    return pixels


def _expect(name: str, value: float, low: float, high: float, *, whole: bool = False) -> None:
    """Raise ValueError unless low <= value <= high."""
    kind = "a whole number" if whole else "a number"
    numeric = isinstance(value, int | np.integer) if whole else isinstance(value, int | float | np.number)
    if isinstance(value, bool) or not numeric or not low <= value <= high:
        raise ValueError(f"{name}: expected {kind} from {low} to {high}, found {value!r}; pass a {name} in that range.")
