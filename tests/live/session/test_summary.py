"""Summary of a session."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from parts import detections, keep, some_frame

from kinet_trt import Frame
from kinet_trt.live.session.edits import replay
from kinet_trt.live.session.layout import Layout, Placed
from kinet_trt.live.session.merge import FieldNuclei, merge
from kinet_trt.live.session.session import OpenSession
from kinet_trt.live.session.store import Store
from kinet_trt.live.session.summary import find_session_hot_spot, summarise
from kinet_trt.simulation import simulate


def spread(cls_of, n: int = 3_000, side: float = 2_000.0, seed: int = 0):
    """Return one merged field of n nuclei, 1 um/px."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, side - 1, (2, n))
    piece = FieldNuclei(1, int(side), int(side), 1.0, replay(detections(x, y, cls_of(x, y, rng)), []))
    return merge([piece], Layout({1: Placed(0, 0.0, 0.0)}), radius=0.0)


def test_hot_spot_is_found_where_it_is():
    def cls_of(x, y, rng):
        hot = np.hypot(x - 1400, y - 600) < 250
        return np.where(rng.random(len(x)) < np.where(hot, 0.4, 0.05), 0, 1)

    merged = spread(cls_of)
    spot = find_session_hot_spot(merged, 100)
    assert np.hypot(spot.x - 1400, spot.y - 600) < 150
    assert spot.ki67.tumor == 100
    assert spot.ki67.index > 0.3
    assert spot.fields == (1,)
    # The disc holds what it says.
    inside = np.hypot(merged.x - spot.x, merged.y - spot.y) <= spot.radius + 1e-9
    assert inside.sum() == 100
    assert (merged.cls[inside] == 0).sum() == spot.ki67.positive


def test_hot_spot_ignores_non_tumour_and_needs_enough_nuclei():
    merged = spread(lambda x, y, rng: np.where(rng.random(len(x)) < 0.5, 2, 1), n=400)
    tumor = int((merged.cls == 1).sum())
    assert find_session_hot_spot(merged, tumor).ki67.tumor == tumor
    assert find_session_hot_spot(merged, tumor + 1) is None


def test_hot_spot_equals_exhaustive_search():
    merged = spread(lambda x, y, rng: (rng.random(len(x)) > 0.2).astype(np.uint8), n=300, side=500.0)
    far = np.hypot(merged.x[:, None] - merged.x, merged.y[:, None] - merged.y)
    nearest = np.argsort(far, axis=1)[:, :50]
    assert find_session_hot_spot(merged, 50).ki67.positive == (merged.cls[nearest] == 0).sum(axis=1).max()


def test_summary_has_cautions(tmp_path):
    with Store.open(tmp_path / "s.kinet") as store:
        live = OpenSession(store, store.sessions.create().id)
        even = detections([5.0], [5.0], [1])
        keep(store, live.id, some_frame(stage=(0.0, 0.0)), even)
        summary = summarise(live.count())
        assert summary.cautions == ()
        assert summary.progress == (1 / 500, 1 / 2000)
        keep(store, live.id, some_frame(seed=1, stage=(1.0, 2.0)), even, mpp_source="model")
        keep(store, live.id, some_frame(seed=2), even, mpp=0.25)
        said = " ".join(summarise(live.count()).cautions)
        for part in (
            "pixel size of field 2 is only assumed",
            "differ in pixel size",
            "3 groups",
            "fields 1 and 2 overlap",
        ):
            assert part in said
        assert summarise(live.count()).area_mm2 == pytest.approx(64 * 48 * (2 * 0.25 + 0.0625) / 1e6)


def test_average_and_mean_of_the_fields_differ(tmp_path):
    with Store.open(tmp_path / "s.kinet") as store:
        live = OpenSession(store, store.sessions.create().id)
        keep(store, live.id, nuclei=detections([5, 15, 25, 35], [5, 5, 5, 5], [0, 1, 1, 1]))
        keep(store, live.id, nuclei=detections([5, 15], [5, 5], [0, 0]))
        keep(store, live.id, nuclei=detections([5], [5], [2]))
        summary = summarise(live.count())
        assert summary.ki67.index == 0.5
        assert summary.mean_of_fields == pytest.approx((0.25 + 1.0) / 2)
        assert summary.more_nuclei == live_more(summary)


def test_session_with_an_out_of_distribution_field_has_no_range(tmp_path):
    pixels, truth = simulate.field(3, 400, 400)
    blurred = np.asarray(cv2.GaussianBlur(pixels, (0, 0), 6), np.uint8)
    with Store.open(tmp_path / "s.kinet") as store:
        live = OpenSession(store, store.sessions.create().id)
        nuclei = detections(truth.x, truth.y, truth.cls)
        keep(store, live.id, Frame(pixels, 0.34), nuclei, mpp=0.34)
        summary = summarise(live.count(), hot_spot=50)
        assert summary.statement.range_of(summary.hot_spot.ki67)
        assert live.count().domain_warnings == {}
        bad = keep(store, live.id, Frame(blurred, 0.34), nuclei, mpp=0.34)
        summary = summarise(live.count(), hot_spot=50)
        assert list(live.count().domain_warnings) == [bad.id]
        assert summary.statement.warning == (
            "No grade range is given, because field 2 looks unlike the model's training data."
        )
        assert summary.statement.range_of(summary.ki67) == ""
        assert "it is blurred" in summary.cautions[0]
        store.fields.delete(bad.id)
        assert summarise(live.count()).statement.range_of(summary.ki67)


def live_more(summary) -> int | None:
    return summary.ki67.more_nuclei()


def test_summary_has_the_protocol_and_the_fields_that_are_needed(tmp_path):
    generator = np.random.default_rng(1)
    with Store.open(tmp_path / "s.kinet") as store:
        live = OpenSession(store, store.sessions.create().id)
        summary = summarise(live.count(), protocol="breast-global")
        assert summary.protocol_sentences == ("Breast, global: no field, because each needs 100 tumour nuclei.",)
        needed = []
        for _ in range(3):  # captured one after the other, until four fields are found
            x, y = (values.ravel() for values in np.meshgrid(np.arange(4, 236, 15.0), np.arange(4, 156, 15.0)))
            frame = Frame(generator.integers(0, 256, (160, 240, 3), np.uint8), 0.5)
            keep(store, live.id, frame, detections(x, y, (generator.random(len(x)) > 0.2).astype(np.uint8)))
            summary = summarise(live.count(), protocol="breast-global", bands=None)
            needed.append(sum(summary.protocol.needed.values()))
            sentence = summary.protocol_sentences[-1]
            assert sentence.startswith("Still needed: fields of 100 tumour nuclei") == bool(needed[-1])
        assert needed == sorted(needed, reverse=True)
        assert needed[0] > needed[-1]
        assert summary.protocol.weighted == pytest.approx(summary.ki67.index, abs=0.05)
        assert {field.group for field in summary.protocol.fields} <= {0, 1, 2}
        spot = summarise(live.count(), hot_spot=50, protocol="net")
        assert spot.protocol.index == spot.hot_spot.ki67.index
        assert spot.statement.bands is not None
        breast = summarise(live.count(), protocol="breast-hot-spot")
        assert breast.statement.bands is None
        assert not any(name in " ".join(breast.statement.sentences()) for name in ("G1", "G2", "G3"))
