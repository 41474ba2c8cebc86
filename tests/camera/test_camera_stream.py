"""Network cameras, served on loopback: MJPEG over HTTP, and RTSP by Debian's GStreamer server."""

from __future__ import annotations

import http.server
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import pytest
from camera_films import number_of, numbered, open_files

from conftest import skip
from kinet_trt.camera.grabber import FrameGrabber
from kinet_trt.camera.source import CameraError
from kinet_trt.camera.stream import StreamSource
from kinet_trt.core.errors import ImageError


class Mjpeg(http.server.ThreadingHTTPServer):
    """Serves numbered frames, 50 a second; silent after `silence` frames, gone after `end`."""

    daemon_threads = True

    def __init__(self, silence: int = 1 << 30, end: int = 1 << 30, size: tuple[int, int] = (160, 120)) -> None:
        self.silence, self.end, self.size, self.over = silence, end, size, threading.Event()
        self.cut: set[int] = set()
        self.zeroed: set[int] = set()
        self.longer: set[int] = set()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Mjpeg

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        n = 0
        while not self.server.over.wait(0.02) and n < self.server.end:
            if n < self.server.silence:
                jpeg = cv2.imencode(".jpg", numbered(n % 256, *self.server.size))[1].tobytes()
                if n in self.server.cut:
                    jpeg = jpeg[: len(jpeg) // 2]
                if n in self.server.zeroed:
                    jpeg = jpeg[: len(jpeg) // 2] + bytes(len(jpeg) // 2 - 2) + jpeg[-2:]
                if n in self.server.longer:
                    jpeg += bytes(500)
                head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                try:
                    self.wfile.write(head + jpeg + b"\r\n")
                except OSError:
                    return
            n += 1


@contextmanager
def served(server: Mjpeg) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/live"
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_mjpeg_over_http_is_read() -> None:
    with served(Mjpeg()) as address:
        source = StreamSource(address)
        properties = source.open()
        assert (properties.name, properties.width, properties.height) == (address, 160, 120)
        numbers = [number_of(source.newest(1.0).frame.pixels) for _ in range(12)]
        source.close()
    assert numbers == list(range(12))


def test_silent_stream_is_reported() -> None:
    with served(Mjpeg(silence=10)) as address:
        source = StreamSource(address, open_timeout=30, read_timeout=2)
        source.open()
        for _ in range(10):
            source.newest(1.0)
        with pytest.raises(CameraError, match=r"stopped: it ended, or gave nothing for 2 s"):
            source.newest(60.0)
        source.close()


def test_ended_stream_is_reconnected() -> None:
    with served(Mjpeg(end=15)) as address:
        before = open_files()
        with FrameGrabber(StreamSource(address), mpp=0.3, pauses=(0.05,)) as camera:
            sequences: list[int] = []
            end = time.monotonic() + 20
            while camera.state.frames < 40 and time.monotonic() < end:
                if shot := camera.take(1.0):
                    sequences.append(shot.sequence)
            assert camera.state.frames >= 40
        assert sequences == sorted(set(sequences))
        assert open_files() <= before + 1  # of the server, which this process holds as well


def test_mpp_is_unknown_after_a_reconnect_with_another_size() -> None:
    server = Mjpeg(end=15)
    with served(server) as address, FrameGrabber(StreamSource(address), mpp=0.3, pauses=(0.05,)) as camera:
        first = camera.take(10.0)
        assert first is not None
        assert first.frame.mpp == 0.3
        server.size = (80, 60)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            shot = camera.take(1.0)
            if shot and shot.frame.width == 80:
                break
        assert shot is not None
        assert shot.frame.mpp is None
        assert "frames are now 80 x 60 px; 0.3 µm/px was set for 160 x 120" in camera.state.mpp_note


def test_size_change_within_a_stream_is_detected() -> None:
    """OpenCV would scale the small frames to the size of the first, which would make um/px wrong."""
    server = Mjpeg()
    with served(server) as address, FrameGrabber(StreamSource(address), mpp=0.3) as camera:
        sizes = set()
        end = time.monotonic() + 20
        while len(sizes) < 2 and time.monotonic() < end:
            if shot := camera.take(1.0):
                sizes.add((shot.frame.width, shot.frame.height, shot.frame.mpp))
                number_of(shot.frame.pixels)
                server.size = (80, 60)
        assert sizes == {(160, 120, 0.3), (80, 60, None)}
        assert camera.state.why == ""


def test_damaged_jpeg_is_skipped_and_trailing_bytes_are_ignored(capfd: pytest.CaptureFixture[str]) -> None:
    server = Mjpeg()
    server.cut, server.zeroed, server.longer = {5, 8}, {6}, {3}
    with served(server) as address:
        source = StreamSource(address)
        source.open()
        numbers = []
        for _ in range(12):
            try:
                numbers.append(number_of(source.newest(1.0).frame.pixels))
            except ImageError as error:
                numbers.append(str(error).startswith("a JPEG frame of"))
        source.close()
    assert numbers == [0, 1, 2, 3, 4, True, True, 7, True, 9, 10, 11]
    assert capfd.readouterr().err == ""


def test_http_video_without_jpeg_is_read(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 25, (160, 120))
    for n in range(4):
        writer.write(numbered(n))
    writer.release()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    source = StreamSource(f"http://127.0.0.1:{server.server_port}/film.avi")
    try:
        source.open()
        assert [number_of(source.newest(1.0).frame.pixels) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(CameraError, match="stopped"):
            source.newest(1.0)
    finally:
        source.close()
        server.shutdown()
        server.server_close()
        thread.join()


def test_unreachable_camera_is_one_message() -> None:
    source = StreamSource("rtsp://doctor:secret@127.0.0.1:9/live", open_timeout=2)
    with pytest.raises(CameraError, match=r"^rtsp://127\.0\.0\.1:9/live cannot be opened: no video within 2 s") as told:
        source.open()
    assert "secret" not in str(told.value)


# --- RTSP ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def rtsp() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    python = shutil.which("python3", path="/usr/bin")
    script = Path(__file__).with_name("rtsp_server.py")
    if python is None or subprocess.run([python, script, "--check"], capture_output=True, check=False).returncode:
        skip(
            "no GStreamer RTSP server: apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base "
            "gstreamer1.0-plugins-good"
        )
    server = subprocess.Popen([str(python), str(script)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield f"rtsp://127.0.0.1:{int(server.stdout.readline())}/live", server
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_rtsp_stream_is_read(rtsp: tuple[str, subprocess.Popen[str]]) -> None:
    address, server = rtsp
    before = open_files()
    with FrameGrabber(StreamSource(address, read_timeout=1.0), mpp=0.25, pauses=(0.1,)) as camera:
        shot = camera.take(20.0)
        assert shot is not None
        assert (shot.frame.width, shot.frame.height, shot.frame.mpp) == (320, 240, 0.25)
        # The server's picture is red: RGB, not BGR.
        assert shot.frame.pixels[120, 160, 0] > 200
        assert shot.frame.pixels[120, 160, 2] < 60
        start = time.monotonic()
        while camera.state.frames < 30 and time.monotonic() < start + 20:
            camera.take(1.0)
        assert camera.state.phase == "connected"
        server.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        while "gave nothing" not in camera.state.why and time.monotonic() < start + 15:
            camera.take(0.2)
        assert "gave nothing for 1 s" in camera.state.why
        server.send_signal(signal.SIGCONT)
        frames = camera.state.frames
        while camera.state.frames < frames + 5 and time.monotonic() < start + 40:
            camera.take(0.5)
        assert camera.state.frames >= frames + 5
    assert open_files() == before
