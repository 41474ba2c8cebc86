"""The command train, from files to files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from kinet_trt.export import checkpoint
from kinet_trt.export.checkpoint import ModelInfo
from kinet_trt.export.networks.base import NetworkConfig
from kinet_trt.export.networks.registry import build
from kinet_trt.export.proximity import proximity_maps
from kinet_trt.export.train_folder import QUICK_WIDTH

from kinet_trt.core.detections import CLASSES, Detections
from kinet_trt.datasets.kinet_layout import MAPS
from kinet_trt.models.card import read_card
from kinet_trt.simulation import simulate

torch.set_num_threads(1)
INSIDE = Path(str(resources.files("kinet_trt.models") / "kinet-edge.onnx"))
Run = Callable[..., tuple[int, str, str]]
TINY = ("--width", 2, "--activation", "relu", "--iterations", 2)


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes())


def write_qupath(folder: Path, seed: int, width: int = 256) -> simulate.Truth:
    """Write a simulated field with its ground truth as points of QuPath."""
    pixels, truth = simulate.field(seed, width, 224)
    save(folder / f"{seed}.png", pixels)
    found = Detections(truth.x, truth.y, truth.cls, np.ones(len(truth), np.float32))
    (folder / f"{seed}.geojson").write_text(found.to_geojson())
    return truth


def write_maps(folder: Path, name: str, split: str, seed: int) -> None:
    """Write a simulated field in the KiNet layout, with a region map."""
    pixels, truth = simulate.field(seed, 256, 224)
    save(folder / "images" / split / f"{name}.png", pixels)
    for kind, cls in enumerate(CLASSES):
        own = truth.cls == kind
        drawn, _ = proximity_maps(truth.x[own], truth.y[own], truth.cls[own] * 0, 224, 256, 1, 3.0, 10.0)
        save(folder / MAPS[cls] / split / f"{name}_label.png", np.rint(drawn[0] * 255).astype(np.uint8))
    save(folder / "rois" / split / f"{name}.png", np.full((224, 256), 255, np.uint8))


def test_train_reads_qupath_fields(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed in (1, 2):
        write_qupath(tmp_path / "mine", seed)
    code, out, err = run("train", tmp_path / "mine", "-o", tmp_path / "k.pt", *TINY, "--no-roi")
    assert code == 0, err
    assert "threshold" in out
    assert "No class list for 2 of 2 fields" in caplog.text
    assert checkpoint.load(tmp_path / "k.pt").info.data == "mine: unnamed (1 fields)"
    caplog.clear()
    options = ("--classes", ",".join(CLASSES), *TINY, "--no-roi")
    assert run("train", tmp_path / "mine", "-o", tmp_path / "l.pt", *options)[0] == 0
    assert "No class list" not in caplog.text
    assert run("train", tmp_path / "mine", "-o", tmp_path / "m.pt", "--classes", "tumour", *TINY)[0] == 1


def test_quick_run_is_narrow_estimates_its_time_and_leaves_nothing_to_resume(run: Run, tmp_path: Path) -> None:
    fields, made = tmp_path / "my fields", tmp_path / "k.pt"
    write_qupath(fields, 1)
    labelled = ("--classes", ",".join(CLASSES))
    code, out, err = run("train", fields, "-o", made, "--quick", "--iterations", 6, *labelled, "--no-roi")
    assert code == 0, err
    assert re.search(r"^about \d+ s left on this machine$", err, re.M)
    assert re.search(r"k\.pt: threshold 0\.\d+, \d\.\d MB\n", out)
    assert f"Next: kinet-trt export {made} -o {tmp_path / 'k.onnx'}, then kinet-trt eval '{fields}' -m" in out
    assert checkpoint.load(made).network.config.width == QUICK_WIDTH <= 16
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["k.pt"]
    # A full run may write to the same file; it lists the files that it leaves.
    code, out, err = run("train", fields, "-o", made, *TINY, *labelled, "--no-roi")
    assert code == 0, err
    assert re.search(r"k\.last\.pt: \d\.\d MB, needed only to resume this run with more --iterations\n", out)


def test_train_refuses_fields_without_counted_nuclei(run: Run, tmp_path: Path) -> None:
    save(tmp_path / "mine" / "a.png", simulate.field(1, 64, 64)[0])
    (tmp_path / "mine" / "a.csv").write_text("x,y,class\n")
    code, _, err = run("train", tmp_path / "mine", "-o", tmp_path / "k.pt", *TINY)
    assert code == 1
    assert "expected labelled nuclei, found none in 1 fields" in err
    assert not (tmp_path / "k.pt").exists()


def test_train_reads_the_kinet_layout_without_test_images(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "PNET"
    for name, split, seed in (("a", "train", 1), ("b", "val", 2), ("c", "test", 3)):
        write_maps(folder, name, split, seed)
    code, out, err = run("train", folder, "-o", tmp_path / "k.pt", *TINY)
    assert code == 0, err
    assert "PNET.detection_f1" in out
    loaded = checkpoint.load(tmp_path / "k.pt")
    assert loaded.network.config.roi
    assert loaded.info.data == "PNET: PNET (1 fields)"


def test_fields_with_regions_only_need_the_region_branch(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_qupath(tmp_path / "mine", 1)
    save(tmp_path / "mine" / "r.png", simulate.field(2, 256, 224)[0])
    corners = [[0, 0], [200, 0], [200, 200], [0, 200], [0, 0]]
    tumor = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [corners]},
        "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
    }
    (tmp_path / "mine" / "r.geojson").write_text(json.dumps([tumor]))
    assert run("train", tmp_path / "mine", "-o", tmp_path / "k.pt", *TINY)[0] == 0
    assert "only regions" not in caplog.text
    assert run("train", tmp_path / "mine", "-o", tmp_path / "l.pt", *TINY, "--no-roi")[0] == 0
    assert "1 fields with regions only are not used" in caplog.text


def test_regions_option_applies_to_labelled_and_unlabelled_images(run: Run, tmp_path: Path) -> None:
    write_qupath(tmp_path / "mine", 1)
    (name,) = (path.stem for path in (tmp_path / "mine").glob("*.png"))
    corners = [[0, 0], [20, 0], [20, 20], [0, 20], [0, 0]]
    blood = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [corners]},
        "properties": {"objectType": "annotation", "classification": {"name": "Blood"}},
    }
    (tmp_path / "drawn").mkdir()
    train = ("train", tmp_path / "mine", "-o", tmp_path / "k.pt", *TINY, "--regions", tmp_path / "drawn")
    code, _, err = run(*train)
    assert code == 1
    assert "no regions found" in err
    (tmp_path / "drawn" / f"{name}.geojson").write_text(json.dumps([blood]))
    assert run(*train)[0] == 0


def test_fields_are_scaled_to_the_models_um_per_px(run: Run, tmp_path: Path) -> None:
    write_qupath(tmp_path / "mine", 1)
    assert run("train", tmp_path / "mine", "-o", tmp_path / "k.pt", *TINY, "--no-roi", "--mpp", 0.2)[0] == 0
    code, _, err = run("train", tmp_path / "mine", "-o", tmp_path / "l.pt", *TINY, "--no-roi", "--mpp", 0.04)
    assert code == 1
    assert "1.png: too small" in err


def test_width_option_widens_the_initial_network(run: Run, tmp_path: Path) -> None:
    write_qupath(tmp_path / "mine", 1)
    checkpoint.save(tmp_path / "narrow.pt", build(NetworkConfig("paper", 2, "relu", roi=False)), ModelInfo())
    options = ("train", tmp_path / "mine", "--from", tmp_path / "narrow.pt", "--iterations", 1)
    assert run(*options, "-o", tmp_path / "wide.pt", "--width", 4)[0] == 0
    wide = checkpoint.load(tmp_path / "wide.pt").network.config
    assert (wide.width, wide.activation, wide.roi) == (4, "relu", False)
    assert run(*options, "-o", tmp_path / "same.pt")[0] == 0
    assert checkpoint.load(tmp_path / "same.pt").network.config.width == 2
    code, _, err = run(*options, "-o", tmp_path / "no.pt", "--width", 3)
    assert code == 1
    assert "can be widened to 4, 6, ...; found 3" in err


def test_teacher_is_used_on_images_without_labels(run: Run, tmp_path: Path) -> None:
    write_qupath(tmp_path / "mine", 1)
    save(tmp_path / "more" / "b.png", simulate.field(2, 256, 224)[0])
    checkpoint.save(tmp_path / "teacher.pt", build(NetworkConfig("paper", 4, "relu", roi=False)), ModelInfo())
    options = ("train", tmp_path / "mine", *TINY, "--no-roi", "--unlabelled", tmp_path / "more")
    assert run(*options, "-o", tmp_path / "k.pt", "--teacher", tmp_path / "teacher.pt")[0] == 0
    assert checkpoint.load(tmp_path / "k.pt").info.data == "mine: unlabelled (1 fields), unnamed (1 fields)"
    code, _, err = run(*options, "-o", tmp_path / "other.pt")
    assert code == 1
    assert "fields without labels need a teacher" in err


def test_training_can_start_with_the_packaged_model(run: Run, tmp_path: Path) -> None:
    write_qupath(tmp_path / "mine", 1)
    options = ("--from", "kinet-edge", "--iterations", 1, "--recipe", "tune", "--classes", ",".join(CLASSES))
    code, _, err = run("train", tmp_path / "mine", "-o", tmp_path / "k.pt", *options, "--dropout", 0.3)
    assert code == 0, err
    assert "start; threshold" in err
    found = checkpoint.load(tmp_path / "k.last.pt")
    assert (found.network.config.width, found.network.config.activation, found.network.config.dropout) == (
        16,
        "relu",
        0.3,
    )
    assert found.info.mean == read_card(INSIDE)[0].mean
    assert found.info.data.startswith("kinet-trt shared development fields: bcdata")
    assert found.info.data.endswith("; then mine: unnamed (1 fields)")
    code, _, err = run("train", tmp_path / "mine", "-o", tmp_path / "l.pt", "--from", tmp_path / "missing.onnx")
    assert code == 1
    assert "missing.onnx" in err


STAIN = {"positive_fraction": 0.3, "hue_shift": 120.0, "counterstain": 0.5, "dab": 0.6}
"""Return a stain in which the packaged model finds nuclei but confuses their classes."""


@pytest.mark.slow
def test_fine_tuning_on_corrected_points_adapts_to_another_stain(run: Run, tmp_path: Path) -> None:
    """The procedure of docs/fine-tuning.md, with the ground truth instead of manual corrections."""
    mine, held = tmp_path / "mine", tmp_path / "held"
    for folder, seeds in ((mine, (11, 12, 13)), (held, (21, 22, 23))):
        for seed in seeds:
            pixels, truth = simulate.field(seed, 256, 256, **STAIN)
            save(folder / f"{seed}.png", pixels)
            rows = [f"{x},{y},{CLASSES[c]}" for x, y, c in zip(truth.x, truth.y, truth.cls, strict=True)]
            if folder == held:
                (folder / f"{seed}.csv").write_text("x,y,class\n" + "\n".join(rows))
    assert run("count", mine, "--geojson", mine)[0] == 0
    for path in sorted(mine.glob("*.geojson")):
        truth = simulate.field(int(path.stem), 256, 256, **STAIN)[1]
        document = json.loads(path.read_text())
        names = {f["properties"]["classification"]["name"] for f in document["features"]}
        assert names <= {"Positive", "Negative", "Other"}
        document["features"] = [
            {
                "type": "Feature",
                "geometry": {
                    "type": "MultiPoint",
                    "coordinates": [
                        [float(x) + 0.5, float(y) + 0.5]
                        for x, y, c in zip(truth.x, truth.y, truth.cls, strict=True)
                        if c == kind
                    ],
                },
                "properties": {"objectType": "annotation", "classification": {"name": name}, "isLocked": False},
            }
            for kind, name in enumerate(("Positive", "Negative", "Other"))
        ]
        path.write_text(json.dumps(document))
    options = ("--from", "kinet-edge", "--classes", ",".join(CLASSES), "--iterations", 40)
    code, _, err = run("train", mine, "-o", tmp_path / "mine.pt", *options)
    assert code == 0, err
    assert run("export", tmp_path / "mine.pt", "-o", tmp_path / "mine.onnx", "--half-weights")[0] == 0

    def figures(*model: object) -> tuple[float, float]:
        assert run("eval", held, *model, "--json", tmp_path / "e.json")[0] == 0
        document = json.loads((tmp_path / "e.json").read_text())
        return document["detection"]["f1"], document["classification"]["weighted"]["f1"]

    before, after = figures(), figures("-m", tmp_path / "mine.onnx")
    assert before[1] < 0.5
    assert after[1] > before[1] + 0.3
    assert after[0] > before[0] - 0.03


def test_detection_only_names_a_source(run: Run, tmp_path: Path) -> None:
    write_qupath(tmp_path / "mine", 1)
    code, _, err = run("train", tmp_path / "mine", "-o", tmp_path / "k.pt", *TINY, "--detection-only", "marrow")
    assert code == 1
    assert "detection-only: expected one of" in err
