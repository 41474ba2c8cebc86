"""The picture of a counted slide."""

from __future__ import annotations

import numpy as np
from slide_parts import CANVAS, Blobs, counter_of

from kinet_trt.slides.count import count_slide
from kinet_trt.slides.heatmap import _densities, heat_map
from kinet_trt.slides.region import Region
from simulated_slides import write_tiff


def test_it_shows_tissue_in_two_panels_and_glass_as_it_is(tmp_path):
    path = write_tiff(tmp_path / "a.ome.tif", CANVAS)
    folder = tmp_path / "state"
    counted, small = count_slide(counter_of(Blobs()), path, hot_spot=100_000, folder=folder)
    assert counted.hot_spot is None
    picture = heat_map(counted, small)
    rows, columns = small.pixels.shape[:2]
    assert picture.shape == (rows + 70, 2 * columns + 10, 3)
    tissue = small.tissue()
    for left in (0, columns + 10):
        changed = (picture[:rows, left : left + columns] != small.pixels).any(axis=2)
        assert changed[tissue].mean() > 0.5
        assert not changed[~tissue].any()
    # A ring and an outline are drawn over both, on glass too.
    region = Region(((np.array([(10.0, 10.0), (980.0, 10.0), (980.0, 790.0), (10.0, 790.0)]),),))
    counted, small = count_slide(counter_of(Blobs()), path, region=region, hot_spot=20, folder=folder)
    assert counted.hot_spot is not None
    drawn = heat_map(counted, small)
    assert (drawn[:rows] != picture[:rows]).any(axis=2)[:, :columns][~tissue].any()


def test_density_is_nuclei_per_mm2_and_none_is_lost(tmp_path):
    path = write_tiff(tmp_path / "a.ome.tif", CANVAS)
    counted, small = count_slide(counter_of(Blobs()), path, folder=tmp_path / "state")
    rows, columns = small.pixels.shape[:2]
    positive, tumor, every = _densities(counted, columns, rows, small.downsample)
    mm2 = (small.downsample * 0.34 / 1000) ** 2
    # A Gaussian carries some over the edge and gets as much back: OpenCV mirrors there.
    assert abs(every.sum() * mm2 / sum(counted.counts.values()) - 1) < 0.15
    assert (positive <= tumor + 1e-3).all()
    assert (tumor <= every + 1e-3).all()
