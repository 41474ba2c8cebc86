"""Agreement: two sets of detections held to each other by pixel and class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinet_trt.core.detections import Detections
from kinet_trt.evaluation.agreement import Agreement

Nucleus = tuple[int, int, int]


def detections(nuclei: list[Nucleus], score: float = 0.9) -> Detections:
    x, y, cls = (np.array(column) for column in zip(*nuclei, strict=True)) if nuclei else (np.empty(0),) * 3
    scores = np.full(len(nuclei), score, np.float32)
    return Detections(x.astype(np.float32), y.astype(np.float32), cls.astype(np.uint8), scores)


def test_equal_sets_are_identical_whatever_their_scores_and_order() -> None:
    nuclei = [(3, 4, 0), (10, 4, 1), (7, 20, 2)]
    agreement = Agreement.between(detections(nuclei, 0.5), detections(nuclei[::-1], 0.9))
    assert agreement == Agreement(3, 0, 0)
    assert agreement.identical
    assert agreement.moved == 0


def test_a_nucleus_one_pixel_off_counts_in_both_sets() -> None:
    agreement = Agreement.between(detections([(3, 4, 0), (10, 4, 1)]), detections([(3, 4, 0), (11, 4, 1)]))
    assert agreement == Agreement(1, 1, 1)
    assert not agreement.identical
    assert agreement.moved == pytest.approx(2 / 4)


def test_another_class_at_the_same_pixel_is_not_the_same_nucleus() -> None:
    assert Agreement.between(detections([(3, 4, 0)]), detections([(3, 4, 2)])) == Agreement(0, 1, 1)


def test_nothing_against_nothing_is_identical() -> None:
    agreement = Agreement.between(Detections.empty(), Detections.empty())
    assert agreement == Agreement(0, 0, 0)
    assert agreement.identical
    assert agreement.moved == 0


def test_everything_lost_has_moved_entirely() -> None:
    agreement = Agreement.between(detections([(1, 1, 0), (2, 9, 1)]), Detections.empty())
    assert agreement == Agreement(0, 2, 0)
    assert agreement.moved == 1
    assert not agreement.identical
    assert not Agreement.between(Detections.empty(), detections([(1, 1, 0)])).identical


def test_agreements_add_up() -> None:
    total = Agreement(1, 2, 3) + Agreement(10, 20, 30)
    assert total == Agreement(11, 22, 33)
    assert total.moved == pytest.approx(55 / 77)


nuclei_sets = st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 2)), max_size=20)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(first=nuclei_sets, second=nuclei_sets)
def test_compare_is_symmetric_and_adds_up_to_both_sets(first: set[Nucleus], second: set[Nucleus]) -> None:
    there = Agreement.between(detections(sorted(first)), detections(sorted(second)))
    back = Agreement.between(detections(sorted(second)), detections(sorted(first)))
    assert there == Agreement(back.same, back.only_second, back.only_first)
    assert (there.same + there.only_first, there.same + there.only_second) == (len(first), len(second))
    assert there.identical == (first == second)
    assert 0 <= there.moved <= 1
    assert (there.moved == 0) == there.identical
