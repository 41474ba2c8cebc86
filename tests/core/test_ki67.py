from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinet_trt.core.ki67 import MAX_MORE_NUCLEI, MIN_TUMOR_NUCLEI, NET, NO_RANGE, Bands, Ki67, Statement, wilson


@pytest.mark.parametrize(
    ("positive", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.277533),  # Wilson score intervals without continuity correction
        (1, 10, 0.017876, 0.404150),
        (5, 10, 0.236593, 0.763407),
        (10, 10, 0.722467, 1.0),
        (81, 263, 0.255286, 0.366209),  # Newcombe 1998, table I: 0.2553 to 0.3662
        (15, 148, 0.062386, 0.160504),  # Newcombe 1998: 0.0624 to 0.1605
        (0, 20, 0.0, 0.161125),  # Newcombe 1998: 0 to 0.1611
        (1, 29, 0.006113, 0.171755),  # Newcombe 1998: 0.0061 to 0.1718
        (59, 750, 0.061476, 0.100151),
    ],
)
def test_wilson_gives_the_published_intervals(positive, n, low, high):
    assert wilson(positive / n, n) == pytest.approx((low, high), abs=5e-5)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(n=st.integers(1, 100_000), share=st.floats(0, 1))
def test_wilson_solves_its_equation_and_contains_the_proportion(n, share):
    low, high = wilson(share, n)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    for bound in (low, high):  # (p - b)^2 = z^2 b (1 - b) / n
        assert (share - bound) ** 2 == pytest.approx(1.959963984540054**2 * bound * (1 - bound) / n, abs=1e-9)


def test_index_ignores_non_tumour_nuclei_and_unknown_classes():
    ki67 = Ki67.from_counts({"positive": 59, "negative": 691, "non_tumor": 139, "other": 7})
    assert (ki67.positive, ki67.tumor) == (59, 750)
    assert ki67.index == pytest.approx(59 / 750)
    assert Ki67.from_counts({"negative": 4}) == Ki67(0, 4)


def test_index_is_none_without_tumour_nuclei():
    none = Ki67.from_counts({"non_tumor": 12})
    assert none.index is None
    assert none.interval is None
    assert none.more_nuclei() is None
    assert none.sentences() == none.sentences(None) == ["No tumour nuclei were found: there is no index."]


@pytest.mark.parametrize(("positive", "tumor"), [(-1, 5), (6, 5), (1, 0), (0, -1)])
def test_ki67_refuses_impossible_counts(positive, tumor):
    with pytest.raises(ValueError, match="expected 0 <= positive <= tumor"):
        Ki67(positive, tumor)


@pytest.mark.parametrize(
    ("positive", "tumor", "band"),
    [
        (0, 100, "G1"),
        (29, 1000, "G1"),
        (299, 10_000, "G1"),  # 2.99%, shown as 3.0%
        (29_996, 1_000_000, "G1"),
        (3, 100, "G2"),  # exactly 3%
        (30, 1000, "G2"),
        (59, 750, "G2"),
        (20, 100, "G2"),  # exactly 20%
        (200_000, 1_000_000, "G2"),
        (200_001, 1_000_000, "G3"),  # shown as 20.0%
        (2001, 10_000, "G3"),
        (100, 100, "G3"),
    ],
)
def test_net_ranges_use_the_unrounded_index(positive, tumor, band):
    ki67 = Ki67(positive, tumor)
    assert NET.range_of(ki67.index) == band
    assert f"In the {band} range." in ki67.sentences()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(tumor=st.integers(1, 3000), data=st.data())
def test_more_nuclei_is_the_smallest_number_that_settles_the_range(tumor, data):
    ki67 = Ki67(data.draw(st.integers(0, tumor)), tumor)

    def decided(extra):
        low, high = wilson(ki67.index, tumor + extra)
        return NET.range_of(low) == NET.range_of(high)

    more = ki67.more_nuclei()
    if more is None:
        assert not decided(MAX_MORE_NUCLEI)
        return
    assert 0 <= more <= MAX_MORE_NUCLEI
    assert decided(more)
    assert more == 0 or not decided(more - 1)
    assert (more == 0) == decided(0)


@pytest.mark.parametrize("ki67", [Ki67(3, 100), Ki67(20, 100), Ki67(200, 1000)])
def test_more_nuclei_is_none_for_an_index_on_a_cut_off(ki67):
    assert ki67.more_nuclei() is None
    assert not Statement(ki67).settled
    assert ki67.sentences()[-1] == (
        "The interval crosses a grade boundary; counting more nuclei is unlikely to settle it."
    )


def test_more_nuclei_uses_the_given_ranges():
    halves = Bands(("low", "high"), (0.5,), (True,))
    assert Ki67(59, 750).more_nuclei(halves) == 0
    assert Ki67(4, 10).more_nuclei(halves) == next(
        n for n in range(MAX_MORE_NUCLEI) if halves.range_of(wilson(0.4, 10 + n)[1]) == "low"
    )
    assert Ki67(1, 10).more_nuclei(Bands(("all",), (), ())) == 0


def test_range_of_a_cut_off_follows_inclusive():
    assert Bands(("a", "b"), (0.1,), (True,)).range_of(0.1) == "b"
    assert Bands(("a", "b"), (0.1,), (False,)).range_of(0.1) == "a"
    assert Bands(("a", "b"), (0.1,), (False,)).range_of(math.nextafter(0.1, 1)) == "b"


def test_sentences_of_a_settled_index():
    assert Ki67(59, 750).sentences() == [
        "Ki67 index 7.9% (59 of 750 tumour nuclei; 95% interval 6.1% to 10.0%).",
        "In the G2 range.",
        "The interval lies within one grade range.",
    ]


def test_sentences_of_few_nuclei_across_a_boundary():
    ki67 = Ki67(9, 60)
    said = ki67.sentences()
    assert said[0].startswith("Ki67 index 15.0% (9 of 60 tumour nuclei; 95% interval ")
    assert said[1:3] == [f"Fewer than {MIN_TUMOR_NUCLEI} tumour nuclei: provisional.", "In the G2 range."]
    assert said[3] == (
        "The interval crosses a grade boundary; at this rate, about "
        f"{max(ki67.more_nuclei(), 440):,} more tumour nuclei would settle it."
    )
    assert len(said) == 4


def test_statement_begins_with_a_hot_spot_in_another_range():
    said = Statement(Ki67(90, 1000), Ki67(140, 500)).sentences()
    assert said[:3] == [
        "Ki67 index 9.0% (90 of 1,000 tumour nuclei; 95% interval 7.4% to 10.9%).",
        "Hot spot 28.0% (140 of 500 tumour nuclei; 95% interval 24.2% to 32.1%).",
        "The hot spot lies in the G3 range, the average in the G2 range: WHO grades by the hot spot.",
    ]
    assert "within one grade range" not in " ".join(said)


def test_statement_names_a_hot_spot_in_the_same_range():
    statement = Statement(Ki67(70, 1000), Ki67(50, 500))
    assert statement.warning == ""
    assert statement.settled
    assert statement.sentences()[2:] == [
        "The hot spot and the average both lie in the G2 range.",
        "Both intervals lie within one grade range.",
    ]


def test_statement_is_not_settled_if_the_hot_spot_crosses_a_boundary():
    statement = Statement(Ki67(100, 1000), Ki67(98, 500))
    assert not statement.settled
    assert statement.notes[-1] == "The interval of the hot spot crosses a grade boundary."


def test_statement_of_a_small_hot_spot_is_provisional():
    statement = Statement(Ki67(70, 1000), Ki67(5, 50))
    assert not statement.settled
    assert "The hot spot has fewer than 500 tumour nuclei: provisional." in statement.sentences()


def test_statement_of_an_out_of_distribution_field_has_no_range():
    statement = Statement(Ki67(700, 1000), Ki67(400, 500), no_range=NO_RANGE)
    assert (statement.range_of(statement.average), statement.range_of(statement.hot_spot)) == ("", "")
    assert not statement.settled
    said = statement.sentences()
    assert said[2:] == [NO_RANGE]
    assert not any(name in " ".join(said) for name in NET.names)
    assert NO_RANGE not in Statement(Ki67(700, 1000), bands=None, no_range=NO_RANGE).sentences()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(tumor=st.integers(1, 3000), spot=st.integers(1, 700), data=st.data())
def test_statement_is_not_settled_while_provisional_or_between_ranges(tumor, spot, data):
    average = Ki67(data.draw(st.integers(0, tumor)), tumor)
    hot = Ki67(data.draw(st.integers(0, spot)), spot)
    statement = Statement(average, hot)
    text = " ".join(statement.sentences())
    assert "decide" not in text
    assert (statement.warning in text) if statement.warning else ("WHO" not in text)
    assert bool(statement.warning) == (NET.range_of(average.index) != NET.range_of(hot.index))
    assert statement.settled == ("within one grade range" in text)
    if "provisional" in text or statement.warning:
        assert not statement.settled


def test_provisional_ends_at_500():
    assert any("provisional" in sentence for sentence in Ki67(50, 499).sentences())
    assert not any("provisional" in sentence for sentence in Ki67(50, 500).sentences())


def test_sentences_without_ranges_mention_no_cut_offs():
    assert Ki67(9, 60).sentences(None) == Ki67(9, 60).sentences()[:2]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(tumor=st.integers(0, 3000), data=st.data())
def test_sentences_never_sound_like_a_diagnosis(tumor, data):
    text = " ".join(Ki67(data.draw(st.integers(0, tumor)), tumor).sentences()).lower()
    assert not any(word in text for word in ("diagnos", "patient", "grade g", "malignan", "benign", " is g"))
