"""Report: self-contained, complete, with escaped typed text."""

from __future__ import annotations

import csv
import getpass
import io
import json
import re
import shutil
import sqlite3
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import find_chromium
from html_page import Page, check_self_contained
from kinet_trt import NOTICE, Detections, Frame, Ki67, KinetError
from kinet_trt.inference.counter import Threshold
from kinet_trt.live.session import report_pictures
from kinet_trt.live.session.export import nuclei_csv
from kinet_trt.live.session.records import Model
from kinet_trt.live.session.region import polygon
from kinet_trt.live.session.report import build, listing
from kinet_trt.live.session.session import OpenSession
from kinet_trt.live.session.store import Store
from kinet_trt.live.session.summary import summarise
from kinet_trt.models.card import ModelCard
from kinet_trt.report import drawings
from kinet_trt.simulation.simulate import SimulatedSlide

MODEL = Model(
    ModelCard("edge", 0.34, (0.5,) * 3, (0.2,) * 3, 0.3, model_sha256="c0ffee" * 10 + "abcd", network="width 16"),
    "a runtime 1.0",
    "fp32",
)
NASTY = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\"> & \"quoted\" 'too'"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """Return a session file: two overlapping fields, a distant one, edits, notes, a recount."""
    path = tmp_path_factory.mktemp("private-folder") / "secret-name.kinet"
    pixels, truth = SimulatedSlide(3, mpp=0.5).region(4000, 3000, 420, 260)

    def shot(x: int, y: int, width: int = 300, height: int = 220) -> tuple[Frame, Detections]:
        inside = (truth.x >= x) & (truth.x < x + width - 0.5) & (truth.y >= y) & (truth.y < y + height - 0.5)
        found = truth.x[inside] - x, truth.y[inside] - y, truth.cls[inside], np.full(int(inside.sum()), 0.9, np.float32)
        cut = np.ascontiguousarray(pixels[y : y + height, x : x + width])
        return Frame(cut, time=1.7e9 + x, stage=(x * 0.5, y * 0.5)), Detections(*found)

    def keep(frame, found, source="calibrated", **options):
        told = {"model": MODEL, "threshold": Threshold(0.3), "mpp": 0.5, "mpp_source": source} | options
        return live.store.fields.capture(live.id, frame, found, **told)

    with Store.open(path) as store:
        session = store.sessions.create(f"Case 12 {NASTY}", "A. Kim")
        live = OpenSession(store, session.id)
        first, second = keep(*shot(0, 0)), keep(*shot(100, 30))
        other = np.ascontiguousarray(SimulatedSlide(5, mpp=0.5).region(0, 0, 300, 220)[0])
        away = Detections(
            *(np.array([20.0, 150.0], np.float32),) * 2, np.array([0, 1], np.uint8), np.ones(2, np.float32)
        )
        keep(Frame(other, time=1.7e9), away, "model", automatic=True, region=polygon([[5, 5], [200, 9], [100, 200]]))
        store.edits.add(first.id, 30, 40, "positive")
        store.edits.remove(first.id, 3)
        reading = store.readings.first(session.id)
        store.readings.rename_reader(reading.id, f"B {NASTY}"[:200])
        store.edits.reclassify(second.id, 7, "positive")
        store.readings.rename_reader(reading.id, reading.reader)
        store.edits.remove(second.id, 8)
        store.edits.undo(session.id)
        store.notes.add(session.id, f"fixed 24 h\n{NASTY}", reader="C")
        store.notes.add(session.id, "a fold", field=second.id)
        recount = store.readings.start_recount(session.id, "D. Ito", "model")
        store.edits.reclassify(first.id, 5, "positive", reading=recount.id)
        store.readings.finish(recount.id, first.id)
        store.readings.start_recount(session.id, "E")
    return path


@pytest.fixture(scope="module")
def html(file) -> str:
    with Store.open(file, create=False) as store:
        return build(store, 1, hot_spot=50)


def test_report_runs_no_script_and_loads_nothing(html):
    check_self_contained(html)


def test_report_states_the_count(file, html):
    with Store.open(file, create=False) as store:
        summary = summarise(OpenSession(store, 1).count(), hot_spot=50)
    text = Page(html).text
    low, high = summary.ki67.interval
    for part in (
        f"{100 * summary.ki67.index:.1f}%",
        f"{100 * low:.1f}% to {100 * high:.1f}%",
        *summary.statement.notes,
        summary.statement.warning,
        f"{100 * summary.hot_spot.ki67.index:.1f}%",
        f"{100 * summary.hot_spot.ki67.interval[0]:.1f}% to {100 * summary.hot_spot.ki67.interval[1]:.1f}%",
        f"{summary.area_mm2:.3f} mm²",
        *summary.cautions,
        "0.5 µm/px, measured with a stage micrometer",
        "assumed: the model's own value",
        "c0ffee" * 10 + "abcd",
        "a runtime 1.0",
        "1 added, 1 removed, 1 reclassified or confirmed; 1 undone",
        "Limited to a region.",
        "Captured automatically.",
        "Cohen's kappa",
        "No field is finished yet.",
        "A. Kim",
        "D. Ito",
    ):
        assert part in text, part
    assert text.count(NOTICE) == 2
    assert len([1 for tag, _ in Page(html).tags if tag == "image"]) == 4  # three fields and one mosaic


def test_report_has_the_protocol(file):
    with Store.open(file, create=False) as store:
        summary = summarise(OpenSession(store, 1).count(), protocol="breast-global")
        text = Page(build(store, 1, protocol="breast-global")).text
    assert summary.protocol_sentences
    for sentence in summary.protocol_sentences:
        assert sentence in text
    assert not any(name in text for name in ("G1", "G2", "G3"))


def test_report_shows_the_stain_of_every_tumour_nucleus_once(file, html):
    with Store.open(file, create=False) as store:
        counts = OpenSession(store, 1).count().merged.counts()
    labels = [attributes.get("aria-label", "") for _, attributes in Page(html).tags]
    (label,) = (one for one in labels if one.startswith("DAB optical density"))
    expected = [f"{counts[name]:,} {name} tumour" for name in ("positive", "negative")]
    assert label == f"DAB optical density of {' and '.join(expected)} nuclei"
    medians = re.search(r"The median is ([\d.]+) \(positive\) and (-?[\d.]+) \(negative\)", Page(html).text)
    positive, negative = map(float, medians.groups())
    assert positive > 0.3 > 0.15 > negative


def test_histogram_of_densities_has_the_right_bars():
    density = {"positive": np.array([0.51, 0.54, 0.74, 9.0]), "negative": np.array([-0.02, 0.01, 0.06])}
    svg = drawings.density_histogram(density)
    assert "4 positive tumour and 3 negative tumour nuclei" in svg
    pattern = r'class="bin {}" x="([\d.]+)" [^>]*height="([\d.]+)"'
    bars = {name: [tuple(map(float, bar)) for bar in re.findall(pattern.format(name), svg)] for name in density}
    assert [height for _, height in bars["positive"]] == [56, 28, 28]
    assert [height for _, height in bars["negative"]] == [56, 28]
    step = 480 / 50  # px per bin; the scale ends at 2.5
    assert [round((x - 150.5) / step) for x, _ in bars["positive"]] == [10, 14, 49]
    assert [round((x - 150.5) / step) for x, _ in bars["negative"]] == [0, 1]


def test_typed_text_is_escaped(html):
    text = Page(html).text
    for typed in (f"Case 12 {NASTY}", f"fixed 24 h\n{NASTY}", f"B {NASTY}"[:200], "a fold"):
        assert typed in text


def test_report_contains_no_paths(file, html):
    for word in (str(file), file.name, file.stem, file.parent.name, str(Path.home()), str(Path.cwd()), "/tmp"):
        assert word not in html
    assert getpass.getuser() not in Page(html).text.split()


@settings(max_examples=25)
@given(st.text(max_size=200), st.text(max_size=80), st.text(max_size=80))
def test_any_typed_text_leaves_the_markup_unchanged(tmp_path_factory, note, reader, title):
    shapes = []
    for words in (("n", "r", "t"), (note, reader, title)):
        with Store.open(tmp_path_factory.mktemp("t") / "s.kinet") as store:
            session = store.sessions.create(words[2] + ".", words[1] + ".")
            store.notes.add(session.id, words[0] + ".", reader=words[1] + ".")
            page = Page(build(store, session.id))
            shapes.append(Counter((tag, tuple(sorted(a))) for tag, a in page.tags))
            assert store.notes.in_session(session.id)[0].text in page.text
    assert shapes[0] == shapes[1]


def test_bar_labels_are_not_cut():
    svg = report_pictures.progress(SimpleNamespace(ki67=Ki67(500, 5000), progress=(1.0, 1.0)))
    width = float(re.search(r'viewBox="0 0 (\d+)', svg)[1])
    texts = re.findall(r'<text x="(\d+)"[^>]*>([^<]+)<', svg)
    assert texts[-1][1] == "2,000 of 2,000 tumour nuclei"
    # A letter of a wide sans-serif font is 0.6 em on average; report.css sets 13 px.
    assert all(int(x) + 0.6 * 13 * len(words) <= width for x, words in texts)


def test_empty_session_has_a_report(tmp_path):
    with Store.open(tmp_path / "s.kinet") as store:
        text = Page(build(store, store.sessions.create().id)).text
    assert "No tumour nuclei were found" in text
    assert "No fields yet." in text
    assert "Stain of the tumour nuclei" not in text


def test_nuclei_csv_adds_up(file):
    with Store.open(file, create=False) as store:
        counted = OpenSession(store, 1).count()
    rows = list(csv.DictReader(io.StringIO(nuclei_csv(counted))))
    assert Counter(row["class"] for row in rows if row["counted"] == "1") == Counter(counted.merged.counts())
    assert Counter(row["by"] for row in rows)["added"] == 1
    assert [row["model_class"] for row in rows if row["by"] == "added"] == [""]
    removed = [row for row in rows if row["by"] == "removed"]
    assert len(removed) == 1
    assert removed[0]["counted"] == "0"
    assert removed[0]["model_class"] != ""
    # The same nucleus in both fields stands at the same um.
    at = {field: {(r["x_um"], r["y_um"]) for r in rows if r["field"] == field} for field in ("1", "2")}
    first = np.array(sorted(at["1"]), float)
    far = [np.hypot(*(first - np.array(p, float)).T).min() for p in sorted(at["2"])]
    assert np.median(far) < 0.1


@pytest.fixture
def cli(run):
    """Return a function that runs the report command in this process."""

    def call(*arguments):
        code, out, err = run("report", *arguments)
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return call


def test_report_command_writes_the_requested_files(file, tmp_path, cli):
    out, folder = tmp_path / "report.html", tmp_path / "geo"
    done = cli(file, "-o", out, "--csv", "-", "--geojson", folder, "--bands", "none", "--hot-spot", 20)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [f"written: {out}", f"written: 6 files in {folder}"]
    assert done.stdout.startswith("field,nucleus,x,y,place")
    text = Page(out.read_text("utf-8")).text
    assert " range." not in text
    assert "of 20 tumour nuclei" in text
    assert sorted(p.name for p in folder.iterdir()) == [
        f"field-00{k}.{s}" for k in (1, 2, 3) for s in ("geojson", "png")
    ]
    features = json.loads((folder / "field-003.geojson").read_text())["features"]
    assert [f["geometry"]["type"] for f in features] == ["Polygon", "Point", "Point"]
    assert [f["properties"]["measurements"]["counted"] for f in features[1:]] == [1, 0]
    assert features[1]["geometry"]["coordinates"] == [20.5, 20.5]
    assert cv2.imread(str(folder / "field-001.png")).shape == (220, 300, 3)
    again = cli(file, "--geojson", folder)
    assert again.returncode == 1
    assert "6 such files" in again.stderr
    assert cli(file, "--geojson", folder, "--force").returncode == 0
    page = out.read_bytes()
    again = cli(file, "-o", out)
    assert again.returncode == 1
    assert again.stderr == f"Error: {out} exists already: --force replaces it\n"
    assert out.read_bytes() == page
    assert cli(file, "-o", out, "--force").stdout == f"written: {out}\n"


def test_report_command_defaults_to_the_users_file_and_writes_a_summary(file, tmp_path, monkeypatch, run):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    own = tmp_path / "kinet-trt" / "sessions.kinet"
    code, out, err = run("report")
    assert (code, out) == (1, "")
    assert f"{own}: no sessions yet" in err
    own.parent.mkdir()
    shutil.copy(file, own)
    code, out, err = run("report")
    assert (code, err) == (0, f"Sessions in {own}:\n")
    assert out.split()[0] == "1"
    assert "3 fields" in out
    code, out, err = run("report", "--summary", tmp_path / "s.csv", "-o", tmp_path / "r.html")
    assert (code, err) == (0, "")
    assert out == f"written: {tmp_path / 'r.html'}\nwritten: {tmp_path / 's.csv'}\n"
    rows = list(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text("utf-8"))))
    assert [row["Picture"] for row in rows] == ["field 1", "field 2", "field 3"]
    assert run("report", "--summary", "-")[1] == (tmp_path / "s.csv").read_text("utf-8")


def test_report_command_requires_a_session_if_there_are_several(file, tmp_path, cli):
    several = tmp_path / "several.kinet"
    shutil.copy(file, several)
    with Store.open(several) as store:
        store.sessions.create("the second")
    listed = cli(several)
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["1", "2"]
    assert "3 fields" in listed.stdout.splitlines()[0]
    asked = cli(several, "-o", tmp_path / "r.html")
    assert asked.returncode == 1
    assert asked.stderr.startswith("Error: ")
    assert "2 sessions" in asked.stderr
    assert "--session" in asked.stderr
    assert cli(several, "-o", tmp_path / "r.html", "--session", 2).returncode == 0
    assert "the second" in (tmp_path / "r.html").read_text("utf-8")
    assert "no session 7" in cli(several, "-o", tmp_path / "r.html", "--session", 7).stderr


def test_report_command_reports_errors(file, tmp_path, cli):
    nowhere = cli(tmp_path / "none.kinet", "-o", tmp_path / "r.html")
    assert nowhere.returncode == 1
    assert "no such session file" in nowhere.stderr
    before = file.read_bytes()
    assert cli(file, "-o", file).returncode == 2
    assert file.read_bytes() == before
    text = tmp_path / "notes.txt"
    text.write_text("no database " * 100)
    wrong = cli(text, "-o", tmp_path / "r.html")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (1, 1)
    with Store.open(tmp_path / "empty.kinet"):
        pass
    assert "found none in this file" in cli(tmp_path / "empty.kinet", "-o", tmp_path / "r.html").stderr


def test_damaged_picture_is_one_message(file, tmp_path):
    copy = tmp_path / "s.kinet"
    shutil.copy(file, copy)
    with Store.open(copy) as store:
        with store.database.write() as db:
            db.execute("UPDATE frames SET png = x'89504e47' WHERE field = 1")
        with pytest.raises(KinetError, match="picture of field 1 is damaged"):
            build(store, 1)


def test_browser_shows_and_prints_the_report(html, tmp_path):
    chromium = find_chromium()
    (tmp_path / "r.html").write_text(html, "utf-8")
    base = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    page = (tmp_path / "r.html").as_uri()
    shown = subprocess.run(
        [*base, "--enable-logging=stderr", "--v=0", "--dump-dom", page], capture_output=True, text=True, check=True
    )
    assert "CONSOLE" not in shown.stderr  # the page keeps its own policy, else the browser says so there
    title = re.search(r"<title>(.*?)</title>", shown.stdout, re.S)
    assert title
    assert title.group(1).startswith("Case 12 &lt;script")
    subprocess.run([*base, f"--print-to-pdf={tmp_path / 'r.pdf'}", page], capture_output=True, check=True)
    pages = len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "r.pdf").read_bytes()))
    assert 2 <= pages <= 8
    subprocess.run(
        [*base, "--window-size=1160,900", "--hide-scrollbars", f"--screenshot={tmp_path / 'r.png'}", page],
        capture_output=True,
        check=True,
    )
    # It is styled: the index is large and dark on white, and nothing overflows to the right.
    picture = cv2.imread(str(tmp_path / "r.png"))
    assert picture.shape[:2] == (900, 1160)
    assert (picture[:, -20:] == 255).all()
    assert (picture.min(axis=2) < 60).mean() > 0.005


def wrong_values(file: Path, folder: Path, every: int) -> None:
    """Set each column in turn to invalid values: the result is a page, or one message."""
    db = sqlite3.connect(file)
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    columns = [(t, row[1]) for t in tables for row in db.execute(f"PRAGMA table_info({t})")]
    db.close()
    values = ("words", b"\xff\x00", -7, 1e300, 2**62, 0.5, None)
    cases = [(table, column, value) for table, column in columns for value in values]
    refused = 0
    for number, (table, column, value) in enumerate(cases[::every]):
        copy = folder / f"{number}.kinet"
        shutil.copy(file, copy)
        db = sqlite3.connect(copy, isolation_level=None)
        try:
            db.execute(f"UPDATE {table} SET {column} = ?", (value,))
        except sqlite3.Error:  # the file's own rules forbid it
            continue
        finally:
            db.close()
        try:
            with Store.open(copy, create=False) as store:
                listing(store)
                for session in store.sessions.all():
                    Page(build(store, session.id))
        except KinetError:
            refused += 1
        copy.unlink()
    assert refused > len(cases) // every / 10


def test_wrong_values_in_a_file_are_one_message(file, tmp_path):
    wrong_values(file, tmp_path, 23)


@pytest.mark.slow
def test_every_wrong_value_in_a_file_is_one_message(file, tmp_path):
    wrong_values(file, tmp_path, 1)
