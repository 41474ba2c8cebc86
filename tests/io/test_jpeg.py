import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from kinet_trt.io.jpeg import find_damage
from kinet_trt.simulation import simulate

PIXELS = simulate.field(3, 160, 120)[0]
OPTIONS = {"baseline": {}, "progressive": {"progressive": True}, "restarts": {"restart_marker_rows": 1}}


def jpeg(mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", OPTIONS)
def test_find_damage_of_an_intact_jpeg_is_none(mode, kind):
    data = jpeg(mode, **OPTIONS[kind])
    assert find_damage(data) is None
    assert find_damage(data + bytes(100)) is None
    assert find_damage(data[:-2] + bytes(8) + data[-2:]) is None


def test_find_damage_of_a_lossless_jpeg_is_none():
    assert find_damage(imagecodecs.jpeg_encode(PIXELS, lossless=True)) is None


def test_find_damage_of_a_white_picture_is_none():
    file = io.BytesIO()
    Image.fromarray(np.full((600, 800, 3), 255, np.uint8)).save(file, "JPEG", optimize=True)
    assert bytes(500) in file.getvalue()
    assert find_damage(file.getvalue()) is None


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("how", ["cut", "cut before the end marker", "end is zero", "middle is zero"])
def test_find_damage_detects_lost_data_before_an_end_marker(kind, how):
    data = jpeg(**OPTIONS[kind])
    n = len(data)
    damaged = {
        "cut": data[: n * 2 // 3],
        "cut before the end marker": data[: n * 2 // 3] + data[-2:],
        "end is zero": data[: n * 3 // 4] + bytes(n - n * 3 // 4 - 2) + data[-2:],
        "middle is zero": data[: n // 2] + bytes(n // 8) + data[n // 2 + n // 8 :],
    }
    assert find_damage(damaged[how])
