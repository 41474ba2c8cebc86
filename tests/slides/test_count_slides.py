"""The command line on slides: outputs, resuming, errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from kinet_trt import NucleusCounter
from kinet_trt.io.geojson import read_geojson
from kinet_trt.io.images import read_image
from simulated_slides import Canvas, Piece, write_tiff, write_zarr

CANVAS = Canvas(2064, 400, (Piece(100, 40, 360, 300, 3), Piece(1500, 40, 400, 330, 5)))
"""The first and the last of its three tiles contain tissue."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kinet-trt" / "slides"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_tiff(tmp_path_factory.mktemp("made") / "case.ome.tif", CANVAS, downsamples=(1, 4))


@pytest.fixture(scope="module")
def whole():
    return NucleusCounter(precision="fp32")(CANVAS.region(0, 0, CANVAS.width, CANVAS.height))


@pytest.fixture
def slide(tmp_path, made):
    return shutil.copy(made, tmp_path / "case.ome.tif")


def test_a_slide_among_pictures_fills_every_output(run, tmp_path, slide, whole, cache):
    cv2.imwrite(str(tmp_path / "field.png"), CANVAS.region(100, 40, 200, 200)[..., ::-1])
    code, _, err = run(
        "count", tmp_path, "--precision", "fp32", "--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv",
        "--geojson", tmp_path / "g", "--overlay", tmp_path / "o", "--hot-spot", "50",
    )  # fmt: skip
    assert code == 0, err
    slide_said, field_said = json.loads((tmp_path / "a.json").read_text())["fields"]
    assert set(field_said) | {"slide"} == set(slide_said)
    assert [(one["x"], one["y"], one["class"]) for one in slide_said["detections"]] == [
        (one["x"], one["y"], one["class"]) for one in whole.records()
    ]
    assert slide_said["counts"] == whole.counts()
    assert (slide_said["width"], slide_said["height"], slide_said["mpp_source"]) == (
        CANVAS.width,
        CANVAS.height,
        "file",
    )
    facts = slide_said["slide"]
    assert (facts["tiles"], facts["tiles_left_out"]) == (2, 1)
    true_area = sum(p.width * p.height for p in CANVAS.pieces) * 0.34**2 / 1e6
    assert facts["tissue_mm2"] == pytest.approx(true_area, rel=0.2)
    assert facts["hot_spot"]["tumor"] == 50
    assert facts["hot_spot"]["ki67_index"] > slide_said["ki67_index"]
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "image,x,y,class,score,dab_od"
    assert len(lines) == 1 + len(whole) + len(field_said["detections"])
    marked = read_geojson(tmp_path / "g" / "case.ome.geojson")
    np.testing.assert_allclose(marked.x, whole.x, atol=0.01)
    assert np.array_equal(marked.cls, whole.cls)
    picture = read_image(tmp_path / "o" / "case.ome_overlay.png")
    assert picture.width > picture.height
    assert facts["hot_spot"] == slide_said["hot_spot"]
    assert f"2 tiles; they are kept in {cache}" in err


def test_a_rerun_takes_the_tiles_over_and_says_so(run, tmp_path, slide, cache):
    code, first, err = run("count", slide, "--json", "-")
    assert code == 0
    assert "2 tiles; they are kept in" in err
    (state,) = cache.glob("*.tiles")
    assert state.name.startswith("case.ome-")
    moved = tmp_path / "elsewhere" / slide.name
    moved.parent.mkdir()
    shutil.move(slide, moved)
    code, second, err = run("count", moved, "--json", "-")
    assert f"2 of 2 tiles were counted before and are read from {state}" in err
    assert json.loads(second)["fields"][0]["detections"] == json.loads(first)["fields"][0]["detections"]
    # Another threshold, um/px, or slide: other tiles.
    for number, arguments in enumerate((["--threshold", "0.5"], ["--mpp", "0.3"]), 2):
        code, _, err = run("count", moved, *arguments, "--json", "-")
        assert "counted before" not in err
        assert len(list(cache.glob("*.tiles"))) == number
    write_tiff(moved, replace(CANVAS, pieces=CANVAS.pieces[1:]), downsamples=(1, 4))
    code, _, err = run("count", moved, "--json", "-")
    assert "counted before" not in err
    # Damaged, or deleted: counted anew, after a word.
    state.write_bytes(b"no results " * 100)
    old = time.time() - 40 * 86_400
    os.utime(state, (old, old))
    run("count", moved, "--json", "-")
    assert not state.exists()


def test_another_cut_off_of_the_stain_needs_no_new_count(run, tmp_path, slide, cache):
    cv2.imwrite(str(tmp_path / "whole.png"), CANVAS.region(0, 0, CANVAS.width, CANVAS.height)[..., ::-1])
    code, said, err = run("count", slide, tmp_path / "whole.png", "--precision", "fp32", "--json", "-")
    assert code == 0, err
    of_slide, of_image = json.loads(said)["fields"]
    density = [[nucleus["dab_od"] for nucleus in one["detections"]] for one in (of_slide, of_image)]
    # The white points are those of the thumbnail and of the image.
    np.testing.assert_allclose(*density, atol=0.02)
    assert of_slide["positive_above"] is None
    code, said, err = run(
        "count", slide, "--precision", "fp32", "--positive-above", "0.7", "--h-score", "--json", "-",
        "--geojson", tmp_path / "g", "--overlay", tmp_path / "o",
    )  # fmt: skip
    assert code == 0, err
    assert "2 of 2 tiles were counted before" in err
    (moved,) = json.loads(said)["fields"]
    assert [nucleus["dab_od"] for nucleus in moved["detections"]] == density[0]
    tumor = [d for d in of_slide["detections"] if d["class"] != "non_tumor"]
    assert moved["counts"]["positive"] == sum(d["dab_od"] >= 0.7 for d in tumor) < of_slide["counts"]["positive"]
    assert moved["counts"]["non_tumor"] == of_slide["counts"]["non_tumor"]
    assert moved["h_score"]["counts"]["3+"] == sum(d["dab_od"] >= 0.6 for d in tumor)
    assert moved["positive_above"] == json.loads((tmp_path / "g" / "case.ome.geojson").read_text())["positive_above"]
    assert [d["class"] for d in moved["detections"]].count("positive") == moved["counts"]["positive"]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_run_goes_on_where_it_was(run, tmp_path, slide, cache):
    command = [sys.executable, "-m", "kinet_trt", "count", str(slide), "--json", str(tmp_path / "a.json")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not _landed(cache):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "a.json").exists()
    assert list(tmp_path.glob("*.part")) == []
    code, killed, err = run("count", slide, "--json", "-")
    assert code == 0
    assert re.search(r"[12] of 2 tiles were counted before", err)
    shutil.rmtree(cache)
    _, undisturbed, err = run("count", slide, "--json", "-")
    assert "counted before" not in err
    assert killed == undisturbed


def test_ctrl_c_says_how_to_resume(run, slide, cache, monkeypatch):
    from kinet_trt.slides import count as counted

    first_tile = counted.count_tiles

    def interrupted(*arguments):
        yield next(iter(first_tile(*arguments)))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(counted, "count_tiles", interrupted)
        code, out, err = run("count", slide, "--json", "-")
    (state,) = cache.glob("*.tiles")
    assert (code, out) == (130, "")
    assert err.rstrip().endswith(
        f"{slide}: interrupted after 1 of 2 tiles. Run the same command again to resume: the counted tiles are kept in "
        f"{state}"
    )
    code, _, err = run("count", slide, "--json", "-")
    assert code == 0
    assert "1 of 2 tiles were counted before" in err


def _landed(cache) -> int:
    import sqlite3

    for path in cache.glob("*.tiles"):
        try:
            with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True) as db:
                (n,) = db.execute("SELECT count(*) FROM tiles").fetchone()
            db.close()
        except sqlite3.Error:
            return 0
        return int(n)
    return 0


def test_each_mistake_is_one_message_and_costs_no_other_slide(run, tmp_path, slide, cache):
    silent = write_tiff(tmp_path / "silent.ome.tif", CANVAS, states_mpp=False)
    data = bytearray(slide.read_bytes())
    (tmp_path / "cut.ome.tif").write_bytes(data[: len(data) // 3])
    (tmp_path / "text.svs").write_bytes(b"nothing " * 500)
    import tifffile

    with tifffile.TiffFile(slide) as file:
        page = file.pages[0]
        offset = page.dataoffsets[6]
    data[offset : offset + 300] = b"\x33" * 300
    (tmp_path / "tile.ome.tif").write_bytes(data)
    store = write_zarr(tmp_path / "level.zarr", Canvas(600, 500, (Piece(100, 100, 200, 200),)))
    shutil.rmtree(store / "1")
    names = ["silent.ome.tif", "cut.ome.tif", "text.svs", "tile.ome.tif", "level.zarr"]
    code, _, err = run(
        "count", *(tmp_path / name for name in names), slide, "--json", tmp_path / "a.json",
        "--geojson", tmp_path / "g", "--overlay", tmp_path / "o",
    )  # fmt: skip
    assert code == 1
    told = [line for line in err.splitlines() if line.startswith("Error:")]
    assert len(told) == 5, err
    for line, name, what in zip(
        told, names, ("does not state its µm/px.*mpp", "export", "slide is damaged|not a TIFF", "level 0, px .*decoded",
        "level '1'.*missing"), strict=True,
    ):  # fmt: skip
        assert name in line
        assert re.search(what, line), line
    document = json.loads((tmp_path / "a.json").read_text())
    assert [one["image"] for one in document["fields"]] == [str(slide)]
    assert [error["image"].rpartition("/")[2] for error in document["errors"]] == names
    assert [p.name for p in (tmp_path / "g").iterdir()] == ["case.ome.geojson"]
    assert [p.name for p in (tmp_path / "o").iterdir()] == ["case.ome_overlay.png"]
    # Mended, the slide with the bad tile goes on; with a word on its um/px, the silent one is counted.
    shutil.copy(slide, tmp_path / "tile.ome.tif")
    code, out, _ = run("count", tmp_path / "tile.ome.tif", silent, "--mpp", "0.34")
    assert code == 0
    assert "0.34 µm/px (option)" in out


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits")
def test_a_full_disk_is_one_message_and_nothing_half_written(tmp_path, slide, run):
    full = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (MOST, MOST))\nfrom kinet_trt.cli.main import main\nmain()\n"
    )
    for size, where in ((9_000, ".tiles"), (60_000, "case.ome.geojson")):
        done = subprocess.run(
            [sys.executable, "-c", full.replace("MOST", str(size)), "count", str(slide), "--geojson",
             str(tmp_path / "g")], capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("Error:"))
        assert where in line
        assert "cannot be written" in line
        assert not (tmp_path / "g").exists() or list((tmp_path / "g").iterdir()) == []
    code, _, _ = run("count", slide, "--json", tmp_path / "a.json")
    assert code == 0
    assert len(json.loads((tmp_path / "a.json").read_text())["fields"][0]["detections"]) > 100


def test_a_region_of_qupath_limits_the_count(run, tmp_path, slide, whole):
    ring = [[50, 10], [600, 10], [600, 390], [50, 390], [50, 10]]
    feature = {
        "type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation"},
    }  # fmt: skip
    (tmp_path / "area.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    code, out, err = run("count", slide, "--region", tmp_path / "area.geojson", "--json", "-", "--precision", "fp32")
    assert code == 0, err
    field = json.loads(out)["fields"][0]
    expected = int((whole.x < 1000).sum())
    assert 50 < len(field["detections"]) == expected
    assert field["slide"]["tiles"] == 1
    cv2.imwrite(str(tmp_path / "field.png"), np.full((100, 100, 3), 200, np.uint8))
    code, _, err = run("count", slide, tmp_path / "field.png", "--region", tmp_path / "area.geojson")
    assert code == 2
    assert "--region is for slides only" in err


def test_a_slide_without_the_extra_is_one_line_with_the_pip_command(run, slide, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    from kinet_trt.slides import slide as slides

    monkeypatch.setattr(slides, "find_spec", lambda name: name != "tifffile")
    code, _, err = run("count", slide)
    assert code == 1
    assert 'pip install "kinet-trt[slides]"' in err


def test_slides_are_no_fields_to_train_on(tmp_path, slide):
    from kinet_trt.counting.find import find_images

    shutil.copy(slide, tmp_path / "b.svs")
    assert [p.name for p in find_images([tmp_path], slides=True)] == ["b.svs", "case.ome.tif"]
    assert [p.name for p in find_images([tmp_path])] == ["case.ome.tif"]


def test_a_slide_unlike_the_trainings_is_remarked(run, tmp_path):
    slide = write_tiff(tmp_path / "case.ome.tif", Canvas(500, 400, CANVAS.pieces[:1]))
    code, out, err = run("count", slide, "--json", "-")
    assert json.loads(out)["fields"][0]["remarks"] == []
    assert "Warning" not in err
    code, out, err = run("count", slide, "--mpp", "0.68", "--json", "-")
    assert code == 0
    remarks = json.loads(out)["fields"][0]["remarks"]
    assert remarks[0].startswith("The slide's finest level has 0.68 µm/px")
    assert "Most of the tissue is unlike" in remarks[1]
    assert "is 0.68 µm/px right?" in remarks[1]
    assert f"Warning: {slide}: " in err


def test_glass_alone_counts_nothing(run, tmp_path):
    path = write_tiff(tmp_path / "glass.ome.tif", Canvas(1200, 900, ()))
    code, out, _ = run("count", path, "--json", "-", "--overlay", tmp_path / "o")
    assert code == 0
    (field,) = json.loads(out)["fields"]
    assert field["detections"] == []
    assert field["ki67_index"] is None
    assert field["remarks"] == ["No tissue was found: check the stain, and that a region lies on tissue."]
    assert (tmp_path / "o" / "glass.ome_overlay.png").exists()
