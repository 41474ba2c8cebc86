"""The small picture of a slide, and what of it is glass."""

from __future__ import annotations

import numpy as np
import pytest

from kinet_trt.simulation import simulate
from kinet_trt.slides.slide import open_slide
from kinet_trt.slides.tissue import Thumbnail, read_thumbnail
from simulated_slides import Canvas, Piece, write_tiff

CANVAS = Canvas(2700, 2100, (Piece(300, 500, 600, 500, 3), Piece(1700, 900, 500, 420, 7)))


@pytest.mark.parametrize("downsamples", [(1,), (1, 4), (1, 4, 16), (1, 2, 16, 64)])
def test_it_is_about_8_um_a_cell_whatever_levels_there_are(tmp_path, downsamples):
    path = write_tiff(tmp_path / "a.tif", CANVAS, layout="pages", downsamples=downsamples)
    with open_slide(path) as slide:
        small = read_thumbnail(slide, 0.34)
    assert 5 < small.downsample * 0.34 < 11
    tissue = small.tissue()
    truth = CANVAS.truth
    rows, columns = (((v + 0.5) / small.downsample).astype(int) for v in (truth.y, truth.x))
    assert tissue[rows, columns].all()
    assert tissue.mean() < 0.25
    assert not small.is_grey


def test_no_nucleus_lies_on_glass_however_pale_the_stain():
    for seed, options in enumerate(({}, {"counterstain": 0.4, "dab": 0.5}, {"tumor_share": 0.0}, {"hue_shift": 60.0})):
        pixels, truth = simulate.SimulatedSlide(seed + 20, **options).region(0, 0, 960, 960)
        whole = np.full((1920, 1920, 3), (241, 240, 243), np.uint8)
        whole[:960, :960] = pixels
        small = Thumbnail(whole.reshape(80, 24, 80, 24, 3).mean(axis=(1, 3)).round().astype(np.uint8), 24.0)
        tissue = small.tissue()
        rows, columns = (((v + 0.5) / 24).astype(int) for v in (truth.y, truth.x))
        assert len(truth) > 100
        assert tissue[rows, columns].all()
        assert tissue[45:].mean() == 0


def test_a_slide_that_is_all_tissue_is_all_tissue():
    dark = np.full((50, 60, 3), (120, 90, 140), np.uint8)
    assert Thumbnail(dark, 24.0).tissue().all()
    assert Thumbnail(np.repeat(dark[..., :1], 3, axis=2), 24.0).is_grey
