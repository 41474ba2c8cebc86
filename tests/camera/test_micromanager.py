"""Micro-Manager's DemoCamera through pymmcore-plus."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from camera_films import open_files

from kinet_trt.camera import open_source
from kinet_trt.camera.grabber import FrameGrabber
from kinet_trt.camera.micromanager import MicroManagerSource
from kinet_trt.camera.source import CameraError
from kinet_trt.core.errors import MissingExtraError

CONFIG = """
Property,Core,Initialize,0
Device,DHub,DemoCamera,DHub
Device,Camera,DemoCamera,DCam
Device,XY,DemoCamera,DXYStage
Device,Objective,DemoCamera,DObjective
Parent,Camera,DHub
Parent,XY,DHub
Parent,Objective,DHub
Property,Core,Initialize,1
Property,Core,Camera,Camera
Property,Core,XYStage,XY
Property,Camera,PixelType,{pixel_type}
Property,Camera,BitDepth,{bits}
Property,Camera,Exposure,20
Label,Objective,0,20x
Label,Objective,1,40x
ConfigPixelSize,Res20x,Objective,Label,20x
PixelSize_um,Res20x,0.34
ConfigPixelSize,Res40x,Objective,Label,40x
PixelSize_um,Res40x,0.17
Property,Objective,Label,20x
"""


def config(folder: Path, pixel_type: str = "32bitRGB", bits: int = 8) -> Path:
    path = folder / "MMConfig_test.cfg"
    path.write_text(CONFIG.format(pixel_type=pixel_type, bits=bits))
    return path


@pytest.fixture(autouse=True)
def _adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = pytest.importorskip("mm_test_adapters")
    pytest.importorskip("pymmcore_plus")
    monkeypatch.setenv("MICROMANAGER_PATH", adapters.device_adapter_path())


def test_colour_frames_um_per_px_and_stage(tmp_path: Path) -> None:
    source = open_source(f"mm:{config(tmp_path)}")
    assert isinstance(source, MicroManagerSource)
    properties = source.open()
    assert (properties.name, properties.width, properties.height) == ("Camera (Micro-Manager)", 512, 512)
    assert (properties.fps, properties.bits, properties.mpp_is_per_frame) == (pytest.approx(50), 8, True)
    first = source.newest(5.0)
    assert first.frame.pixels.shape == (512, 512, 3)
    assert first.frame.mpp == pytest.approx(0.34)
    assert first.frame.stage == pytest.approx((0, 0), abs=0.01)
    assert not first.frame.is_grey
    core = source._core
    assert core is not None
    core.setProperty("Objective", "Label", "40x")
    core.setXYPosition(120.0, -35.0)
    core.waitForDevice("XY")
    second = source.newest(5.0)
    assert second.sequence > first.sequence
    assert second.frame.mpp == pytest.approx(0.17)
    assert second.frame.stage == pytest.approx((120, -35), abs=0.1)
    source.close()
    source.close()


def test_colour_order_is_rgb(tmp_path: Path) -> None:
    import pymmcore

    source = MicroManagerSource(config(tmp_path))
    source.open()
    core = source._core
    assert core is not None
    shot = source.newest(5.0)
    core.stopSequenceAcquisition()
    # In memory Micro-Manager's pixels are B, G, R, 0; two frames of the demo differ only by their phase and noise.
    raw = pymmcore.CMMCore.getLastImage(core).view(np.uint8).reshape(512, 512, 4)
    again = raw[..., 2::-1].astype(float)
    for channel in range(3):
        kept = np.abs(np.sort(shot.frame.pixels[..., channel].ravel()) - np.sort(again[..., channel].ravel())).mean()
        assert kept < 3
    source.close()


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deep_grey_frames(tmp_path: Path, bits: int) -> None:
    source = MicroManagerSource(config(tmp_path, "16bit", bits))
    assert source.open().bits == bits
    shot = source.newest(5.0)
    core = source._core
    assert core is not None
    core.stopSequenceAcquisition()
    raw = core.getLastImage()
    assert shot.frame.is_grey
    assert shot.frame.pixels.mean() == pytest.approx(raw.mean() * 255 / (2**bits - 1), rel=0.1)
    source.close()


def test_binning_changes_mpp(tmp_path: Path) -> None:
    """Micro-Manager accounts for binning, so the new um/px is accepted."""
    source = MicroManagerSource(config(tmp_path))
    with FrameGrabber(source, pauses=(0.1,)) as camera:
        shot = camera.take(10.0)
        assert shot is not None
        assert (shot.frame.width, shot.frame.mpp) == (512, pytest.approx(0.34))
        path = config(tmp_path)
        path.write_text(f"{path.read_text()}Property,Camera,Binning,2\n")
        assert source._core is not None
        source._core.stopSequenceAcquisition()
        end = time.monotonic() + 20
        while time.monotonic() < end and not (shot and shot.frame.width == 256):
            shot = camera.take(1.0)
        assert shot is not None
        assert shot.frame.width == 256
        assert shot.frame.mpp == pytest.approx(0.68)
        assert camera.state.mpp_note == ""


def test_stopped_camera_is_reopened(tmp_path: Path) -> None:
    source = MicroManagerSource(config(tmp_path))
    with FrameGrabber(source, pauses=(0.05,)) as camera:
        assert camera.take(10.0) is not None
        core = source._core
        assert core is not None
        core.stopSequenceAcquisition()
        end = time.monotonic() + 20
        while "the camera stopped" not in camera.state.why and time.monotonic() < end:
            camera.take(0.02)
        frames = camera.state.frames
        while camera.state.frames == frames and time.monotonic() < end:
            camera.take(0.2)
        assert camera.state.frames > frames
        assert camera.state.phase == "connected"


def test_no_handles_are_left_open(tmp_path: Path) -> None:
    source = MicroManagerSource(config(tmp_path))
    counts = []
    for _ in range(4):
        source.open()
        source.newest(5.0)
        source.close()
        counts.append(open_files())
    assert counts[-1] == counts[0]


def test_configuration_that_does_not_load_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CameraError, match=r"none\.cfg: .*does the configuration load in Micro-Manager itself"):
        MicroManagerSource(tmp_path / "none.cfg").open()
    (tmp_path / "other.cfg").write_text("Device,Camera,NoSuchMaker,Cam\n")
    source = MicroManagerSource(tmp_path / "other.cfg")
    with pytest.raises(CameraError, match="NoSuchMaker"):
        source.open()
    source.close()
    (tmp_path / "empty.cfg").write_text("Property,Core,Initialize,1\n")
    source = MicroManagerSource(tmp_path / "empty.cfg")
    with pytest.raises(CameraError, match=r"expected a camera \(Core, Camera\), found none"):
        source.open()
    source.close()
    with pytest.raises(CameraError, match="not open"):
        source.newest(0.1)
    monkeypatch.setitem(sys.modules, "pymmcore_plus", None)
    with pytest.raises(MissingExtraError, match=r'pip install "kinet-trt\[micromanager\]"'):
        MicroManagerSource(config(tmp_path)).open()


def test_raw_colour_is_demosaiced(tmp_path: Path) -> None:
    path = config(tmp_path, "8bit")
    grey, colour = (open_source(f"mm:{path}{suffix}") for suffix in ("", ",bayer=RGGB"))
    for source, is_grey in ((grey, True), (colour, False)):
        source.open()
        shot = source.newest(5.0)
        assert shot is not None
        red, _, blue = shot.frame.pixels.transpose(2, 0, 1)
        assert (red == blue).all() == is_grey
        source.close()
