"""The live page under faults: no confirmed field is lost, no pixel size is wrong, the session is resumed."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from live_page import simulated_frame, until
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from kinet_trt.live.session.store import Store

if sys.platform == "win32":
    pytest.skip("limits of POSIX stand for a full disk", allow_module_level=True)

HERE = Path(__file__).parent
SIZE, MPP = (320, 240), 0.34
SIM = "size=320x240,mpp=0.34,fps=20,path=still"
KINDS = ("stall", "disconnect", "torn", "resize", "full", "kill", "never")


class Run:
    """The server process, its socket, and the fields that it confirmed."""

    def __init__(self, store: Path, sim: str = SIM) -> None:
        self.store, self.sim = store, sim
        self.confirmed: dict[int, dict[str, int]] = {}  # counts by field
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "faulty_page.py"), self.sim, str(self.store)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line, "the page did not start"
        ready = json.loads(line)
        self.base = f"http://127.0.0.1:{ready['port']}"
        self.starts += 1
        self.resumed = ready["resumed"]
        self.opened = contextlib.ExitStack()
        headers = {"origin": self.base}
        self.client = self.opened.enter_context(httpx.Client(base_url=self.base, headers=headers, timeout=60))
        self.live = self.opened.enter_context(
            # No pings: a busy machine may be silent for long.
            connect(f"ws{self.base[4:]}/api/live", additional_headers=headers, max_size=None, ping_interval=None)
        )

    def fail(self, kind: str, seconds: float) -> None:
        self.process.stdin.write(f"{kind} {seconds}\n")
        self.process.stdin.flush()

    def frame(self, timeout: float) -> dict | None:
        """Return the next frame that can be captured; None if there is none in time."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            try:
                message = self.live.recv(timeout=left)
            except TimeoutError:
                return None
            if isinstance(message, bytes):
                head, _ = simulated_frame(message)
                self.live.send(json.dumps({"type": "shown", "frame": head["frame"]}))
                if head["offered"]:
                    return head
        return None

    def capture(self, head: dict) -> str:
        """Capture a frame; return the error, or an empty string."""
        answer = self.client.post("/api/capture", json={"frame": head["frame"]})
        if answer.status_code != 200:
            return answer.json()["error"]
        self.confirmed[answer.json()["field"]] = head["counts"]
        return ""

    def lists_all(self, state: dict) -> bool:
        """Return whether a state has all confirmed fields."""
        return {one["id"] for one in state["session"]["fields"]} >= set(self.confirmed)

    def kill_during_capture(self, head: dict, after: float) -> None:
        def ask() -> None:
            with contextlib.suppress(httpx.HTTPError):
                self.capture(head)

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(after)
        self.process.kill()
        asking.join()
        self.end()

    def end(self) -> None:
        with contextlib.suppress(WebSocketException, OSError):
            self.opened.close()
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@contextlib.contextmanager
def started(store: Path, sim: str = SIM) -> Iterator[Run]:
    run = Run(store, sim)
    try:
        yield run
    finally:
        run.process.poll()
        run.end() if run.process.returncode is None else None


def run_faults(folder: Path, rounds: int, seed: int) -> None:
    """Inject every kind of fault once per round, in random order, and capture meanwhile."""
    rng = random.Random(seed)
    path = folder / "s.kinet"
    errors = set()
    with started(path) as run:
        while run.frame(60) is None:
            pass
        session = run.client.get("/api/state").json()["session"]["id"]
        kinds = [kind for _ in range(rounds) for kind in rng.sample(KINDS, len(KINDS))]
        for kind in kinds:
            seconds = rng.uniform(0.1, 1.0)
            head = run.frame(30)
            if kind == "kill" and head:
                run.kill_during_capture(head, rng.uniform(0, 0.06))
                run.start()
                assert run.resumed or not run.confirmed
            elif kind == "never":
                # A camera that cannot be opened: the page shows it, and the server can be stopped.
                run.process.kill()
                run.end()
                run.sim = f"{SIM},faults=never@0"
                run.start()
                state = run.client.get("/api/state").json()
                assert state["camera"]["phase"] in ("connecting", "reconnecting")
                assert run.lists_all(state)
                run.process.kill()
                run.end()
                run.sim = SIM
                run.start()
            else:
                run.fail(kind, seconds)
                end = time.monotonic() + seconds + 0.3
                for _ in range(3):
                    if (left := end - time.monotonic()) > 0 and (shown := run.frame(left)):
                        errors.add(run.capture(shown))
                time.sleep(max(0.0, end - time.monotonic()))
            assert run.process.poll() is None
            # A field is on disk a moment before it is listed.
            state = until(run.client, run.lists_all)
            assert state["session"]["id"] == session
        # A field can still be captured in the end.
        while (head := run.frame(60)) is None or run.capture(head):
            pass
    with Store.open(path, create=False) as store:
        (left,) = store.sessions.all()
        assert (left.id, left.closed is None) == (session, False)
        fields = {field.id: field for field in store.fields.in_session(session)}
        assert set(fields) >= set(run.confirmed)
        for name, field in fields.items():
            if name in run.confirmed:
                assert field.detections.counts() == run.confirmed[name]
            assert store.fields.pixels(name).shape[:2] == (field.height, field.width)
            # At half the size, pixels are twice as large; the camera still states the old size.
            true = MPP * SIZE[0] / field.width
            assert field.mpp == true or field.mpp_source == "model"
    assert len(run.confirmed) > len(kinds) / 4
    assert all(not why or "full" in why or "passed" in why for why in errors), errors


def test_one_fault_of_each_kind(tmp_path, fuzz_seeds):
    run_faults(tmp_path, 1, fuzz_seeds[0])


@pytest.mark.slow
def test_two_hundred_faults(tmp_path, fuzz_seeds):
    run_faults(tmp_path, 200 // len(KINDS), fuzz_seeds[1])
