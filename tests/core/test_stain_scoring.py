"""Positive by density, and the H-score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet_trt.core.detections import CLASSES, Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.stain_scoring import H_CUTS, HScore, StainRules, positive_sentence


def nuclei(*pairs, classes=CLASSES):
    """Return nuclei from (class name, density)."""
    n = len(pairs)
    index = np.array([classes.index(name) for name, _ in pairs], np.uint8)
    dab = np.array([density for _, density in pairs], np.float32)
    return Detections(
        np.arange(n, dtype=np.float32), np.zeros(n, np.float32), index, np.ones(n, np.float32), classes, dab
    )


def names(found):
    return [found.classes[c] for c in found.cls]


FIVE = nuclei(("negative", 0.5), ("positive", 0.05), ("non_tumor", 0.9), ("negative", 0.1), ("positive", 0.25))


def test_classes_are_the_networks_by_default():
    assert StainRules().classify(FIVE) is FIVE
    assert StainRules().h_score(FIVE) is None


def test_classes_by_density_leave_non_tumour_nuclei():
    found = StainRules(0.25).classify(FIVE)
    assert names(found) == ["positive", "negative", "non_tumor", "negative", "positive"]
    assert found.cls.dtype == np.uint8
    np.testing.assert_array_equal(found.dab, FIVE.dab)


@pytest.mark.parametrize("cut", [0.1, 0.2, 0.3, 0.7, 1.1])
def test_a_density_of_exactly_the_cut_off_is_positive(cut):
    found = StainRules(cut).classify(nuclei(("negative", cut), ("negative", cut - 0.0001)))
    assert names(found) == ["positive", "negative"]


def test_classes_by_density_follow_the_names_of_the_model():
    classes = ("stroma", "negative", "positive")
    found = StainRules(0.2).classify(nuclei(("stroma", 0.9), ("negative", 0.9), ("positive", 0.0), classes=classes))
    assert names(found) == ["stroma", "positive", "negative"]
    with pytest.raises(KinetError, match=r"expected a model with the classes positive and negative.*without negative"):
        StainRules(0.2).classify(nuclei(("positive", 0.1), classes=("positive",)))


def test_the_h_score_of_a_known_distribution():
    # 40% 0, 30% 1+, 20% 2+, 10% 3+: 30 + 40 + 30.
    densities = [0.1] * 4 + [0.2, 0.25, 0.39] + [0.4, 0.59] + [0.6]
    score = HScore.of(nuclei(*(("negative", density) for density in densities), ("non_tumor", 2.0)))
    assert score.counts == (4, 3, 2, 1)
    assert score.score == pytest.approx(100)
    assert score.record() == {
        "score": pytest.approx(100),
        "cuts": [0.2, 0.4, 0.6],
        "counts": {"0": 4, "1+": 3, "2+": 2, "3+": 1},
    }
    assert score.sentence() == (
        "H-score 100.0 (0: 40.0%, 1+: 30.0%, 2+: 20.0%, 3+: 10.0%; lowest DAB optical density of 1+, 2+ and 3+: "
        "0.2, 0.4 and 0.6)."
    )


def test_the_h_score_of_no_tumour_nuclei_is_none():
    score = HScore.of(nuclei(("non_tumor", 0.5)))
    assert (score.score, score.percentages) == (None, None)
    assert score.sentence() == "No tumour nuclei were found: there is no H-score."


@given(st.lists(st.tuples(st.sampled_from(CLASSES), st.floats(-0.5, 3)), max_size=40), st.integers(0, 40))
def test_the_h_score_of_parts_adds_up_and_lies_within_0_and_300(pairs, split):
    whole = HScore.of(nuclei(*pairs))
    assert HScore.total([HScore.of(nuclei(*pairs[:split])), HScore.of(nuclei(*pairs[split:]))]) == whole
    assert whole.score is None or 0 <= whole.score <= 300
    # With the lowest cut-off, the share of 1+ and above is the index by density.
    ki67 = StainRules(H_CUTS[0]).classify(nuclei(*pairs)).ki67
    assert ki67.positive == sum(whole.counts[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-0.1,), "from 0 to 3, found -0.1"),
        ((float("nan"),), "from 0 to 3, found nan"),
        ((None, (0.2, 0.4, 3.5)), "from 0 to 3, found 3.5"),
        ((None, (0.2, 0.2, 0.4)), "ascending cut-offs, found 0.2, 0.2, 0.4"),
    ],
)
def test_cut_offs_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(KinetError, match=message):
        StainRules(*arguments)


def test_nuclei_without_density_are_refused():
    with pytest.raises(ValueError, match="expected nuclei with dab, found none: measure it"):
        StainRules(0.2).classify(Detections.empty())


def test_the_sentence_states_the_cut_off():
    assert "positive from 0.25 on, and not by the network" in positive_sentence(0.25)
