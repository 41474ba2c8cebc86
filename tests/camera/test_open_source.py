"""SOURCE texts: their sources, and messages for wrong ones."""

from __future__ import annotations

import re
import sys
import textwrap
import types
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet_trt.camera import open_source, registry
from kinet_trt.camera.device import DeviceSource
from kinet_trt.camera.folder import FolderSource
from kinet_trt.camera.gstreamer import GStreamerSource
from kinet_trt.camera.micromanager import MicroManagerSource
from kinet_trt.camera.simulated import SimulatedMicroscope
from kinet_trt.camera.source import CameraError, FrameSource, NoFrameError, SourceTextError
from kinet_trt.camera.stream import StreamSource
from kinet_trt.camera.video import VideoSource
from kinet_trt.core.errors import KinetError


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0", DeviceSource),
        ("/dev/video12", DeviceSource),
        ("device:1,size=1920x1080,fps=29.97,fourcc=MJPG", DeviceSource),
        ("rtsp://camera.local:554/live", StreamSource),
        ("RTSP://camera.local/live", StreamSource),
        ("https://u:p@camera.local/mjpg?size=1,2", StreamSource),
        ("mm:C:\\Program Files\\MMConfig.cfg", MicroManagerSource),
        ("gst:v4l2src ! videoconvert", GStreamerSource),
        ("sim:", SimulatedMicroscope),
        ("sim:seed=7,mpp=0.17,size=1280x960,fps=30,path=snake", SimulatedMicroscope),
        ("video:nowhere.avi", VideoSource),
        ("folder:nowhere", FolderSource),
    ],
)
def test_each_text_opens_its_source(text: str, kind: type) -> None:
    assert type(open_source(text)) is kind


def test_files_and_folders_need_no_name(tmp_path: Path) -> None:
    (tmp_path / "a:b,c.avi").touch()
    assert type(open_source(str(tmp_path))) is FolderSource
    assert type(open_source(str(tmp_path / "a:b,c.avi"))) is VideoSource


def test_device_options_are_parsed() -> None:
    source = DeviceSource.parse("/dev/video3,size=1920x1080,fps=30,fourcc=MJPG")
    assert (source._frame_size, source._fps, source._fourcc) == ((1920, 1080), 30.0, "MJPG")
    assert source._index == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no camera, file or folder is called '': expected a camera number"),
        ("nowhere.avi", "no camera, file or folder is called 'nowhere.avi'"),
        ("acme:1", "no camera, file or folder is called 'acme:1'"),
        ("C:\\nowhere", "no camera, file or folder"),
        ("12345", "no camera, file or folder"),
        ("device:x", "expected a number or /dev/videoN, found 'x'"),
        ("device:0,size=10x10", "option size: expected WIDTHxHEIGHT"),
        ("device:0,fps=fast", "option fps: expected a number"),
        ("device:0,fourcc=MOTION", "option fourcc: expected four letters"),
        ("device:0,zoom=2", "option 'zoom=2': expected NAME=VALUE with one of size, fps, fourcc"),
        ("mm:", "expected a Micro-Manager configuration"),
        ("sim:seed", "option 'seed': expected NAME=VALUE"),
        ("sim:seed=1,seed=2", "option seed is repeated"),
    ],
)
def test_wrong_text_is_one_message(text: str, message: str) -> None:
    with pytest.raises(SourceTextError, match=re.escape(message)):
        open_source(text)


@given(st.one_of(st.text(max_size=40), st.from_regex(r"(sim|device|mm|gst|acme|video):[ -~]{0,40}", fullmatch=True)))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        source = open_source(text)
    except SourceTextError:
        return
    assert all(callable(getattr(source, name)) for name in ("open", "newest", "close"))


# --- third parties ---------------------------------------------------------------------------------------------------


class Acme(types.ModuleType):
    """A vendor library, and a package with its source."""

    Error = RuntimeError

    def __init__(self) -> None:
        super().__init__("acme")
        self.number, self.there, self.disconnected, self.width, self.height = 0, True, 0, 6, 4

    def connect(self, serial: str, timeout: float) -> Acme:
        if serial != "B7":
            raise self.Error("no such camera")
        return self

    def latest(self, timeout: float) -> types.SimpleNamespace | None:
        self.number += 1
        pixels = np.full((4, 6, 3), (4095, 0, 2048), np.uint16)
        return types.SimpleNamespace(pixels=pixels, number=self.number) if self.there else None

    def disconnect(self) -> None:
        self.disconnected += 1


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch) -> Acme:
    """Register the source in the docstring of FrameSource verbatim, as its package would."""
    documented = FrameSource.__doc__ or ""
    code = re.search(r"^( +import time\n.*?)^    Its package registers", documented, re.DOTALL | re.MULTILINE)
    assert code
    library, package = Acme(), types.ModuleType("acme_kinet")
    monkeypatch.setitem(sys.modules, "acme", library)
    exec(textwrap.dedent(code[1]), package.__dict__)
    monkeypatch.setitem(sys.modules, "acme_kinet", package)
    package.Broken = lambda text: 1 / 0
    group = "kinet_trt.sources"
    installed = EntryPoints(
        [EntryPoint("acme", "acme_kinet:AcmeSource", group), EntryPoint("broken", "acme_kinet:Broken", group)]
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: installed.select(group=group))
    return library


def test_documented_vendor_source_works(acme: Acme) -> None:
    source = open_source("acme:B7")
    properties = source.open()
    assert (properties.name, properties.width, properties.height, properties.bits) == ("Acme camera", 6, 4, 12)
    shot = source.newest(1.0)
    assert shot is not None
    assert shot.sequence == 1
    assert shot.frame.pixels[0, 0].tolist() == [128, 0, 255]
    acme.there = False
    with pytest.raises(NoFrameError, match="no frame in 1 s"):
        source.newest(1.0)
    source.close()
    source.close()
    assert acme.disconnected == 1
    with pytest.raises(CameraError, match="Acme camera C1: no such camera: is it switched on"):
        open_source("acme:C1").open()


def test_failing_vendor_source_is_one_message(acme: Acme) -> None:
    with pytest.raises(CameraError, match=r"the source broken: \(acme_kinet:Broken\) did not start: ZeroDivisionError"):
        open_source("broken:")
    with pytest.raises(SourceTextError, match=r"installed beside them: acme:, broken:"):
        open_source("other:")


def test_errors_are_kinet_errors() -> None:
    assert issubclass(CameraError, KinetError)
    assert issubclass(NoFrameError, CameraError)
