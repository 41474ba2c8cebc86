"""Files of a session: their names, and the figure of a field."""

from __future__ import annotations

import dataclasses
import time

import cv2
import numpy as np
import pytest
from parts import detections, keep, some_frame

from kinet_trt import Frame, Ki67, KinetError
from kinet_trt.io import overlay
from kinet_trt.io.pixel_size import HOW_KNOWN
from kinet_trt.live.session.export import figure, file_name, summary_rows
from kinet_trt.live.session.records import Session
from kinet_trt.live.session.session import OpenSession
from kinet_trt.live.session.store import Store
from kinet_trt.live.session.summary import summarise

NOON = time.mktime((2026, 11, 28, 12, 0, 0, 0, 0, -1))


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Case 12", "Case-12_2026-11-28_nuclei.csv"),
        ("S26/1234: liver, B3", "S26-1234-liver-B3_2026-11-28_nuclei.csv"),
        ("Müller 肝", "Müller-肝_2026-11-28_nuclei.csv"),
        ("../../etc/passwd", "etc-passwd_2026-11-28_nuclei.csv"),
        ("..", "session-7_2026-11-28_nuclei.csv"),
        ("", "session-7_2026-11-28_nuclei.csv"),
    ],
)
def test_file_name_has_case_and_date(title: str, name: str):
    assert file_name(Session(7, title, NOON), "nuclei.csv") == name


def test_file_name_of_a_long_title_is_valid():
    assert len(file_name(Session(7, "x" * 200, NOON), "nuclei.csv")) < 100


@pytest.fixture
def session(tmp_path):
    with Store.open(tmp_path / "s.kinet") as store:
        yield OpenSession(store, store.sessions.create("Case 12", "Anna").id)


def test_figure_shows_the_field_and_its_edits(session):
    pixels = np.full((100, 1000, 3), 230, np.uint8)
    found = detections([100, 300, 500], [50, 50, 50], [0, 1, 2])
    one = keep(session.store, session.id, Frame(pixels), found, mpp=0.25)
    session.store.edits.remove(one.id, 1)
    session.store.edits.reclassify(one.id, 2, "positive")
    drawn = cv2.imdecode(np.frombuffer(figure(session.store, session.count(), 1), np.uint8), cv2.IMREAD_COLOR)[
        ..., ::-1
    ]
    assert drawn.shape[1] == 1000
    assert drawn.shape[0] > 100

    def reds(x: int) -> int:
        red, green, blue = np.moveaxis(drawn[30:70, x - 20 : x + 20].astype(int), 2, 0)
        return int(((red > 190) & (green < 90) & (blue < 90)).sum())

    assert reds(100) > 20
    assert reds(500) > 20
    assert (drawn[30:70, 280:320] == 230).all()  # removed
    halo = (np.abs(drawn[30:70, 480:520].astype(int) - (255, 212, 59)).sum(axis=2) < 60).sum()
    assert halo > 20
    with pytest.raises(KinetError, match="found number 2"):
        figure(session.store, session.count(), 2)


def test_figure_carries_the_warning_of_its_field(session, monkeypatch):
    captions = []

    def noted(pixels, marks, mpp, caption, outlines):
        captions.append(caption)
        return pixels

    monkeypatch.setattr(overlay, "figure", noted)
    first = keep(session.store, session.id).id
    counted = session.count()
    figure(session.store, counted, 1)
    figure(session.store, dataclasses.replace(counted, domain_warnings={first: "This is a photograph."}), 1)
    keep(session.store, session.id, mpp_source="model")
    figure(session.store, session.count(), 2)
    plain, warned, assumed = captions
    assert warned == f"{plain} · This is a photograph."
    assert assumed.endswith("The pixel size is only assumed.")


def test_summary_rows_has_one_row_per_field_and_one_for_the_session(session):
    for k in range(2):  # the same tissue twice: its nuclei count once
        found = detections([10, 20, 30, 40], [10, 20, 30, 40], [0, 0, 1, 2])
        keep(session.store, session.id, some_frame(seed=0), found, mpp=0.25, mpp_source=("option", "model")[k])
    session.store.edits.remove(session.store.fields.in_session(session.id)[0].id, 0)
    rows, total = summary_rows(session.count(), session.session, hot_spot=3)
    assert [row.picture for row in rows] == ["field 1", "field 2"]
    assert [row.counts["positive"] for row in rows] == [1, 2]
    assert [row.hot_spot for row in rows] == [None, Ki67(2, 3)]
    assert [(row.mpp, row.mpp_known) for row in rows] == [(0.25, "entered by hand"), (0.25, HOW_KNOWN["model"])]
    assert rows[1].warnings[-1] == "The pixel size is only assumed."
    first = session.store.fields.in_session(session.id)[0].id
    rows, _ = summary_rows(dataclasses.replace(session.count(), domain_warnings={first: "Unlike."}), session.session)
    assert [row.warnings[:1] for row in rows] == [("Unlike.",), ("The pixel size is only assumed.",)]
    assert {row.model for row in (*rows, total)} == {"test, fp32"}
    assert {row.case for row in (*rows, total)} == {"Case 12"}
    assert (total.mpp, total.mpp_known) == (None, "several")
    assert total.counts == summarise(session.count()).counts
    assert any("assumed" in warning for warning in total.warnings)
