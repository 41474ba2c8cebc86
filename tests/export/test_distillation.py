"""A teacher's maps: the mean over views, computed once per field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kinet_trt.export.distillation import VIEWS, maps_of_fields, mean_of_views
from numpy.typing import NDArray

from kinet_trt.datasets.labelled_field import LabelledField

EMPTY = np.empty(0, np.float32)


def field(seed: int, height: int = 40, width: int = 56) -> LabelledField:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return LabelledField.simulated(pixels, EMPTY, EMPTY, EMPTY.astype(np.uint8))


def colours(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the colours of the image, padded as by a network."""
    maps = pixels.astype(np.float32).transpose(2, 0, 1) / 255
    return np.pad(maps, ((0, 0), (0, -maps.shape[1] % 16), (0, -maps.shape[2] % 16)))


def test_maps_of_every_view_are_put_back_upright() -> None:
    pixels = field(0).pixels()
    np.testing.assert_array_equal(mean_of_views(colours, pixels), pixels)


def test_mean_is_the_same_for_a_turned_or_mirrored_image() -> None:
    def slanted(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        maps = colours(pixels)
        return maps * np.linspace(0, 1, maps.shape[2], dtype=np.float32)  # depends on the orientation

    pixels = field(1).pixels()
    upright = mean_of_views(slanted, pixels)
    assert not np.array_equal(upright, pixels)
    for turned in (np.rot90(pixels), pixels[:, ::-1]):
        back = mean_of_views(slanted, np.ascontiguousarray(turned))
        expected = np.rot90(upright) if turned.shape != pixels.shape else upright[:, ::-1]
        np.testing.assert_allclose(back.astype(int), expected.astype(int), atol=1)


def test_maps_outside_zero_to_one_are_clipped() -> None:
    pixels = field(2).pixels()
    assert (mean_of_views(lambda p: colours(p) * 0 - 1, pixels) == 0).all()
    assert (mean_of_views(lambda p: colours(p) * 0 + 2, pixels) == 255).all()


def test_maps_are_computed_once_for_each_field_and_network(tmp_path: Path) -> None:
    calls = 0

    def counted(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal calls
        calls += 1
        return colours(pixels)

    fields = [field(3), field(4)]
    first = maps_of_fields(counted, fields, tmp_path / "maps", "a")
    assert calls == 2 * len(VIEWS)
    again = maps_of_fields(counted, fields, tmp_path / "maps", "a")
    assert calls == 2 * len(VIEWS)
    for f, one, two in zip(fields, first, again, strict=True):
        np.testing.assert_array_equal(one, f.pixels())
        np.testing.assert_array_equal(one, two)
    maps_of_fields(counted, fields[:1], tmp_path / "maps", "b")
    assert calls == 3 * len(VIEWS)


def test_damaged_cache_file_is_computed_again(tmp_path: Path) -> None:
    fields = [field(5)]
    (expected,) = maps_of_fields(colours, fields, tmp_path, "a")
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:50])
    (found,) = maps_of_fields(colours, fields, tmp_path, "a")
    np.testing.assert_array_equal(found, expected)
