from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinet_trt.core.detections import CLASSES, COLOURS, OTHER_COLOUR, QUPATH_NAMES, Detections, to_csv


def found_at(*rows, classes=CLASSES):
    """Detections from (x, y, class index, score)."""
    x, y, cls, score = np.asarray(rows, float).reshape(-1, 4).T
    return Detections(*(a.astype(np.float32) for a in (x, y)), cls.astype(np.uint8), score.astype(np.float32), classes)


THREE = found_at((1, 2, 0, 0.9), (3.125, 4.5, 2, 0.51239), (5, 6.004, 1, 1))


def test_every_class_has_a_colour_and_a_qupath_name():
    assert set(COLOURS) == set(QUPATH_NAMES) == set(CLASSES) == {"positive", "negative", "non_tumor"}
    assert OTHER_COLOUR not in COLOURS.values()


def test_arrays_of_different_lengths_are_refused():
    one, two = np.zeros(1, np.float32), np.zeros(2, np.float32)
    with pytest.raises(ValueError, match=r"expected one length, found \[1, 2\]"):
        Detections(one, one, np.zeros(2, np.uint8), two)


def test_counts_have_zeros_and_the_order_of_the_classes():
    assert list(THREE.counts().items()) == [("positive", 1), ("negative", 1), ("non_tumor", 1)]
    assert found_at((0, 0, 1, 1), (1, 0, 1, 1), classes=("b", "a")).counts() == {"b": 0, "a": 2}
    assert Detections.empty().counts() == dict.fromkeys(CLASSES, 0)
    assert all(type(n) is int for n in THREE.counts().values())  # JSON


def test_empty_has_no_nuclei_and_the_right_types():
    none = Detections.empty(("a", "b"))
    assert len(none) == 0
    assert (none.x.dtype, none.y.dtype, none.cls.dtype, none.score.dtype) == (np.float32, np.float32, np.uint8, "f4")
    assert none.classes == ("a", "b")
    assert none.records() == []


def test_where_takes_a_mask_or_an_order():
    assert THREE.where(THREE.score > 0.6).x.tolist() == [1, 5]
    turned = THREE.where(np.asarray([2, 0]))
    assert turned.x.tolist() == [5, 1]
    assert turned.cls.tolist() == [1, 0]
    assert len(THREE.where(np.zeros(3, bool))) == 0
    assert found_at((0, 0, 0, 1), classes=("z",)).where(np.ones(1, bool)).classes == ("z",)


def test_records_round_px_to_2_and_scores_to_4_decimals():
    assert THREE.records() == [
        {"x": 1.0, "y": 2.0, "class": "positive", "score": 0.9},
        {"x": 3.12, "y": 4.5, "class": "non_tumor", "score": 0.5124},
        {"x": 5.0, "y": 6.0, "class": "negative", "score": 1.0},
    ]
    json.dumps(THREE.records())


def test_geojson_is_what_qupath_imports_half_a_pixel_to_the_right_and_down():
    collection = json.loads(THREE.geojson())
    assert collection["type"] == "FeatureCollection"
    assert [feature["geometry"] for feature in collection["features"]] == [
        {"type": "Point", "coordinates": [1.5, 2.5]},
        {"type": "Point", "coordinates": [3.62, 5.0]},
        {"type": "Point", "coordinates": [5.5, 6.5]},
    ]
    first = collection["features"][0]
    assert first["type"] == "Feature"
    assert first["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "Positive", "color": [230, 40, 40]},
        "measurements": {"score": 0.9},
    }
    names = [feature["properties"]["classification"]["name"] for feature in collection["features"]]
    assert names == ["Positive", "Other", "Negative"]


def test_geojson_of_nothing_and_of_unknown_classes():
    assert json.loads(Detections.empty().geojson()) == {"type": "FeatureCollection", "features": []}
    odd = json.loads(found_at((0, 0, 0, 1), classes=("lymphocyte µ",)).geojson())["features"][0]
    assert odd["properties"]["classification"] == {"name": "lymphocyte µ", "color": list(OTHER_COLOUR)}


def test_a_score_that_overflowed_in_half_precision_does_not_stop_the_geojson():
    # The peak rule lets +inf be a nucleus.
    features = json.loads(found_at((1, 2, 0, math.inf)).geojson())["features"]
    assert len(features) == 1


def test_csv_is_one_table_of_several_images():
    text = to_csv([("a.png", THREE), ("empty.png", Detections.empty()), ("b.png", found_at((7, 8, 1, 0.5)))])
    assert text.splitlines() == [
        "image,x,y,class,score",
        "a.png,1.0,2.0,positive,0.9",
        "a.png,3.12,4.5,non_tumor,0.5124",
        "a.png,5.0,6.0,negative,1.0",
        "b.png,7.0,8.0,negative,0.5",
    ]
    assert text.endswith("\n")
    assert "\r" not in text
    assert to_csv([]) == "image,x,y,class,score\n"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(name=st.text(min_size=1, max_size=20).filter(lambda name: "\r" not in name and "\0" not in name))
def test_csv_gives_any_image_name_back(name):
    (row,) = csv.DictReader(io.StringIO(to_csv([(name, found_at((1, 2, 0, 1)))]), newline=""))
    assert row == {"image": name, "x": "1.0", "y": "2.0", "class": "positive", "score": "1.0"}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.floats(-1, 1e5, width=32), st.floats(-1, 1e5, width=32), st.integers(0, 2), st.floats(0, 2)),
        max_size=20,
    )
)
def test_all_three_files_tell_of_the_same_nuclei(rows):
    found = found_at(*rows)
    records = found.records()
    features = json.loads(found.geojson())["features"]
    table = list(csv.DictReader(io.StringIO(to_csv([("i", found)]))))
    assert len(records) == len(features) == len(table) == len(rows) == sum(found.counts().values())
    for record, feature, line, (x, y, c, _) in zip(records, features, table, rows, strict=True):
        assert (record["x"], record["y"]) == pytest.approx((x, y), abs=0.0051)
        assert feature["geometry"]["coordinates"] == pytest.approx([x + 0.5, y + 0.5], abs=0.0101)
        assert (float(line["x"]), float(line["y"])) == (record["x"], record["y"])
        assert line["class"] == record["class"] == CLASSES[c]


def test_the_repr_is_one_short_line():
    many = Detections(*(np.zeros(10_000, t) for t in (np.float32, np.float32, np.uint8, np.float32)))
    assert repr(many) == "Detections(10000 nuclei: 10000 positive, 0 negative, 0 non-tumour)"
