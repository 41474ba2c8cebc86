"""Speed of the live page with a browser on the same machine, relative to counting one such frame."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request

import pytest

from conftest import find_chromium
from kinet_trt import Frame, NucleusCounter
from kinet_trt.simulation import simulate

playwright = pytest.importorskip("playwright.sync_api")

SECONDS = 20


@pytest.mark.slow
def test_counting_keeps_pace_with_an_open_page(tmp_path):
    chromium = find_chromium()
    frame = Frame(simulate.field(7, 1280, 960, mpp=0.17)[0], 0.17)
    counter = NucleusCounter(precision="int8")  # what the page counts with
    bare = []
    for _ in range(12):
        start = time.perf_counter()
        counter(frame)
        bare.append(time.perf_counter() - start)
    ms = statistics.median(bare[2:]) * 1000
    command = [sys.executable, "-m", "kinet_trt", "live", "sim:size=1280x960,mpp=0.17,fps=30"]
    command += ["--sessions", str(tmp_path / "s.kinet"), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            address = re.search(r"http://\S+", process.stdout.readline())[0]

            def state() -> dict:
                with urllib.request.urlopen(f"{address}api/state") as answer:
                    return json.load(answer)

            with playwright.sync_playwright() as play:
                browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                page.goto(address)
                time.sleep(10)  # the simulated slide is drawn and the window of latencies is full
                first, began, phases, p99 = state(), time.monotonic(), set(), []
                while time.monotonic() < began + SECONDS:
                    time.sleep(0.5)
                    now = state()
                    phases.add(now["camera"]["phase"])
                    p99.append(now["loop"]["p99"])
                fps = (now["loop"]["counted"] - first["loop"]["counted"]) / (time.monotonic() - began)
                browser.close()
        finally:
            process.terminate()
            process.wait(60)
    result = f"bare count {ms:.0f} ms; {fps:.1f} counted a second, p99 of capture to shown {max(p99):.0f} ms"
    sys.stdout.write(f"{result}\n")
    assert phases == {"connected"}, result
    # 15.8 frames/s and 184 ms where one count took 22 ms, on two cores with AVX-512 VNNI and no AMX.
    assert fps * ms / 1000 > 0.25, result
    assert max(p99) < 15 * ms, result
