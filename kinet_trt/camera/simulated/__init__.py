"""Simulated microscope (``sim:``) over a slide of `kinet_trt.simulation.simulate`: stage, lens, sensor and faults."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.camera.simulated.optics import Optics, smear
from kinet_trt.camera.simulated.options import Fault as Fault
from kinet_trt.camera.simulated.options import Kind
from kinet_trt.camera.simulated.options import Options as Options
from kinet_trt.camera.simulated.stage import Place, Point, Route, snake
from kinet_trt.camera.simulated.tiles import DrawnSlide
from kinet_trt.camera.source import CameraError, NoFrameError, Properties, SourceFrame
from kinet_trt.core.frame import Frame
from kinet_trt.core.geometry import rescale
from kinet_trt.simulation.simulate import Box, SimulatedSlide, Truth, find_tissue

_AHEAD, _AHEAD_STEP = 4.0, 0.2  # s: how far ahead of the stage the slide is drawn, and in which steps
_DRIFT_PERIOD = 20.0  # s


class SimulatedMicroscope:
    """A camera on a microscope, with a stage; `move_to` and `fail` may be called from any thread.

    Frame n shows the slide under the stage n / fps s after the first `open`; frames that are read too late are missing
    from the sequence, as with a real camera. ``Frame.stage`` is the centre of the frame on the slide, um, x to the
    right and y down in the picture, in steps of a pixel. ``Frame.mpp`` is the um/px of the options.
    """

    def __init__(self, options: Options | None = None) -> None:
        self.options = options = options or Options()
        self.slide = SimulatedSlide(
            seed=options.seed,
            mpp=options.mpp,
            positive_fraction=options.positive,
            tumor_share=options.tumor,
            glass_share=1.0 if options.blank else options.glass,
        )
        self._lock = threading.Lock()
        self._faults = list(options.faults)
        self._born: float | None = None  # time.monotonic of the first `open`
        self._route: Route | None = None
        self._route_start = 0.0
        self._drawn = DrawnSlide(self.slide, self._wanted, options.size)
        self._optics: Optics | None = None
        self._halved = False
        self._sequence = -1
        self._scene: tuple[tuple[object, ...], NDArray[np.uint8]] | None = None

    @classmethod
    def parse(cls, text: str) -> SimulatedMicroscope:
        """Parse the options after ``sim:``; see `Options`."""
        return cls(Options.parse(text))

    # --- control ---------------------------------------------------------------------------------------------------

    def fail(self, kind: Kind, seconds: float = 2.0) -> None:
        """Start a fault; see `kinet_trt.camera.simulated.options.FAULTS`. Its duration is in simulated seconds."""
        with self._lock:
            self._faults.append(Fault(kind, self._now(), seconds))

    def move_to(self, x: float, y: float) -> None:
        """Move the stage straight to x, y, um, and stop there; the route ends."""
        with self._lock:
            now = self._now()
            here = self._place(now)
            self._route_start = now
            self._route = Route(((here.x, here.y), (x, y)), self.options.speed, rest=0.0, loop=False)

    def truth(self, frame: Frame) -> Truth:
        """Return the nuclei whose centre a frame shows, px of the frame.

        Only the frame's size and stage position are used, so the result is right for a frame whose um/px was changed,
        and for one of half the size. For a torn frame it is that of the upper half.
        """
        if frame.stage is None:
            raise ValueError("expected a frame of this microscope, found one without a stage position")
        shrink = self.options.size[0] // frame.width
        left, top, width, height = self._box(Place(*frame.stage, 0.0, 0.0))
        truth = self.slide.truth(left, top, width, height)
        return Truth(rescale(truth.x, 1 / shrink), rescale(truth.y, 1 / shrink), truth.cls)

    # --- FrameSource -----------------------------------------------------------------------------------------------

    def open(self) -> Properties:
        """See `kinet_trt.camera.FrameSource.open`."""
        options = self.options
        if self._route is None:
            self._route = self._planned()
            self._drawn.crop(self._box(self._route.at(0.0)))  # so that the first frame comes at once
        if self._born is None:
            self._born = time.monotonic()
        now = self._now()
        if self._failing("disconnect", now) or self._failing("never", now):
            raise CameraError("the simulated microscope does not answer (a requested fault): wait, or restart it")
        self._halved = self._failing("resize", now)
        width, height = (side // 2 for side in options.size) if self._halved else options.size
        self._optics = Optics(
            width,
            height,
            vignetting=options.vignetting,
            tint=options.tint,
            noise=options.noise,
            hot=options.hot,
            seed=options.seed % 2**32,
        )
        self._drawn.open()
        with self._lock:
            here = self._place(now)
        self._drawn.crop(self._box(here))
        self._sequence = math.floor(self._now() * options.fps)
        return Properties("simulated microscope", width, height, options.fps * options.hurry)

    def newest(self, timeout: float) -> SourceFrame:
        """See `kinet_trt.camera.FrameSource.newest`."""
        options, end = self.options, time.monotonic() + timeout
        if self._optics is None:
            raise CameraError("the simulated microscope is not open")
        while True:
            now = self._now()
            if self._failing("disconnect", now) or self._failing("never", now):
                raise CameraError("the simulated microscope was unplugged (a requested fault)")
            if self._failing("resize", now) != self._halved:
                raise CameraError("the simulated microscope started again (a requested fault)")
            sequence = math.floor(now * options.fps)
            stalled = self._failing("stall", now)
            if sequence > self._sequence and not stalled:
                break
            wait = 0.02 if stalled else ((self._sequence + 1) / options.fps - now) / options.hurry
            left = end - time.monotonic()
            if wait > left:
                time.sleep(max(0.0, left))
                raise NoFrameError(f"the simulated microscope gave no frame in {timeout:g} s")
            time.sleep(max(wait, 0.0005))
        self._sequence = sequence
        taken = sequence / options.fps
        with self._lock:
            here, before = self._place(taken), self._place(taken - 0.25)
        pixels = self._view(here)
        if self._failing("torn", now):
            half = pixels.shape[0] // 2
            pixels = np.concatenate([pixels[:half], self._view(before)[half:]])
        exposure = 1 + options.drift * math.sin(2 * math.pi * taken / _DRIFT_PERIOD)
        raw = self._optics.expose(pixels, exposure, sequence)
        left, top, width, height = self._box(here)
        stage = ((left + width / 2) * options.mpp, (top + height / 2) * options.mpp)
        return SourceFrame(Frame(raw, options.mpp, time.time(), stage), sequence)

    def close(self) -> None:
        """See `kinet_trt.camera.FrameSource.close`."""
        self._drawn.close()
        self._optics = None

    # --- internals -------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        """Return simulated s since it was first opened."""
        return 0.0 if self._born is None else (time.monotonic() - self._born) * self.options.hurry

    def _failing(self, kind: Kind, now: float) -> bool:
        return any(fault.kind == kind and fault.is_active(now) for fault in tuple(self._faults))

    def _planned(self) -> Route:
        options = self.options
        width, height = (side * options.mpp for side in options.size)
        left, top = (0, 0) if options.blank else find_tissue(self.slide, *options.size)
        start = (left * options.mpp + width / 2, top * options.mpp + height / 2)
        points: tuple[Point, ...] = (start,)
        if options.path == "snake":
            points = snake(start, (width, height), options.overlap)
        elif options.path != "still":
            points = tuple((start[0] + x, start[1] + y) for x, y in options.path)
        return Route(points, options.speed, options.rest)

    def _place(self, now: float) -> Place:
        assert self._route is not None
        return self._route.at(max(0.0, now - self._route_start))

    def _box(self, here: Place) -> Box:
        width, height = self.options.size
        return (
            round(here.x / self.options.mpp - width / 2),
            round(here.y / self.options.mpp - height / 2),
            width,
            height,
        )

    def _wanted(self) -> Iterator[Box]:
        """Yield the boxes that the camera will see next."""
        now = self._now()
        for step in range(round(_AHEAD / _AHEAD_STEP) + 1):
            with self._lock:
                here = self._place(now + step * _AHEAD_STEP)
            yield self._box(here)

    def _view(self, here: Place) -> NDArray[np.uint8]:
        """Return the picture before the sensor; cached while the stage does not move."""
        options = self.options
        box = self._box(here)
        right, down = (v * options.exposure / 1000 / options.mpp for v in (here.vx, here.vy))
        key = (box, round(right), round(down), self._halved)
        if self._scene is None or self._scene[0] != key:
            scene = smear(self._drawn.crop(box), right, down, options.defocus)
            self._scene = key, _halve(scene) if self._halved else scene
        return self._scene[1]


def _halve(scene: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(scene, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
