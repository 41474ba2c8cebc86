"""The protocol of cameras, `FrameSource`, and `open_source`, which creates a source from its text.

A source only delivers frames. `kinet_trt.camera.grabber.FrameGrabber` reads it in a thread, keeps the newest frame,
reconnects, and checks the um/px; `kinet_trt.camera.flat_field` corrects the illumination. No module here counts nuclei.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol

from kinet_trt.core.errors import KinetError, shown
from kinet_trt.core.frame import Frame

ENTRY_POINTS = "kinet_trt.sources"
"""Entry-point group in which other packages register their sources."""


class CameraError(KinetError):
    """A source cannot be opened, or was lost; opening it again may help."""


class NoFrameError(CameraError):
    """A source gave no frame within the timeout."""


class RecordingError(CameraError):
    """A recording cannot be read to its end; opening it again would restart it."""


class SourceTextError(CameraError):
    """A SOURCE text names an unknown source or option; trying again does not help."""


@dataclass(frozen=True)
class Properties:
    """Properties of an open source.

    Attributes
    ----------
    name
        Name for people: "USB camera 0", "DemoCamera".
    width, height
        Size of its frames, px; a later frame may differ.
    fps
        Nominal frames per second; None if unknown.
    bits
        Bits of a pixel value before its conversion to 8.
    mpp_is_per_frame
        Whether the source determines ``Frame.mpp`` for every frame (from an objective turret and the binning, from a
        file's tag). Otherwise its um/px is a constant that a person entered, valid for one frame size.
    waits
        Whether frames wait until they are taken, as for a video file counted frame by frame.
    recorded
        Whether it is a recording: it is read once, as opening it again would restart it, and damaged frames are
        skipped, however many there are.
    """

    name: str
    width: int
    height: int
    fps: float | None = None
    bits: int = 8
    mpp_is_per_frame: bool = False
    waits: bool = False
    recorded: bool = False


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """A frame and its number in the camera's sequence.

    Attributes
    ----------
    frame
        RGB pixels; um/px if the source knows it; time, s since the epoch; stage position if there is a stage.
    sequence
        Number of the frame in the camera's count; gaps are lost frames.
    """

    frame: Frame
    sequence: int


class FrameSource(Protocol):
    """Protocol of a camera: three methods, called from one thread, in the order open, newest..., close.

    After an error, `close` is called, and later perhaps `open` again, on the same object. A complete source, for a
    camera with a vendor library ``acme``::

        import time
        import acme
        from kinet_trt.camera import CameraError, NoFrameError, Properties, SourceFrame, to_rgb
        from kinet_trt.core.frame import Frame

        class AcmeSource:
            def __init__(self, text: str) -> None:      # the text after "acme:" on the command line
                self.serial = text
                self.camera = None

            def open(self) -> Properties:
                try:
                    self.camera = acme.connect(self.serial, timeout=5)
                except acme.Error as error:
                    raise CameraError(f"Acme camera {self.serial}: {error}: is it switched on?") from error
                return Properties("Acme camera", self.camera.width, self.camera.height, fps=30, bits=12)

            def newest(self, timeout: float) -> SourceFrame:
                image = self.camera.latest(timeout)     # numpy uint16 [height, width, 3], BGR, 12 bits
                if image is None:
                    raise NoFrameError(f"Acme camera {self.serial}: no frame in {timeout:g} s")
                return SourceFrame(Frame(to_rgb(image.pixels, "BGR", bits=12), time=time.time()), image.number)

            def close(self) -> None:
                if self.camera is not None:
                    self.camera.disconnect()
                    self.camera = None

    Its package registers it for ``kinet-trt live acme:SERIAL``::

        [project.entry-points."kinet_trt.sources"]
        acme = "acme_kinet:AcmeSource"
    """

    def open(self) -> Properties:
        """Connect to the camera and start it.

        Returns
        -------
        Properties
            Properties of the open source.

        Raises
        ------
        CameraError
            If it cannot be opened within some seconds. The message says what was tried, what was found, what to do.
        """
        ...

    def newest(self, timeout: float) -> SourceFrame | None:
        """Return the newest frame, waiting for one that is newer than the last one returned.

        Parameters
        ----------
        timeout
            Timeout, s. A library that cannot set one must have a timeout of its own.

        Returns
        -------
        SourceFrame
            Frame whose pixels are not written to any more; None at the end of a recording.

        Raises
        ------
        NoFrameError
            If no frame came within the timeout.
        ImageError
            If a frame is damaged; the next call returns the next frame.
        CameraError
            If the camera was lost.
        """
        ...

    def close(self) -> None:
        """Release the camera: threads, files, handles. It may be called twice, and after a failed `open`."""
        ...


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
