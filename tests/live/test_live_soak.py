"""An hour at the microscope, accelerated: no growth of memory, threads or open files."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import threading
import time
from pathlib import Path

import pytest
from live_page import page, post, simulated_frame, socket

from kinet_trt.inference.counter import NucleusCounter

if not sys.platform.startswith("linux"):
    pytest.skip("reads memory and open files from /proc", allow_module_level=True)

SPEED_UP = 30
"""Simulated seconds per second."""


def resources_used() -> tuple[float, int, int]:
    """Return MiB of memory, open files and threads of this process."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that is kept by malloc is not a leak
    status = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))
    return resident, len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def remaining_threads() -> list[str]:
    """Return the names of the remaining threads, except those of this test's web client."""
    names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    return [name for name in names if not name.startswith("ThreadPoolExecutor")]


def visit(served, client, seconds: float) -> tuple[float, int, int]:
    """Watch, capture and correct for some simulated seconds, with a new session every five minutes.

    Return the minimum of the resources used, which does not contain a frame in transit.
    """
    captured, end, session_ends, next_capture = 0, time.monotonic() + seconds / SPEED_UP, 0.0, 0.0
    least = resources_used()
    with socket(served) as live:
        while time.monotonic() < end:
            if time.monotonic() > session_ends:
                # A session grows with its fields, so each is deleted.
                old = client.get("/api/state").json()["session"]["id"]
                post(client, "/api/sessions", {"title": "", "reader": ""})
                known = [one["id"] for one in client.get("/api/sessions/list").json()["sessions"]]
                if old in known:
                    post(client, "/api/sessions/delete", {"session": old})
                session_ends = time.monotonic() + 60 * 5 / SPEED_UP
            message = live.recv(timeout=60)
            if not isinstance(message, bytes):
                continue
            head, _ = simulated_frame(message)
            live.send(json.dumps({"type": "shown", "frame": head["frame"]}))
            if not head["offered"] or time.monotonic() < next_capture:
                continue
            next_capture = time.monotonic() + 20 / SPEED_UP
            answer = client.post("/api/capture", json={"frame": head["frame"]})
            if answer.status_code == 200:
                captured += 1
                field = answer.json()["field"]
                post(client, f"/api/fields/{field}/add", {"x": 5, "y": 5, "class": "positive"})
                post(client, "/api/undo", {})
                client.get(f"/api/fields/{field}/thumbnail.jpg").raise_for_status()
                least = tuple(map(min, least, resources_used()))
    assert captured > 3
    return least


@pytest.mark.slow
def test_no_leaks_in_an_hour(tmp_path):
    # One fault a minute: handles leak when cameras are reopened.
    faults = "/".join(f"{kind}@{60 * k}+5" for k, kind in enumerate(["stall", "disconnect", "torn", "resize"] * 20, 1))
    sim = f"size=480x360,mpp=0.34,fps=20,path=still,hurry={SPEED_UP},faults={faults}"
    with page(tmp_path / "s.kinet", NucleusCounter(precision="fp32"), sim) as (served, client, _):
        visit(served, client, 600)  # fills caches and buffers
        quarters = [visit(served, client, 900) for _ in range(4)]
        first, last = quarters[0], quarters[-1]
    assert last[0] <= first[0] * 1.01, f"MiB, files and threads after each quarter of an hour: {quarters}"
    assert last[1] <= first[1], f"the same: {quarters}"
    assert last[2] <= first[2] + 2, f"the same: {quarters}"  # the pool of the web server varies
    end = time.monotonic() + 20
    while remaining_threads() and time.monotonic() < end:
        time.sleep(0.1)
    assert remaining_threads() == []
