"""GeoJSON of count, of QuPath, and drawn by people."""

from __future__ import annotations

import gzip
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.frame import Frame
from kinet_trt.datasets.labelled import read_fields
from kinet_trt.inference.counter import Threshold
from kinet_trt.io.geojson import NEGATIVE, NON_TUMOR, POSITIVE, UNKNOWN_REACH, nucleus_class, read_areas, read_geojson
from kinet_trt.live.session.export import write_geojson
from kinet_trt.live.session.records import Model
from kinet_trt.live.session.region import polygon
from kinet_trt.live.session.session import OpenSession
from kinet_trt.live.session.store import Store
from kinet_trt.models.card import ModelCard
from kinet_trt.simulation import simulate


def feature(kind, coordinates, name=None, objects="annotation", properties=(), **rest):
    classification = {} if name is None else {"classification": {"name": name, "color": [1, 2, 3]}}
    return {
        "type": "Feature",
        "id": "5f0c2a8e-0000-4000-8000-000000000000",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": objects, **classification, **dict(properties)},
        **rest,
    }


def square(left, top, side):
    corners = [[left, top], [left + side, top], [left + side, top + side], [left, top + side], [left, top]]
    return [[[float(v) for v in corner] for corner in corners]]


def read(path, *features, collection=True):
    document = {"type": "FeatureCollection", "features": list(features)} if collection else list(features)
    path = path / "field.geojson"
    path.write_text(json.dumps(document))
    return read_geojson(path)


def nuclei(marked):
    return sorted(zip(marked.x.tolist(), marked.y.tolist(), marked.cls.tolist(), strict=True))


# --- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        *(("Positive", POSITIVE), ("positive", POSITIVE), ("Tumor: Positive", POSITIVE), ("Positive tumour", POSITIVE)),
        *(("2+", POSITIVE), ("Ki67+", POSITIVE), ("Ki-67 positive", POSITIVE), ("Immunopositive", POSITIVE)),
        *(("Ki67 +", POSITIVE), ("Ki67 -", NEGATIVE), ("Tumor - Positive", POSITIVE), ("Tumor (-)", NEGATIVE)),
        *(("Negative", NEGATIVE), ("Tumor: Negative", NEGATIVE), ("immunonegative tumor nuclei", NEGATIVE)),
        *(("Other", NON_TUMOR), ("non_tumor", NON_TUMOR), ("Non-tumour", NON_TUMOR), ("Stroma", NON_TUMOR)),
        *(("Immune cells", NON_TUMOR), ("Immune cells: Positive", NON_TUMOR), ("Stroma: Negative", NON_TUMOR)),
        *(("Lymphocytes", NON_TUMOR), ("Normal", NON_TUMOR)),
        *(("Tumor", None), ("", None), ("Mitosis", None), ("Necrosis: Positive", None), ("Positive: Negative", None)),
        *(("Tumor: Other", None), ("not positive", None)),
    ],
)
def test_nucleus_class_knows_common_names(name, cls):
    assert nucleus_class(name) == cls


@given(st.text(max_size=40))
def test_nucleus_class_of_any_name_is_a_class_or_none(name):
    assert nucleus_class(name) in (None, 0, 1, 2)


# --- nuclei -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 5000, width=32), st.floats(0, 5000, width=32), st.integers(0, 2)), max_size=30))
def test_read_geojson_reads_the_output_of_count(tmp_path_factory, points):
    x, y, cls = (np.array([p[i] for p in points], t) for i, t in enumerate((np.float32, np.float32, np.uint8)))
    path = tmp_path_factory.mktemp("g") / "a.geojson"
    path.write_text(Detections(x, y, cls, np.ones(len(x), np.float32)).to_geojson())
    marked = read_geojson(path)
    np.testing.assert_allclose(marked.x, x, atol=0.011)
    np.testing.assert_allclose(marked.y, y, atol=0.011)
    np.testing.assert_array_equal(marked.cls, cls)
    assert (marked.x.dtype, marked.y.dtype, marked.cls.dtype) == (np.float32, np.float32, np.uint8)
    assert not marked.outlines.has_exclusions


def test_multi_points_are_nuclei_of_their_class(tmp_path):
    marked = read(
        tmp_path,
        feature("MultiPoint", [[10.5, 20.5], [30.75, 40.25]], "Positive"),
        feature("MultiPoint", [[1.5, 2.5, 0.0]], "Other"),
        feature("Point", [7.5, 8.5], "Negative"),
    )
    assert nuclei(marked) == [(1, 2, NON_TUMOR), (7, 8, NEGATIVE), (10, 20, POSITIVE), (30.25, 39.75, POSITIVE)]


@pytest.mark.parametrize("collection", [True, False])
def test_cells_become_the_centroids_of_their_nuclei(tmp_path, collection):
    nucleus = {"type": "Polygon", "coordinates": square(11, 21, 4)}
    marked = read(
        tmp_path,
        feature("Polygon", square(0, 0, 20), "Tumor: Positive", "cell", nucleusGeometry=nucleus),
        feature("Polygon", square(100, 50, 10), "Negative", "detection"),
        feature("Polygon", [[*square(60, 60, 9)[0][:2], [69, 69]]], "Other", "cell"),  # the ring is not closed
        collection=collection,
    )
    expected = [(12.5, 22.5, POSITIVE), (65.5, 62.5, NON_TUMOR), (104.5, 54.5, NEGATIVE)]
    assert nuclei(marked) == pytest.approx(np.array(expected))
    assert not marked.outlines.has_exclusions


def test_derived_classes_are_read_from_every_version_of_qupath(tmp_path):
    new, old = feature("Point", [1, 1]), feature("Point", [2, 2])
    new["properties"]["classification"] = {"names": ["Tumor", "Positive"], "color": [200, 0, 0]}
    old["properties"] = {"classification": {"name": "Tumor: Negative", "colorRGB": -9408287}, "isLocked": False}
    old["id"] = "PathAnnotationObject"
    cell = feature("Polygon", square(4, 4, 100), "Positive")
    del cell["properties"]["objectType"]
    cell["id"] = "PathCellObject"
    assert [cls for *_, cls in nuclei(read(tmp_path, new, old, cell))] == [POSITIVE, NEGATIVE, POSITIVE]


def test_outlined_nuclei_become_centroids_and_large_outlines_areas(tmp_path):
    marked = read(
        tmp_path,
        feature("Polygon", square(100, 100, 20), "Positive"),
        feature("Polygon", square(200, 100, 20), "Other"),
        feature("Polygon", square(300, 100, 200), "Other"),
    )
    assert nuclei(marked) == [(109.5, 109.5, POSITIVE), (209.5, 109.5, NON_TUMOR)]
    assert len(marked.outlines.other) == 1


def test_unknown_objects_are_logged_and_excluded_with_their_area(tmp_path, caplog):
    marked = read(
        tmp_path,
        feature("MultiPoint", [[50.5, 50.5], [90.5, 50.5]], "Mitosis"),
        feature("Point", [70.5, 90.5]),
        feature("Point", [10.5, 10.5], "Positive"),
        feature("LineString", [[0, 0], [5, 5]], "Positive"),
        feature("Polygon", square(0, 200, 90), "Positive"),
        feature("Polygon", square(120, 100, 20)),  # a nucleus without a class, not a region of 20 px
    )
    assert nuclei(marked) == [(10, 10, POSITIVE)]
    said = caplog.text
    for part in ("2 x nucleus of the class 'Mitosis'", "2 x nucleus without a class", "1 x line", "area of the class"):
        assert part in said
    assert sum(marked.unknown_objects.values()) == 6
    mask = marked.outlines.counted_mask(300, 160)
    assert not mask[201:289, 1:89].any()
    assert not mask[50, 50]
    assert not mask[50, 90 + UNKNOWN_REACH - 1]
    assert not mask[90, 70]
    assert not mask[109, 129]
    assert mask[10, 10]
    assert mask[50, 90 + UNKNOWN_REACH + 2]


def test_known_objects_are_not_logged(tmp_path, caplog):
    read(tmp_path, feature("Point", [1, 1], "Positive"), feature("Polygon", square(0, 0, 500), "Region*"))
    assert not caplog.text


def outlined(path, mpp, side=60):
    path = path / "field.geojson"
    path.write_text(json.dumps([feature("Polygon", square(100, 100, side), "Positive")]))
    return read_geojson(path, lambda: mpp)


@pytest.mark.parametrize(("mpp", "nuclei_found"), [(0.1, 1), (None, 0), (0.34, 0), (0.28, 1)])
def test_outlined_nuclei_are_limited_in_um(tmp_path, mpp, nuclei_found, caplog):
    marked = outlined(tmp_path, mpp)
    assert len(marked.x) == nuclei_found
    # A large outline is not background either.
    assert marked.outlines.counted_mask(200, 200)[130, 130] == bool(nuclei_found)
    assert bool(caplog.text) == (not nuclei_found)


@pytest.mark.parametrize("where", ["properties", "children", "top"])
def test_nested_objects_are_read_once(tmp_path, where):
    children = [
        feature("Point", [10.5, 20.5], "Positive", "detection", id="a"),
        feature("Point", [30.5, 40.5], "Negative", "detection", id="b"),
    ]
    parent = feature("Polygon", square(0, 0, 200), id="p")
    holder = parent if where == "top" else parent["properties"]
    holder["children" if where == "children" else "childObjects"] = children
    for objects in ([parent], [parent, *children]):
        marked = read(tmp_path, *objects, collection=False)
        assert nuclei(marked) == [(10, 20, POSITIVE), (30, 40, NEGATIVE)]
        assert len(marked.outlines.counted) == 1
    (tmp_path / "one.geojson").write_text(json.dumps(parent))
    assert len(read_geojson(tmp_path / "one.geojson").x) == 2


def test_deeply_nested_objects_are_read(tmp_path):
    inner = feature("Point", [10.5, 20.5], "Positive", id="deep")
    for depth in range(50):
        inner = feature("Polygon", square(0, 0, 200 + depth), id=str(depth), properties={"childObjects": [inner]})
    assert len(read(tmp_path, inner).x) == 1


def test_tma_cores_are_counted_areas(tmp_path, caplog):
    root = {"type": "Feature", "geometry": None, "properties": {"objectType": "root"}}
    core, missing = (feature("Polygon", square(left, 0, 80), "Region*", "tmaCore") for left in (0, 100))
    missing["properties"]["isMissing"] = True
    root["properties"]["childObjects"] = [core, missing]
    mask = read(tmp_path, root, feature("Point", [10, 10], "Positive")).outlines.counted_mask(100, 200)
    assert mask[40, 40]
    assert not mask[40, 140]
    assert not caplog.text


def test_name_serves_as_the_class_if_there_is_none(tmp_path, caplog):
    named, other = feature("MultiPoint", [[10.5, 20.5]]), feature("Polygon", square(0, 0, 90))
    named["properties"]["name"], other["properties"]["name"] = "Positive", "Core A-3"
    marked = read(tmp_path, named, other)
    assert nuclei(marked) == [(10, 20, POSITIVE)]
    assert len(marked.outlines.counted) == 1
    assert not caplog.text


@pytest.mark.parametrize("suffix", [".geojson.gz", ".geojson.zip", ".zip", ".json"])
def test_compressed_exports_are_read(tmp_path, suffix):
    content = json.dumps([feature("Point", [1.5, 2.5], "Positive")]).encode()
    path = tmp_path / f"a{suffix}"
    if suffix.endswith("zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.geojson", content)
    else:
        path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    assert nuclei(read_geojson(path)) == [(1, 2, POSITIVE)]


@pytest.mark.parametrize("suffix", [".geojson.gz", ".zip"])
@pytest.mark.parametrize("content", [b"", b"no archive", gzip.compress(b"[]" * 100, mtime=0)[:20]])
def test_damaged_archive_is_one_error(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(KinetError, match=r"a\..*cannot be read as GeoJSON"):
        read_geojson(path)


# --- areas ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "Region*", "ROI", "Counted"])
def test_counted_areas_limit_the_labelled_area(tmp_path, name):
    marked = read(tmp_path, feature("Polygon", square(10, 20, 60), name), feature("Point", [20, 30], "Positive"))
    mask = marked.outlines.counted_mask(100, 90)
    expected = np.zeros((100, 90), bool)
    expected[20:80, 10:70] = True
    assert mask.shape == expected.shape
    assert (mask != expected).sum() <= 4 * 61  # OpenCV draws the outline too
    assert mask[20:80, 10:70].all()
    assert marked.outlines.regions(100, 90) is None


def test_counted_mask_with_holes_parts_and_ignored_areas(tmp_path):
    ring, hole = square(0, 0, 60)[0], square(20, 20, 20)[0]
    marked = read(
        tmp_path,
        feature("MultiPolygon", [[ring, hole], square(80, 0, 60)], "Region*"),
        feature("Polygon", square(90, 10, 20), "Ignore*"),
    )
    mask = marked.outlines.counted_mask(64, 150)
    assert mask[10, 10]
    assert not mask[30, 30]
    assert mask[50, 100]
    assert not mask[20, 100]
    assert not mask[30, 70]


def test_merged_annotations_of_nuclei_stay_nuclei(tmp_path):
    nuclei = [square(40 * i, 0, 20) for i in range(30)]
    marked = read(tmp_path, feature("MultiPolygon", nuclei, "Negative"))
    assert len(marked.x) == 30
    assert not marked.unknown_objects


def test_tumour_and_stroma_do_not_limit_the_labelled_area(tmp_path):
    marked = read(
        tmp_path,
        feature("Polygon", square(0, 0, 60), "Tumor"),
        feature("Polygon", square(50, 0, 60), "Stroma"),
    )
    assert marked.outlines.counted_mask(60, 120).all()
    tumor, known = marked.outlines.regions(60, 120)
    assert tumor[30, 20]
    assert known[30, 20]
    assert not tumor[30, 90]
    assert known[30, 90]
    assert not known[30, 55]  # tumour and other tissue
    assert not known[30, 115]
    assert not (tumor & ~known).any()


def test_outlines_with_distant_corners_fill_the_part_inside(tmp_path):
    far = [[[-1e12, -1e12], [1e12, -1e12], [1e12, 1e12], [-1e12, 1e12]]]
    marked = read(tmp_path, feature("Polygon", far, "Region*"), feature("Point", [1e30, 5], "Mitosis"))
    assert marked.outlines.counted_mask(40, 40).all()


# --- files that are none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"x,y,class",
        b"[" * 100_000,
        b"3",
        b'{"type": "FeatureCollection"}',
        b'{"features": 5}',
        b'{"features": [5]}',
        b'[{"type": "Feature", "geometry": {"type": "Point", "coordinates": [NaN, 1]}, "properties": {}}]',
        b'[{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1e300, 1]}, "properties": {}}]',
        b'[{"type": "Feature", "geometry": {"type": "Point", "coordinates": ["a", 1]}, "properties": {}}]',
        b'[{"type": "Feature", "geometry": {"type": "Point", "coordinates": 7}, "properties": {}}]',
        b'[{"type": "Feature", "geometry": {"type": "MultiPoint", "coordinates": [[1]]}, "properties": {}}]',
        b'[{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[1, 2]]}, "properties": {}}]',
        b'[{"type": "Feature", "geometry": {"type": "GeometryCollection"}, "properties": {}}]',
        b'[{"type": "Feature", "geometry": [], "properties": 5}]',
        b'[{"type": "Feature", "properties": {"classification": {"name": 5}}}]',
        b'[{"type": "Feature", "properties": {"classification": "Positive"}}]',
        b'[{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1'
        + b"0" * 400
        + b', 1]}, "properties": {}}]',
    ],
)
def test_other_file_is_one_error(tmp_path, content):
    (tmp_path / "a.geojson").write_bytes(content)
    with pytest.raises(KinetError, match=r"a\.geojson"):
        read_geojson(tmp_path / "a.geojson")


def test_missing_file_is_one_error(tmp_path):
    with pytest.raises(KinetError, match=r"a\.geojson: cannot be read"):
        read_geojson(tmp_path / "a.geojson")


@pytest.mark.parametrize("content", ['{"type": "FeatureCollection", "features": []}', "[]"])
def test_empty_collection_has_no_nuclei(tmp_path, content):
    (tmp_path / "a.geojson").write_text(content)
    assert len(read_geojson(tmp_path / "a.geojson").x) == 0


def test_exported_session_is_read_as_fields(tmp_path):
    card = ModelCard("test", 0.34, (0.5,) * 3, (0.2,) * 3, 0.3, model_sha256="ab" * 32)
    found = Detections(
        np.array([20, 150, 250], np.float32),
        np.array([20, 60, 10], np.float32),
        np.arange(3, dtype=np.uint8),
        np.ones(3),
    )
    pixels, _ = simulate.field(3, 300, 120)
    with Store.open(tmp_path / "s.kinet") as store:
        session = OpenSession(store, store.sessions.create("s", "reader").id)
        session.store.fields.capture(
            session.id,
            Frame(pixels),
            found,
            model=Model(card, "a runtime", "fp32"),
            threshold=Threshold(0.3),
            mpp=0.5,
            mpp_source="option",
            region=polygon([[5, 5], [200, 9], [200, 110], [5, 100]]),
        )
        write_geojson(store, session.count(), tmp_path / "out")
    (field,) = read_fields(tmp_path / "out")
    np.testing.assert_array_equal(field.pixels(), pixels)
    assert (field.x.tolist(), field.cls.tolist()) == ([20, 150, 250], [0, 1, 2])
    mask = field.counted_mask()
    assert (mask[60, 150], mask[10, 250]) == (True, False)


@pytest.mark.parametrize("name", ["Blood", "glass", "Empty", "Whitespace", "Red blood cell", "Pigment", "Debris"])
def test_areas_without_nuclei(tmp_path, name):
    outlines = read(tmp_path, feature("Polygon", square(10, 0, 60), name)).outlines
    empty = outlines.empty_mask(60, 100)
    assert empty[30, 40]
    assert not empty[30, 80]
    assert not outlines.has_exclusions
    assert outlines.regions(60, 100) is None


def test_read_regions_returns_areas_of_any_size(tmp_path):
    path = tmp_path / "a.regions.geojson"
    features = [feature("Polygon", square(10, 10, 6), "Stroma"), feature("Polygon", square(30, 10, 6), "Tumor")]
    path.write_text(json.dumps(features))
    assert len(read_geojson(path).x) == 1  # of the size of a nucleus
    tumor, known = read_areas(path).regions(30, 50)
    assert (tumor[12, 33], known[12, 33], tumor[12, 13], known[12, 13], known[12, 23]) == (
        True,
        True,
        False,
        True,
        False,
    )


@pytest.mark.parametrize("name", ["Positive", "Mitosis"])
def test_read_regions_refuses_nuclei(tmp_path, name):
    path = tmp_path / "a.regions.geojson"
    path.write_text(json.dumps([feature("Point", [3, 4], name), feature("Polygon", square(0, 0, 60), "Tumor")]))
    with pytest.raises(KinetError, match="expected areas, found 1 points or detections"):
        read_areas(path)
