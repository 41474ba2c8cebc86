import math

import numpy as np
import pytest

from kinet_trt.core.errors import ImageError
from kinet_trt.core.units import check_mpp, is_uncalibrated, um_in


@pytest.mark.parametrize(
    ("unit", "um"),
    [
        ("µm", 1),
        ("\u03bcm", 1),
        ("um", 1),
        ("UM", 1),
        ("µ", 1),
        ("\\u00B5m", 1),
        ("\ufffdm", 1),
        ("Âµm", 1),
        ("㎛", 1),
        ("micron", 1),
        ("Microns", 1),
        ("micrometer", 1),
        ("micrometres", 1),
        ("um/px", 1),
        ("microns per pixel", 1),
        ("nm", 1e-3),
        ("nanometer", 1e-3),
        ("mm", 1e3),
        ("MM", 1e3),
        ("Mm", 1e12),
        ("millimetre", 1e3),
        ("cm", 1e4),
        ("centimeters", 1e4),
        ("dm", 1e5),
        ("m", 1e6),
        ("M", 1e6),
        ("metre", 1e6),
        ("km", 1e9),
        ("pm", 1e-6),
        ("Pm", 1e21),
        ("\u00c5", 1e-4),
        ("\u212b", 1e-4),
        ("angstrom", 1e-4),
        ("in", 25_400),
        ("inch", 25_400),
        ("Inches", 25_400),
        ("in.", 25_400),
        ('"', 25_400),
        ("mil", 25.4),
        ("thou", 25.4),
        ("pt", 25_400 / 72),
        ("foot", 304_800),
        (" mm\0", 1e3),
    ],
)
def test_um_in_knows_all_spellings_of_a_unit(unit, um):
    assert um_in(unit) == pytest.approx(um)


OME = """
Ym Zm Em Pm Tm Gm Mm km hm dam m dm cm mm µm nm pm fm am zm ym Å thou li in ft yd mi ua ly pc pt
"""
ZARR = """
angstrom attometer centimeter decimeter exameter femtometer foot gigameter hectometer inch kilometer megameter meter
micrometer mile millimeter nanometer parsec petameter picometer terameter yard yoctometer yottameter zeptometer
zettameter
"""


def test_um_in_knows_all_units_of_ome_xml_and_ome_zarr():
    assert len({um_in(unit) for unit in OME.split()}) == len(OME.split())
    assert None not in {um_in(unit) for unit in (OME + ZARR).split()}
    assert um_in("yd") == um_in("yard")
    assert um_in("pc") == um_in("parsec")


@pytest.mark.parametrize("unit", ["", "pixel", "second", "s", "furlong", "ms", "µs", "kg", "mm²", "reference frame"])
def test_um_in_is_none_for_other_units(unit):
    assert um_in(unit) is None


def test_is_uncalibrated_for_units_of_pixels():
    assert is_uncalibrated("Pixel")
    assert is_uncalibrated(" ")
    assert is_uncalibrated("reference frame")
    assert not is_uncalibrated("mm")
    assert not is_uncalibrated("furlong")


@pytest.mark.parametrize("mpp", [0.01, 0.25, 1, 100.0, np.float32(0.5), np.float64(0.5)])
def test_check_mpp_accepts_numbers_in_the_range(mpp):
    check_mpp(mpp)


@pytest.mark.parametrize("mpp", [0, 0.0099, 100.1, -0.25, math.nan, math.inf, "0.25", None, True])
def test_check_mpp_refuses_all_else(mpp):
    with pytest.raises(ImageError, match=r"µm/px: expected a number from 0\.01 to 100, found"):
        check_mpp(mpp)
