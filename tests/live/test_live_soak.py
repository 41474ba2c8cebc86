"""An hour at the microscope, sped up: memory, threads and files stay what they were."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import threading
import time
from pathlib import Path

import pytest
from live_page import frame_of, page, post, socket

from kinet_trt.inference.counter import NucleusCounter

if not sys.platform.startswith("linux"):
    pytest.skip("memory and files as Linux tells them", allow_module_level=True)

HURRY = 30
"""Simulated seconds in a second."""


def held() -> tuple[float, int, int]:
    """Return MiB of memory, open files and threads of this process."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free, but not given back, is no leak
    status = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))
    return resident, len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def ours() -> list[str]:
    """Return the names of the threads that are left, but for the pool of this test's own web client."""
    names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    return [name for name in names if not name.startswith("ThreadPoolExecutor")]


def visit(served, client, seconds: float) -> tuple[float, int, int]:
    """Watch, capture and correct for some simulated seconds, every five minutes in another session.

    Return the least of what was held meanwhile: a frame that is just on its way is no leak.
    """
    captured, end, session_ends, next_capture = 0, time.monotonic() + seconds / HURRY, 0.0, 0.0
    least = held()
    with socket(served) as live:
        while time.monotonic() < end:
            if time.monotonic() > session_ends:
                # What a session holds grows with it: each begins anew and is deleted.
                old = client.get("/api/state").json()["session"]["id"]
                post(client, "/api/sessions", {"title": "", "reader": ""})
                known = [one["id"] for one in client.get("/api/sessions/list").json()["sessions"]]
                if old in known:
                    post(client, "/api/sessions/delete", {"session": old})
                session_ends = time.monotonic() + 60 * 5 / HURRY
            message = live.recv(timeout=60)
            if not isinstance(message, bytes):
                continue
            head, _ = frame_of(message)
            live.send(json.dumps({"type": "shown", "frame": head["frame"]}))
            if not head["offered"] or time.monotonic() < next_capture:
                continue
            next_capture = time.monotonic() + 20 / HURRY
            answer = client.post("/api/capture", json={"frame": head["frame"]})
            if answer.status_code == 200:
                captured += 1
                field = answer.json()["field"]
                post(client, f"/api/fields/{field}/add", {"x": 5, "y": 5, "class": "positive"})
                post(client, "/api/undo", {})
                client.get(f"/api/fields/{field}/thumbnail.jpg").raise_for_status()
                least = tuple(map(min, least, held()))
    assert captured > 3
    return least


@pytest.mark.slow
def test_an_hour_leaves_nothing_behind(tmp_path):
    # A fault a minute: cameras that are opened again and again are where handles are lost.
    faults = "/".join(f"{kind}@{60 * k}+5" for k, kind in enumerate(["stall", "disconnect", "torn", "resize"] * 20, 1))
    sim = f"size=480x360,mpp=0.34,fps=20,path=still,hurry={HURRY},faults={faults}"
    with page(tmp_path / "s.kinet", NucleusCounter(precision="fp32"), sim) as (served, client, _):
        visit(served, client, 600)  # caches and buffers fill
        quarters = [visit(served, client, 900) for _ in range(4)]
        first, last = quarters[0], quarters[-1]
    assert last[0] <= first[0] * 1.01, f"MiB, files and threads after each quarter of an hour: {quarters}"
    assert last[1] <= first[1], f"the same: {quarters}"
    assert last[2] <= first[2] + 2, f"the same: {quarters}"  # the web server's pool breathes
    end = time.monotonic() + 20
    while ours() and time.monotonic() < end:
        time.sleep(0.1)
    assert ours() == []
