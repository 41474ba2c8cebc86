from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kinet_trt.core.detections import Detections
from kinet_trt.inference.tiling import Tile, tiles
from kinet_trt.peaks.reference import find_peaks


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    multiple=st.sampled_from([1, 2, 16]),
    rows=st.integers(1, 60),
    columns=st.integers(1, 60),
    tile=st.integers(1, 12),
    halo=st.integers(1, 5),
)
@example(
    multiple=16, rows=65, columns=82, tile=64, halo=9
)  # one step above the largest untiled size, and exactly at it
@example(multiple=16, rows=83, columns=128, tile=64, halo=9)
def test_cores_cover_once_and_windows_hold_core_and_halo(multiple, rows, columns, tile, halo):
    height, width, side, reach = rows * multiple, columns * multiple, tile * multiple, halo * multiple
    covered = np.zeros((rows, columns), int)
    for t in tiles(height, width, side, reach, multiple):
        core = (t.top, t.bottom, t.left, t.right)
        window = (t.window_top, t.window_bottom, t.window_left, t.window_right)
        assert all(edge % multiple == 0 for edge in (*core, *window))
        assert t.top < t.bottom
        assert t.left < t.right
        assert window == (
            max(0, t.top - reach),
            min(height, t.bottom + reach),
            max(0, t.left - reach),
            min(width, t.right + reach),
        )
        assert t.window_bottom - t.window_top <= side + 2 * reach
        assert t.window_right - t.window_left <= side + 2 * reach
        covered[t.top // multiple : t.bottom // multiple, t.left // multiple : t.right // multiple] += 1
    assert (covered == 1).all()


def test_tiles_keep_an_image_that_fits_whole():
    assert list(tiles(96, 96, 64, 16, 16)) == [Tile(0, 96, 0, 96, 0, 96, 0, 96)]
    assert len(list(tiles(96, 112, 64, 16, 16))) == 2
    assert len(list(tiles(112, 112, 64, 16, 16))) == 4


def test_cores_are_no_larger_than_a_tile():
    for t in tiles(1600, 1616, 64, 16, 16):
        assert t.bottom - t.top <= 64
        assert t.right - t.left <= 64


def found_at(*points):
    x, y = np.asarray(points, np.float32).reshape(-1, 2).T
    n = len(x)
    return Detections(x, y, np.arange(n, dtype=np.uint8) % 3, np.linspace(0.5, 1, n, dtype=np.float32))


def test_own_keeps_the_core_in_image_coordinates_and_drops_the_halo():
    tile = Tile(32, 64, 48, 80, 16, 80, 32, 96)
    found = found_at((15, 20), (16, 16), (47, 47), (48, 20), (20, 48), (20, 15))
    kept = tile.keep_core(found)
    # first and last pixel of the core
    assert (kept.x.tolist(), kept.y.tolist()) == ([48, 79], [32, 63])
    assert kept.cls.tolist() == found.cls[1:3].tolist()
    assert kept.score.tolist() == found.score[1:3].tolist()
    assert kept.classes == found.classes


def test_own_of_nothing_is_nothing_and_keeps_the_classes():
    kept = Tile(0, 16, 0, 16, 0, 16, 0, 16).keep_core(Detections.empty(("a", "b")))
    assert len(kept) == 0
    assert kept.classes == ("a", "b")


@pytest.mark.parametrize("seed", range(6))
def test_tiled_peaks_are_the_peaks_of_the_whole_each_once(seed):
    generator = np.random.default_rng(seed)
    height, width = (16 * int(n) for n in generator.integers(6, 14, 2))
    # Ties extend along plateaus, but the decision at p depends only on the radius around it.
    maps = generator.integers(0, 5, (3, height, width)).astype(np.float32) / 4
    maps[:, generator.random((height, width)) < 0.7] = 0
    whole = find_peaks(maps, 0.5, 5)
    parts = []
    for t in tiles(height, width, 32, 16, 16):
        part = find_peaks(maps[:, t.window_top : t.window_bottom, t.window_left : t.window_right], 0.5, 5)
        parts.append(t.keep_core(part))
    assert len(parts) > 3
    rows = np.concatenate([np.stack([p.y, p.x, p.cls.astype(np.float32), p.score], 1) for p in parts])
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    np.testing.assert_array_equal(rows, np.stack([whole.y, whole.x, whole.cls.astype(np.float32), whole.score], 1))
