"""Overlays and figures."""

import cv2
import numpy as np
import pytest

from kinet_trt import Detections, Frame
from kinet_trt.core.detections import COLOURS, OTHER_COLOUR
from kinet_trt.io.overlay import RING_UM, Marks, draw, figure, to_png


def test_draw_puts_a_ring_on_each_nucleus_in_its_class_colour():
    frame = Frame(np.full((120, 160, 3), 255, np.uint8))
    x, y = np.array([40.25, 120.0], np.float32), np.array([60.0, 30.5], np.float32)
    nuclei = Detections(x, y, np.array([0, 2], np.uint8), np.ones(2, np.float32))
    picture = draw(frame, nuclei, mpp=0.25)
    radius = RING_UM / 0.25
    for cx, cy, name in ((x[0], y[0], "positive"), (x[1], y[1], "non_tumor")):
        top, left = int(cy) - 15, int(cx) - 15
        patch = picture[top : top + 32, left : left + 32].astype(float)
        ys, xs = np.mgrid[top : top + 32, left : left + 32]
        ink = (255 - patch).sum(axis=2)
        assert abs(np.average(xs, weights=ink) - cx) < 0.2
        assert abs(np.average(ys, weights=ink) - cy) < 0.2
        assert abs(np.average(np.hypot(xs - cx, ys - cy), weights=ink) - radius) < 0.5
        darkest = patch[np.unravel_index(ink.argmax(), ink.shape)]
        assert np.abs(darkest - COLOURS[name]).max() < 40
    assert (frame.pixels == 255).all()


def test_to_png_is_lossless():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    back = cv2.imdecode(np.frombuffer(to_png(pixels), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(back[..., ::-1], pixels)


def a_figure(width=1000, height=400, mpp=0.25, marks=(), **options):
    return figure(np.full((height, width, 3), 230, np.uint8), marks, mpp, "Field 1", **options)


@pytest.mark.parametrize(
    ("width", "mpp", "um"), [(1000, 0.25, 50), (1000, 0.17, 20), (300, 0.5, 20), (2000, 4.0, 1000)]
)
def test_scale_bar_has_the_stated_length(width, mpp, um):
    drawn = a_figure(width=width, mpp=mpp)
    factor = drawn.shape[1] / width
    lower_left = drawn[: round(400 * factor), : drawn.shape[1] // 2][-round(60 * factor) :]
    white = (lower_left == 255).all(axis=2)
    longest = max(len(run) for row in white for run in "".join("x" if w else " " for w in row).split(" "))
    assert longest == pytest.approx(um / mpp * factor, abs=1)


def test_symbols_of_classes_differ_in_shape_and_colour():
    names = ("positive", "negative", "non_tumor", "odd")
    marks = [Marks(name, name, np.array([[100.0 + 200 * k, 200.0]])) for k, name in enumerate(names)]
    drawn = a_figure(marks=marks)
    shapes = []
    for k, name in enumerate(names):
        patch = drawn[180:221, 80 + 200 * k : 121 + 200 * k].astype(int)
        ink = np.abs(patch - COLOURS.get(name, OTHER_COLOUR)).sum(axis=2) < 40
        assert ink.sum() > 20
        xs = np.nonzero(ink)[1]
        assert abs((xs.min() + xs.max()) / 2 - 20) <= 1
        shapes.append(ink)
    for k, one in enumerate(shapes):
        for other in shapes[:k]:
            assert (one != other).sum() > 20


def test_legend_grows_with_the_marks():
    marks = [Marks(f"a rather long entry of the legend {k}", "positive", np.zeros((1, 2))) for k in range(12)]
    heights = [a_figure(width=900, marks=marks[:n]).shape[0] for n in (0, 1, 6, 12)]
    assert heights == sorted(set(heights))


def test_region_is_outlined():
    drawn = a_figure(outlines=[[(100, 100), (900, 100), (900, 300)]])
    assert (drawn[100, 200:800] == 255).all()
    assert (drawn[98, 200:800].max(axis=1) < 120).all()
