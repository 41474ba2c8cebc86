"""The picture of what was found."""

import cv2
import numpy as np

from kinet_trt import Detections, Frame
from kinet_trt.detections import COLOURS
from kinet_trt.overlay import RING_UM, draw, to_png


def test_a_ring_stands_about_each_nucleus_in_its_class_colour():
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


def test_a_png_holds_the_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    back = cv2.imdecode(np.frombuffer(to_png(pixels), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(back[..., ::-1], pixels)
