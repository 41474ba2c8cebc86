"""Cameras that Micro-Manager drives, through pymmcore-plus (extra ``micromanager``)."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kinet_trt.camera.pixels import to_rgb
from kinet_trt.camera.source import CameraError, NoFrameError, Properties, SourceFrame, SourceTextError
from kinet_trt.core.errors import MissingExtraError
from kinet_trt.core.frame import Frame

if TYPE_CHECKING:
    from pymmcore_plus import CMMCorePlus

_POLL = 0.003  # s


class MicroManagerSource:
    """The camera of a Micro-Manager configuration: newest frame of its live buffer, pixel size and stage position.

    ``Frame.mpp`` is Micro-Manager's pixel size for the objective and the binning in use (None if it is not calibrated),
    ``Frame.stage`` the position of its XY stage, um, in the stage's own directions.

    ``config`` is ``MMConfig_....cfg``, as Micro-Manager's hardware wizard writes it. pymmcore-plus searches for
    Micro-Manager in MICROMANAGER_PATH, then in the usual places. ``order`` is the meaning of one-channel pixels:
    "GREY", or raw colour, "RGGB", "GRBG", "BGGR" or "GBRG".
    """

    def __init__(self, config: Path, order: str = "GREY") -> None:
        self._config, self._order = config, order
        self._core: CMMCorePlus | None = None  # reused: each one keeps a log file open until it is collected
        self._is_open = False
        self._stage = ""
        self._last = -1

    @classmethod
    def parse(cls, text: str) -> MicroManagerSource:
        """Parse ``CONFIG.cfg`` or ``CONFIG.cfg,bayer=RGGB``."""
        parts = re.fullmatch(r"(.+?)(?:,bayer=(RGGB|GRBG|BGGR|GBRG))?", text)
        if not parts:
            raise SourceTextError("mm: expected a Micro-Manager configuration, such as mm:MMConfig_demo.cfg")
        return cls(Path(parts[1]), parts[2] or "GREY")

    def open(self) -> Properties:
        """See `kinet_trt.camera.FrameSource.open`."""
        try:
            from pymmcore_plus import CMMCorePlus
        except ImportError as error:
            raise MissingExtraError("mm:", "micromanager", error.name or "pymmcore-plus") from error
        try:
            core = self._core = self._core or CMMCorePlus()
            self._is_open = True
            core.loadSystemConfiguration(self._config)
            camera = core.getCameraDevice()
            if not camera:
                raise CameraError(
                    f"{self._config}: expected a camera (Core, Camera), found none: add one in Micro-Manager"
                )
            self._stage, self._last = core.getXYStageDevice(), -1
            core.startContinuousSequenceAcquisition(0)
            exposure = core.getExposure()  # ms
            bits, width, height = core.getImageBitDepth(), core.getImageWidth(), core.getImageHeight()
        except (OSError, RuntimeError, ValueError) as error:
            raise CameraError(
                f"Micro-Manager with {self._config}: {error}: does the configuration load in Micro-Manager itself, and "
                "is its version the one that pymmcore was made for?"
            ) from error
        fps = min(1000.0, 1000 / exposure) if exposure > 0 else None
        return Properties(f"{camera} (Micro-Manager)", width, height, fps, bits, mpp_is_per_frame=True)

    def newest(self, timeout: float) -> SourceFrame:
        """See `kinet_trt.camera.FrameSource.newest`."""
        if self._core is None or not self._is_open:
            raise CameraError("Micro-Manager: not open")
        core, end = self._core, time.monotonic() + timeout
        try:
            while True:
                if core.getRemainingImageCount() > 0:
                    raw, metadata = core.getLastImageAndMD()
                    number = int(metadata["ImageNumber"])
                    if number != self._last:
                        break
                if not core.isSequenceRunning():
                    raise CameraError("Micro-Manager: the camera stopped: is it still connected?")
                if time.monotonic() > end:
                    raise NoFrameError(
                        f"Micro-Manager: no frame in {timeout:g} s: is the camera waiting for a trigger?"
                    )
                time.sleep(_POLL)
            mpp = core.getPixelSizeUm() or None
            stage = core.getXYPosition() if self._stage else None
            bits = core.getImageBitDepth()
        except (RuntimeError, KeyError) as error:
            raise CameraError(f"Micro-Manager: {error}") from error
        self._last = number
        # pymmcore-plus returns colour as RGB.
        pixels = to_rgb(raw, "RGB" if raw.ndim == 3 else self._order, 8 if raw.dtype.itemsize == 1 else max(8, bits))
        return SourceFrame(Frame(pixels, mpp, time.time(), (stage[0], stage[1]) if stage else None), number)

    def close(self) -> None:
        """See `kinet_trt.camera.FrameSource.close`."""
        core = self._core
        if core is None or not self._is_open:
            return
        self._is_open = False
        try:
            if core.isSequenceRunning():
                core.stopSequenceAcquisition()
        finally:
            core.unloadAllDevices()
