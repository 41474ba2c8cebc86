"""The commands of the workshop, from files to files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from kinet_trt.export import checkpoint
from kinet_trt.export.checkpoint import Traits
from kinet_trt.export.models import NetworkConfig, build
from kinet_trt.export.proximity import proximity_maps

from kinet_trt import simulate
from kinet_trt.detections import CLASSES, Detections
from kinet_trt.label_maps import MAPS

torch.set_num_threads(1)
Run = Callable[..., tuple[int, str, str]]
TINY = ("--width", 2, "--activation", "relu", "--iterations", 2)


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes())


def write_qupath(folder: Path, seed: int, width: int = 256) -> simulate.Truth:
    """A simulated field with its truth as QuPath saves points."""
    pixels, truth = simulate.field(seed, width, 224)
    save(folder / f"{seed}.png", pixels)
    found = Detections(truth.x, truth.y, truth.cls, np.ones(len(truth), np.float32))
    (folder / f"{seed}.geojson").write_text(found.geojson())
    return truth


def write_maps(folder: Path, name: str, split: str, seed: int) -> None:
    """A simulated field in the KiNet layout, with a region map."""
    pixels, truth = simulate.field(seed, 256, 224)
    save(folder / "images" / split / f"{name}.png", pixels)
    for kind, cls in enumerate(CLASSES):
        own = truth.cls == kind
        drawn, _ = proximity_maps(truth.x[own], truth.y[own], truth.cls[own] * 0, 224, 256, 1, 3.0, 10.0)
        save(folder / MAPS[cls] / split / f"{name}_label.png", np.rint(drawn[0] * 255).astype(np.uint8))
    save(folder / "rois" / split / f"{name}.png", np.full((224, 256), 255, np.uint8))


def test_qupath_fields_are_trained_on(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed in (1, 2):
        write_qupath(tmp_path / "mine", seed)
    code, out, err = run("train", tmp_path / "mine", "-o", tmp_path / "k.pt", *TINY, "--no-roi")
    assert code == 0, err
    assert "threshold" in out
    assert "Nobody says which classes are labelled in 2 of 2 fields" in caplog.text
    assert checkpoint.load(tmp_path / "k.pt").traits.data == "mine: unnamed (1 fields)"
    caplog.clear()
    options = ("--classes", ",".join(CLASSES), *TINY, "--no-roi")
    assert run("train", tmp_path / "mine", "-o", tmp_path / "l.pt", *options)[0] == 0
    assert "Nobody says" not in caplog.text
    assert run("train", tmp_path / "mine", "-o", tmp_path / "m.pt", "--classes", "tumour", *TINY)[0] == 1


def test_the_kinet_layout_is_trained_on_without_its_test_images(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "PNET"
    for name, split, seed in (("a", "train", 1), ("b", "val", 2), ("c", "test", 3)):
        write_maps(folder, name, split, seed)
    code, out, err = run("train", folder, "-o", tmp_path / "k.pt", *TINY)
    assert code == 0, err
    assert "PNET.detection_f1" in out
    loaded = checkpoint.load(tmp_path / "k.pt")
    assert loaded.network.config.roi
    assert loaded.traits.data == "PNET: PNET (1 fields)"


def test_regions_alone_need_the_region_branch(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
    assert "regions alone" not in caplog.text
    assert run("train", tmp_path / "mine", "-o", tmp_path / "l.pt", *TINY, "--no-roi")[0] == 0
    assert "1 fields have regions alone" in caplog.text


def test_fields_are_scaled_to_the_models_um_per_px(run: Run, tmp_path: Path) -> None:
    write_qupath(tmp_path / "mine", 1)
    assert run("train", tmp_path / "mine", "-o", tmp_path / "k.pt", *TINY, "--no-roi", "--mpp", 0.2)[0] == 0
    code, _, err = run("train", tmp_path / "mine", "-o", tmp_path / "l.pt", *TINY, "--no-roi", "--mpp", 0.04)
    assert code == 1
    assert "1.png: too small" in err


def test_training_from_a_narrow_checkpoint_at_a_greater_width_widens_it(run: Run, tmp_path: Path) -> None:
    write_qupath(tmp_path / "mine", 1)
    checkpoint.save(tmp_path / "narrow.pt", build(NetworkConfig("paper", 2, "relu", roi=False)), Traits())
    options = ("train", tmp_path / "mine", "--from", tmp_path / "narrow.pt", "--iterations", 1)
    assert run(*options, "-o", tmp_path / "wide.pt", "--width", 4)[0] == 0
    wide = checkpoint.load(tmp_path / "wide.pt").network.config
    assert (wide.width, wide.activation, wide.roi) == (4, "relu", False)
    assert run(*options, "-o", tmp_path / "same.pt")[0] == 0
    assert checkpoint.load(tmp_path / "same.pt").network.config.width == 2
    code, _, err = run(*options, "-o", tmp_path / "no.pt", "--width", 3)
    assert code == 1
    assert "can be widened to 4, 6, ...; found 3" in err


def test_a_teacher_speaks_of_images_without_labels(run: Run, tmp_path: Path) -> None:
    write_qupath(tmp_path / "mine", 1)
    save(tmp_path / "more" / "b.png", simulate.field(2, 256, 224)[0])
    checkpoint.save(tmp_path / "teacher.pt", build(NetworkConfig("paper", 4, "relu", roi=False)), Traits())
    options = ("train", tmp_path / "mine", *TINY, "--no-roi", "--unlabelled", tmp_path / "more")
    assert run(*options, "-o", tmp_path / "k.pt", "--teacher", tmp_path / "teacher.pt")[0] == 0
    assert checkpoint.load(tmp_path / "k.pt").traits.data == "mine: unlabelled (1 fields), unnamed (1 fields)"
    code, _, err = run(*options, "-o", tmp_path / "other.pt")
    assert code == 1
    assert "give a --teacher too" in err
