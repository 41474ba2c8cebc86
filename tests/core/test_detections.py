from __future__ import annotations

import csv
import io
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinet_trt.core.detections import CLASSES, COLOURS, OTHER_COLOUR, QUPATH_NAMES, Detections, Nucleus, nuclei_csv
from kinet_trt.core.errors import MissingExtraError
from kinet_trt.core.ki67 import Ki67
from kinet_trt.core.notice import NOTICE
from kinet_trt.io.points import read_table


def found_at(*rows, classes=CLASSES):
    """Return detections from (x, y, class index, score)."""
    x, y, cls, score = np.asarray(rows, float).reshape(-1, 4).T
    return Detections(*(a.astype(np.float32) for a in (x, y)), cls.astype(np.uint8), score.astype(np.float32), classes)


THREE = found_at((1, 2, 0, 0.9), (3.125, 4.5, 2, 0.51239), (5, 6.004, 1, 1))


def test_classes_have_a_colour_and_a_qupath_name():
    assert set(COLOURS) == set(QUPATH_NAMES) == set(CLASSES) == {"positive", "negative", "non_tumor"}
    assert OTHER_COLOUR not in COLOURS.values()


def test_detections_refuse_arrays_of_different_lengths():
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


def test_dab_stays_with_its_nuclei_and_is_only_written_if_measured():
    measured = replace(THREE, dab=np.array([0.1, -0.02, 0.70004], np.float32))
    assert measured[1:].dab.tolist() == measured.where(np.array([1, 2])).dab.tolist() == measured.dab[1:].tolist()
    joined = Detections.concatenate([Detections.empty(), measured, measured[:1]])
    np.testing.assert_array_equal(joined.dab, np.float32([0.1, -0.02, 0.70004, 0.1]))
    assert [record["dab_od"] for record in measured.records()] == [0.1, -0.02, 0.7]
    assert [{k: v for k, v in record.items() if k != "dab_od"} for record in measured.records()] == THREE.records()
    assert all("dab_od" not in record for record in THREE.records())
    header, first, *_ = measured.to_csv().splitlines()
    assert (header, first) == ("x,y,class,score,dab_od", "1.0,2.0,positive,0.9,0.1")
    assert [feature["properties"]["measurements"] for feature in measured.features()][1] == {
        "score": 0.5124,
        "Nucleus: DAB OD mean": -0.02,
    }
    assert json.loads(measured.to_json())["detections"] == measured.records()


def test_dab_of_some_nuclei_only_is_refused():
    measured = replace(THREE, dab=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="expected dab of all nuclei or of none, found it of 3 of 6"):
        Detections.concatenate([measured, THREE])
    with pytest.raises(ValueError, match="score and dab: expected one length"):
        replace(THREE, dab=np.zeros(2, np.float32))


def test_indexing_gives_a_nucleus_or_detections():
    first, last = THREE[0], THREE[-1]
    assert (first.x, first.y, first.class_name, first.score) == (1, 2, "positive", pytest.approx(0.9))
    assert last == THREE[np.int64(2)] == Nucleus(5.0, pytest.approx(6.004), "negative", 1.0)
    assert [nucleus.class_name for nucleus in THREE] == ["positive", "non_tumor", "negative"]
    assert THREE[1:].x.tolist() == [3.125, 5]
    assert THREE[THREE.cls == 2].counts() == {"positive": 0, "negative": 0, "non_tumor": 1}
    with pytest.raises(IndexError):
        THREE[3]


def test_where_takes_a_mask_or_an_order():
    assert THREE.where(THREE.score > 0.6).x.tolist() == [1, 5]
    turned = THREE.where(np.asarray([2, 0]))
    assert turned.x.tolist() == [5, 1]
    assert turned.cls.tolist() == [1, 0]
    assert len(THREE.where(np.zeros(3, bool))) == 0
    assert found_at((0, 0, 0, 1), classes=("z",)).where(np.ones(1, bool)).classes == ("z",)


def test_concatenate_joins_parts_of_the_same_classes():
    both = Detections.concatenate(iter([THREE, Detections.empty(), THREE[:1]]))
    assert both.records() == [*THREE.records(), THREE.records()[0]]
    assert (both.x.dtype, both.cls.dtype) == (np.float32, np.uint8)
    with pytest.raises(ValueError, match="same classes, found"):
        Detections.concatenate([THREE, Detections.empty(("a",))])
    with pytest.raises(ValueError, match=r"same classes, found \[\]"):
        Detections.concatenate([])


def test_xy_and_ki67_are_those_of_the_nuclei():
    assert THREE.xy.tolist() == [[1, 2], [3.125, 4.5], [5, np.float32(6.004)]]
    assert THREE.xy.dtype == np.float32
    assert THREE.ki67 == Ki67(1, 2)
    assert Detections.empty().ki67.index is None


def test_writers_return_the_text_that_they_write(tmp_path):
    for name in ("csv", "geojson", "json"):
        path = tmp_path / "new" / f"nuclei.{name}"
        assert getattr(THREE, f"to_{name}")(path) == path.read_text("utf-8") == getattr(THREE, f"to_{name}")(str(path))
    assert THREE.to_csv().splitlines()[:2] == ["x,y,class,score", "1.0,2.0,positive,0.9"]
    assert THREE.geojson() == THREE.to_geojson()
    document = json.loads(THREE.to_json())
    assert document["detections"] == THREE.records()
    assert (document["counts"], document["ki67_index"]) == (THREE.counts(), 0.5)
    assert json.loads(Detections.empty().to_json())["interval"] is None
    marked = read_table(tmp_path / "new" / "nuclei.csv").nuclei(tmp_path / "a.png", lambda: None)
    assert marked.x.tolist() == [1.0, np.float32(3.12), 5.0]
    assert [CLASSES[c] for c in marked.cls] == [nucleus.class_name for nucleus in THREE]


def test_to_dataframe_has_a_row_for_each_nucleus():
    frame = THREE.to_dataframe()
    assert frame.columns.tolist() == ["x", "y", "class", "score"]
    assert frame["class"].tolist() == ["positive", "non_tumor", "negative"]
    assert frame.groupby("class", observed=False).size().to_dict() == THREE.counts()
    assert len(Detections.empty().to_dataframe()) == 0


def test_to_dataframe_and_plot_name_the_extra_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"kinet-trt\[pandas\]"):
        THREE.to_dataframe()
    with pytest.raises(MissingExtraError, match=r"kinet-trt\[eval\]"):
        THREE.plot()


def test_plot_draws_each_class_in_its_colour_at_its_place():
    from matplotlib.figure import Figure

    image = np.full((10, 12, 3), 240, np.uint8)
    ax = THREE.plot(image, Figure().subplots())
    positive, negative, other = ax.collections
    assert positive.get_offsets().tolist() == [[1, 2]]
    assert negative.get_edgecolors()[0][:3] == pytest.approx(np.array(COLOURS["negative"]) / 255)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["positive: 1", "negative: 1", "non-tumour: 1"]
    assert ax.get_xlabel() == NOTICE
    assert len(other.get_offsets()) == 1
    assert THREE.plot(ax=Figure().subplots()).yaxis_inverted()


def test_records_round_px_to_2_and_scores_to_4_decimals():
    assert THREE.records() == [
        {"x": 1.0, "y": 2.0, "class": "positive", "score": 0.9},
        {"x": 3.12, "y": 4.5, "class": "non_tumor", "score": 0.5124},
        {"x": 5.0, "y": 6.0, "class": "negative", "score": 1.0},
    ]
    json.dumps(THREE.records())


def test_geojson_is_what_qupath_imports_half_a_pixel_to_the_right_and_down():
    collection = json.loads(THREE.to_geojson())
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
    assert json.loads(Detections.empty().to_geojson()) == {"type": "FeatureCollection", "features": []}
    odd = json.loads(found_at((0, 0, 0, 1), classes=("lymphocyte µ",)).to_geojson())["features"][0]
    assert odd["properties"]["classification"] == {"name": "lymphocyte µ", "color": list(OTHER_COLOUR)}


def test_geojson_clips_a_score_that_overflowed_in_half_precision():
    # The peak rule accepts +inf.
    features = json.loads(found_at((1, 2, 0, math.inf)).to_geojson())["features"]
    assert len(features) == 1


def test_nuclei_csv_is_one_table_of_several_images():
    text = nuclei_csv([("a.png", THREE), ("empty.png", Detections.empty()), ("b.png", found_at((7, 8, 1, 0.5)))])
    assert text.splitlines() == [
        "image,x,y,class,score",
        "a.png,1.0,2.0,positive,0.9",
        "a.png,3.12,4.5,non_tumor,0.5124",
        "a.png,5.0,6.0,negative,1.0",
        "b.png,7.0,8.0,negative,0.5",
    ]
    assert text.endswith("\n")
    assert "\r" not in text
    assert nuclei_csv([]) == "image,x,y,class,score\n"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(name=st.text(min_size=1, max_size=20).filter(lambda name: "\r" not in name and "\0" not in name))
def test_nuclei_csv_keeps_any_image_name(name):
    (row,) = csv.DictReader(io.StringIO(nuclei_csv([(name, found_at((1, 2, 0, 1)))]), newline=""))
    assert row == {"image": name, "x": "1.0", "y": "2.0", "class": "positive", "score": "1.0"}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.floats(-1, 1e5, width=32), st.floats(-1, 1e5, width=32), st.integers(0, 2), st.floats(0, 2)),
        max_size=20,
    )
)
def test_records_geojson_and_csv_hold_the_same_nuclei(rows):
    found = found_at(*rows)
    records = found.records()
    features = json.loads(found.to_geojson())["features"]
    table = list(csv.DictReader(io.StringIO(nuclei_csv([("i", found)]))))
    assert len(records) == len(features) == len(table) == len(rows) == sum(found.counts().values())
    for record, feature, line, (x, y, c, _) in zip(records, features, table, rows, strict=True):
        assert (record["x"], record["y"]) == pytest.approx((x, y), abs=0.0051)
        assert feature["geometry"]["coordinates"] == pytest.approx([x + 0.5, y + 0.5], abs=0.0101)
        assert (float(line["x"]), float(line["y"])) == (record["x"], record["y"])
        assert line["class"] == record["class"] == CLASSES[c]


def test_repr_is_one_short_line():
    many = Detections(*(np.zeros(10_000, t) for t in (np.float32, np.float32, np.uint8, np.float32)))
    assert repr(many) == "Detections(10000 nuclei: 10000 positive, 0 negative, 0 non-tumour)"
