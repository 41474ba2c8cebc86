"""Registration on real tissue: two photographs of a field are linked correctly, those of two fields never."""

from __future__ import annotations

import csv
import math

import cv2
import numpy as np
import pytest

from kinet_trt import NucleusCounter, read_image
from kinet_trt.live.session.registration import FieldFeatures, join

MPP = 0.34


def photographs(shared_data, each: int):
    """Yield two photographs per field, with 57% overlap, defocus, noise and other exposure; and their offset."""
    counter, rng, taken = NucleusCounter(threads=2), np.random.default_rng(0), {}
    with (shared_data / "index.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            taken.setdefault(row["source"], []).append(row["image"])
    for images in taken.values():
        for image in images[:each]:
            pixels = read_image(shared_data / image).pixels
            height, width = pixels.shape[:2]
            views, places = [], [(0.0, 0.0), (0.3 * width - 1.5, 0.08 * height + 0.4)]
            for x, y in places:
                move, size = np.array([[1, 0, x], [0, 1, y]]), (int(0.7 * width), int(0.7 * height))
                light = cv2.warpAffine(pixels, move, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
                light = cv2.GaussianBlur(light.astype(np.float32), (0, 0), rng.uniform(0.3, 1.0))
                light = light * rng.uniform(0.92, 1.05) + rng.normal(0, 4, light.shape)
                cut = np.clip(light, 0, 255).astype(np.uint8)
                views.append(FieldFeatures.extract(len(views), cut, counter(cut, MPP), MPP))
            yield views, (places[1][0] * MPP, places[1][1] * MPP)


def check_real_tissue(shared_data, each: int) -> None:
    fields = list(photographs(shared_data, each))
    links = [join(*views) for views, _ in fields]
    # Fields with few nuclei may stay apart; links must be correct.
    assert sum(link is not None for link in links) >= 0.9 * len(fields)
    for link, (_, (x, y)) in zip(links, fields, strict=True):
        assert link is None or math.hypot(link.dx - x, link.dy - y) < 1.0
    first = [views[0] for views, _ in fields]
    assert not [1 for k, a in enumerate(first) for b in first[:k] if join(a, b)]


def test_real_fields_are_joined_correctly(shared_data):
    check_real_tissue(shared_data, 1)


@pytest.mark.slow
def test_all_real_fields_are_joined_correctly(shared_data):
    check_real_tissue(shared_data, 20)
