"""Session file: confirmed changes survive killed processes, full disks and damaged files."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import CARD, MODEL, THRESHOLD, keep, some_frame, some_nuclei

from conftest import skip
from kinet_trt import KinetError
from kinet_trt.live.session.edits import replay
from kinet_trt.live.session.records import Link
from kinet_trt.live.session.region import Mask, Polygon
from kinet_trt.live.session.store import Store

HERE = str(Path(__file__).parents[1])
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's mounts and capabilities")


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "s.kinet") as opened:
        yield opened


def same(a, b) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("x", "y", "cls", "score"))


# --- round trips -----------------------------------------------------------------------------------------------------


def test_session_reopens_unchanged(tmp_path):
    path = tmp_path / "a folder" / "søndag #1?.kinet"
    frame, nuclei = some_frame(seed=3, time=1e9, stage=(1.5, -2.0)), some_nuclei(30)
    polygon = Polygon(((1.0, 2.0), (50.0, 3.5), (20.0, 40.0)))
    with Store.open(path) as store:
        session = store.sessions.create("Case 12", "A. Kim")
        kept = keep(store, session.id, frame, nuclei, mpp=0.17, mpp_source="calibrated", automatic=True, region=polygon)
        mask = Mask(np.random.default_rng(0).random((48, 64)) < 0.5)
        keep(store, session.id, region=mask)
        store.notes.add(session.id, "two\nlines", reader="B", field=kept.id)
        store.links.save(kept.id, [Link(kept.id, kept.id + 1, 1.5, 2.5, 9, 0.5)], 1)
    assert not list(path.parent.glob("*-wal"))
    with Store.open(path, create=False) as store:
        assert store.sessions.all() == [session]
        first, second = store.fields.in_session(session.id)
        assert (first.id, first.number, first.time, first.stage) == (kept.id, 1, 1e9, (1.5, -2.0))
        assert (first.mpp, first.mpp_source, first.automatic, first.registered) == (0.17, "calibrated", True, 1)
        assert (first.model, first.threshold, first.region) == (MODEL, THRESHOLD, polygon)
        assert same(first.detections, nuclei)
        assert np.array_equal(store.fields.pixels(first.id), frame.pixels)
        assert np.array_equal(second.region.inside, mask.inside)
        (note,) = store.notes.in_session(session.id)
        assert (note.text, note.reader, note.field) == ("two\nlines", "B", kept.id)
        assert store.links.in_session(session.id) == [Link(kept.id, kept.id + 1, 1.5, 2.5, 9, 0.5)]


def test_stored_picture_has_no_metadata(store):
    field = keep(store, store.sessions.create().id)
    png, kinds, at = store.fields.png(field.id), set(), 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        kinds.add(png[at + 4 : at + 8])
        at += length + 12
    assert kinds == {b"IHDR", b"IDAT", b"IEND"}


def test_invalid_field_is_refused_and_leaves_nothing(store):
    session = store.sessions.create().id
    for wrong in (
        {"mpp": 0.0},
        {"mpp": float("nan")},
        {"mpp_source": "/home/me"},
        {"region": Polygon(((100.0, 100.0), (110.0, 100.0), (100.0, 120.0)))},
        {"region": Mask(np.ones((5, 5), np.bool_))},
    ):
        with pytest.raises(KinetError, match="expected"):
            keep(store, session, **wrong)
    for nobody in (session + 1, -1, 1 << 80):
        with pytest.raises(KinetError, match=r"no such session|no session"):
            keep(store, nobody)
    assert store.fields.in_session(session) == []


def test_field_numbers_are_not_reused(store):
    session = store.sessions.create().id
    fields = [keep(store, session) for _ in range(3)]
    store.fields.delete(fields[2].id)
    assert keep(store, session).number == 4
    assert [f.number for f in store.fields.in_session(session)] == [1, 2, 4]


def test_deleted_session_leaves_no_trace_in_the_file(tmp_path):
    path = tmp_path / "s.kinet"
    with Store.open(path) as store:
        gone, stays = store.sessions.create("gone for good"), store.sessions.create("stays")
        field = keep(store, gone.id, some_frame(128, 96, seed=5))
        kept = keep(store, stays.id, some_frame(128, 96, seed=6))
        parts = [store.fields.png(one.id)[2000:2032] for one in (field, kept)]
        store.edits.add(field.id, 5, 5, "positive")
        store.notes.add(gone.id, "a note that goes too")
        size = path.stat().st_size
        store.sessions.delete(gone.id)
        assert [one.title for one in store.sessions.all()] == ["stays"]
        with pytest.raises(KinetError, match="no session"):
            store.fields.in_session(gone.id)
    bytes_left = path.read_bytes()
    assert [piece in bytes_left for piece in parts] == [False, True]
    assert b"gone for good" not in bytes_left
    assert b"goes too" not in bytes_left
    assert len(bytes_left) < size


def test_exported_session_is_a_session_file(store, tmp_path):
    store.sessions.create("other")
    session = store.sessions.create("mine", "A")
    fields = [keep(store, session.id, some_frame(seed=k), some_nuclei(5 + k)) for k in range(3)]
    store.links.save(fields[0].id, [Link(fields[0].id, fields[1].id, 1, 2, 9, 0.9)], 1)
    store.edits.add(fields[0].id, 5, 5, "positive")
    recount = store.readings.start_recount(session.id, "B")
    store.readings.finish(recount.id, fields[1].id)
    store.notes.add(session.id, "word")
    out = tmp_path / "mine.kinet"
    store.sessions.export(session.id, out)
    with Store.open(out, create=False) as other:
        assert other.sessions.all() == [session]
        assert [
            same(a.detections, b.detections) for a, b in zip(other.fields.in_session(session.id), fields, strict=True)
        ]
        assert all(other.fields.png(f.id) == store.fields.png(f.id) for f in fields)
        for table in ("links", "notes", "readings", "edits"):
            mine, theirs = (getattr(one, table).in_session(session.id) for one in (store, other))
            assert mine == theirs != []
        assert other.readings.finished(recount.id) == {fields[1].id}
        keep(other, session.id)
    with pytest.raises(KinetError, match="exists already"):
        store.sessions.export(session.id, out)
    with pytest.raises(KinetError, match="cannot be written"):
        store.sessions.export(session.id, out / "x.kinet")
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("s.kinet")) == ["mine.kinet"]


def test_typed_text_is_bounded_and_clean(store):
    session = store.sessions.create("\x00a\x1b[31m\tb\u202e ", "\ud800")
    assert session.title == "a [31m b"
    assert store.readings.in_session(session.id)[0].reader == ""
    with pytest.raises(KinetError, match="up to 200"):
        store.sessions.create("x" * 201)
    with pytest.raises(KinetError, match="up to 10,000"):
        store.notes.add(session.id, "x" * 10_001)


# --- edits ------------------------------------------------------------------------------------------------------------


def shape(answer):
    """Return the nuclei that were not removed, by number."""
    return {
        k: (float(answer.x[k]), float(answer.y[k]), answer.classes[answer.cls[k]])
        for k in np.flatnonzero(~answer.removed).tolist()
    }


_MOVES = st.lists(
    st.tuples(st.sampled_from(("add", "remove", "reclassify", "undo", "redo")), st.integers(0, 99), st.integers(0, 2)),
    max_size=16,
)


@settings(max_examples=30)
@given(_MOVES)
def test_any_edits_and_undos_equal_their_replay(tmp_path_factory, moves):
    path = tmp_path_factory.mktemp("c") / "s.kinet"
    with Store.open(path) as store:
        session = store.sessions.create("", "A").id
        field = keep(store, session, nuclei=some_nuclei(4))
        history, ahead = [shape(store.edits.nuclei(field.id))], []
        grown = 4
        for kind, which, cls in moves:
            now, name = dict(history[-1]), CARD.classes[cls]
            chosen = sorted(now)[which % len(now)] if now else None
            if kind == "undo":
                undone = store.edits.undo(session)
                assert (undone is None) == (len(history) == 1)
                if undone:
                    ahead.append(history.pop())
            elif kind == "redo":
                redone = store.edits.redo(session, field=field.id)
                assert (redone is None) == (not ahead)
                if redone:
                    history.append(ahead.pop())
            elif kind == "add":
                made = store.edits.add(field.id, which * 0.5, 7.25, name)
                assert made.nucleus == grown
                now[grown], grown = (which * 0.5, 7.25, name), grown + 1
                history.append(now)
                ahead.clear()
            elif chosen is None:
                continue
            elif kind == "remove":
                store.edits.remove(field.id, chosen)
                del now[chosen]
                history.append(now)
                ahead.clear()
            else:
                store.edits.reclassify(field.id, chosen, name)
                now[chosen] = (*now[chosen][:2], name)
                history.append(now)
                ahead.clear()
            assert shape(store.edits.nuclei(field.id)) == history[-1]
        record = store.edits.of_field(field.id)
    with Store.open(path) as store:
        again = store.edits.nuclei(field.id)
        assert shape(again) == history[-1] == shape(replay(field.detections, record))
        # The model's answer is never lost.
        assert np.array_equal(again.model_cls[:4], field.detections.cls)
        assert same(store.fields.get(field.id).detections, field.detections)


def test_edits_keep_their_readers(store):
    session = store.sessions.create("", "A").id
    field = keep(store, session)
    reading = store.readings.first(session).id
    store.edits.reclassify(field.id, 2, "positive")
    store.readings.rename_reader(reading, "B")
    store.edits.remove(field.id, 3)
    store.readings.rename_reader(reading, "C")
    store.edits.undo(session)
    assert [(one.kind, one.reader, one.nucleus) for one in store.edits.of_field(field.id)] == [
        ("reclassify", "A", 2),
        ("remove", "B", 3),
        ("undo", "C", 3),
    ]
    assert len(store.edits.nuclei(field.id).detections()) == len(field.detections)


def test_redo_appends_an_entry_and_ends_with_a_new_edit(store):
    session = store.sessions.create("", "A").id
    field, other = keep(store, session), keep(store, session)
    store.edits.remove(field.id, 1)
    store.edits.remove(other.id, 2)
    assert store.edits.redo(session) is None
    assert store.edits.undo(session, field=field.id).nucleus == 1  # not the last one of all
    assert store.edits.redo(session, field=other.id) is None
    store.readings.rename_reader(store.readings.first(session).id, "B")
    assert store.edits.redo(session, field=field.id).nucleus == 1
    assert store.edits.nuclei(field.id).removed[1]
    assert [(one.kind, one.reader) for one in store.edits.of_field(field.id)] == [
        ("remove", "A"),
        ("undo", "A"),
        ("redo", "B"),
    ]
    store.edits.undo(session, field=field.id)
    store.edits.remove(field.id, 3)
    assert store.edits.redo(session, field=field.id) is None


def test_regions_are_undone_and_redone_among_other_edits(tmp_path):
    path = tmp_path / "s.kinet"
    first, second = Polygon(((1.0, 1.0), (30.0, 2.0), (5.0, 30.0))), Polygon(((2.0, 2.0), (40.0, 2.0), (5.0, 40.0)))
    with Store.open(path) as store:
        session = store.sessions.create("", "A").id
        field = keep(store, session, region=first).id
        store.edits.set_region(field, second)
        store.edits.remove(field, 0)
        store.edits.set_region(field, None)
        wanted = [(second, 0), (second, 1), (first, 1)]  # the region, and whether nucleus 0 is there
        for region, there in wanted:
            assert store.edits.undo(session, field=field) is not None
            assert store.fields.get(field).region == region
            assert store.edits.nuclei(field).removed[0] == (not there)
        assert store.edits.undo(session, field=field) is None
    with Store.open(path) as store:  # another run of the program
        assert [store.edits.redo(session).kind for _ in range(3)] == ["region", "remove", "region"]
        assert store.edits.redo(session) is None
        assert store.fields.get(field).region is None
        assert [one.kind for one in store.edits.of_field(field)][:3] == ["region", "remove", "region"]
        out = tmp_path / "out.kinet"
        store.sessions.export(session, out)
    with Store.open(out) as copy:
        assert copy.edits.undo(session).kind == "region"
        assert copy.fields.get(field).region == second


def test_deleted_field_can_be_restored_until_the_session_is_closed(tmp_path):
    path = tmp_path / "s.kinet"
    with Store.open(path) as store:
        session = store.sessions.create("", "A").id
        kept, gone = keep(store, session), keep(store, session, some_frame(seed=7), some_nuclei(5))
        store.edits.remove(gone.id, 2)
        store.notes.add(session, "about it", field=gone.id)
        recount = store.readings.start_recount(session, "B")
        store.readings.finish(recount.id, gone.id)
        store.links.save(gone.id, [Link(kept.id, gone.id, 1.0, 2.0, 9, 0.9)], 1)
        store.fields.delete(gone.id)
        assert [one.id for one in store.fields.in_session(session)] == [kept.id]
        assert (
            store.notes.in_session(session) == store.edits.in_session(session) == store.links.in_session(session) == []
        )
        assert store.readings.finished(recount.id) == set()
        assert store.edits.undo(session) is None
        with pytest.raises(KinetError, match="no field"):
            store.fields.get(gone.id)
        store.sessions.export(session, tmp_path / "without.kinet")
        (listed,) = store.fields.deleted(session)
        assert (listed.id, listed.number) == (gone.id, 2)
        with pytest.raises(KinetError, match="no deleted field"):
            store.fields.restore(kept.id)
    with Store.open(path) as store:  # the program was killed meanwhile: nobody has closed the session
        back = store.fields.restore(gone.id)
        assert (back.number, back.registered, same(back.detections, gone.detections)) == (2, 0, True)
        assert store.edits.nuclei(gone.id).removed.tolist() == [False, False, True, False, False]
        assert [one.text for one in store.notes.in_session(session)] == ["about it"]
        assert (store.readings.finished(recount.id), store.fields.deleted(session)) == ({gone.id}, [])
        store.fields.delete(gone.id)
        piece = store.fields.png(gone.id)[1000:1032]
        assert piece in path.read_bytes()
        store.sessions.close(session)
        with pytest.raises(KinetError, match="no deleted field"):
            store.fields.restore(gone.id)
        assert store.fields.deleted(session) == []
    assert piece not in path.read_bytes()
    with Store.open(tmp_path / "without.kinet") as other:
        assert [one.id for one in other.fields.in_session(session)] == [kept.id]
        assert other.fields.deleted(session) == []


def old_file(path) -> int:
    """Write a session file of version 1; return its session."""
    with Store.open(path) as store:
        session = store.sessions.create("old", "A").id
        field = keep(store, session)
        store.edits.remove(field.id, 3)
        store.edits.undo(session)
        store.notes.add(session, "word")
    db = sqlite3.connect(path)
    for table in ("deletions", "region_changes", "note_readings"):
        db.execute(f"DROP TABLE {table}")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    return session


def test_file_of_version_1_is_read_unchanged_and_upgraded_on_write(tmp_path):
    path = tmp_path / "s.kinet"
    session = old_file(path)
    before = path.read_bytes()
    with Store.open(path, create=False) as store:
        (field,) = store.fields.in_session(session)
        assert (len(store.edits.of_field(field.id)), [one.text for one in store.notes.in_session(session)]) == (
            2,
            ["word"],
        )
        store.sessions.export(session, tmp_path / "copy.kinet")
    assert path.read_bytes() == before
    with Store.open(path) as store:
        with pytest.raises(KinetError, match="no deleted field"):
            store.fields.restore(field.id)
        assert path.read_bytes() == before  # a change that was refused
        assert store.edits.redo(session).nucleus == 3
        store.fields.delete(field.id)
        store.fields.restore(field.id)
    with Store.open(path, create=False) as store, Store.open(tmp_path / "copy.kinet", create=False) as copy:
        assert store.edits.nuclei(field.id).removed[3]
        assert len(copy.fields.in_session(session)) == 1
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (2,)


def test_edit_of_a_missing_nucleus_is_refused(store):
    session = store.sessions.create().id
    field = keep(store, session)
    store.edits.remove(field.id, 3)
    for wrong in (
        lambda: store.edits.remove(field.id, 3),
        lambda: store.edits.remove(field.id, 9),
        lambda: store.edits.reclassify(field.id, -1, "positive"),
        lambda: store.edits.reclassify(field.id, 1, "blue"),
        lambda: store.edits.add(field.id, 64.0, 3, "positive"),
        lambda: store.edits.add(field.id, float("nan"), 3, "positive"),
        lambda: store.edits.add(field.id + 1, 3, 3, "positive"),
        lambda: store.edits.add(field.id, 3, 3, "positive", reading=77),
    ):
        with pytest.raises(KinetError):
            wrong()
    assert len(store.edits.of_field(field.id)) == 1


def test_blind_recount_starts_without_edits_of_the_first_reading(store):
    session = store.sessions.create("", "A").id
    field = keep(store, session)
    store.edits.remove(field.id, 0)
    empty, shown = store.readings.start_recount(session, "B"), store.readings.start_recount(session, "C", "model")
    assert len(store.edits.nuclei(field.id, empty.id)) == 0
    assert same(store.edits.nuclei(field.id, shown.id).detections(), field.detections.where(_raster(field.detections)))
    assert store.edits.add(field.id, 3, 3, "negative", reading=empty.id).nucleus == 0
    assert store.edits.undo(session).nucleus == 0  # the first reading's own last word
    assert [len(store.edits.nuclei(field.id, r)) for r in (None, empty.id, shown.id)] == [9, 1, 9]


def _raster(nuclei):
    return np.lexsort((nuclei.x, nuclei.y))


# --- several at once --------------------------------------------------------------------------------------------------


def test_threads_share_a_store(store):
    session = store.sessions.create().id
    first = keep(store, session)
    errors = []

    def work(number: int) -> None:
        try:
            for k in range(6):
                keep(store, session, some_frame(seed=number * 10 + k))
                store.edits.add(first.id, k, number, "positive")
                store.fields.in_session(session)
        except BaseException as error:  # whatever it is, the test must hear of it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [f.number for f in store.fields.in_session(session)] == list(range(1, 26))
    assert len(store.edits.nuclei(first.id)) == 9 + 24


def test_two_programs_may_write_one_file(store):
    session = store.sessions.create().id
    with Store.open(store.path, create=False) as other:
        for k in range(4):
            keep((store, other)[k % 2], session)
        assert len(store.fields.in_session(session)) == len(other.fields.in_session(session)) == 4


# --- failures ---------------------------------------------------------------------------------------------------------


def test_confirmed_changes_are_synced(store):
    # FULL: the log is synced at every commit. NORMAL would lose the last ones to a power cut.
    assert store.database.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store.database.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# Forks workers that capture and correct until they are killed, and say what the store has confirmed.
_WORKERS = """
import hashlib, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from parts import keep, some_frame
from kinet_trt.live.session.store import Store

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def work(round):
    store = Store.open(Path(sys.argv[1]))
    known = store.sessions.all()
    session = known[0] if known else store.sessions.create("killed")
    say("open")
    for k in range(10_000):
        frame = some_frame(200, 150, seed=round * 10_000 + k)
        field = keep(store, session.id, frame)
        say("field", field.id, hashlib.sha256(frame.pixels.tobytes()).hexdigest())
        made = store.edits.add(field.id, 3, 4, "positive")
        say("correction", made.id)
        store.edits.undo(session.id)
        store.edits.redo(session.id)
        store.fields.delete(field.id)
        say("deleted")
        store.fields.restore(field.id)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        work(int(line))
    say("pid", pid)
    os.waitpid(pid, 0)
    say("dead")
"""


def killed_captures(path, times: int, seed: int) -> None:
    rng, confirmed, corrected = random.Random(seed), {}, set()
    command = [sys.executable, "-c", _WORKERS, str(path), HERE]
    workers = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for number in range(times):
            workers.stdin.write(f"{number}\n")
            workers.stdin.flush()
            killer, worker, left, heard, pace = None, None, rng.randrange(12), time.monotonic(), 0.05
            while (line := workers.stdout.readline().split()) != ["dead"]:
                assert line, "the workers died"
                if line[0] == "pid":
                    worker = int(line[1])
                elif line[0] == "field":
                    confirmed[int(line[1])] = line[2]
                elif line[0] == "correction":
                    corrected.add(int(line[1]))
                # From the very making of the file to some captures later, at any moment between two lines.
                heard, pace = time.monotonic(), time.monotonic() - heard
                if left <= 0 and worker and killer is None:
                    killer = threading.Timer(rng.random() * pace, os.kill, (worker, 9))
                    killer.start()
                left -= 1
            assert killer is not None
            killer.join()
    finally:
        workers.stdin.close()
        workers.stdout.close()
        workers.wait()
    with Store.open(path) as store:
        (session,) = store.sessions.all()
        for one in store.fields.deleted(session.id):
            store.fields.restore(one.id)
        there = store.fields.in_session(session.id)
        assert confirmed.keys() <= {f.id for f in there}
        # Killed between the commit and the word, a field is there that was not confirmed; never half of one.
        assert len(there) - len(confirmed) <= times
        for f in there:
            told = confirmed.get(f.id)
            assert hashlib.sha256(store.fields.pixels(f.id).tobytes()).hexdigest() == told or told is None
        assert corrected <= {one.id for one in store.edits.in_session(session.id)}
        keep(store, session.id)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    assert len(confirmed) > times / 3, "killed too early to tell anything"


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_killed_captures_lose_no_confirmed_change(tmp_path):
    killed_captures(tmp_path / "s.kinet", 20, 1)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_two_hundred_killed_captures_lose_no_confirmed_change(tmp_path):
    killed_captures(tmp_path / "s.kinet", 200, 2)


# Fills a small disk with captures until one fails; then frees some of it and goes on.
_FILL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from parts import keep, some_frame
from kinet_trt import KinetError
from kinet_trt.live.session.store import Store

path = Path(sys.argv[1])
ballast = path.with_name("ballast")
ballast.write_bytes(bytes(1 << 20))
with Store.open(path) as store:
    session = store.sessions.create("full").id
    done = 0
    try:
        for k in range(100):
            keep(store, session, some_frame(200, 150, seed=k))
            done += 1
    except KinetError as error:
        print(error)
    first = store.fields.in_session(session)[0].id
    for what in (lambda: keep(store, session, some_frame(200, 150)), lambda: store.fields.pixels(first)):
        try:
            what()
        except KinetError:
            print("refused")
        else:
            print("done")
    assert len(store.fields.in_session(session)) == done > 0, done
    ballast.unlink()
    keep(store, session, some_frame(200, 150, seed=done))
    store.edits.add(store.fields.in_session(session)[-1].id, 1, 1, "positive")
with Store.open(path) as store:
    assert len(store.fields.in_session(session)) == done + 1
    assert store.database.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
try:
    ballast.write_bytes(bytes(4 << 20))
except OSError:
    pass
with Store.open(path, create=False) as store:  # there is no place for a log, but it can be read
    assert len(store.fields.in_session(session)) == done + 1
print("whole")
"""


def run(command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@linux_only
def test_full_disk_is_one_message_and_the_file_stays_intact(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    private = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"]), "sh", "-c"]
    small = f"mount -t tmpfs -o size=3m tmpfs {disk} || exit 77"
    if run([*private, small]).returncode:
        skip("no small disk can be mounted here (unshare, tmpfs)")
    fill = [sys.executable, "-c", _FILL, str(disk / "s.kinet"), HERE]
    done = run([*private, f'{small}; exec "$@"', "sh", *fill])
    assert done.returncode == 0, done.stderr
    message, *rest = done.stdout.splitlines()
    assert "s.kinet: cannot be written: the disk is full" in message
    assert rest == ["refused", "done", "whole"]


_READ_ONLY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from parts import keep
from kinet_trt import KinetError
from kinet_trt.live.session.store import Store

with Store.open(Path(sys.argv[1]), create=False) as store:
    print(len(store.fields.in_session(1)), store.database.writable)
    store.sessions.export(1, Path(sys.argv[3]))
    add = lambda: store.edits.add(1, 2, 2, "positive")
    for change in (lambda: keep(store, 1), lambda: store.sessions.delete(1), add):
        try:
            change()
        except KinetError as error:
            print(error)
try:
    Store.open(Path(sys.argv[1]))
except KinetError as error:
    print("create:", error)
"""


@linux_only
@pytest.mark.parametrize("folder_too", [True, False])
def test_read_only_file_can_be_read(tmp_path, folder_too):
    plain = [] if os.getuid() else ["setpriv", "--bounding-set=-dac_override"]
    if plain and (not shutil.which("setpriv") or run([*plain, "true"]).returncode):
        skip("root cannot give up its right to write everywhere: setpriv (util-linux) is missing or may not")
    folder = tmp_path / "folder"
    path = folder / "s.kinet"
    with Store.open(path) as store:
        keep(store, store.sessions.create().id)
    before = path.read_bytes()
    path.chmod(0o444)
    folder.chmod(0o555 if folder_too else 0o755)
    try:
        done = run([*plain, sys.executable, "-c", _READ_ONLY, str(path), HERE, str(tmp_path / "copy.kinet")])
    finally:
        folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    first, *messages = done.stdout.splitlines()
    assert first == "1 False"
    with Store.open(tmp_path / "copy.kinet", create=False) as store:
        keep(store, 1)
    assert len(messages) == 4
    assert all("cannot be written" in message for message in messages)
    assert path.read_bytes() == before


def test_moved_file_is_reported_before_the_capture(store, tmp_path):
    session = store.sessions.create().id
    store.path.rename(tmp_path / "elsewhere.kinet")
    with pytest.raises(KinetError, match="moved or deleted"):
        keep(store, session)
    (tmp_path / "elsewhere.kinet").rename(store.path)
    keep(store, session)


def test_newer_file_asks_for_an_upgrade(tmp_path):
    path = tmp_path / "s.kinet"
    Store.open(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    for create in (True, False):
        with pytest.raises(KinetError, match=r"version 99.*up to version 2.*upgrade"):
            Store.open(path, create=create)


def test_other_file_is_one_message(tmp_path):
    text, other, empty = (tmp_path / name for name in ("text", "other.db", "empty"))
    text.write_text("not a database, though long enough to be taken for one " * 40)
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE t (x)")
    db.close()
    before = other.read_bytes(), text.read_bytes()
    for create in (True, False):
        with pytest.raises(KinetError, match="not a session file"):
            Store.open(text, create=create)
        with pytest.raises(KinetError, match="another program's"):
            Store.open(other, create=create)
        with pytest.raises(KinetError, match="found a folder"):
            Store.open(tmp_path, create=create)
    assert (other.read_bytes(), text.read_bytes()) == before
    with pytest.raises(KinetError, match="no such session file"):
        Store.open(tmp_path / "none.kinet", create=False)
    assert not (tmp_path / "none.kinet").exists()
    empty.touch()  # killed between making the file and its tables
    with Store.open(empty) as store:
        keep(store, store.sessions.create().id)


def test_closed_store_is_one_message(store):
    store.close()
    with pytest.raises(KinetError, match="closed"):
        store.sessions.all()


def read_all(path) -> None:
    """Read everything, and write something."""
    with Store.open(path, create=False) as store:
        for session in store.sessions.all():
            for field in store.fields.in_session(session.id):
                store.fields.pixels(field.id)
                for reading in store.readings.in_session(session.id):
                    store.edits.nuclei(field.id, reading.id)
            store.notes.in_session(session.id), store.links.in_session(session.id)
            keep(store, session.id)
            store.fields.deleted(session.id)
            while store.edits.undo(session.id):
                pass


def test_edit_without_nucleus_is_damage_and_names_the_file(store):
    field = keep(store, store.sessions.create().id)
    store.edits.remove(field.id, 3)
    store.database.connection.execute("UPDATE corrections SET nucleus = 99")
    with pytest.raises(KinetError, match="damaged") as told:
        store.edits.nuclei(field.id)
    assert str(store.path) in str(told.value)
    with pytest.raises(KinetError, match=r"s\.kinet.*damaged"):
        store.edits.nuclei_of([field], store.readings.in_session(field.session)[0])


def test_session_that_was_not_closed_was_interrupted(store):
    first, second = store.sessions.create("a"), store.sessions.create("b")
    assert first.closed is None
    assert store.sessions.close(first.id).closed == pytest.approx(time.time(), abs=60)
    assert [one.closed is None for one in store.sessions.all()] == [False, True]
    assert store.sessions.reopen(first.id) == first
    assert store.sessions.get(second.id) == second


@pytest.fixture(scope="module")
def small_file(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("small") / "s.kinet"
    with Store.open(path) as store:
        session = store.sessions.create("x", "A").id
        fields = [keep(store, session, some_frame(40, 32, seed=k), some_nuclei(6, 40, 32)) for k in range(2)]
        store.edits.set_region(fields[0].id, Polygon(((1.0, 1.0), (30.0, 2.0), (5.0, 30.0))))
        store.edits.undo(session)
        store.edits.redo(session)
        store.edits.reclassify(fields[0].id, 1, "positive")
        store.links.save(fields[1].id, [Link(fields[0].id, fields[1].id, 1.0, 2.0, 9, 0.9)], 1)
        store.notes.add(session, "word")
    return path.read_bytes()


def damaged_files(whole: bytes, tmp_path, cases: int, seed: int) -> None:
    rng, refused, unhurt = random.Random(seed), 0, 0
    for case in range(cases):
        data = bytearray(whole)
        kind = rng.randrange(3)
        if kind == 0:
            for _ in range(rng.randrange(1, 30)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        elif kind == 1:
            del data[rng.randrange(len(data)) :]
        else:
            start = rng.randrange(len(data))
            data[start : start + 512] = rng.randbytes(len(data[start : start + 512]))
        path = tmp_path / f"{case}.kinet"
        path.write_bytes(data)
        try:
            read_all(path)
        except KinetError as error:
            refused += str(path) in str(error)
        else:
            unhurt += 1
        for leftover in tmp_path.glob(f"{case}.kinet*"):
            leftover.unlink()
    assert refused + unhurt == cases
    assert refused > cases / 5


def test_damaged_file_is_one_message(small_file, tmp_path, fuzz_seeds):
    damaged_files(small_file, tmp_path, 60, fuzz_seeds[0])


@pytest.mark.slow
def test_three_thousand_damaged_files_are_one_message_each(small_file, tmp_path, fuzz_seeds):
    damaged_files(small_file, tmp_path, 3_000, fuzz_seeds[1])


def test_capture_is_fast(store):
    """A person waits for the confirmation. Most of the time goes into the PNG."""
    session = store.sessions.create().id
    frame = some_frame(1280, 960)
    start = time.process_time()  # other work on the machine does not enter
    keep(store, session, frame)
    assert time.process_time() - start < 5
