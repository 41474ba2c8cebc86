"""Frames displayed by pages: the ones that can be captured, and the one held while paused."""

from __future__ import annotations

import threading
from collections import OrderedDict

from kinet_trt.core.errors import KinetError
from kinet_trt.live import clock
from kinet_trt.live.acquisition.loop import Loop
from kinet_trt.live.acquisition.results import FrameResult

MAX_SHOWN = 6
"""Recently displayed frames that can still be captured: the reader saw one of them when pressing the key."""
MAX_AGE = 5.0
"""s after which a frame is too old to be captured if newer ones arrive."""


class RefusedError(KinetError):
    """The request is not possible now; nothing was changed."""


class DisplayedFrames:
    """Frames of a loop on the screens of pages. Thread-safe.

    ``max_age``: s after which a frame is too old to be captured, or three times the interval between the last two
    frames if that is longer. It does not apply to a held frame or to the last frame of a recording.
    """

    def __init__(self, loop: Loop, max_age: float = MAX_AGE) -> None:
        self._loop, self._max_age, self._interval = loop, max_age, 0.0
        self._lock = threading.Lock()
        self._shown: OrderedDict[int, FrameResult] = OrderedDict()
        self.held: FrameResult | None = None  # frame that every page shows while paused; None if not paused
        self._latest: FrameResult | None = None

    @property
    def latest(self) -> FrameResult | None:
        """Latest frame of the loop."""
        with self._lock:
            return self._latest

    @latest.setter
    def latest(self, seen: FrameResult) -> None:
        with self._lock:
            self._interval = seen.at - self._latest.at if self._latest else 0.0
            self._latest = seen

    @property
    def max_age(self) -> float:
        """Age from which a frame is too old to be captured, s."""
        with self._lock:
            return max(self._max_age, 3 * self._interval)

    def show(self, seen: FrameResult) -> None:
        """Record that a frame is sent to a page: the last `MAX_SHOWN` frames can be captured."""
        with self._lock:
            self._shown[seen.sequence] = seen
            while len(self._shown) > MAX_SHOWN:
                self._shown.popitem(last=False)

    def pause(self, sequence: int | None = None) -> None:
        """Stop counting and hold a frame, which can be captured as long as it is held.

        That is the displayed frame with this sequence number, or the last counted one if it is no longer available.
        """
        with self._lock:
            shown = None if sequence is None else self._shown.get(sequence)
            frames = (self._latest, *self._shown.values())
            counted = [frame for frame in frames if frame and frame.detections is not None]
            self.held = self.held or shown or (counted[-1] if counted else None)
        self._loop.pause()
        if self._loop.status.phase != "paused":
            with self._lock:
                self.held = None

    def resume(self) -> None:
        """Resume counting, also after a failure, and release the held frame."""
        self._loop.resume()
        with self._lock:
            self.held = None

    def find(self, sequence: int) -> FrameResult:
        """Return a displayed frame that is recent and counted at the current pixel size."""
        with self._lock:
            held = self.held
            seen = held if held and held.sequence == sequence else self._shown.get(sequence)
        if seen is None:
            raise RefusedError("that frame is no longer available: capture the one shown now")
        age = clock.now() - seen.at
        if age > self.max_age and seen is not held and self._loop.status.phase != "ended":
            raise RefusedError(f"that frame is {age:.0f} s old: capture the one shown now")
        if self._loop.is_outdated(seen):
            advice = "resume, so that it is counted again" if seen is held else "capture the next one"
            raise RefusedError(f"the pixel size was set after this picture was counted: {advice}")
        return seen
