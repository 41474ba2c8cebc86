"""A live page for tests: everything except the browser."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from kinet_trt.camera.simulated import Options, SimulatedMicroscope
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.live.web import app

SMALL = "size=320x240,mpp=0.34,fps=20,path=still"


@contextmanager
def page(
    store: Path, counter: NucleusCounter, sim: str = SMALL, **options: Any
) -> Iterator[tuple[app.LivePage, httpx.Client, SimulatedMicroscope]]:
    """Serve the page of a simulated microscope; yield it, a client with its origin, and the microscope."""
    microscope = SimulatedMicroscope(Options.parse(sim))
    chosen = app.Options(store=store, port=0, browser=False, **options)
    with app.serving(microscope, counter, chosen) as served:
        base = f"http://127.0.0.1:{served.port}"
        with httpx.Client(base_url=base, headers={"origin": base}, timeout=60) as client:
            yield served, client, microscope


@contextmanager
def socket(served: app.LivePage, query: str = "", **headers: str) -> Iterator[ClientConnection]:
    base = f"127.0.0.1:{served.port}"
    sent = {"origin": f"http://{base}"} | headers
    with connect(f"ws://{base}/api/live{query}", additional_headers=sent, max_size=None) as live:
        yield live


def simulated_frame(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the JPEG of a frame message."""
    (length,) = struct.unpack_from("<I", message)
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def next_frame(live: ClientConnection, wanted: Callable[[dict[str, Any]], bool] = bool) -> dict[str, Any]:
    """Return the header of the next frame that fulfils a condition; confirm the ones before."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        message = live.recv(timeout=60)
        if isinstance(message, bytes):
            head, _ = simulated_frame(message)
            live.send(json.dumps({"type": "shown", "frame": head["frame"]}))
            if wanted(head):
                return head
    raise AssertionError("no such frame within 60 s")


def until(client: httpx.Client, wanted: Callable[[dict[str, Any]], Any], seconds: float = 60) -> dict[str, Any]:
    """Return the first state that fulfils a condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = client.get("/api/state").json()
        if wanted(state):
            return state
        time.sleep(0.05)
    raise AssertionError(f"no such state within {seconds} s; the last one: {json.dumps(state)[:3000]}")


def post(client: httpx.Client, path: str, body: Any = None, status: int = 200) -> Any:
    """Send a POST request; return the JSON of the response."""
    answer = client.post(path, json={} if body is None else body)
    assert answer.status_code == status, answer.text
    return answer.json()
