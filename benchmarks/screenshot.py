"""Make docs/live.png: the live page with the simulated microscope and some captured fields (needs Chromium)."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from kinet_trt.core.files import write_atomic

SOURCE = "sim:size=960x720,mpp=0.25,fps=6,seed=11,rest=6,overlap=0.35,speed=400,positive=0.14,tumor=0.9,noise=0"
FIELDS = 6
WAIT = 60_000  # ms


def shoot(page: Page, address: str) -> bytes:
    """Capture some fields with the space bar, correct a nucleus, and return the screenshot."""
    page.goto(address)
    while (fields := page.locator("#thumbnails button").count()) < FIELDS:
        expect(page.locator("#offer")).to_have_text("Ready to capture.", timeout=WAIT)
        page.keyboard.press("Space")
        page.locator(".toast").first.wait_for()
        # The next stop of the stage, so that the fields are side by side.
        if (
            page.locator("#thumbnails button").count() > fields
            or "captured" in page.locator(".toast").first.inner_text()
        ):
            expect(page.locator("#offer")).not_to_have_text("Ready to capture.", timeout=WAIT)
        page.evaluate("document.querySelector('#toasts').replaceChildren()")
    expect(page.locator("#mosaic .tile")).to_have_count(FIELDS, timeout=WAIT)
    page.locator("#tab-map").click()
    expect(page.locator("#offer")).to_have_text("Ready to capture.", timeout=WAIT)
    page.locator("#live-canvas").focus()
    page.evaluate("document.activeElement.blur()")
    return page.screenshot()


def main() -> None:
    """Make the screenshot."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("no Chromium was found: apt install chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        sessions = str(Path(folder) / "s.kinet")
        command = ["live", SOURCE, "--port", "0", "--no-browser", "--sessions", sessions, "--title", "Case 12, liver"]
        program = subprocess.Popen(
            [sys.executable, "-m", "kinet_trt", *command, "--reader", "A. Kim"],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"XDG_DATA_HOME": folder, "PYTHONUNBUFFERED": "1"},
        )
        assert program.stdout is not None
        try:
            address = program.stdout.readline().split()[-1]
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            picture = Image.open(io.BytesIO(shoot(page, address))).convert("RGB")
            browser.close()
        finally:
            program.send_signal(signal.SIGTERM)
            program.wait()
    data = io.BytesIO()
    # A palette keeps it below 400 kB; the octree preserves the colours of small objects.
    picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
    path = Path(__file__).resolve().parent.parent / "docs" / "live.png"
    write_atomic(path, data.getvalue())
    print(f"{path}: {len(data.getvalue()) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
