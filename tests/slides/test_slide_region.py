"""Where to count: areas of QuPath."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet_trt.core.errors import KinetError
from kinet_trt.slides.region import Region, read_region


def area(name, *rings):
    properties = {"objectType": "annotation"}
    if name is not None:
        properties["classification"] = {"name": name}
    geometry = {"type": "Polygon", "coordinates": [[list(p) for p in ring] + [list(ring[0])] for ring in rings]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def written(path, *features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


SQUARE = ((100, 100), (300, 100), (300, 300), (100, 300))


def test_half_a_px_of_qupath_is_taken_off_and_holes_are_left_out(tmp_path):
    hole = ((150, 150), (200, 150), (200, 200), (150, 200))
    region = read_region(written(tmp_path / "a.geojson", area(None, SQUARE, hole)))
    x = np.array([99, 100, 299, 300, 149, 150, 199, 200])
    assert region.contains(x, np.full(8, 175)).tolist() == [False, True, True, False, True, False, False, True]


def test_which_areas_count(tmp_path):
    left, right = SQUARE, tuple((x + 400, y) for x, y in SQUARE)
    places = np.array([200.0, 600.0]), np.array([200.0, 200.0])
    for features, expected in (
        ([area(None, left), area("Tumor", right)], [True, False]),
        ([area("Region*", left), area(None, right)], [True, True]),
        ([area("Tumor", right), area("Stroma", left)], [False, True]),
        ([area(None, left), area(None, right), area("Ignore*", left)], [False, True]),
    ):
        assert read_region(written(tmp_path / "a.geojson", *features)).contains(*places).tolist() == expected
    with pytest.raises(KinetError, match=r"annotations without a class.*found 1 regions of other tissue\. Draw"):
        read_region(written(tmp_path / "a.geojson", area("Stroma", left)))
    with pytest.raises(KinetError, match=r"annotations without a class.*found no objects\. Draw"):
        read_region(written(tmp_path / "a.geojson"))
    with pytest.raises(KinetError, match="cannot be read as GeoJSON"):
        read_region(tmp_path / "absent.geojson")


def test_the_cores_of_a_tma_are_areas_and_areas_may_lie_inside_others(tmp_path):
    right = tuple((x + 400, y) for x, y in SQUARE)
    cores = area(None, SQUARE), area(None, right)
    for core in cores:
        core["properties"]["objectType"] = "tmaCore"
    places = np.array([200.0, 600.0]), np.array([200.0, 200.0])
    assert read_region(written(tmp_path / "a.geojson", *cores)).contains(*places).tolist() == [True, True]
    cores[1]["properties"]["isMissing"] = True
    assert read_region(written(tmp_path / "a.geojson", *cores)).contains(*places).tolist() == [True, False]
    root = area("Stroma", SQUARE)
    root["properties"]["childObjects"] = [area("Region*", right)]
    (tmp_path / "b.geojson").write_text(json.dumps(root))
    assert read_region(tmp_path / "b.geojson").contains(*places).tolist() == [False, True]


corner = st.tuples(st.integers(0, 80), st.integers(0, 80))


@given(ring=st.lists(corner, min_size=3, max_size=12, unique=True), cell=st.sampled_from([1.0, 3.7, 8.0]))
def test_holds_is_the_even_odd_rule_and_touched_misses_no_cell_of_it(ring, cell):
    region = Region(((np.array(ring, float) + 0.25,),))
    x, y = (a.ravel().astype(float) for a in np.meshgrid(np.arange(82), np.arange(82)))
    held = region.contains(x, y)
    filled = np.zeros((82 * 4, 82 * 4), np.uint8)
    cv2.fillPoly(filled, [(np.array(ring) * 4 + 1).astype(np.int32)], (1,))
    # OpenCV fills the outline too: what it leaves empty is outside.
    outside = filled[(y * 4).astype(int), (x * 4).astype(int)] == 0
    assert not (held & outside).any()
    size = int(82 / cell) + 1
    touched = region.touched_pixels(size, size, cell)
    rows, columns = ((v[held] + 0.5) // cell for v in (y, x))
    assert touched[rows.astype(int), columns.astype(int)].all()


def test_the_hash_is_of_the_corners():
    ring = np.array(SQUARE, float)
    one = Region(((ring,),))
    assert one.sha256 == Region(((ring.copy(),),)).sha256
    others = [
        Region(((ring + 1e-6,),)),
        Region(((ring,), (ring,))),
        Region(((ring,),), ((ring,),)),
        Region(((ring, ring),)),
    ]
    assert len({one.sha256, *(other.sha256 for other in others)}) == 5
    with pytest.raises(KinetError, match="at least one polygon"):
        Region(())
