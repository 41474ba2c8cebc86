"""The command line, in this process except where a process of its own is the point."""

import csv
import io
import json
import logging
import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from kinet_trt.core.detections import NAMES
from kinet_trt.datasets.labelled import read_fields
from kinet_trt.io.images import read_image
from kinet_trt.models.card import CARD_HASH_KEY, CARD_KEY, read_card, with_card
from kinet_trt.models.model import DEFAULT_MODEL
from kinet_trt.simulation import simulate

POSITIVE = NAMES["positive"].capitalize()


@pytest.fixture(scope="module")
def field():
    return simulate.field(3, 320, 256)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(path.suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    assert ok
    path.write_bytes(data.tobytes())
    return path


def test_count_writes_everything_it_is_asked_for(run, tmp_path, field):
    pixels, truth = field
    image = save(tmp_path / "in" / "a field.png", pixels)
    code, out, err = run(
        "count", image, "--json", tmp_path / "o.json", "--csv", tmp_path / "o.csv", "--geojson", tmp_path / "g",
        "--overlay", tmp_path / "v",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "a field.png" in out
    assert "The µm/px is not known: the model's 0.34 was used" in out
    assert "Research Use Only" in out

    document = json.loads((tmp_path / "o.json").read_text())
    assert document["schema"] == 1
    assert document["errors"] == []
    assert document["model"]["name"] == "kinet-edge"
    [one] = document["fields"]
    assert set(one) == {
        "image", "width", "height", "mpp", "mpp_source", "threshold", "precision", "counts", "ki67_index", "interval",
        "hot_spot", "unlike", "positive_above", "h_score", "hot_spots", "protocol", "remarks", "detections",
    }  # fmt: skip
    assert (one["image"], one["width"], one["height"]) == (str(image), 320, 256)
    assert (one["mpp"], one["mpp_source"]) == (0.34, "model")
    counts, found = one["counts"], one["detections"]
    assert set(counts) == {"positive", "negative", "non_tumor"}
    assert abs(len(found) - len(truth)) < 0.15 * len(truth)
    tumor = counts["positive"] + counts["negative"]
    assert one["ki67_index"] == counts["positive"] / tumor
    assert one["interval"][0] < one["ki67_index"] < one["interval"][1]
    assert [d["y"] for d in found] == sorted(d["y"] for d in found)

    rows = list(csv.DictReader(io.StringIO((tmp_path / "o.csv").read_text())))
    assert [(float(r["x"]), float(r["y"]), r["class"]) for r in rows] == [(d["x"], d["y"], d["class"]) for d in found]
    assert {r["image"] for r in rows} == {str(image)}

    features = json.loads((tmp_path / "g" / "a field.geojson").read_text())["features"]
    assert [f["geometry"]["coordinates"] for f in features] == [[d["x"] + 0.5, d["y"] + 0.5] for d in found]
    names = {"positive": "Positive", "negative": "Negative", "non_tumor": "Other"}
    assert [f["properties"]["classification"]["name"] for f in features] == [names[d["class"]] for d in found]

    overlay = cv2.imread(str(tmp_path / "v" / "a field_overlay.png"))
    assert overlay.shape == (256, 320, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g", "in", "o.csv", "o.json", "v"]


def test_a_fused_model_writes_the_same_json(run, tmp_path, field, fused_model):
    image = save(tmp_path / "a.png", field[0])
    fields = []
    for model in (DEFAULT_MODEL, fused_model):
        code, out, err = run("count", image, "-m", model, "--precision", "fp32", "--json", "-")
        assert (code, err) == (0, "")
        fields.append(json.loads(out)["fields"])
    assert fields[0] == fields[1]
    assert len(fields[0][0]["detections"]) > 50
    code, out, err = run("count", image, "-m", fused_model, "--threshold", "relative:0.5")
    assert (code, out) == (1, "")
    assert "Give a number" in err
    assert len(err.splitlines()) == 1


def test_json_on_standard_output_is_alone_there(run, tmp_path, field):
    image = save(tmp_path / "a.png", field[0])
    code, out, _ = run("count", image, image, "--json", "-")
    assert code == 0
    assert len(json.loads(out)["fields"]) == 1


def test_a_bad_file_costs_no_other_and_is_told_at_the_end(run, tmp_path, field):
    folder = tmp_path / "in"
    good = save(folder / "good.png", field[0])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("this is not a picture")
    (folder / "cut.png").write_bytes(good.read_bytes()[:-2000])
    save(folder / "one.png", field[0][:1, :1])
    save(folder / "strip.png", np.full((20, 30_000, 3), 240, np.uint8))
    save(folder / "good_counted.png", field[0])
    code, out, err = run("count", folder, "--json", tmp_path / "o.json")
    assert code == 1
    assert "good.png" in out
    document = json.loads((tmp_path / "o.json").read_text())
    assert [Path(f["image"]).name for f in document["fields"]] == ["good.png"]
    bad = {Path(e["image"]).name: e["message"] for e in document["errors"]}
    assert sorted(bad) == ["cut.png", "empty.png", "one.png", "strip.png", "text.png"]
    assert len(err.strip().splitlines()) == len(bad)
    for name, message in bad.items():
        assert name in err
        assert message in err


@pytest.mark.parametrize("colour", [1, 128, 240, 255])
def test_an_empty_field_counts_nothing_and_has_no_index(run, tmp_path, colour):
    image = save(tmp_path / "a.png", np.full((200, 200, 3), colour, np.uint8))
    code, out, _ = run("count", image, "--json", "-")
    [one] = json.loads(out)["fields"]
    assert code == 0
    assert one["detections"] == []
    assert one["ki67_index"] is None
    assert one["interval"] is None


def test_the_summary_has_one_row_per_image_as_csv_and_as_workbook(run, tmp_path, field):
    openpyxl = pytest.importorskip("openpyxl")
    folder = tmp_path / "in"
    save(folder / "a\nb.png", field[0])
    save(folder / "=c.png", field[0][:128])
    options = ("--mpp", "0,34", "--hot-spot", 20, "--summary")
    code, out, err = run("count", folder, *options, tmp_path / "s.csv", "--json", tmp_path / "o.json")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == [f"written: {tmp_path / name}" for name in ("o.json", "s.csv")]
    fields = json.loads((tmp_path / "o.json").read_text())["fields"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text("utf-8"))))
    assert len(rows) == len(fields) == 2
    for row, one in zip(rows, fields, strict=True):
        assert row["Picture"].endswith(("a\\nb.png", "=c.png"))
        assert int(row[POSITIVE]) == one["counts"]["positive"]
        assert float(row["Ki67 index (%)"]) == pytest.approx(100 * one["ki67_index"], abs=0.006)
        assert float(row["95% interval to (%)"]) == pytest.approx(100 * one["interval"][1], abs=0.006)
        assert float(row["Hot spot index (%)"]) == pytest.approx(100 * one["hot_spot"]["ki67_index"], abs=0.006)
        assert (row["um/px"], row["um/px known from"]) == ("0.34", "entered by hand")
        assert row["Model"].startswith("kinet-edge, ")
        assert row["Warnings"] == " ".join(one["remarks"])
    code, out, err = run("count", folder, *options, tmp_path / "s.csv")
    assert (code, out) == (1, "")
    assert "exists already: --force replaces it" in err

    code, out, err = run("count", folder, *options, tmp_path / "s.xlsx", "--together", "--quiet")
    assert (code, err) == (0, "")
    assert "written" not in out
    book = openpyxl.load_workbook(tmp_path / "s.xlsx")
    assert book.sheetnames == ["Total", "Pictures"]
    assert book["Pictures"].max_row == 3
    totals = dict(zip(*([cell.value for cell in row] for row in book["Total"].rows), strict=True))
    assert totals[POSITIVE] == sum(one["counts"]["positive"] for one in fields)


def test_standard_output_holds_the_format_that_is_asked_for(run, tmp_path, field):
    image = save(tmp_path / "a\tb.png", field[0])
    code, out, err = run("count", image, "--format", "plain", "--csv", tmp_path / "o.csv", "--together")
    assert code == 0
    header, row, total = (line.split("\t") for line in out.splitlines())
    assert len(header) == len(row) == len(total)
    assert (row[0], total[0]) == (str(image).replace("\t", "\\t"), "together")
    assert row[1:7] == total[1:7]
    assert err == f"written: {tmp_path / 'o.csv'}\n"
    code, plain, _ = run("count", image, "--summary", "-")
    assert next(csv.reader(io.StringIO(plain))) == header
    code, out, err = run("count", image, "--format", "json", "--json", tmp_path / "o.json", "-q")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "o.json").read_text())


@pytest.mark.parametrize("option", [["-h"], ["--help"]])
@pytest.mark.parametrize(
    "command",
    [
        "", "demo", "count", "live", "eval", "compare", "bench", "train", "import-weights", "export", "regions",
        "report", "inspect", "doctor", "build", "package",
    ],
)  # fmt: skip
def test_every_command_has_help_and_the_general_options(run, command, option):
    code, out, err = run(*filter(None, [command]), *option)
    assert (code, err) == (0, "")
    for name in ("-h, --help", "-v, --verbose", "-q, --quiet"):
        assert name in out
    if not command:
        assert "--install-completion" in out


def test_the_general_options_may_stand_before_and_after_the_command(run, tmp_path, field):
    image = save(tmp_path / "a.png", field[0][:64, :64])
    logger = logging.getLogger("kinet_trt")
    for words in (["-v", "count", image], ["count", image, "--verbose"]):
        logger.setLevel(logging.NOTSET)
        assert run(*words)[0] == 0
        assert logger.level == logging.INFO, words
    for words in (["-q", "count", image], ["count", "-q", image]):
        _, out, err = run(*words, "--overlay", tmp_path / "v", "--force")
        assert "written" not in out
        assert err == ""
    assert "written: " in run("count", image, "--overlay", tmp_path / "v", "--force")[1]


def test_both_sizes_are_width_x_height(run, monkeypatch, tmp_path):
    from kinet_trt.deploy import build
    from kinet_trt.evaluation import benchmark

    class StopHere(Exception):  # noqa: N818
        pass

    seen = []

    def stop(*arguments, **options):
        seen.append(options.get("sizes") or arguments)
        raise StopHere

    monkeypatch.setattr(benchmark, "simulated_frame", stop)
    monkeypatch.setattr(build, "build", stop)
    for words in (["bench", "--no-yardsticks"], ["build", "-o", tmp_path / "a.engine"]):
        with pytest.raises(StopHere):
            run(*words, "--size", "1920x1200")
    assert seen == [(1920, 1200), [(1200, 1920)]]


def test_um_per_px_comes_from_the_option_then_the_file_then_the_model(run, tmp_path, field):
    from PIL import Image

    path = tmp_path / "a.tif"
    Image.fromarray(field[0]).save(path, dpi=(25400 / 0.25, 25400 / 0.25))
    _, out, _ = run("count", path, "--json", "-")
    [one] = json.loads(out)["fields"]
    assert one["mpp_source"] == "file"
    assert one["mpp"] == pytest.approx(0.25, rel=1e-3)
    _, out, _ = run("count", path, "--mpp", 0.4, "--json", "-")
    assert json.loads(out)["fields"][0]["mpp"] == 0.4
    assert json.loads(out)["fields"][0]["mpp_source"] == "option"


def test_the_same_field_at_another_scale_gives_about_the_same_nuclei(run, tmp_path):
    counts = []
    for mpp in (0.34, 0.25, 0.5):
        pixels, _ = simulate.SimulatedSlide(5, mpp=mpp).region(0, 0, round(400 * 0.34 / mpp), round(400 * 0.34 / mpp))
        image = save(tmp_path / f"{mpp}.png", pixels)
        _, out, _ = run("count", image, "--mpp", mpp, "--json", "-")
        counts.append(len(json.loads(out)["fields"][0]["detections"]))
    assert max(counts) < 1.15 * min(counts)


def test_sixteen_bit_grey_and_transparent_files_are_read(run, tmp_path, field):
    pixels = field[0]
    save(tmp_path / "deep.tif", pixels.astype(np.uint16) * 257)
    save(tmp_path / "plain.png", pixels)
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    cv2.imwrite(str(tmp_path / "alpha.png"), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    save(tmp_path / "grey.png", pixels[..., 1])
    code, out, err = run("count", tmp_path, "--json", "-")
    fields = {Path(f["image"]).stem: f for f in json.loads(out)["fields"]}
    found = {name: field["detections"] for name, field in fields.items()}
    assert code == 0
    assert found["deep"] == found["plain"] == found["alpha"]
    assert found["grey"] == []
    assert ["no colour" in remark for remark in fields["grey"]["remarks"]] == [True]
    assert err.count("no colour") == 1
    assert f"Warning: {tmp_path / 'grey.png'}: The picture has no colour" in err


def test_derived_names_are_not_overwritten_without_force(run, tmp_path, field):
    image = save(tmp_path / "a.png", field[0])
    assert run("count", image, "--geojson", tmp_path)[0] == 0
    before = (tmp_path / "a.geojson").read_bytes()
    code, _, err = run("count", image, "--geojson", tmp_path, "--threshold", 0.9)
    assert code == 1
    assert "--force" in err
    assert (tmp_path / "a.geojson").read_bytes() == before
    assert run("count", image, "--geojson", tmp_path, "--threshold", 0.9, "--force")[0] == 0
    assert (tmp_path / "a.geojson").read_bytes() != before


def test_images_of_one_stem_get_files_of_their_own(run, tmp_path, field):
    save(tmp_path / "a" / "x.png", field[0])
    save(tmp_path / "a" / "x.tif", field[0])
    save(tmp_path / "b" / "x.png", field[0])
    assert run("count", tmp_path / "a", tmp_path / "b", "--geojson", tmp_path / "g")[0] == 0
    assert sorted(p.name for p in (tmp_path / "g").iterdir()) == ["x.png-2.geojson", "x.png.geojson", "x.tif.geojson"]


@pytest.mark.parametrize("name", ["[bold] [oops.png", ":smile: [0].png", "ÄÖ 細胞.png", "a" * 200 + ".png"])
def test_file_names_are_text_whatever_they_hold(run, tmp_path, field, name):
    save(tmp_path / "in" / "x.png", field[0]).rename(tmp_path / "in" / name)
    code, out, err = run("count", tmp_path / "in", "--overlay", tmp_path, "--json", tmp_path / "o.json")
    assert (code, err) == (0, "")
    assert name[:6] in out
    assert json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))["fields"][0]["image"].endswith(name)


def test_names_that_the_terminal_has_no_letters_for_do_not_end_the_run(tmp_path, field):
    save(tmp_path / "細胞.png", field[0])
    odd = tmp_path / os.fsdecode(b"odd\xff.png")
    (tmp_path / "細胞.png").rename(odd) if sys.platform == "linux" else None
    save(tmp_path / "細胞.png", field[0])
    command = [sys.executable, "-m", "kinet_trt", "count", str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    for extra in (["--json", "-"], ["--csv", "-"], []):
        done = subprocess.run([*command, *extra], capture_output=True, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, b""), extra
        if extra[:1] == ["--json"]:
            names = {Path(f["image"]).name for f in json.loads(done.stdout)["fields"]}
            assert names == {path.name for path in tmp_path.iterdir()}


def test_masks_and_overlays_are_no_images_in_a_glob_either(run, tmp_path, field):
    for name in ("a.png", "a_overlay.png", "a_counted.png"):
        save(tmp_path / name, field[0])
    (tmp_path / "a.csv").write_text("x,y,class\n")
    _, out, _ = run("count", tmp_path / "a*", "--json", "-")
    assert [Path(f["image"]).name for f in json.loads(out)["fields"]] == ["a.png"]


def test_a_file_is_counted_once_however_it_is_spelled(run, tmp_path, monkeypatch, field):
    save(tmp_path / "in" / "a.png", field[0])
    monkeypatch.chdir(tmp_path)
    _, out, _ = run("count", "in/a.png", "in", "./in/../in/a.png", tmp_path / "in" / "a.png", "--json", "-")
    assert len(json.loads(out)["fields"]) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_folders_and_broken_links_in_a_folder_are_told_or_left_out(run, tmp_path, field):
    save(tmp_path / "good.png", field[0])
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    code, out, _ = run("count", tmp_path, "--json", "-")
    document = json.loads(out)
    assert code == 1
    assert [Path(f["image"]).name for f in document["fields"]] == ["good.png"]
    assert sorted(Path(e["image"]).name for e in document["errors"]) == ["broken.png", "pipe.png"]


def test_one_output_that_cannot_be_written_costs_no_other(run, tmp_path, field):
    image = save(tmp_path / "a.png", field[0])
    code, _, err = run("count", image, "--json", image / "o.json", "--csv", tmp_path / "o.csv")
    assert code == 1
    assert "o.json" in err
    assert (tmp_path / "o.csv").is_file()


@pytest.mark.parametrize("missing", ["torch", "onnx", "onnxsim", "onnxscript"])
def test_a_missing_extra_is_one_line_with_the_pip_command(run, tmp_path, monkeypatch, missing):
    for name in ("torch", "onnx", "onnxscript", "onnxsim"):  # the others need only be there, as they are never used
        monkeypatch.setitem(sys.modules, name, None if name == missing else types.ModuleType(name))
    code, _, err = run("export", tmp_path / "x.pt", "-o", tmp_path / "x.onnx")
    assert code == 1
    assert len(err.strip().splitlines()) == 1
    assert f"'{missing}'" in err
    assert 'pip install "kinet-trt[train]"' in err


def test_globs_are_expanded_here_because_windows_does_not(run, tmp_path, field):
    save(tmp_path / "a1.png", field[0])
    save(tmp_path / "a2.png", field[0])
    save(tmp_path / "b.png", field[0])
    _, out, _ = run("count", tmp_path / "a*.png", "--json", "-")
    assert [Path(f["image"]).name for f in json.loads(out)["fields"]] == ["a1.png", "a2.png"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["count", "missing.png"], 1),
        (["count", "nothing*.png"], 1),
        (["count", "."], 1),
        (["count", "--json", "-", "--csv", "-", "x.png"], 2),
        (["count", "x.png", "--mpp", "-3"], 2),
        (["count", "x.png", "--mpp", "nan"], 2),
        (["count", "x.png", "--bands", "g7"], 2),
        (["count", "x.png", "--threshold", "high"], 2),
        (["count", "x.png", "--threshold", "relative:7"], 2),
        (["count", "x.png", "--precision", "fp64"], 2),
        (["count"], 2),
        (["count", "x.png", "-m", "missing.onnx"], 1),
        (["count", "x.png", "-m", "model.pt"], 1),
        (["export", "missing.pt", "-o", "x.onnx"], 1),
        (["count", "a" * 300 + ".png"], 1),
        (["count", "x.png", "--json", "y", "--csv", "./y"], 2),
        (["count", "x.png", "--json", "x.png"], 2),
        (["count", "x.png", "--csv", "."], 1),
        (["count", "x.png", "--csv", "case.xlsx"], 2),
        (["count", "x.png", "--json", "x.csv"], 2),
        (["count", "x.png", "--summary", "case.xls"], 2),
        (["count", "x.png", "--summary", "case"], 1),
        (["count", "x.png", "--overlay", "x_overlay.png"], 2),
        (["count", "x.png", "--geojson", "x.geojson"], 2),
        (["count", "x.png", "--format", "json", "--csv", "-"], 2),
        (["count", "x.png", "--format", "xml"], 2),
        (["count", "x.png", "--mpp", "0,3,4"], 2),
        (["count", "x.png", "--mpp", "1,000.5"], 2),
        (["count", "x.png", "--positive-above", "brown"], 2),
        (["count", "x.png", "--positive-above", "9"], 2),
        (["count", "x.png", "--h-score-cuts", "0.2,0.4"], 2),
        (["count", "x.png", "--h-score-cuts", "0.6,0.4,0.2"], 2),
        (["eval", "x", "--plot", "curve.pdf"], 2),
        (["eval", "x", "--json", "x.txt"], 2),
        (["eval", "x", "--agreement-plot", "plot.pdf"], 2),
        (["eval", "x", "--pattern", "no group"], 2),
        (["compare", "a.csv"], 2),
        (["compare", "a.csv", "b.csv"], 1),
        (["compare", "a.csv", "b.csv", "--plot", "plot.pdf"], 2),
        (["compare", "a.csv", "b.csv", "--json", "a.csv"], 2),
        (["compare", "a.csv", "b.csv", "--pattern", "(a"], 2),
        (["compare", "a.csv", "b.csv", "--pattern", "(a)(b)"], 2),
        (["bench", "--json", "times.csv"], 2),
        (["bench", "--size", "0x64"], 2),
        (["report", "x.kinet", "-o", "report.pdf"], 2),
        (["inspect", "x.onnx", "--json", "x.yaml"], 2),
        (["doctor", "--json", "x.txt"], 2),
        (["train", "nowhere", "-o", "x.onnx"], 2),
        (["export", "x.pt", "-o", "x.engine"], 2),
        (["train", "nowhere", "-o", "x.pt"], 1),
        (["train", "nowhere", "-o", "x.pt", "--seed", "-1"], 2),
        (["train", "nowhere", "-o", "x.pt", "--recipe", "mine"], 2),
        (["regions", "nowhere", "-o", "x"], 1),
        (["regions", "nowhere", "-o", "x", "--box", "5,5,5,9"], 2),
    ],
)
def test_mistakes_get_one_message_and_leave_nothing(run, tmp_path, monkeypatch, arguments, code):
    monkeypatch.chdir(tmp_path)
    found, out, err = run(*arguments)
    assert found == code
    assert err.strip()
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_models_that_are_not_whole_are_refused(run, tmp_path, field):
    image = save(tmp_path / "a.png", field[0])
    card, model = read_card(DEFAULT_MODEL)
    rng = np.random.default_rng(0)
    cases = {
        "cut": model[: len(model) // 2],
        "empty": b"",
        "text": b"not a model at all",
        "no-card": model.replace(CARD_KEY.encode(), b"x" * len(CARD_KEY)),
        "no-hash": model.replace(CARD_HASH_KEY.encode(), b"x" * len(CARD_HASH_KEY)),
        "threshold": with_card(model, replace(card, threshold=0.9)).replace(b'"threshold": 0.9', b'"threshold": 0.1'),
    }
    for position in rng.integers(0, len(model), 20):
        flipped = bytearray(model)
        flipped[position] ^= 1 << int(rng.integers(8))
        cases[f"flip-{position}"] = bytes(flipped)
    for name, content in cases.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        code, out, err = run("count", image, "-m", path, "--json", tmp_path / "o.json")
        assert code == 1, name
        assert out == "", name
        assert len(err.strip().splitlines()) == 1, name
        assert not (tmp_path / "o.json").exists(), name


def test_a_newer_card_is_told_apart_from_a_damaged_one(run, tmp_path, field):
    import hashlib

    card, model = read_card(DEFAULT_MODEL)
    model, text = with_card(model, card), card.to_json()
    newer = text.replace('"version": 1', '"version": 2')
    model = model.replace(text.encode(), newer.encode())
    old, new = (hashlib.sha256(t.encode()).hexdigest().encode() for t in (text, newer))
    path = tmp_path / "newer.onnx"
    path.write_bytes(model.replace(old, new))
    code, _, err = run("count", save(tmp_path / "a.png", field[0]), "-m", path)
    assert code == 1
    assert "version 2" in err
    assert "Upgrade" in err


def test_the_demo_compares_with_the_ground_truth_and_leaves_fields_to_try(run, tmp_path):
    code, out, _ = run("demo", "--out", tmp_path)
    assert code == 0
    assert "truth" in out
    assert "detection F1" in out
    assert "Research Use Only" in out
    assert {p.name for p in tmp_path.iterdir()} >= {"simulated.png", "simulated_overlay.png", "real.png"}
    real = read_image(tmp_path / "real.png")
    assert (real.width, real.height, real.mpp) == (596, 596, pytest.approx(0.346, abs=1e-4))
    fields = read_fields(tmp_path / "fields")
    assert len(fields) == 8
    assert all(len(field.x) > 20 for field in fields)


def test_the_demo_runs_without_its_extras_too(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lap", None)
    code, out, _ = run("demo", "--out", tmp_path)
    assert code == 0
    assert "The true index is" in out
    assert "Real Ki67 field" in out


def test_help_is_quick_and_needs_nothing_heavy():
    listing = "import sys, kinet_trt.cli.main; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout.split()
    assert not {"cv2", "numpy", "openvino", "torch", "onnx", "PIL"} & set(loaded)
    fastest = min(_cpu_seconds([sys.executable, "-m", "kinet_trt", "--help"]) for _ in range(3))
    assert fastest < 0.5


def _cpu_seconds(command):
    """Return the processor time of a command, which other work on the machine hardly changes."""
    before = os.times()
    subprocess.run(command, capture_output=True, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_counting_needs_neither_torch_nor_onnx_nor_scipy(tmp_path, field):
    image = save(tmp_path / "a.png", field[0])
    program = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'scipy', 'skimage', 'lap'): sys.modules[name] = None\n"
        f"sys.argv = ['kinet-trt', 'count', {str(image)!r}, '--json', '-']\n"
        "from kinet_trt.cli.main import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fields"]


def test_an_overlay_that_cannot_be_written_costs_no_other_output(run, tmp_path, field):
    save(tmp_path / "in" / "a.png", field[0])
    save(tmp_path / "in" / "b.png", field[0])
    (tmp_path / "v" / "a_overlay.png").mkdir(parents=True)
    code, _, err = run("count", tmp_path / "in", "--overlay", tmp_path / "v", "--json", tmp_path / "o.json", "--force")
    assert code == 1
    assert "a_overlay.png" in err
    document = json.loads((tmp_path / "o.json").read_text())
    assert len(document["fields"]) == 2
    assert [Path(e["image"]).name for e in document["errors"]] == ["a.png"]
    assert (tmp_path / "v" / "b_overlay.png").is_file()


def test_eval_reads_a_folder_of_fields_and_tells_how_good_the_model_is(run, tmp_path):
    pytest.importorskip("lap")
    for seed in (1_001, 1_002):
        pixels, truth = simulate.field(seed, 256, 256)
        save(tmp_path / "in" / f"{seed}.png", pixels)
        rows = [f"{x},{y},{simulate.CLASSES[c]}" for x, y, c in zip(truth.x, truth.y, truth.cls, strict=True)]
        (tmp_path / "in" / f"{seed}.csv").write_text("x,y,class\n" + "\n".join(rows))
    code, out, err = run(
        "eval",
        tmp_path / "in",
        "--json",
        tmp_path / "e.json",
        "--overlay",
        tmp_path / "v",
        "--plot",
        tmp_path / "p.png",
        "--agreement-plot",
        tmp_path / "a.svg",
    )
    assert (code, err) == (0, "")
    assert "AUC" in out
    assert "agreement of 2 cases" in out
    assert "Only 2 cases" in out
    assert "No class list for 2 of 2 fields" in out
    document = json.loads((tmp_path / "e.json").read_text())
    assert document["detection"]["f1"] > 0.9
    assert len(document["fields"]) == 2
    assert sorted(p.name for p in (tmp_path / "v").iterdir()) == ["1001_overlay.png", "1002_overlay.png"]
    assert (tmp_path / "p.png").stat().st_size > 5000
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    indices = [{"case": Path(f["image"]).stem, **f["index"]} for f in document["fields"]]
    assert document["cases"] == indices
    errors = [one["found"] - one["true"] for one in indices]
    assert document["agreement"]["cases"] == 2
    assert document["agreement"]["mean_error"]["value"] == pytest.approx(sum(errors) / 2)
    code, out, err = run("eval", tmp_path / "in", "--json", "-", "--classes", "positive,negative")
    assert (code, err) == (0, "")
    assert json.loads(out)["fields"][0]["labelled"] == ["positive", "negative"]
    code, plain, err = run("eval", tmp_path / "in", "--format", "plain", "--classes", "positive,negative")
    assert (code, err) == (0, "")
    header, *rows = (line.split("\t") for line in plain.splitlines())
    assert header[:3] == ["source", "fields", "nuclei"]
    assert [len(row) for row in rows] == [len(header)] * 2
    assert float(rows[-1][header.index("F1")]) == pytest.approx(json.loads(out)["detection"]["f1"], abs=6e-4)
    (tmp_path / "in" / "index.csv").write_text("image,points,patient\n1001.png,1001.csv,S1\n1002.png,1002.csv,S1\n")
    for grouping in (("--pattern", r"^(\d{3})"), ("--case", "patient")):
        code, out, err = run("eval", tmp_path / "in", "--format", "json", "--bands", "none", *grouping)
        assert (code, err.count("written")) == (0, 0)
        grouped = json.loads(out)
        assert [one["case"] for one in grouped["cases"]] == ["100" if "--pattern" in grouping else "S1"]
        counts = [f["detection"]["detected"] for f in grouped["fields"]]
        assert min(counts) > 0
        assert grouped["agreement"]["same_range"] is None
        low, high = sorted(f["index"]["found"] for f in grouped["fields"])
        assert low <= grouped["cases"][0]["found"] <= high
    code, _, err = run("eval", tmp_path / "in", "--case", "slide")
    assert (code, "'slide'" in err) == (1, True)
    assert run("eval", tmp_path / "in", "--classes", "tumour")[0] == 1
    assert run("eval", tmp_path / "in", "--split", "test")[0] == 1
    assert run("eval", tmp_path / "nowhere")[0] == 1


def test_eval_of_what_count_wrote_for_qupath_finds_every_nucleus_again(run, tmp_path, field):
    pytest.importorskip("lap")
    save(tmp_path / "a.png", field[0])
    assert run("count", tmp_path / "a.png", "--mpp", 0.3, "--geojson", tmp_path)[0] == 0
    document = json.loads((tmp_path / "a.geojson").read_text())
    by_class = {}
    for one in document["features"]:
        by_class.setdefault(one["properties"]["classification"]["name"], []).append(one["geometry"]["coordinates"])
    merged = [
        {
            "type": "Feature",
            "geometry": {"type": "MultiPoint", "coordinates": points},
            "properties": {"objectType": "annotation", "classification": {"name": name}, "isLocked": False},
        }
        for name, points in by_class.items()
    ]
    for features in (document["features"], merged):
        (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        code, _, err = run("eval", tmp_path, "--mpp", 0.3, "--json", tmp_path / "e.json")
        assert (code, err) == (0, "")
        found = json.loads((tmp_path / "e.json").read_text())
        assert found["detection"]["f1"] == found["classification"]["weighted"]["f1"] == 1
        assert found["detection"]["true"] == len(document["features"])
        assert found["detection"]["distance_mean_px"] < 0.02


def test_eval_reads_the_kinet_folder_layout_and_its_splits(run, tmp_path, caplog):
    pytest.importorskip("lap")
    from kinet_trt.export.proximity import proximity_maps

    from kinet_trt.datasets.kinet_layout import MAPS

    for split, seed in (("train", 1_001), ("test", 1_002)):
        pixels, truth = simulate.field(seed, 256, 256)
        save(tmp_path / "images" / split / "PAN.png", pixels)
        for kind, name in enumerate(MAPS.values()):
            own = truth.cls == kind
            drawn, _ = proximity_maps(truth.x[own], truth.y[own], truth.cls[own] * 0, 256, 256, 1, 3.0, 10.0)
            save(
                tmp_path / name / split / "PAN_label.png",
                np.repeat(np.rint(drawn[0] * 255).astype(np.uint8)[..., None], 3, axis=2),
            )
    save(tmp_path / "images" / "test" / "other.png", pixels)
    save(tmp_path / "rois" / "test" / "other.png", pixels * 0)
    code, out, _ = run("eval", tmp_path, "--split", "test", "--json", tmp_path / "e.json")
    assert code == 0
    assert "fields: regions but no nuclei" in caplog.text
    assert "No class list" not in out
    document = json.loads((tmp_path / "e.json").read_text())
    assert len(document["fields"]) == 1
    assert document["detection"]["f1"] > 0.9
    assert document["detection"]["true"] == len(truth)


def test_bench_of_labelled_fields_draws_latency_and_accuracy(run, tmp_path):
    pytest.importorskip("matplotlib")
    pixels, truth = simulate.field(1_001, 256, 256)
    save(tmp_path / "in" / "a.png", pixels)
    rows = [f"{x},{y},{simulate.CLASSES[c]}" for x, y, c in zip(truth.x, truth.y, truth.cls, strict=True)]
    (tmp_path / "in" / "a.csv").write_text("x,y,class\n" + "\n".join(rows))
    options = ("--size", "64x64", "--rounds", 3, "--no-yardsticks", "--precision", "fp32")
    code, out, _ = run("bench", tmp_path / "in", *options, "--plot", tmp_path / "p.png", "--json", tmp_path / "b.json")
    assert code == 0
    assert "class F1" in out
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert min(row["detection_f1"], row["classification_f1"]) > 0.8
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_bench_shows_a_row_for_each_precision(run, tmp_path):
    arguments = ("bench", "--size", "64x64", "--rounds", 3, "--no-yardsticks", "--json", tmp_path / "b.json")
    code, out, err = run(*arguments, "--precision", "fp32", "--precision", "auto")
    assert (code, err) == (0, "")
    assert out.count("kinet-edge") == 2
    document = json.loads((tmp_path / "b.json").read_text())
    assert document["size"] == [64, 64]
    assert document["rows"][0]["precision"] == "fp32"
    code, out, err = run(*arguments[:6], "--format", "plain", "--json", tmp_path / "b.json")
    assert (code, err) == (0, f"written: {tmp_path / 'b.json'}\n")
    header, row = (line.split("\t") for line in out.splitlines())
    assert dict(zip(header, row, strict=True))["model"] == "kinet-edge"
    assert run("bench", "--size", "big")[0] == 2
    assert run("bench", "--plot", tmp_path / "p.png")[0] == 2
    assert run("bench", "--precision", "fp64", "--no-yardsticks")[0] == 1


def test_what_is_no_picture_is_an_error_and_what_was_not_used_of_a_file_is_told(run, tmp_path, field):
    save(tmp_path / "black.png", np.zeros_like(field[0]))
    code, _, err = run("count", tmp_path / "black.png")
    assert code == 1
    assert "every pixel is black" in err
    Image.fromarray(field[0]).save(tmp_path / "printer.png", dpi=(300, 300))
    (tmp_path / "other.gif").write_bytes(b"GIF89a")
    code, out, err = run("count", tmp_path, "--json", "-")
    (record,) = json.loads(out)["fields"]
    assert code == 1
    assert [remark for remark in record["remarks"] if "300 dpi" in remark]
    assert (
        "printer.png: The file states 84.67 x 84.67 µm/px (300 dpi), expected 0.05 to 5 µm/px of a microscope." in err
    )
    assert "1 GIF file skipped" in err
    _, out, err = run("count", tmp_path / "printer.png", "--mpp", "0.34", "--json", "-")
    assert "dpi" not in out + err
