"""Points to QuPath and back: what it makes of our GeoJSON gives the same nuclei, and corrections arrive."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import cv2
import numpy as np
import pytest

from kinet_trt.datasets.labelled import read_fields
from kinet_trt.io.geojson import read_geojson
from kinet_trt.simulation import simulate

SCRIPTS = Path(__file__).resolve().parents[2] / "examples" / "qupath"


def through_qupath(document: dict) -> dict:
    """Return what QuPath 0.4 to 0.6 writes after it read a file, by its PathObjectTypeAdapters and ROITypeAdapters.

    Each object gets a random id; coordinates have two decimals; only known members are kept, and ``isLocked`` only if
    it is true.
    """
    return {
        "type": "FeatureCollection",
        "features": [_object(feature, number) for number, feature in enumerate(document["features"])],
    }


def _object(feature: dict, number: int) -> dict:
    given = feature["properties"]
    properties = {"objectType": given["objectType"]}
    for key in ("name", "color", "classification", "isLocked", "measurements"):
        if given.get(key):
            properties[key] = given[key]
    geometry = {"type": feature["geometry"]["type"], "coordinates": _rounded(feature["geometry"]["coordinates"])}
    identity = str(uuid.UUID(int=number + 1, version=4))
    return {"type": "Feature", "id": identity, "geometry": geometry, "properties": properties}


def _rounded(coordinates):
    return [_rounded(one) if isinstance(one, list) else round(one, 2) for one in coordinates]


@pytest.fixture
def points(run, tmp_path) -> Path:
    """Return a folder of ``count --geojson`` for one image, which lies beside it."""
    cv2.imwrite(str(tmp_path / "field.png"), simulate.field(3, 320, 256)[0][..., ::-1])
    code, _, err = run("count", tmp_path / "field.png", "--geojson", tmp_path / "points")
    assert (code, err) == (0, "")
    return tmp_path / "points"


def exported(points: Path, change=lambda features: features) -> Path:
    """Write what QuPath exports after a change of the features, and return its folder."""
    document = json.loads((points / "field.geojson").read_text())
    document["features"] = change(document["features"])
    folder = points.parent / "corrected"
    folder.mkdir()
    (folder / "field.geojson").write_text(json.dumps(through_qupath(document)))
    return folder


def test_points_survive_qupath(points):
    before = read_geojson(points / "field.geojson")
    after = read_geojson(exported(points) / "field.geojson")
    assert len(after.x) > 50
    assert not after.unknown_objects
    for name in ("x", "y", "cls"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_points_have_only_members_that_qupath_reads(points):
    document = json.loads((points / "field.geojson").read_text())
    for feature in document["features"]:
        assert set(feature) == {"type", "geometry", "properties"}
        properties = feature["properties"]
        assert properties["objectType"] in ("annotation", "detection")
        assert set(properties) <= {"objectType", "name", "classification", "isLocked", "measurements"}
        assert all(isinstance(value, float) for value in properties["measurements"].values())
        assert set(properties["classification"]) == {"name", "color"}
        assert all(0 <= channel <= 255 for channel in properties["classification"]["color"])


def test_counted_fields_survive_qupath_and_are_no_nuclei(run, points):
    before = read_geojson(points / "field.geojson")
    code, _, err = run(
        "count", points.parent / "field.png", "--hot-spot", 20, "--hot-spots", 2, "--geojson", points, "--force"
    )
    assert (code, err) == (0, "")
    folder = exported(points)
    polygons = [
        f for f in json.loads((folder / "field.geojson").read_text())["features"] if "isLocked" in f["properties"]
    ]
    assert len(polygons) == 2
    after = read_geojson(folder / "field.geojson")
    assert not after.unknown_objects
    assert not after.outlines.counted
    assert not len(after.outlines.unknown)
    np.testing.assert_array_equal(after.x, before.x)


def test_corrections_in_qupath_reach_compare_and_eval(run, points):
    before = read_geojson(points / "field.geojson")

    def correct(features):
        negative = next(f for f in features if f["properties"]["classification"]["name"] == "Negative")
        negative["properties"]["classification"] = {"name": "Positive", "color": [200, 0, 0]}
        removed = next(f for f in features if f["properties"]["classification"]["name"] == "Other")
        added = {
            "type": "Feature",
            "geometry": {"type": "MultiPoint", "coordinates": [[10.5, 20.5], [30.123, 40.456]]},
            "properties": {"objectType": "annotation", "classification": {"name": "Positive", "color": [200, 0, 0]}},
        }
        return [*(f for f in features if f is not removed), added]

    folder = exported(points, correct)
    cv2.imwrite(str(folder / "field.png"), cv2.imread(str(points.parent / "field.png")))
    counts, corrected = (
        np.bincount(cls, minlength=3) for cls in (before.cls, read_geojson(folder / "field.geojson").cls)
    )
    assert (corrected - counts).tolist() == [3, -1, -1]
    (field,) = read_fields(folder)
    assert len(field.x) == corrected.sum()
    code, out, _ = run("compare", points, folder, "--json", "-")
    assert code == 0
    (case,) = json.loads(out)["cases"]
    assert case["a"] == pytest.approx(counts[0] / counts[:2].sum())
    assert case["b"] == pytest.approx(corrected[0] / corrected[:2].sum())
    code, out, _ = run("eval", folder, "--json", "-")
    assert code == 0
    assert json.loads(out)["fields"]


@pytest.mark.parametrize("name", ["import_points.groovy", "export_points.groovy"])
def test_scripts_are_named_on_the_page_and_use_the_file_suffix_of_count(name):
    script = (SCRIPTS / name).read_text(encoding="utf-8")
    assert name in (SCRIPTS.parents[1] / "docs" / "qupath.md").read_text(encoding="utf-8")
    assert "'.geojson'" in script
    assert ("'score'" in script) == (name == "import_points.groovy")  # the measurement of count --geojson
