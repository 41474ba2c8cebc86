"""Random numbers and smooth noise as pure functions of seed and position."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.floating[Any]]


def hash_bits(seed: int, channel: int, ix: NDArray[np.int64], iy: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return 64 random bits for each lattice point (ix and iy are broadcast); splitmix64 twice."""

    def mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    key = np.array([(int(seed) * 0xD1342543DE82EF95 + channel * 0x9E3779B97F4A7C15) % 2**64], np.uint64)
    row = mix(mix(key) + ix.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return mix(row + iy.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F))


def uniform(seed: int, channel: int, ix: NDArray[np.int64], iy: NDArray[np.int64]) -> Reals:
    """Return numbers from 0 to 1 (exclusive), float32."""
    return (hash_bits(seed, channel, ix, iy) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def normal(seed: int, channel: int, ix: NDArray[np.int64], iy: NDArray[np.int64]) -> Reals:
    """Return standard normal numbers (Box & Muller) from the two halves of a hash."""
    bits = hash_bits(seed, channel, ix, iy)
    radius, turn = (((bits >> np.uint64(32 * k) & np.uint64(2**32 - 1)) + 0.5) / 2**32 for k in (0, 1))
    normal: Reals = (np.sqrt(-2 * np.log(radius)) * np.cos(2 * math.pi * turn)).astype(np.float32)
    return normal


def noise(seed: int, channel: int, xs: Reals, ys: Reals, *scales: float) -> Reals:
    """Return smooth noise, about standard normal, on the grid ys x xs (units); the amplitude halves with each scale."""
    total = np.zeros((len(ys), len(xs)), np.float32)
    for octave, scale in enumerate(scales):
        ix, wx = spline(xs / scale)
        iy, wy = spline(ys / scale)
        nodes_x, nodes_y = np.arange(ix[0], ix[-1] + 4), np.arange(iy[0], iy[-1] + 4)
        nodes = uniform(seed, 100 * channel + octave, nodes_x[None, :], nodes_y[:, None]) - np.float32(0.5)
        rows = sum(nodes[:, ix - ix[0] + k] * wx[k] for k in range(4))
        total += np.float32(0.5**octave) * sum(rows[iy - iy[0] + k] * wy[k][:, None] for k in range(4))  # type: ignore[index]
    # The mean variance of a uniform in +-1/2 after cubic B-spline smoothing in both directions.
    variance = (151 / 315) ** 2 / 12 * sum(0.25**octave for octave in range(len(scales)))
    return total / np.float32(math.sqrt(variance))


def spline(t: Reals) -> tuple[NDArray[np.int64], list[Reals]]:
    """Return the first of the four lattice nodes around each t, and the four cubic B-spline weights."""
    node = np.floor(t)
    f = (t - node).astype(np.float32)
    g = 1 - f
    weights = [g * g * g, 4 - 6 * f * f + 3 * f * f * f, 4 - 6 * g * g + 3 * g * g * g, f * f * f]
    return node.astype(np.int64) - 1, [w / np.float32(6) for w in weights]


def quantile(share: float) -> float:
    """Return the quantile of the standard normal distribution; finite at 0 and 1."""
    return NormalDist().inv_cdf(share) if 0 < share < 1 else math.copysign(9.0, share - 0.5)
