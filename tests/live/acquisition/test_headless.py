"""``kinet-trt live --headless``: lines, exit status and messages."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from kinet_trt.camera.grabber import CameraState
from kinet_trt.camera.simulated import Options, SimulatedMicroscope
from kinet_trt.cli import main as cli
from kinet_trt.core.errors import EngineError, KinetError
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.live.acquisition import headless
from kinet_trt.live.acquisition.headless import _Notifier, run
from kinet_trt.live.acquisition.results import Status
from kinet_trt.simulation import simulate

SMALL = "sim:size=320x240,mpp=0.34,path=still"


@pytest.fixture(scope="module")
def counter() -> NucleusCounter:
    return NucleusCounter(precision="fp32")


@pytest.fixture
def live(monkeypatch, capsysbinary):
    """Return a function that runs the command and returns exit status, lines and standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["kinet-trt", "live", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsysbinary.readouterr()
        assert b"Traceback" not in out + err
        return stop.value.code or 0, [json.loads(line) for line in out.splitlines()], err.decode()

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path, tissue = tmp_path_factory.mktemp("fields"), simulate.field(4, 320, 240)[0]
    for n in range(5):
        cv2.imwrite(str(path / f"{n}.png"), np.roll(tissue, 9 * n, axis=1)[..., ::-1])
    return path


def test_lines_have_exactly_the_documented_keys(live):
    code, lines, err = live(SMALL, "--headless", "--frames", 4)
    assert (code, err) == (0, "")
    assert [line["number"] for line in lines] == [1, 2, 3, 4]
    rows = headless.__doc__.split("=\n", 1)[1].splitlines()
    documented = {key for row in rows if row.startswith("``") for key in re.findall("``(.+?)``", row[:25])}
    for line in lines:
        assert set(line) | {"detections"} == documented
        assert line["schema"] == 1
        assert (line["width"], line["height"], line["mpp"], line["mpp_source"]) == (320, 240, 0.34, "camera")
        assert sum(line["counts"].values()) > 10
        assert line["latency_ms"] >= line["counting_ms"] > 0
    assert lines[0]["p50_ms"] is None
    assert lines[3]["p99_ms"] >= lines[3]["p50_ms"] > 0
    assert lines[3]["offered"]
    assert lines[3]["speed_um_s"] < 10


def test_folder_is_counted_to_its_end(live, folder, counter):
    code, lines, err = live(folder, "--headless", "--precision", "fp32", "--threshold", "0.5", "--detections")
    assert code == 0
    assert [line["sequence"] for line in lines] == [1, 2, 3, 4, 5]
    assert err.count("only assumed") == 1
    assert err.count("\n") == 1
    tissue = simulate.field(4, 320, 240)[0]
    for n, line in enumerate(lines):
        found = counter(np.roll(tissue, 9 * n, axis=1)).records()
        assert line["detections"] == [record for record in found if record["score"] >= 0.5]
        assert line["threshold"] == 0.5
        assert line["mpp_source"] == "model"


def test_video_is_counted_frame_by_frame(live, tmp_path):
    film = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 200.0, (160, 128))
    tissue = simulate.field(4, 160, 128)[0]
    for n in range(9):
        film.write(np.ascontiguousarray(np.roll(tissue, n, axis=1)[..., ::-1]))
    film.release()
    code, lines, err = live(tmp_path / "a.avi", "--headless", "--mpp", "0.34")
    assert (code, err) == (0, "")
    assert [line["sequence"] for line in lines] == list(range(1, 10))
    assert {(line["mpp"], line["mpp_source"], line["dropped"]) for line in lines} == {(0.34, "option", 0)}


def test_damaged_frame_is_reported_and_the_rest_is_counted(live, tmp_path):
    film = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 200.0, (160, 128))
    tissue = simulate.field(4, 160, 128)[0]
    for n in range(5):
        film.write(np.ascontiguousarray(np.roll(tissue, n, axis=1)[..., ::-1]))
    film.release()
    data = bytearray((tmp_path / "a.avi").read_bytes())
    begins = [found.start() for found in re.finditer(rb"\xff\xd8\xff", bytes(data))]
    data[begins[2] : begins[2] + 300] = bytes(300)
    (tmp_path / "a.avi").write_bytes(data)
    code, lines, err = live(tmp_path / "a.avi", "--headless", "--mpp", "0.34")
    assert code == 0
    assert [line["sequence"] for line in lines] == [1, 2, 4, 5]
    assert re.fullmatch(r"1 damaged frame was skipped \(a JPEG frame of .*\)\.\n", err)
    (tmp_path / "a.avi").write_bytes(data[: begins[4]])
    code, lines, err = live(tmp_path / "a.avi", "--headless", "--mpp", "0.34")
    assert (code, len(lines)) == (1, 3)
    assert "a.avi ended early: 4 of 5 frames. Copy the file again" in err


def test_recording_without_a_counted_frame_is_an_error(live, tmp_path):
    for n in range(2):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.zeros((64, 64, 3), np.uint8))
    code, lines, err = live(tmp_path, "--headless", "--mpp", "0.34")
    assert (code, lines) == (1, [])
    assert "2 of 2 frames were not counted: there is no picture: every pixel is black" in err
    assert f"Error: {tmp_path.name}: not one frame was counted: there is no picture" in err
    for n in range(12):
        (tmp_path / f"{n}.png").write_bytes(b"no image")
    code, lines, err = live(tmp_path, "--headless", "--mpp", "0.34")
    assert (code, lines) == (1, [])
    assert "none of its 12 images can be read" in err


def test_frames_stop_a_longer_recording(live, folder):
    code, lines, _ = live(folder, "--headless", "--frames", 2)
    assert code == 0
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([SMALL, "--frames", "5"], 2, "require --headless"),
        (["nowhere:", "--headless"], 1, "no camera, file or folder"),
        (["sim:fsp=3", "--headless"], 1, "option 'fsp=3'"),
        ([SMALL, "--headless", "--frames", "0"], 2, "--frames"),
        ([SMALL, "--headless", "--mpp", "0"], 2, "px"),
        ([SMALL, "--headless", "--threshold", "x"], 2, "threshold"),
        ([SMALL, "--headless", "-m", "no.onnx"], 1, "no.onnx"),
    ],
)
def test_errors_are_one_message(live, arguments, code, said):
    found, lines, err = live(*arguments)
    assert (found, lines) == (code, [])
    assert said in err


def test_damaged_recording_ends_the_run(live, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    code, lines, err = live(tmp_path / "a.mp4", "--headless")
    assert (code, lines) == (1, [])
    assert err.count("Error: ") == 1
    assert "a.mp4" in err


def status(phase: str, why: str = "", loop: str = "counting", loop_why: str = "") -> Status:
    """Return a status of the loop."""
    return Status(loop, loop_why, CameraState(phase, 1.0, why, 2.0, "cam"), 0, 0, None, None)


def test_state_is_reported_once_per_change():
    told: list[str] = []
    notifier = _Notifier(told.append, recorded=False)
    for _ in range(3):
        for phase in ("connecting", "reconnecting"):
            for _ in range(5):
                notifier.update(status(phase, "it is off"), None)
    assert told == ["reconnecting in 2 s because it is off"]
    notifier.update(status("reconnecting", "it is on fire"), None)
    notifier.update(status("connected"), None)
    notifier.update(status("connected"), None)
    assert told[1:] == ["reconnecting in 2 s because it is on fire", "cam connected: 0 frames a second, 0 dropped"]
    with pytest.raises(EngineError, match="counting stopped: no device"):
        notifier.update(status("connected", loop="failed", loop_why="no device"), None)
    with pytest.raises(KinetError, match="torn"):
        _Notifier(told.append, recorded=True).update(status("reconnecting", "torn"), None)


def test_camera_that_does_not_open_is_reported_once(counter):
    told: list[str] = []
    out = io.BytesIO()
    # Tried at 0, 1 and 3 s.
    camera = SimulatedMicroscope(Options.parse(f"{SMALL[4:]},faults=disconnect@0+2"))
    assert run(camera, counter, out, told.append, frames=1) == 0
    assert len(told) == 2
    assert "reconnecting" in told[0]
    assert "does not answer" in told[0]
    assert "simulated microscope connected" in told[1]
    assert out.getvalue().count(b"\n") == 1


def test_lines_are_flushed(counter):
    class Counts(io.BytesIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    out = Counts()
    assert run(SimulatedMicroscope(Options.parse(SMALL[4:])), counter, out, print, frames=3) == 0
    assert out.flushed == out.getvalue().count(b"\n") == 3


def test_full_disk_is_an_error_and_ends_all_threads(counter):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with (
        pytest.raises(KinetError, match="standard output cannot be written: No space left"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        run(SimulatedMicroscope(Options.parse(SMALL[4:])), counter, full, print)
    assert [thread.name for thread in threading.enumerate() if thread.name == "count"] == []


def started(*arguments: str, **more) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "kinet_trt", "live", *arguments, "--headless"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_ctrl_c_ends_cleanly_with_130():
    # A program in the background of a script ignores SIGINT, and so would what it starts.
    interruptible = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with started(SMALL, "--precision", "fp32", **interruptible) as process:
        for n in range(1, 4):  # each line is there as soon as its frame is counted
            assert json.loads(process.stdout.readline())["number"] == n
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "")


def test_closed_pipe_ends_the_run_quietly():
    with started(SMALL, "--precision", "fp32") as process:
        json.loads(process.stdout.readline())
        process.stdout.close()
        assert process.wait(120) == 0
        assert process.stderr.read() == ""
