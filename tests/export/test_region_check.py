"""Pictures of drawn regions, and what they hold; the regions of the training fields."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from kinet_trt.export import region_check
from shapely.geometry import shape

from kinet_trt.core.errors import KinetError
from kinet_trt.io.geojson import read_areas

Run = Callable[..., tuple[int, str, str]]
REGIONS = Path(region_check.__file__).parent / "regions"


def write_field(folder: Path, name: str, *, labelled: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"{name}.png"), np.full((60, 100, 3), 200, np.uint8))
    if labelled:
        (folder / f"{name}.csv").write_text(
            "x,y,class\n10,10,positive\n20,40,non_tumor\n70,30,non_tumor\n90,50,negative\n"
        )


def write_regions(path: Path) -> None:
    """Tumour on the left, stroma on the right, and glass in the corner of the tumour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    areas = {"Tumor": (0, 0, 50, 60), "Stroma": (50, 0, 100, 60), "Glass": (0, 30, 30, 60)}
    features = []
    for name, (left, top, right, bottom) in areas.items():
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": name}}})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def test_check_counts_area_and_nuclei_of_each_kind(tmp_path: Path) -> None:
    write_field(tmp_path / "fields", "a")
    write_field(tmp_path / "fields", "b", labelled=False)
    write_regions(tmp_path / "drawn" / "a.geojson")
    a, b = region_check.read(tmp_path / "fields", tmp_path / "drawn")
    checked = region_check.check(a)
    assert [(kind, one.tumor, one.non_tumor) for kind, one in checked.items()] == [
        ("tumor", 1, 0),
        ("other", 1, 1),
        ("empty", 0, 1),
    ]
    assert [one.area for one in checked.values()] == pytest.approx([0.35, 0.5, 0.15], abs=0.02)  # edges are a px wide
    headers, (row, bare) = region_check.rows([a, b])
    assert dict(zip(headers, row, strict=True))["other nuclei"] == "1 tumour, 1 non-tumour"
    assert dict(zip(headers, bare, strict=True))["other nuclei"] == "-"
    assert dict(zip(headers, bare, strict=True))["tumor area"] == "0.0 %"


def test_draw_shows_regions_grid_and_nuclei_where_they_are(tmp_path: Path) -> None:
    write_field(tmp_path / "fields", "a")
    write_regions(tmp_path / "fields" / "a.regions.geojson")
    (field,) = region_check.read(tmp_path / "fields")
    page = region_check.draw(field, grid=50).astype(int)
    assert page.shape == (600 + 36, 1000 + 36, 3)

    def at(x: float, y: float) -> np.ndarray:
        return page[36 + round(y * 10), 36 + round(x * 10)]

    tumor, other, empty = at(25, 25), at(75, 25), at(15, 45)
    assert tumor[1] > max(tumor[0], tumor[2])
    assert min(other[0], other[2]) > other[1]
    assert min(empty[1], empty[2]) > empty[0]
    assert at(25, 50)[0] < at(25, 45)[0]  # a line of the grid
    assert at(10.5, 10.5)[0] > 200 > 120 > at(10.5, 10.5)[2]  # a positive nucleus, at the centre of its pixel
    part = region_check.draw(field, (40, 20, 140, 60), nuclei=False)
    assert part.shape == (40 * 17 + 36, 60 * 17 + 36, 3)
    with pytest.raises(KinetError, match="expected a part of its 100 x 60 px"):
        region_check.draw(field, (100, 0, 120, 20))


def test_regions_command_draws_each_field_once(run: Run, tmp_path: Path) -> None:
    write_field(tmp_path / "fields", "a")
    write_field(tmp_path / "fields", "b", labelled=False)
    write_regions(tmp_path / "drawn" / "a.geojson")
    command = ("regions", tmp_path / "fields", "-o", tmp_path / "out", "--regions", tmp_path / "drawn")
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_regions.png", "b_regions.png"]
    assert "1 tumour, 1 non-tumour" in out
    code, _, err = run(*command, "--box", "0,0,50,50")
    assert code == 1
    assert "--force replaces them" in err
    assert run(*command, "--box", "0,0,50,50", "--force")[0] == 0
    cv2.imwrite(str(tmp_path / "fields" / "b.jpg"), np.zeros((60, 100, 3), np.uint8))
    assert run("regions", tmp_path / "fields", "-o", tmp_path / "more")[0] == 0
    assert len(list((tmp_path / "more").iterdir())) == 3
    assert cv2.imread(str(tmp_path / "out" / "a_regions.png")).shape == (1036, 1036, 3)


def index() -> list[dict[str, str]]:
    with (REGIONS / "index.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_file_of_regions_is_indexed_once() -> None:
    files = sorted(path.relative_to(REGIONS).as_posix() for path in REGIONS.rglob("*.geojson"))
    assert files == sorted(row["regions"] for row in index())
    names = [Path(file).stem for file in files]
    assert len(set(names)) == len(names)  # a field is found by its name


@pytest.mark.parametrize("row", index(), ids=lambda row: row["regions"])
def test_drawn_regions_are_valid_and_inside_their_field(row: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    outlines = read_areas(REGIONS / row["regions"])
    assert outlines.has_area_labels
    assert not outlines.has_exclusions
    assert not caplog.text  # a class that is not understood is logged
    document = json.loads((REGIONS / row["regions"]).read_text())
    polygons = [shape(feature["geometry"]) for feature in document["features"]]
    assert all(polygon.is_valid for polygon in polygons)
    assert Path(row["image"]).stem == Path(row["regions"]).stem
    left, top, right, bottom = np.transpose([polygon.bounds for polygon in polygons])
    assert min(left.min(), top.min()) >= 0
    assert right.max() <= int(row["width"])
    assert bottom.max() <= int(row["height"])
    tumor, known = outlines.regions(int(row["height"]), int(row["width"])) or (np.zeros(1, bool),) * 2
    assert not (tumor & ~known).any()
