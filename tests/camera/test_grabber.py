"""Frame grabber: dropped frames, reconnection, um/px, and termination, with scripted sources."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet_trt.camera.grabber import CameraState, FrameGrabber
from kinet_trt.camera.source import CameraError, NoFrameError, Properties, SourceFrame
from kinet_trt.core.errors import ImageError
from kinet_trt.core.frame import Frame


def shot(sequence: int, size: tuple[int, int] = (64, 48), mpp: float | None = None) -> SourceFrame:
    pixels = np.full((size[1], size[0], 3), sequence % 256, np.uint8)
    return SourceFrame(Frame(pixels, mpp=mpp, time=time.time()), sequence)


class Script:
    """A source that plays a list: frames are returned, errors raised, None ends; then it is silent."""

    def __init__(self, *acts: SourceFrame | Exception | None, waits: bool = True, per_frame: bool = False) -> None:
        self.acts: Iterator[SourceFrame | Exception | None] = iter(acts)
        self.opened = self.closed = 0
        self.properties = Properties("script", 64, 48, waits=waits, mpp_is_per_frame=per_frame)
        self.threads: set[int] = set()

    def open(self) -> Properties:
        self.opened += 1
        self.threads.add(threading.get_ident())
        return self.properties

    def newest(self, timeout: float) -> SourceFrame | None:
        self.threads.add(threading.get_ident())
        try:
            act = next(self.acts)
        except StopIteration:
            time.sleep(min(timeout, 0.02))
            raise NoFrameError("script: over") from None
        if isinstance(act, Exception):
            raise act
        return act

    def close(self) -> None:
        self.closed += 1
        self.threads.add(threading.get_ident())


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_take_returns_the_newest_and_counts_dropped_frames() -> None:
    source = Script(*(shot(n) for n in range(1, 51)), waits=False)
    with FrameGrabber(source) as camera:
        until(lambda: camera.state.frames == 50)
        taken = camera.take(1.0)
        assert taken is not None
        assert taken.sequence == 50
        assert taken.frame.pixels[0, 0, 0] == 50
        assert camera.take(0.01) is None
        assert (camera.state.dropped, camera.state.missed) == (49, 0)


def test_gaps_in_the_cameras_count_are_missed_frames() -> None:
    with FrameGrabber(Script(shot(7), shot(8), shot(11), shot(20), None)) as camera:
        taken = [camera.take(5.0) for _ in range(4)]
        assert [s.sequence for s in taken if s] == [1, 2, 5, 14]
        assert camera.take(5.0) is None
        assert (camera.state.phase, camera.state.missed, camera.state.dropped) == ("ended", 10, 0)
        assert camera.state.sentence() == "the recording has ended"


def test_slow_consumer_does_not_block_the_camera() -> None:
    numbers = itertools.count(1)

    class Fast(Script):
        def newest(self, timeout: float) -> SourceFrame:
            time.sleep(0.002)
            return shot(next(numbers))

    with FrameGrabber(Fast(waits=False)) as camera:
        for _ in range(3):
            assert camera.take(60.0) is not None
            enough = camera.state.frames + 20
            until(lambda enough=enough: camera.state.frames >= enough)
        state = camera.state
        assert state.dropped >= state.frames - 5
        assert state.phase == "connected"
        assert 0 < state.fps < 600
        assert "frames a second" in state.sentence()


def test_reconnects_with_growing_pauses() -> None:
    opened: list[float] = []

    class Gone(Script):
        def open(self) -> Properties:
            opened.append(time.monotonic())
            raise CameraError("the cable is out")

    with FrameGrabber(Gone(), pauses=(0.02, 0.1, 0.3)) as camera:
        until(lambda: len(opened) == 5)
        states: list[CameraState] = []
        until(lambda: states.append(camera.state) or states[-1].phase == "reconnecting")  # type: ignore[func-returns-value]
        assert states[-1].why == "the cable is out"
        assert (states[-1].retry_in or 0) <= 0.3
        assert states[-1].sentence() == "reconnecting in 0 s because the cable is out"
    gaps = np.diff(opened)
    for gap, pause in zip(gaps, (0.02, 0.1, 0.3, 0.3), strict=True):
        assert gap >= pause


def test_pauses_restart_and_sequences_continue_after_frames() -> None:
    lost = CameraError("gone")
    source = Script(shot(100), lost, shot(1), shot(2), lost, shot(1), None)
    with FrameGrabber(source, pauses=(0.01, 5.0)) as camera:
        taken = [camera.take(3.0) for _ in range(4)]
        assert [s.sequence for s in taken if s] == [1, 2, 3, 4]
        until(lambda: camera.state.phase == "ended")
        assert camera.state.missed == 0
    assert source.opened == 3
    assert source.closed >= 3
    assert len(source.threads) == 1  # what the protocol promises to vendors


@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero"), OSError("usb"), KeyError("frame")])
def test_any_vendor_exception_leads_to_a_reconnect(error: Exception) -> None:
    with FrameGrabber(Script(shot(1), error, shot(1), None), pauses=(0.01,)) as camera:
        assert camera.take(5.0) is not None
        assert camera.take(5.0) is not None
        until(lambda: camera.state.phase == "ended")


def test_failing_close_does_not_prevent_a_reconnect(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(Script):
        def close(self) -> None:
            raise OSError("busy")

    with FrameGrabber(Stuck(shot(1), CameraError("gone"), shot(1), None), pauses=(0.01,)) as camera:
        assert camera.take(5.0) is not None
        assert camera.take(5.0) is not None
        until(lambda: camera.state.phase == "ended")
    assert "could not be closed" in caplog.text


def test_silent_camera_is_stalled_and_then_reopened() -> None:
    source = Script(shot(1), waits=False)
    with FrameGrabber(source, pauses=(0.05,), patience=1.5) as camera:
        assert camera.take(5.0) is not None
        until(lambda: camera.state.phase == "stalled")
        assert re.fullmatch("script stalled: no frame for [12] s", camera.state.sentence())
        until(lambda: source.opened == 2)
        assert camera.state.why == "script: over"


def test_damaged_frames_are_skipped_and_many_cause_a_reconnect() -> None:
    bad = ImageError("half a frame")
    source = Script(bad, shot(1), *[bad] * 10, shot(1), None)
    with FrameGrabber(source, pauses=(0.01,)) as camera:
        assert camera.take(5.0) is not None
        assert camera.take(5.0) is not None
        until(lambda: camera.state.phase == "ended")
        assert camera.state.bad == 11
    assert source.opened == 2


def test_hanging_open_does_not_block_close(caplog: pytest.LogCaptureFixture) -> None:
    free = threading.Event()

    class Hangs(Script):
        def open(self) -> Properties:
            free.wait(60)
            raise CameraError("too late")

    camera = FrameGrabber(Hangs())
    with camera:
        assert camera.take(0.05) is None
        assert camera.state.phase == "connecting"
        assert camera.state.seconds > 0.04
        free.set()
    assert camera.state.phase == "closed"


def test_close_is_idempotent() -> None:
    source = Script(*(shot(n) for n in range(1000)))
    camera = FrameGrabber(source)
    with camera:
        camera.take(5.0)
    camera.close()
    assert camera.take(0.01) is None
    assert camera.state.phase == "closed"
    assert source.closed == 1
    FrameGrabber(source).close()  # never started


def test_close_wakes_waiting_consumers() -> None:
    found: list[object] = []
    camera = FrameGrabber(Script())
    with camera:
        waiter = threading.Thread(target=lambda: found.append(camera.take(600.0)))
        waiter.start()
    waiter.join(60.0)
    assert found == [None]


# --- um/px ------------------------------------------------------------------------------------------------------------


def mpps(source: Script, n: int, mpp: float | None = None) -> tuple[list[float | None], str]:
    """Return the um/px of n frames, and the note on the last."""
    with FrameGrabber(source, mpp=mpp) as camera:
        taken = [camera.take(5.0) for _ in range(n)]
        until(lambda: camera.state.phase == "ended")
        return [each.frame.mpp for each in taken if each], camera.state.mpp_note


SMALL = (64, 48)
LARGE = (128, 96)


def test_entered_mpp_applies_to_one_size_only() -> None:
    source = Script(shot(1, LARGE), shot(2, SMALL), shot(3, LARGE), shot(4, SMALL), None)
    found, note = mpps(source, 4, mpp=0.25)
    assert found == [0.25, None, 0.25, None]
    assert note == "frames are now 64 x 48 px; 0.25 µm/px was set for 128 x 96: set it again"


def test_constant_mpp_of_a_source_applies_to_one_size_only() -> None:
    source = Script(*(shot(n, size, 0.3) for n, size in enumerate([LARGE, SMALL, SMALL, LARGE])), None)
    assert mpps(source, 4) == ([0.3, None, None, 0.3], "")


def test_new_mpp_with_a_new_size_is_accepted() -> None:
    source = Script(shot(1, LARGE, 0.25), shot(2, SMALL, 0.5), shot(3, LARGE, 0.25), None)
    assert mpps(source, 3) == ([0.25, 0.5, 0.25], "")


def test_per_frame_mpp_is_accepted_at_any_size() -> None:
    source = Script(shot(1, LARGE, 0.3), shot(2, SMALL, 0.3), None, per_frame=True)
    assert mpps(source, 2) == ([0.3, 0.3], "")


def test_entered_mpp_ends_when_the_objective_changes() -> None:
    source = Script(shot(1, LARGE, 0.5), shot(2, LARGE, 0.25), None, per_frame=True)
    found, note = mpps(source, 2, mpp=0.48)
    assert found == [0.48, None]
    assert "the camera now states 0.25 µm/px, which it did not when 0.48 was set" in note


def test_unknown_mpp_is_noted() -> None:
    assert mpps(Script(shot(1), None), 1) == ([None], "µm/px is unknown: set it")


def test_mpp_can_be_set_while_running() -> None:
    source = Script(waits=False)
    with FrameGrabber(source, mpp=0.5) as camera:

        def show(*size_and_own: object) -> float | None:
            source.acts = iter([shot(1, *size_and_own)])  # type: ignore[arg-type]
            taken = camera.take(5.0)
            assert taken is not None
            return taken.frame.mpp

        assert show(LARGE, 0.3) == 0.5
        assert show(SMALL, 0.3) is None
        camera.set_mpp(0.6)
        assert show(SMALL, 0.3) == 0.6
        assert camera.state.mpp == 0.6
        camera.set_mpp(None)
        assert show(LARGE, 0.3) == 0.3
        assert show(SMALL, 0.3) is None


@given(
    sizes=st.lists(st.sampled_from([SMALL, LARGE]), min_size=1, max_size=12),
    binned=st.booleans(),
)
def test_no_sequence_of_changes_applies_mpp_to_another_size(sizes: list[tuple[int, int]], binned: bool) -> None:
    """A camera that states 0.25 with any binning: no um/px is accepted at another size than its first."""
    source = Script(*(shot(n, size, 0.25 if binned else None) for n, size in enumerate(sizes)), None)
    found, _ = mpps(source, len(sizes), None if binned else 0.25)
    for size, mpp in zip(sizes, found, strict=True):
        assert mpp == (0.25 if size == sizes[0] else None)


def test_states_are_sentences() -> None:
    assert CameraState("connecting", 1.0).sentence() == "connecting"
    assert (
        CameraState("connecting", 1.0, why="the cable is out").sentence() == "connecting, again after: the cable is out"
    )
    assert CameraState("connecting", 12.0).sentence() == "connecting for 12 s"
    assert CameraState("reconnecting", 1.0, "it is off", 4.2).sentence() == "reconnecting in 4 s because it is off"
    assert CameraState("closed", 1.0).sentence() == "closed"
