"""``kinet-trt compare``, on tables, on what ``count`` writes and on labels."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from kinet_trt.simulation import simulate

WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI_WRIGHT = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


@pytest.fixture
def readers(tmp_path):
    """Bland and Altman's peak flow of 1986, in tenths of a per cent."""
    path = tmp_path / "readers.csv"
    rows = [f"P{i:02},{a / 10:.1f},{b / 10:.1f}" for i, (a, b) in enumerate(zip(WRIGHT, MINI_WRIGHT, strict=True))]
    path.write_text("\n".join(["patient,Wright %,mini Wright %", *rows]))
    return path


def test_compare_of_two_columns_gives_the_published_figures(run, tmp_path, readers):
    options = ("--index-a", "wright %", "--index-b", "Mini Wright %", "--json", tmp_path / "o.json")
    code, out, err = run("compare", readers, readers, *options, "--plot", tmp_path / "p.png")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["mean", "error", "(bias),", "points", "-0.2", "-2.2", "to", "1.8"] in lines
    assert "agreement of 17 cases" in out
    assert "A: wright %; B: Mini Wright %. Differences are A - B." in out
    assert "Largest difference: P14, 17.8% (A) and 25.9% (B)." in out
    assert "There is no kappa" in out
    assert "Only 17" not in out
    assert "Research Use Only" in out
    document = json.loads((tmp_path / "o.json").read_text())
    assert document["schema"] == 1
    agreement = document["agreement"]
    assert agreement["icc_2_1"]["value"] == pytest.approx(0.946, abs=5e-4)
    assert 1000 * agreement["mean_error"]["value"] == pytest.approx(-2.1, abs=0.05)
    assert 1000 * agreement["standard_deviation"] == pytest.approx(38.8, abs=0.05)
    assert agreement["kappa"] == {"linear": None, "quadratic": None}
    assert document["cases"][0] == {"case": "P00", "a": 0.494, "b": 0.512}
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_compare_prints_data_alone(run, tmp_path, readers):
    columns = ("--index-a", "Wright %", "--index-b", "mini Wright %")
    code, plain, err = run("compare", readers, readers, *columns, "--format", "plain", "--json", tmp_path / "o.json")
    assert (code, err) == (0, f"written: {tmp_path / 'o.json'}\n")
    header, *rows = (line.split("\t") for line in plain.splitlines())
    assert header == ["agreement of 17 cases", "value", "95% interval"]
    assert rows[0] == ["ICC(2,1), absolute agreement", "0.946", "0.857 to 0.980"]
    assert {len(row) for row in rows} == {3}
    code, out, err = run("compare", readers, readers, *columns, "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "o.json").read_text())


def test_compare_of_counts_with_labels_by_field_and_by_case(run, tmp_path):
    for name, seed in (("S1_1", 1), ("S1_2", 2), ("S2_1", 3), ("S3_1", 4)):
        pixels, truth = simulate.field(seed, 256, 256)
        (tmp_path / "in").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), pixels[..., ::-1])
        if name != "S3_1":
            rows = [f"{x},{y},{simulate.CLASSES[c]}" for x, y, c in zip(truth.x, truth.y, truth.cls, strict=True)]
            (tmp_path / "in" / f"{name}.csv").write_text("x,y,class\n" + "\n".join(rows))
    outputs = ("--json", tmp_path / "a.json", "--summary", tmp_path / "s.csv", "--geojson", tmp_path / "g")
    assert run("count", tmp_path / "in", *outputs)[0] == 0

    code, out, err = run("compare", tmp_path / "a.json", tmp_path / "in", "--json", tmp_path / "o.json")
    assert (code, err) == (0, "")
    assert "Only 3 cases" in out
    assert "Left out: 1 case in A only (S3_1)." in out
    assert json.loads((tmp_path / "o.json").read_text())["agreement"]["mean_absolute_error"] < 0.05

    code, out, _ = run("compare", tmp_path / "a.json", tmp_path / "in", "--pattern", "^(S[0-9])", "--format", "json")
    assert code == 0
    document = json.loads(out)
    assert [case["case"] for case in document["cases"]] == ["S1", "S2"]
    assert document["agreement"]["icc_2_1"] is None
    fields = {f["image"][-8:-4]: f["counts"] for f in json.loads((tmp_path / "a.json").read_text())["fields"]}
    positive = fields["S1_1"]["positive"] + fields["S1_2"]["positive"]
    negative = fields["S1_1"]["negative"] + fields["S1_2"]["negative"]
    assert document["cases"][0]["a"] == positive / (positive + negative)

    for other in ("s.csv", "g"):  # the same counts in every form agree exactly
        code, out, _ = run("compare", tmp_path / "a.json", tmp_path / other, "--format", "json")
        assert code == 0
        agreement = json.loads(out)["agreement"]
        assert (agreement["cases"], agreement["rmse"], agreement["icc_2_1"]["value"]) == (4, 0.0, 1.0)


def test_compare_by_a_column_of_cases(run, tmp_path):
    (tmp_path / "a.csv").write_text("image,case,positive,negative\nx.png,S1,10,0\ny.png,S1,0,30\nz.png,S2,5,5\n")
    (tmp_path / "b.csv").write_text("image,index\nx.png,90%\ny.png,0%\nz.png,50%\n")
    code, out, err = run("compare", tmp_path / "a.csv", tmp_path / "b.csv", "--case", "case", "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out)["cases"] == [{"case": "S1", "a": 0.25, "b": 0.45}, {"case": "S2", "a": 0.5, "b": 0.5}]
    code, _, err = run("compare", tmp_path / "a.csv", tmp_path / "b.csv", "--case", "patient")
    assert code == 1
    assert "--case patient: expected a table with this column" in err


def test_compare_without_a_common_index_is_an_error(run, tmp_path):
    (tmp_path / "a.csv").write_text("image,index\nx.png,20%\ny.png,\n")
    (tmp_path / "b.csv").write_text("image,index\ny.png,20%\n")
    code, out, err = run("compare", tmp_path / "a.csv", tmp_path / "b.csv")
    assert (code, out) == (1, "")
    assert "expected cases with an index in both" in err


@pytest.mark.parametrize("n", [1, 2])
def test_compare_of_one_or_two_cases_says_how_little_that_is(run, tmp_path, n):
    for name in "ab":
        values = np.linspace(0.1, 0.3, n)
        (tmp_path / f"{name}.csv").write_text("case,index\n" + "".join(f"S{i},{v}\n" for i, v in enumerate(values)))
    code, out, err = run("compare", tmp_path / "a.csv", tmp_path / "b.csv", "--bands", "none")
    assert (code, err) == (0, "")
    assert f"Only {n} case" in out
    assert "An ICC needs at least 3 cases." in out
    assert "kappa" not in out
