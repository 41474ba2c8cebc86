"""`FrameSource`, the protocol that every camera implements.

A source only delivers frames. `kinet_trt.camera.grabber.FrameGrabber` reads it in a thread, keeps the newest frame,
reconnects, and checks the um/px; `kinet_trt.camera.flat_field` corrects the illumination. No module here counts nuclei.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kinet_trt.core.errors import KinetError
from kinet_trt.core.frame import Frame


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
        Bit depth of the camera's pixels, before conversion to 8 bits.
    mpp_is_per_frame
        Whether the source determines ``Frame.mpp`` for every frame (from an objective turret and the binning, from a
        file's tag). Otherwise its um/px is a constant that a person entered, valid for one frame size.
    waits
        Whether the source holds each frame until it is read, as for a video file counted frame by frame.
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
            If it cannot be opened within a few seconds. The message says what was tried, what was found, what to do.
        """
        ...

    def newest(self, timeout: float) -> SourceFrame | None:
        """Return the newest frame, waiting for one that is newer than the last one returned.

        Parameters
        ----------
        timeout
            Timeout, s. If the vendor's library takes no timeout, the source must enforce one itself.

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
