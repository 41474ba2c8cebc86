"""The plot of the agreement of two measurements."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kinet_trt.evaluation.cases import PairedCases
from kinet_trt.evaluation.statistics import index_agreement

pytest.importorskip("matplotlib")

from kinet_trt.evaluation.agreement_plot import agreement_plot


def plot(first, second, target=".png", name="a $model.json"):
    cases = PairedCases(tuple(map(str, range(len(first)))), np.array(first, float), np.array(second, float))
    return agreement_plot(cases, index_agreement(first, second), name, "people.csv", target)


def test_agreement_plot_is_a_png_of_two_panels():
    image = cv2.imdecode(np.frombuffer(plot([0.1, 0.2, 0.6], [0.1, 0.3, 0.5]), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape[1] > 1.8 * image.shape[0]


def test_agreement_plot_as_svg_states_its_figures_and_is_reproducible():
    first, second = np.linspace(0, 0.8, 12), np.linspace(0.05, 0.7, 12)
    svg = plot(first, second, "x.SVG")
    text = svg.decode()
    agreement = index_agreement(first, second)
    assert text.startswith("<?xml")
    assert f"12 cases, ICC(2,1) {agreement.icc.value:.3f}" in text
    assert f"bias {100 * agreement.mean_error:+.1f}" in text
    assert "a $model.json, Ki67 index, %" in text
    assert "people.csv, Ki67 index, %" in text
    assert svg == plot(first, second, "x.SVG")


@pytest.mark.parametrize("values", [[0.0], [0.2, 0.2], [0.0, 0.0, 0.0]])
def test_agreement_plot_of_few_or_equal_cases_can_be_drawn(values):
    assert plot(values, values).startswith(b"\x89PNG")
