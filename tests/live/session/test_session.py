"""Sessions: a path over the simulated slide, counted by the shipped network into a session file."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
from parts import keep, some_nuclei

from kinet_trt import Frame, NucleusCounter
from kinet_trt.core.ki67 import Ki67
from kinet_trt.live.session.records import Model
from kinet_trt.live.session.session import OpenSession
from kinet_trt.live.session.store import Store
from kinet_trt.live.session.summary import summarise
from kinet_trt.simulation.simulate import SimulatedSlide


@pytest.fixture(scope="module")
def counter() -> NucleusCounter:
    return NucleusCounter(threads=2)


def walk(store, counter, mpp: float, width: int, height: int, columns: int, rows: int, seed: int, noise: float = 2.0):
    """Capture a path of 60% overlaps; return the session, and one count of the union of its fields."""
    rng = np.random.default_rng(seed)
    step_x, step_y = round(0.4 * width), round(0.4 * height)
    slide = SimulatedSlide(seed, mpp=mpp)
    all_pixels, _ = slide.region(-500, 700, width + (columns - 1) * step_x + 24, height + (rows - 1) * step_y + 24)
    live = OpenSession(store, store.sessions.create("a path", "A").id)
    union = counter(all_pixels, mpp)
    covered = np.zeros(len(union), np.bool_)
    shade = 1 - 0.12 * np.add.outer(np.linspace(-1, 1, height) ** 2, np.linspace(-1, 1, width) ** 2)
    for j in range(rows):
        for i in range(columns) if j % 2 == 0 else reversed(range(columns)):
            x, y = i * step_x + rng.uniform(0, 20), j * step_y + rng.uniform(0, 20)
            move = np.array([[1.0, 0.0, x], [0.0, 1.0, y]])
            light = cv2.warpAffine(all_pixels, move, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            light = light * shade[..., None] + rng.normal(0, noise, light.shape)
            frame = Frame(np.clip(np.round(light), 0, 255).astype(np.uint8))
            live.store.fields.capture(
                live.id,
                frame,
                counter(frame, mpp),
                model=Model.from_counter(counter),
                threshold=counter.threshold,
                mpp=mpp,
                mpp_source="calibrated",
            )
            left, top = union.x - x, union.y - y
            covered |= (left >= -0.5) & (left < width - 0.5) & (top >= -0.5) & (top < height - 0.5)
    return live, union.where(covered)


def check_against_union(live, union, mpp: float, width: int, height: int) -> None:
    counted = live.count()
    assert counted.layout.group_count == 1
    assert counted.layout.contradictions == ()
    assert abs(len(counted.merged) - len(union)) <= 0.02 * len(union)
    # Without registration each nucleus counts as often as it was seen.
    assert sum(len(f.detections) for f in counted.fields) > 1.5 * len(union)
    summary = summarise(counted)
    expected = Ki67.from_counts(union.counts())
    assert abs(summary.ki67.index - expected.index) < 0.02
    assert summary.repeats == sum(len(f.detections) for f in counted.fields) - len(counted.merged)
    one = width * height * mpp**2 / 1e6
    assert one < summary.area_mm2 < 0.5 * len(counted.fields) * one


@pytest.fixture(scope="module")
def path(counter, tmp_path_factory):
    """Return a store, a session with a captured path, and the count of its union."""
    with Store.open(tmp_path_factory.mktemp("path") / "s.kinet") as store:
        live, union = walk(store, counter, 0.34, 320, 256, 4, 3, seed=3)
        yield store, live, union


def test_path_with_overlaps_counts_like_its_union(path):
    _, live, union = path
    check_against_union(live, union, 0.34, 320, 256)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 8, 21])
def test_full_size_path_counts_like_its_union(counter, tmp_path, seed):
    with Store.open(tmp_path / "s.kinet") as store:
        live, union = walk(store, counter, 0.17, 1280, 960, 5, 4, seed=seed)
        check_against_union(live, union, 0.17, 1280, 960)


def test_reopened_session_counts_the_same_and_continues(path, counter):
    store, live, _ = path
    before = live.count()
    with Store.open(store.path) as reopened:
        again = OpenSession(reopened, live.id)
        after = again.count()
        assert not again._registration.fields, "what was joined is not joined again"
        assert after.layout == before.layout
        assert len(after.merged) == len(before.merged)
        # The first field once more: it joins what an earlier run has captured, and adds nothing.
        first = after.fields[0]
        told = {"model": first.model, "threshold": first.threshold, "mpp": first.mpp, "mpp_source": first.mpp_source}
        repeated = reopened.fields.capture(live.id, Frame(reopened.fields.pixels(first.id)), first.detections, **told)
        assert again.count().layout.group_count == 1
        assert len(again.count().merged) == len(before.merged)
        reopened.fields.delete(repeated.id)
        assert len(again.count().merged) == len(before.merged)


def test_two_programs_register_each_others_fields(path, tmp_path):
    store, live, _ = path
    out = tmp_path / "both.kinet"
    store.sessions.export(live.id, out)
    with Store.open(out) as one, Store.open(out) as two:
        first, second = OpenSession(one, live.id), OpenSession(two, live.id)
        second.prepare()
        for k, field in enumerate(one.fields.in_session(live.id)[:4]):
            told = {"model": field.model, "threshold": field.threshold, "mpp": field.mpp, "mpp_source": "file"}
            (one, two)[k % 2].fields.capture(live.id, Frame(one.fields.pixels(field.id)), field.detections, **told)
            (first, second)[k % 2].count()
        assert first.count().layout == second.count().layout
        assert first.count().layout.group_count == 1
        assert len(first.count().merged) == len(live.count().merged)


def test_damaged_picture_does_not_stop_the_session(path, tmp_path, caplog):
    store, live, _ = path
    out = tmp_path / "damaged.kinet"
    store.sessions.export(live.id, out)
    with Store.open(out) as copy:
        fields = copy.fields.in_session(live.id)
        with copy.database.write() as db:
            db.execute("UPDATE frames SET png = x'00' WHERE field = ?", (fields[0].id,))
        going = OpenSession(copy, live.id)
        with caplog.at_level(logging.WARNING):
            keep(copy, live.id, Frame(copy.fields.pixels(fields[3].id)), fields[3].detections, mpp=fields[3].mpp)
            assert going.count().layout.group_count == 1
            assert going.count().layout.group_count == 1
        assert caplog.text.count("cannot be aligned") == 1


def test_deleted_field_loses_its_links(path):
    store, live, _ = path
    out = store.path.with_name("copy.kinet")
    store.sessions.export(live.id, out)
    with Store.open(out) as copy:
        cut = OpenSession(copy, live.id)
        fields = copy.fields.in_session(live.id)
        for field in fields[1:]:
            copy.fields.delete(field.id)
        counted = cut.count()
        assert len(counted.merged) == len(fields[0].detections)
        assert counted.layout.group_count == 1


def test_edit_counts_once_in_all_fields(path):
    store, live, _ = path
    counted = live.count()
    merged = counted.merged
    k = int(np.argmax((merged.seen >= 3) & (merged.cls == 1)))
    field, nucleus = int(merged.field[k]), int(merged.nucleus[k])
    before = merged.counts()
    store.edits.reclassify(field, nucleus, "positive")
    after = live.count().merged.counts()
    assert (after["positive"], after["negative"]) == (before["positive"] + 1, before["negative"] - 1)
    assert summarise(live.count()).corrected == 1
    store.edits.undo(live.id)
    store.edits.remove(field, nucleus)
    assert live.count().merged.counts()["negative"] == before["negative"] - 1
    store.edits.undo(live.id)
    assert live.count().merged.counts() == before


def test_two_readers_are_compared(path):
    store, live, _ = path
    fields = live.count().fields[:2]
    recount = store.readings.start_recount(live.id, "B", "model")
    assert live.agreement(recount) is None
    for field in fields:
        store.readings.finish(recount.id, field.id)
    same = live.agreement(recount)
    assert (same.only_first, same.only_second, same.kappa, same.difference) == (0, 0, 1.0, 0.0)
    merged = live.count(only={f.id for f in fields}).merged
    assert same.both == len(merged)  # each nucleus once, though both fields show it
    chosen = np.flatnonzero(merged.cls == 1)[:5]
    for k in chosen:
        store.edits.reclassify(int(merged.field[k]), int(merged.nucleus[k]), "positive", reading=recount.id)
    k = int(np.flatnonzero(merged.cls == 2)[0])
    store.edits.remove(int(merged.field[k]), int(merged.nucleus[k]), reading=recount.id)
    other = live.agreement(recount)
    assert other.table[1][0] == 5
    assert (other.only_first, other.only_second) == (1, 0)
    assert 0 < other.kappa < 1
    assert other.kappa_interval[0] < other.kappa < other.kappa_interval[1]
    assert other.difference == pytest.approx(5 / same.first.tumor)


def test_unsaved_links_are_used_while_the_session_is_open(path, tmp_path, caplog):
    """Unregistered fields in a read-only file."""
    store, live, _ = path
    out = tmp_path / "read.kinet"
    store.sessions.export(live.id, out)
    with Store.open(out) as copy:
        with copy.database.write() as db:
            db.execute("DELETE FROM links")
            db.execute("UPDATE fields SET registered = 0")
        copy.database.writable = False
        with caplog.at_level(logging.WARNING):
            counted = OpenSession(copy, live.id).count()
        assert len(counted.merged) == len(live.count().merged)
        assert "is not saved" in caplog.text


def test_empty_session_counts_nothing(tmp_path):
    with Store.open(tmp_path / "s.kinet") as store:
        live = OpenSession(store, store.sessions.create().id)
        summary = summarise(live.count())
        assert (summary.fields, summary.group_count, summary.area_mm2, summary.hot_spot) == (0, 0, 0.0, None)
        assert summary.ki67.index is None
        assert summary.mean_of_fields is None
        keep(store, live.id, nuclei=some_nuclei(0))
        assert summarise(live.count()).ki67.tumor == 0
