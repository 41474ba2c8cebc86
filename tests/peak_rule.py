"""The peak rule as DESIGN.md words it, too slow to be wrong, and maps to hold its implementations to."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

NAN, INF = np.nan, np.inf


def brute_force(maps, threshold, radius):
    """Return (x, y, class, v) of each nucleus: the words of DESIGN.md, pixel by pixel."""
    channels, height, width = maps.shape
    maps = maps.astype(np.float64)
    absent = np.isnan(maps).all(axis=0) if channels else np.ones((height, width), bool)
    v = np.where(np.isnan(maps), -INF, maps).max(axis=0, initial=-INF)
    order = np.arange(height * width).reshape(height, width)
    found = []
    for y, x in np.ndindex(height, width):
        if absent[y, x] or not v[y, x] >= threshold:
            continue
        window = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        higher = v[y, x] > v[window]
        first_of_equals = (v[y, x] == v[window]) & (order[y, x] <= order[window])  # p itself is equal and not after p
        if (higher | first_of_equals | absent[window]).all():
            found.append((x, y, int(np.flatnonzero(maps[:, y, x] == v[y, x])[0]), v[y, x]))
    return found


def as_tuples(found):
    return [
        (int(x), int(y), int(c), float(s)) for x, y, c, s in zip(found.x, found.y, found.cls, found.score, strict=True)
    ]


@st.composite
def levelled_maps(draw):
    """Maps of few levels, so that ties and plateaus are the rule and not the exception."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(0, 14)), draw(st.integers(0, 14)))
    levels = [-1.0, -0.0, 0.0, 0.25, 0.5, 0.5, 0.75, 1.0]
    if draw(st.booleans()):
        levels += [NAN, NAN, INF, -INF]
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    maps = generator.choice(levels[draw(st.integers(0, 6)) :], shape)
    if draw(st.booleans()):
        maps[:, generator.random(shape[1:]) < 0.3] = NAN
    return maps.astype(draw(st.sampled_from([np.float16, np.float32])))
