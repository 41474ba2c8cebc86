"""``kinet-trt count --protocol`` and ``--hot-spots``: every output has the fields that were counted."""

from __future__ import annotations

import csv
import io
import json

import cv2
import numpy as np
import pytest

from kinet_trt import count_paths
from kinet_trt.core.errors import KinetError
from kinet_trt.io.geojson import read_geojson
from kinet_trt.simulation import simulate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields")
    for number, fraction in ((3, 0.05), (4, 0.4)):
        pixels, _ = simulate.field(number, 480, 480, positive_fraction=fraction)
        cv2.imwrite(str(folder / f"{number}.png"), pixels[..., ::-1])
    return folder


def test_protocol_of_an_image_is_in_table_json_summary_and_geojson(run, tmp_path, folder):
    code, out, err = run(
        "count", folder / "4.png", "--protocol", "breast-global", "--json", tmp_path / "a.json", "--summary",
        tmp_path / "s.csv", "--geojson", tmp_path / "g",
    )  # fmt: skip
    assert (code, err) == (0, "")
    (field,) = json.loads((tmp_path / "a.json").read_text())["fields"]
    counted = field["protocol"]
    assert field["hot_spots"] is None
    assert counted["fields"]
    assert 0 < counted["weighted"] < 1
    assert "breast-global %" in out.splitlines()[0]
    assert f"weighted {100 * counted['weighted']:.1f}%, unweighted {100 * counted['unweighted']:.1f}%" in out
    assert "(cut-offs of IKWG)" in out
    assert not any(word in out for word in ("G1", "G2", "G3", "WHO"))
    (row,) = csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text("utf-8")))
    assert row["Protocol"] == "breast-global"
    assert float(row["Protocol index (%)"]) == pytest.approx(100 * counted["weighted"], abs=0.006)
    assert int(row["Protocol fields"]) == len(counted["fields"])
    features = json.loads((tmp_path / "g" / "4.geojson").read_text())["features"]
    drawn = [feature for feature in features if feature["geometry"]["type"] == "Polygon"]
    assert len(drawn) == len(counted["fields"])
    for feature, one in zip(drawn, counted["fields"], strict=True):
        ring = np.asarray(feature["geometry"]["coordinates"][0])
        assert ring[0].tolist() == ring[-1].tolist()
        np.testing.assert_allclose(ring[:-1].mean(0), (one["x"] + 0.5, one["y"] + 0.5), atol=0.05)
        assert feature["properties"]["measurements"]["Ki67 index %"] == pytest.approx(100 * one["ki67_index"])
    labels = read_geojson(tmp_path / "g" / "4.geojson")
    assert len(labels.x) == len(field["detections"])
    assert not labels.outlines.has_exclusions
    assert not labels.unknown_objects
    _, out, _ = run("count", folder / "4.png", "--protocol", "breast-global", "--bands", "none")
    assert "weighted" in out
    assert "IKWG" not in out


def test_protocol_of_one_case_takes_fields_from_all_images(run, folder):
    code, said, _ = run("count", folder, "--together", "--protocol", "breast-global", "--format", "json")
    assert code == 0
    document = json.loads(said)
    together = document["together"]["protocol"]
    assert {field["image"] for field in together["fields"]} == {str(folder / "3.png"), str(folder / "4.png")}
    assert together["ki67_index"] == together["weighted"]
    code, out, _ = run("count", folder, "--together", "--protocol", "breast-hot-spot")
    assert "hot spot" in out.lower()
    code, out, _ = run("count", folder, "--protocol", "breast-global")
    assert "--json lists the fields of each image" in out


def test_hot_spots_are_listed_best_first_and_pooled(run, tmp_path, folder):
    options = ("--hot-spots", 3, "--hot-spot", 30)
    code, out, _ = run("count", folder / "3.png", *options, "--json", tmp_path / "a.json", "--geojson", tmp_path / "g")
    assert code == 0
    (field,) = json.loads((tmp_path / "a.json").read_text())["fields"]
    spots = field["hot_spots"]
    assert (len(spots), spots[0], field["protocol"]) == (3, field["hot_spot"], None)
    assert all(f"Hot spot {number}: {100 * s['ki67_index']:.1f}%" in out for number, s in enumerate(spots, 1))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        apart = np.hypot(spots[a]["x"] - spots[b]["x"], spots[a]["y"] - spots[b]["y"]) * field["mpp"]
        assert apart >= spots[a]["radius_um"] + spots[b]["radius_um"] - 0.2
    names = [f["properties"].get("name") for f in json.loads((tmp_path / "g" / "3.geojson").read_text())["features"]]
    assert names[-3:] == ["Hot spot 1", "Hot spot 2", "Hot spot 3"]
    _, said, _ = run("count", folder, "--together", *options, "--format", "json")
    pooled = json.loads(said)["together"]["hot_spots"]
    assert len(pooled) == 3
    assert {spot["image"] for spot in pooled} == {str(folder / "4.png")}


def test_protocol_without_enough_nuclei_says_what_is_needed(run, folder):
    code, out, _ = run("count", folder / "3.png", "--protocol", "breast-hot-spot", "--json", folder / "few.json")
    assert code == 0
    assert "No hot spot: too few tumour nuclei." in out
    (field,) = json.loads((folder / "few.json").read_text())["fields"]
    assert field["protocol"]["ki67_index"] is None
    assert field["protocol"]["needed"] == {"hot spot": 1}


def test_protocol_of_500_nuclei_rejects_another_size(run, folder):
    code, _, err = run("count", folder / "3.png", "--protocol", "breast-hot-spot", "--hot-spot", "600")
    assert code != 0
    assert "expected a hot spot of 500 tumour nuclei, found 600" in err
    with pytest.raises(KinetError, match="protocol: expected net, breast-global, breast-hot-spot, found 'lung'"):
        count_paths(folder / "3.png", protocol="lung")
    (result,) = count_paths(folder / "3.png", protocol="net", hot_spot=50, hot_spots=2).results
    assert result.protocol.index == result.hot_spot.ki67.index
    assert len(result.hot_spots) == 2
