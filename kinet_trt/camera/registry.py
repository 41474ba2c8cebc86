"""`open_source`, which creates a source from its text. No driver imports this module."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from kinet_trt.camera.source import CameraError, FrameSource, SourceTextError
from kinet_trt.core.errors import KinetError, shown

ENTRY_POINTS = "kinet_trt.sources"
"""Entry-point group in which other packages register their sources."""
KNOWN = (
    "a camera number (0), /dev/videoN or device:N,size=WxH,fps=N; rtsp://... or http://...; a video file; "
    "a folder of images; mm:CONFIG.cfg (Micro-Manager); gst:PIPELINE (GStreamer); sim: (a simulated microscope)"
)
_BUILT_IN = {
    "device": "kinet_trt.camera.device:DeviceSource.parse",
    "folder": "kinet_trt.camera.folder:FolderSource",
    "gst": "kinet_trt.camera.gstreamer:GStreamerSource",
    "mm": "kinet_trt.camera.micromanager:MicroManagerSource.parse",
    "sim": "kinet_trt.camera.simulated:SimulatedMicroscope.parse",
    "stream": "kinet_trt.camera.stream:StreamSource",
    "video": "kinet_trt.camera.video:VideoSource",
}
"""Sources by name, as entry points, which are imported when they are used."""


def open_source(text: str, *, every_frame: bool = False) -> FrameSource:
    """Return the source that SOURCE of ``kinet-trt live SOURCE`` names, not yet open.

    Parameters
    ----------
    text
        ``NAME:REST``, or a short form: a number and ``/dev/videoN`` are ``device:``; ``rtsp://`` and ``http://`` are
        streams; an existing folder is ``folder:``, an existing file ``video:``. Other names are looked up
        in the entry-point group ``kinet_trt.sources``.
    every_frame
        Files only: read every frame as fast as it is taken, instead of at the file's own pace.

    Raises
    ------
    SourceTextError
        If the text names no source, or has an option that the source does not have.
    """
    name, rest = _split(text)
    if name not in _BUILT_IN:
        return _third_party(name, rest, text)
    create: Callable[..., FrameSource] = EntryPoint(name, _BUILT_IN[name], ENTRY_POINTS).load()
    return create(Path(rest), every_frame=every_frame) if name in ("folder", "video") else create(rest)


def _split(text: str) -> tuple[str, str]:
    """Return the source's name and the rest; an empty name if it has none."""
    if re.fullmatch(r"[0-9]{1,3}|/dev/video[0-9]+", text):
        return "device", text
    if re.match(r"(rtsps?|https?)://", text, re.IGNORECASE):
        return "stream", text
    # At least two letters: "C:\images" is a folder of Windows, not a source named C.
    if named := re.match(r"([A-Za-z][A-Za-z0-9_.-]+):", text):
        return named[1], text[named.end() :]
    try:
        if text and Path(text).is_dir():
            return "folder", text
        if text and Path(text).exists():
            return "video", text
    except (OSError, ValueError):  # a name that no file can have
        pass
    return "", text


def _third_party(name: str, rest: str, text: str) -> FrameSource:
    others = entry_points(group=ENTRY_POINTS)
    for other in others:
        if other.name == name:
            try:
                source: FrameSource = other.load()(rest)
            except KinetError:
                raise
            # Another package's code may raise anything; name the package and the error.
            except Exception as error:
                raise CameraError(
                    f"the source {name}: ({other.value}) did not start: {type(error).__name__}: {error}"
                ) from error
            return source
    installed = f"; installed beside them: {', '.join(f'{o.name}:' for o in others)}" if others else ""
    raise SourceTextError(f"no camera, file or folder is called {shown(text)}: expected {KNOWN}{installed}")
