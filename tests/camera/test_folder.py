"""Folders of images."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinet_trt.camera.folder import FolderSource
from kinet_trt.camera.grabber import FrameGrabber
from kinet_trt.camera.source import CameraError, NoFrameError
from kinet_trt.core.errors import ImageError


def write(path: Path, value: int, size: tuple[int, int] = (64, 48), dpi: float | None = 101600.0) -> None:
    image = Image.fromarray(np.full((size[1], size[0], 3), (value, 0, 100), np.uint8))
    image.save(path, **({"dpi": (dpi, dpi)} if dpi else {}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in (10, 2, 1):
        write(tmp_path / f"field {n}.tif", n)
    write(tmp_path / ".hidden.tif", 99)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "inside.png").mkdir()
    return tmp_path


def test_images_come_in_natural_order(folder: Path) -> None:
    source = FolderSource(folder, every_frame=True)
    properties = source.open()
    assert (properties.width, properties.height, properties.waits, properties.mpp_is_per_frame) == (64, 48, True, True)
    shots = []
    while shot := source.newest(1.0):
        shots.append(shot)
    source.close()
    assert [int(shot.frame.pixels[0, 0, 0]) for shot in shots] == [1, 2, 10]
    assert [shot.frame.mpp for shot in shots] == [pytest.approx(0.25)] * 3


def test_file_remarks_come_with_the_frame(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((48, 64, 3), (value, 0, 100), np.uint8)) for value in (1, 2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], dpi=(300, 300))
    source = FolderSource(tmp_path, every_frame=True)
    source.open()
    shot = source.newest(1.0)
    assert shot is not None
    assert "Page 1 of 2 is read" in shot.frame.remarks[0]
    assert "300 dpi" in (shot.frame.unused_size or "")
    source.close()


def test_folder_keeps_its_pace(folder: Path) -> None:
    source = FolderSource(folder)
    source.open()
    assert source.newest(0.1) is not None
    start = time.monotonic()
    with pytest.raises(NoFrameError, match="its next image is"):
        source.newest(0.1)
    assert source.newest(60.0) is not None
    assert time.monotonic() - start > 0.5
    source.close()


def test_each_image_keeps_its_own_um_per_px(folder: Path) -> None:
    """Another size with the same tag is accepted: the tag belongs to that image."""
    write(folder / "field 11.tif", 11, size=(100, 80))
    write(folder / "field 12.tif", 12, dpi=50800.0)
    write(folder / "field 13.tif", 13, dpi=None)
    with FrameGrabber(FolderSource(folder, every_frame=True)) as camera:
        found = {}
        while shot := camera.take(10.0):
            found[int(shot.frame.pixels[0, 0, 0])] = shot.frame.mpp
        assert found == {k: pytest.approx(0.25) for k in (1, 2, 10, 11)} | {12: pytest.approx(0.5), 13: None}
        assert "µm/px is unknown" in camera.state.mpp_note


def test_damaged_image_is_skipped(folder: Path) -> None:
    (folder / "field 0.tif").write_bytes((folder / "field 1.tif").read_bytes()[:200])
    source = FolderSource(folder, every_frame=True)
    source.open()
    with pytest.raises(ImageError):
        source.newest(1.0)
    source.close()
    with FrameGrabber(FolderSource(folder, every_frame=True)) as camera:
        numbers = []
        while shot := camera.take(10.0):
            numbers.append(int(shot.frame.pixels[0, 0, 0]))
        assert numbers == [1, 2, 10]
        assert camera.state.bad == 1


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=r"expected images \(\.png"):
        FolderSource(tmp_path).open()
    with pytest.raises(CameraError, match="cannot be read as a folder"):
        FolderSource(tmp_path / "none").open()
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(CameraError, match=r"none of its 1 images can be read; the last: a\.png"):
        FolderSource(tmp_path).open()
