"""Counting protocols and hot spots on a simulated slide whose nuclei are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kinet_trt.core.detections import CLASSES, Detections
from kinet_trt.core.hot_spot import find_hot_spots
from kinet_trt.core.protocols import TumorPoints, count_breast_global
from kinet_trt.io.geojson import read_geojson
from simulated_slides import Canvas, Piece, write_tiff

# The first kinet-edge: on simulated tissue it tells positive from negative nuclei better than the model of the package.
MODEL = Path(__file__).resolve().parents[2] / "benchmarks" / "models" / "kinet-edge-0.onnx"
PIECES = (Piece(60, 60, 700, 760, 3, 0.03), Piece(800, 60, 700, 760, 5, 0.15), Piece(1_540, 60, 700, 760, 7, 0.5))
CANVAS = Canvas(2_300, 900, PIECES)


@pytest.fixture(scope="module")
def truth() -> Detections:
    t = CANVAS.truth
    return Detections(t.x, t.y, t.cls, np.ones(len(t), np.float32), CLASSES)


@pytest.fixture
def slide(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_tiff(tmp_path / "case.ome.tif", CANVAS)


def test_protocols_of_a_slide_have_the_index_of_the_rule_on_the_true_nuclei(run, tmp_path, slide, truth):
    code, said, err = run(
        "count", slide, "-m", MODEL, "--protocol", "breast-global", "--json", "-", "--geojson", tmp_path / "g",
        "--overlay", tmp_path / "o",
    )  # fmt: skip
    assert code == 0, err
    (field,) = json.loads(said)["fields"]
    counted, expected = field["protocol"], count_breast_global([TumorPoints.of(truth, CANVAS.mpp)])
    assert len(counted["fields"]) == len(expected.fields) == 4
    assert counted["needed"] == {}
    assert counted["shares"] == pytest.approx(expected.shares, abs=0.04)
    assert counted["ki67_index"] == counted["weighted"] == pytest.approx(expected.weighted, abs=0.01)
    assert counted["unweighted"] == pytest.approx(expected.unweighted, abs=0.01)
    document = json.loads((tmp_path / "g" / "case.ome.geojson").read_text())
    names = [f["properties"].get("name") for f in document["features"] if f["geometry"]["type"] == "Polygon"]
    assert names == [f"breast-global: {one['level']}" for one in counted["fields"]]
    assert len(read_geojson(tmp_path / "g" / "case.ome.geojson").x) == len(field["detections"])
    for name in ("net", "breast-hot-spot"):
        code, said, err = run("count", slide, "-m", MODEL, "--protocol", name, "--hot-spots", "2", "--json", "-")
        assert "counted before" in err
        (field,) = json.loads(said)["fields"]
        best, second = find_hot_spots(truth, CANVAS.mpp, 500, 2)
        assert field["protocol"]["ki67_index"] == field["hot_spot"]["ki67_index"]
        assert field["protocol"]["ki67_index"] == pytest.approx(best.ki67.index, abs=0.01)
        assert field["hot_spots"][0] == field["hot_spot"]
        assert field["hot_spots"][1]["ki67_index"] == pytest.approx(second.ki67.index, abs=0.01)
