"""What ``count`` says about the grade of one picture, of several, and of several that are one case."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from kinet_trt import Detections
from kinet_trt.core.hot_spot import find_hot_spot
from kinet_trt.core.ki67 import NO_RANGE, Ki67
from kinet_trt.counting.image import CountedImage
from kinet_trt.counting.pooled import PooledCount
from kinet_trt.simulation import simulate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields")
    for number in (3, 4):
        cv2.imwrite(str(folder / f"{number}.png"), simulate.field(number, 320, 256)[0][..., ::-1])
    return folder


def nuclei(positive: int, negative: int, other: int = 0, step: float = 40.0) -> Detections:
    """Give a row of nuclei, the positive ones at its left end."""
    n = positive + negative + other
    classes = np.repeat(np.arange(3, dtype=np.uint8), (positive, negative, other))
    return Detections(np.arange(n, dtype=np.float32) * step, np.zeros(n, np.float32), classes, np.ones(n, np.float32))


def counted(name: str, found: Detections, unlike: str | None = None, n: int = 500) -> CountedImage:
    remarks = (unlike,) if unlike else ()
    return CountedImage(
        image=Path(name),
        width=4000,
        height=300,
        mpp=0.5,
        mpp_source="file",
        counts=found.counts(),
        hot_spot=find_hot_spot(found, 0.5, n),
        remarks=remarks,
        unlike=unlike,
        detections=found,
    )


def test_a_picture_has_the_hot_spot_of_its_tumour_nuclei():
    spot = find_hot_spot(nuclei(30, 300, 100), 0.5, 20)
    assert spot.ki67 == Ki67(20, 20)
    assert spot.x in {40.0 * k for k in range(9, 21)}
    assert spot.radius == pytest.approx(200, abs=20)
    assert find_hot_spot(nuclei(30, 300, 100), 0.5, 331) is None
    assert find_hot_spot(Detections.empty(), 0.5, 20) is None


def test_a_picture_says_where_its_hot_spot_lies_in_another_range():
    one = counted("a.png", nuclei(150, 1000))
    assert one.statement().warning.startswith("The hot spot lies in the G3 range, the average in the G2 range")
    assert counted("a.png", nuclei(150, 1000), "It is a photograph.").statement().warning == NO_RANGE


def test_images_of_one_case_are_pooled_and_the_highest_hot_spot_counts():
    parts = [counted("a.png", nuclei(30, 970)), counted("b.png", nuclei(150, 850)), counted("c.png", nuclei(9, 90, 7))]
    total = PooledCount.of(parts)
    assert total.counts == {"positive": 189, "negative": 1910, "non_tumor": 7}
    assert (total.images, total.hot_spot_image, total.hot_spot) == (3, Path("b.png"), parts[1].hot_spot)
    assert total.statement().warning
    assert total.record()["hot_spot"]["image"] == "b.png"
    with_photograph = PooledCount.of([*parts, counted("d.png", nuclei(1, 3), "It is a photograph.")])
    assert with_photograph.unlike == (Path("d.png"),)
    assert not any(name in " ".join(with_photograph.statement().sentences()) for name in ("G1", "G2", "G3"))


def test_several_pictures_are_not_pooled_unless_asked(run, tmp_path, folder):
    code, out, _ = run("count", folder, "--hot-spot", "50", "--json", tmp_path / "a.json")
    assert code == 0
    document = json.loads((tmp_path / "a.json").read_text())
    assert "together" not in document
    assert all(field["hot_spot"]["tumor"] == 50 for field in document["fields"])
    assert all(field["hot_spot"]["ki67_index"] >= field["ki67_index"] for field in document["fields"])
    assert "Ki67 index" not in out
    assert "--together" in out
    for field in document["fields"]:
        assert f"{100 * field['ki67_index']:.1f} (" in out

    code, out, _ = run("count", folder, "--hot-spot", "50", "--json", tmp_path / "a.json", "--together")
    assert code == 0
    together = json.loads((tmp_path / "a.json").read_text())["together"]
    assert together["images"] == 2
    for name, number in together["counts"].items():
        assert number == sum(field["counts"][name] for field in document["fields"])
    best = max(document["fields"], key=lambda field: field["hot_spot"]["ki67_index"])
    assert together["hot_spot"] == {"image": best["image"], **best["hot_spot"]}
    assert f"Ki67 index {100 * together['ki67_index']:.1f}%" in out
    assert f"Hot spot {100 * together['hot_spot']['ki67_index']:.1f}%" in out
    assert re.search(r"G[123]\?", out)  # a ? is explained wherever one is shown
    assert "?: provisional, fewer than 500 tumour nuclei." in out


def test_a_picture_unlike_the_training_data_gets_no_range(run, tmp_path):
    pixels = simulate.field(3, 512, 512)[0]
    blurred = cv2.GaussianBlur(pixels, (0, 0), 6)
    cv2.imwrite(str(tmp_path / "blurred.png"), blurred[..., ::-1])
    code, out, err = run("count", tmp_path / "blurred.png", "--json", tmp_path / "a.json", "--threshold", "0.02")
    assert code == 0
    [field] = json.loads((tmp_path / "a.json").read_text())["fields"]
    assert field["counts"]["positive"] + field["counts"]["negative"] > 0
    assert field["unlike"] in field["remarks"]
    assert field["unlike"] in err
    assert "No grade range is given" in out
    assert not any(name in out for name in ("G1", "G2", "G3"))
