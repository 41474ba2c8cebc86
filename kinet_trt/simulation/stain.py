"""Stain of simulated tissue: optical density of background and nuclei, and the light that passes through it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kinet_trt.simulation.lattice import Reals, noise

REACH = 16.5
"""Maximum distance of nucleus and cytoplasm from the centre, units."""

# Optical density in R, G, B: Ruifrok & Johnston (2001), slightly greyer as in whole slide scanners.
_HAEMATOXYLIN = (0.65, 0.645, 0.35)
_DAB = (0.32, 0.57, 0.76)
_STRAY = 0.055  # share of stray light: the darkest DAB is not zero


def background(seed: int, nests: Reals, glass: Reals, xs: Reals, ys: Reals) -> tuple[Reals, Reals]:
    """Return haematoxylin and DAB without cells, as amounts of the stain vectors, on the grid ys x xs (units).

    ``nests`` and ``glass`` are signed maps of the tissue on that grid, above 0 in nests and in glass.
    """
    grain = noise(seed, 50, xs, ys, 2.4, 1.1)
    present = np.clip(0.5 - glass / np.float32(0.12), 0, 1)
    nest = np.clip(nests / np.float32(0.1) + np.float32(0.5), 0, 1)
    # Collagen: bands along the edges of the nests, bent by noise.
    bend = noise(seed, 51, xs, ys, 55, 18, 6)
    fibre = (np.sin(nests * 27 + 3 * bend) + np.sin(nests * 61 - 2 * bend)) * np.float32(0.5) * bend
    cleft = np.clip(1 - np.abs(nests + np.float32(0.1)) / np.float32(0.07), 0, 1)
    cleft *= np.clip(noise(seed, 52, xs, ys, 45) - np.float32(0.3), 0, 1)
    stroma = (np.float32(0.09) + np.float32(0.03) * fibre) * (1 - cleft)
    haem = present * (np.float32(0.055) * nest + stroma * (1 - nest)) * (1 + np.float32(0.35) * grain)
    brown = np.float32(0.035) * np.exp(np.float32(0.5) * noise(seed, 53, xs, ys, 700, 120))
    specks = np.clip(noise(seed, 54, xs, ys, 3.5) - np.float32(3.1), 0, 1)  # precipitate
    return np.maximum(haem, 0), present * (brown * (1 + np.float32(0.3) * grain) + specks)


def stain_nuclei(
    nuclei: NDArray[np.void],
    grain: Reals,
    px: NDArray[np.int64],
    py: NDArray[np.int64],
    haem: Reals,
    dab: Reals,
    *,
    scale: float,
    cytoplasm: float,
) -> None:
    """Add nuclei and cytoplasm to ``haem`` and ``dab``, on the pixels py x px, in place, as a stack of patches.

    ``scale`` is px per unit, ``cytoplasm`` the darkness of the cytoplasm, 0 to 1, and ``grain`` the noise of chromatin
    and cytoplasm on the same pixels.
    """
    reach = math.ceil(REACH * scale) + 1
    columns = np.floor(nuclei["x"] + 0.5).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    rows = np.floor(nuclei["y"] + 0.5).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    dx = ((columns - nuclei["x"][:, None]) / scale).astype(np.float32)[:, None, :]
    dy = ((rows - nuclei["y"][:, None]) / scale).astype(np.float32)[:, :, None]

    def column_of(name: str) -> Reals:
        column: Reals = nuclei[name][:, None, None]
        return column

    u = (dx * column_of("cos") + dy * column_of("sin")) / column_of("a")
    v = (dy * column_of("cos") - dx * column_of("sin")) / column_of("b")
    square = u * u + v * v
    # Three lobes, cos(3 angle), which do not move the centroid.
    lobes = column_of("lobe") * (u * u - 3 * v * v) * u / (square * np.sqrt(square) + np.float32(1e-3))
    radius = np.sqrt(square) * (1 + lobes)
    soft = np.maximum(column_of("soft"), np.float32(1 / scale))
    inside = np.clip((1 - radius) * column_of("b") / soft + np.float32(0.5), 0, 1)
    inside *= inside * (3 - 2 * inside)

    row, column = rows - py[0], columns - px[0]
    chromatin = grain[np.clip(row, 0, len(py) - 1)[:, :, None], np.clip(column, 0, len(px) - 1)[:, None, :]]
    rim = np.clip(1 - np.abs(radius - np.float32(0.82)) * 5, 0, 1)
    dot = np.clip(1 - ((u - np.float32(0.15)) ** 2 + v * v) * 14, 0, 1)
    body = np.maximum(1 + column_of("texture") * (chromatin + rim) + column_of("nucleolus") * dot, 0.1) * inside
    # Uneven chromatin moves the centroid: tilt the stain to compensate.
    for axis in (u, v):
        moment = (body * axis).sum(axis=(1, 2), keepdims=True) / (body * axis * axis).sum(axis=(1, 2), keepdims=True)
        body *= np.maximum(1 - moment * axis, 0)
    blue, brown = body * column_of("h"), body * column_of("dab")
    ragged = 1 + np.float32(0.06) * chromatin
    cell = np.clip((1 - ragged * np.sqrt(dx * dx + dy * dy) / np.maximum(column_of("cell"), np.float32(0.1))) * 3, 0, 1)
    cell *= np.float32(0.03 + 0.09 * cytoplasm)

    # The maximum of cytoplasm leaves a pale line between cells.
    between = np.zeros_like(haem)
    for k in range(len(nuclei)):
        y0, y1 = max(0, row[k, 0]), min(len(py), row[k, -1] + 1)
        x0, x1 = max(0, column[k, 0]), min(len(px), column[k, -1] + 1)
        to = np.s_[y0:y1, x0:x1]
        source = np.s_[k, y0 - row[k, 0] : y1 - row[k, 0], x0 - column[k, 0] : x1 - column[k, 0]]
        for canvas, stain in ((haem[to], blue[source]), (dab[to], brown[source])):
            # Touching nuclei mostly flatten in a 3 µm section and overlap little.
            canvas[...] = np.maximum(canvas, stain) + np.float32(0.3) * np.minimum(canvas, stain)
        np.maximum(between[to], cell[source], out=between[to])
    haem += between * (1 + np.float32(0.3) * grain)


def transmit(haem: Reals, dab: Reals, hue_shift: float) -> Reals:
    """Return the share of light that passes (Beer-Lambert), [height, width, 3], 0 to 1."""
    vectors = stain_vectors(hue_shift)
    density = haem[..., None] * vectors[0] + dab[..., None] * vectors[1]
    light: Reals = np.float32(_STRAY) + np.float32(1 - _STRAY) * np.exp(np.float32(-math.log(10)) * density)
    return light


def stain_vectors(hue_shift: float) -> Reals:
    """Return haematoxylin and DAB as unit vectors [2, 3], rotated by ``hue_shift`` degrees about grey."""
    vectors = np.array([_HAEMATOXYLIN, _DAB])
    axis = np.full(3, 1 / math.sqrt(3))
    angle = math.radians(hue_shift)
    along = (vectors @ axis)[:, None] * axis
    turned = along + (vectors - along) * math.cos(angle) + np.cross(axis, vectors) * math.sin(angle)
    turned = np.maximum(turned, 0)
    unit: Reals = (turned / np.linalg.norm(turned, axis=1, keepdims=True)).astype(np.float32)
    return unit
