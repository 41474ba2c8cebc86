"""``kinet-trt count --positive-above`` and ``--h-score``: every output states what the density of DAB decided."""

from __future__ import annotations

import csv
import io
import json

import cv2
import numpy as np
import pytest

from kinet_trt import count_paths
from kinet_trt.io.geojson import read_geojson
from kinet_trt.simulation import simulate

CUT = 0.7


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "in" / "field.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), simulate.field(3, 320, 256)[0][..., ::-1])
    return path


def outputs(run, folder, *arguments):
    """Run count with all outputs; return its text, the field of the JSON, and the rows of CSV and summary."""
    code, out, err = run(
        "count", *arguments, "--json", folder / "o.json", "--csv", folder / "o.csv", "--summary", folder / "s.csv",
        "--geojson", folder / "g", "--overlay", folder / "v", "--force",
    )  # fmt: skip
    assert (code, err) == (0, "")
    tables = [list(csv.DictReader(io.StringIO((folder / name).read_text("utf-8")))) for name in ("o.csv", "s.csv")]
    (field,) = json.loads((folder / "o.json").read_text())["fields"]
    return out, field, *tables


def test_the_stain_is_a_new_column_and_key_and_nothing_else_changes(run, tmp_path, image):
    out, field, nuclei, (summary,) = outputs(run, tmp_path, image)
    assert list(nuclei[0]) == ["image", "x", "y", "class", "score", "dab_od"]
    assert (field["positive_above"], field["h_score"]) == (None, None)
    assert [float(row["dab_od"]) for row in nuclei] == [nucleus["dab_od"] for nucleus in field["detections"]]
    features = json.loads((tmp_path / "g" / "field.geojson").read_text())
    assert set(features) == {"type", "features"}
    measured = [feature["properties"]["measurements"]["Nucleus: DAB OD mean"] for feature in features["features"]]
    assert measured == [nucleus["dab_od"] for nucleus in field["detections"]]
    assert "DAB" not in out
    assert not any("DAB" in column or "H-score" in column for column in summary)
    by_class = {name: [d["dab_od"] for d in field["detections"] if d["class"] == name] for name in field["counts"]}
    assert np.median(by_class["positive"]) > 0.3 > 0.1 > np.median(by_class["negative"])


def test_positive_above_decides_tumour_nuclei_and_is_stated_in_every_output(run, tmp_path, image):
    _, before, _, _ = outputs(run, tmp_path, image)
    plain = cv2.imread(str(tmp_path / "v" / "field_overlay.png"))
    out, field, nuclei, (summary,) = outputs(run, tmp_path, image, "--positive-above", CUT)
    assert "by the DAB optical density, positive from 0.7 on, and not by the network." in out
    tumor = [d for d in before["detections"] if d["class"] != "non_tumor"]
    expected = sum(d["dab_od"] >= CUT for d in tumor)
    assert 0 < expected < before["counts"]["positive"]
    assert field["counts"] == {
        "positive": expected,
        "negative": len(tumor) - expected,
        "non_tumor": before["counts"]["non_tumor"],
    }
    assert field["positive_above"] == CUT
    assert field["ki67_index"] == expected / len(tumor)
    assert {row["positive_above"] for row in nuclei} == {"0.7"}
    assert [row["class"] for row in nuclei].count("positive") == expected
    assert summary["Positive from DAB OD"] == "0.7"
    assert json.loads((tmp_path / "g" / "field.geojson").read_text())["positive_above"] == CUT
    assert np.count_nonzero(read_geojson(tmp_path / "g" / "field.geojson").cls == 0) == expected
    overlay = cv2.imread(str(tmp_path / "v" / "field_overlay.png"))
    assert (overlay[:12, :150] < 60).mean() > 0.5 > (plain[:12, :150] < 60).mean()


def test_the_h_score_is_printed_and_written_when_asked_for(run, tmp_path, image):
    out, field, nuclei, (summary,) = outputs(run, tmp_path, image, "--h-score")
    tumor = [float(row["dab_od"]) for row in nuclei if row["class"] != "non_tumor"]
    numbers = [
        sum(low <= density < high for density in tumor)
        for low, high in ((-9, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 9))
    ]  # fmt: skip
    score = sum(k * 100 * n / len(tumor) for k, n in enumerate(numbers))
    assert field["h_score"] == {
        "score": pytest.approx(score),
        "cuts": [0.2, 0.4, 0.6],
        "counts": dict(zip(("0", "1+", "2+", "3+"), numbers, strict=True)),
    }
    assert f"H-score {score:.1f} (0: " in out
    assert "0.2, 0.4 and 0.6" in out
    assert float(summary["H-score"]) == pytest.approx(score, abs=0.006)
    assert int(summary["H-score 3+ nuclei"]) == numbers[3]
    _, other, _, _ = outputs(run, tmp_path, image, "--h-score-cuts", "0.1,0.5,0.9")
    assert other["h_score"]["cuts"] == [0.1, 0.5, 0.9]
    assert other["counts"] == field["counts"]


def test_the_stain_of_one_case_is_pooled(run, tmp_path, image):
    cv2.imwrite(str(image.with_name("second.png")), simulate.field(4, 320, 256)[0][..., ::-1])
    code, said, err = run(
        "count", image.parent, "--together", "--h-score", "--positive-above", "0,3", "--format", "json"
    )
    assert (code, err) == (0, "")
    document = json.loads(said)
    parts = [field["h_score"]["counts"] for field in document["fields"]]
    together = document["together"]
    assert together["positive_above"] == 0.3
    assert together["h_score"]["counts"] == {name: sum(part[name] for part in parts) for name in parts[0]}
    code, out, err = run("count", image.parent, "--h-score")
    assert "H-score: lowest DAB optical density of 1+, 2+ and 3+: 0.2, 0.4 and 0.6." in out
    assert "H-score" in out.splitlines()[0]


def test_count_paths_takes_the_same_rules(image):
    run = count_paths(image, positive_above=CUT, h_cuts=(0.2, 0.4, 0.6))
    (result,) = run.results
    (nuclei,) = result.iter_detections()
    assert result.positive_above == CUT
    tumor = nuclei.cls < 2
    assert result.counts["positive"] == np.count_nonzero(nuclei.dab[tumor] >= np.float32(CUT))
    assert result.h_score.counts[3] == np.count_nonzero(nuclei.dab[tumor] >= np.float32(0.6))
