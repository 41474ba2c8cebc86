from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinet_trt.core.errors import KinetError
from kinet_trt.inference.counter import Threshold


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.4", Threshold(0.4)),
        ("0", Threshold(0.0)),
        ("-0.1", Threshold(-0.1)),
        ("4e-1", Threshold(0.4)),
        ("relative:0.5", Threshold(0.5, relative=True)),
        ("relative:0", Threshold(0.0, relative=True)),
        ("relative:1", Threshold(1.0, relative=True)),
    ],
)
def test_parse_reads_both_kinds(text, expected):
    assert Threshold.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "high", "relative", "relative:", "relative:x", "absolute:0.4", "0.4:relative", "relative:relative:0.5", "0,4"],
)
def test_parse_rejects_and_shows_the_expected_form(text):
    with pytest.raises(KinetError, match=r"expected a number like 0\.4, or relative:0\.5") as raised:
        Threshold.parse(text)
    assert repr(text) in str(raised.value)


def test_parse_rejects_a_colon_without_a_kind():
    with pytest.raises(KinetError):
        Threshold.parse(":0.5")


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-inf", "1e400", "relative:nan", "relative:inf", "relative:1.01", "relative:-0.1"]
)
def test_parse_rejects_values_out_of_range(text):
    with pytest.raises(KinetError, match="FRACTION between 0 and 1"):
        Threshold.parse(text)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(alphabet="0123456789.:-+eainfrltv _", max_size=12))
def test_parse_gives_a_threshold_or_a_kinet_error(text):
    try:
        found = Threshold.parse(text)
    except KinetError:
        return
    assert math.isfinite(found.value)


@pytest.mark.parametrize("text", ["0.4", "0.375", "-1", "relative:0.5", "relative:0"])
def test_str_can_be_parsed_again(text):
    assert str(Threshold.parse(text)) == text


def test_absolute_threshold_does_not_depend_on_the_frame():
    assert [Threshold(0.4).of(largest) for largest in (-1.0, 0.0, 0.9, math.inf, -math.inf)] == [0.4] * 5


def test_relative_threshold_is_a_fraction_of_the_maximum():
    assert Threshold(0.5, relative=True).of(0.8) == pytest.approx(0.4)


@pytest.mark.parametrize("largest", [0.0, -0.0, -0.3, -math.inf, math.nan])
def test_relative_threshold_accepts_nothing_without_positive_values(largest):
    threshold = Threshold(0.5, relative=True).of(largest)
    assert math.isfinite(threshold)
    assert threshold == float(np.finfo(np.float32).max)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_relative_threshold_is_finite_for_overflowed_fp16_maps(share):
    # find_peaks raises a ValueError for any other threshold
    assert math.isfinite(Threshold(share, relative=True).of(math.inf))
