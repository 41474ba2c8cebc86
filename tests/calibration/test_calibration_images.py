"""Selection of calibration images."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from kinet_trt.calibration import images
from kinet_trt.calibration.images import choose, densest, stain
from samples import write_field, write_fields

from kinet_trt.core.errors import KinetError
from kinet_trt.models.card import read_card
from kinet_trt.models.model import DEFAULT_MODEL
from kinet_trt.simulation import simulate

CARD = read_card(DEFAULT_MODEL)[0]


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fields(tmp_path_factory.mktemp("fields"))


def names(pictures) -> set[str]:
    return {picture.path.name for picture in pictures}


def test_images_are_split_into_calibration_and_held_out_halves(fields: Path) -> None:
    choice = choose(fields, CARD, 24)
    assert (len(choice.calibration), len(choice.held_out)) == (4, 4)
    assert not names(choice.calibration) & names(choice.held_out)
    assert all(p.field is not None and len(p.field.x) for p in choice.held_out)
    assert all(p.crop.shape == (192, 192, 3) for p in choice.calibration)
    assert (len(choose(fields, CARD, 2).calibration), len(choose(fields, CARD, 2).held_out)) == (2, 6)


def test_selection_covers_the_range_of_stain(fields: Path) -> None:
    choice = choose(fields, CARD, 3)
    everything = sorted(p.brown for p in (*choice.calibration, *choice.held_out))
    chosen = [p.brown for p in choice.calibration]
    assert chosen == sorted(chosen)
    assert chosen[0] <= everything[2]
    assert chosen[-1] >= everything[-3]


def test_selection_skips_copies_empty_and_damaged_images(fields: Path, tmp_path: Path) -> None:
    for path in fields.glob("*.png"):
        shutil.copy(path, tmp_path)
    shutil.copy(fields / "field3.png", tmp_path / "same.png")
    pixels = cv2.imread(str(fields / "field5.png"))
    cv2.imwrite(str(tmp_path / "light.jpg"), np.clip(pixels * 0.9 + 10, 0, 255).astype(np.uint8))
    cv2.imwrite(str(tmp_path / "scaled.png"), cv2.resize(pixels, (240, 240)))
    cv2.imwrite(str(tmp_path / "glass.png"), np.full((200, 200, 3), 240, np.uint8))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path / "grey.png"), cv2.cvtColor(pixels[::-1], cv2.COLOR_BGR2GRAY))
    choice = choose(tmp_path, CARD, 24)
    assert {p.name for p in choice.grey} == {"grey.png"}
    assert {p.name for p in choice.glass} == {"glass.png"}
    assert {p.name for p in choice.unreadable} == {"broken.png"}
    left = {p.name for p in choice.duplicates}
    assert len(left) == 3
    assert names((*choice.calibration, *choice.held_out)) | left >= {"same.png", "light.jpg", "scaled.png"}
    assert len(choice.calibration) + len(choice.held_out) == 8


def test_selection_needs_enough_different_images(fields: Path, tmp_path: Path) -> None:
    for i in range(6):
        shutil.copy(fields / "field1.png", tmp_path / f"copy{i}.png")
    with pytest.raises(
        KinetError, match=r"at least 4 distinct colour images.*found 1 \(excluded: 0 glass, 0 grey, 5 duplicates"
    ):
        choose(tmp_path, CARD, 24)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(KinetError, match=r"no images|no fields"):
        choose(empty, CARD, 24)
    with pytest.raises(KinetError, match="1 or more"):
        choose(fields, CARD, 0)


def test_held_out_images_are_labelled_ones_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(10):
        write_field(tmp_path, f"f{i}", 300 + i, labels=i % 2 == 0, positive_fraction=0.1 * i)
    monkeypatch.setattr(images, "MAX_HELD_OUT", 2)
    held = choose(tmp_path, CARD, 4).held_out
    assert len(held) == 2
    assert all(picture.field is not None for picture in held)


def test_selection_samples_large_folders_by_seed(fields: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_READ", 4)
    drawn = [names((*c.calibration, *c.held_out)) for c in (choose(fields, CARD, 9, seed) for seed in (0, 0, 1, 2, 3))]
    assert drawn[0] == drawn[1]
    assert len({frozenset(d) for d in drawn}) > 1


def test_hash_depends_on_pixels_only(fields: Path) -> None:
    assert choose(fields, CARD, 4).sha256 == choose(fields, CARD, 4).sha256 != choose(fields, CARD, 3).sha256


def test_window_lies_on_tissue() -> None:
    pixels = np.full((640, 800, 3), 243, np.uint8)
    pixels[200:400, 480:720] = simulate.SimulatedSlide(seed=5, glass_share=0.0).region(0, 0, 240, 200)[0]
    window = densest(pixels, 256, 16)
    assert window.shape == (256, 256, 3)
    assert stain(window)[0] > 0.6
    assert densest(pixels, 1024, 16) is pixels


def test_stain_separates_dab_from_haematoxylin() -> None:
    shares = [
        stain(simulate.SimulatedSlide(seed=8, positive_fraction=f, glass_share=0.0).region(0, 0, 256, 256)[0])
        for f in (0, 1)
    ]
    assert all(tissue > 0.5 for tissue, _ in shares)
    assert shares[0][1] < 0.03 < 0.15 < shares[1][1]


def test_selection_accepts_all_real_fields(shared_data: Path) -> None:
    choice = choose(shared_data / "unlabelled", CARD, 24)
    assert len(choice.calibration) == len(choice.held_out) == 11
    assert not choice.duplicates
    assert not choice.unreadable
