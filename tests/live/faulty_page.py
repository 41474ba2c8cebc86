"""A live page in its own process whose microscope and disk fail on command, for test_live_faults.py.

``python faulty_page.py SIM FILE`` prints its port and whether it resumed a session. Each line on standard input is then
a fault with its duration, s: ``stall 0.5``, ``full 1``.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import threading
from pathlib import Path

from kinet_trt.camera import grabber
from kinet_trt.camera.simulated import Options, SimulatedMicroscope
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.live.web import app


def full(seconds: float) -> None:
    """Make writes beyond the first bytes of a file fail for a while, as on a full disk."""
    no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, no_limit))
    threading.Timer(seconds, resource.setrlimit, (resource.RLIMIT_FSIZE, (no_limit, no_limit))).start()


def main() -> None:
    logging.disable(logging.CRITICAL)
    text, store = sys.argv[1:]
    microscope = SimulatedMicroscope(Options.parse(text))
    # Reconnect at once: two hundred faults would take hours otherwise.
    grabber.FrameGrabber.__init__.__kwdefaults__.update(pauses=(0.1,), patience=1.0)
    options = app.Options(store=Path(store), port=0, browser=False)
    with app.serving(microscope, NucleusCounter(precision="fp32", threads=1), options) as page:
        sys.stdout.write(json.dumps({"port": page.port, "resumed": page.controller.view.resumed}) + "\n")
        sys.stdout.flush()
        for line in sys.stdin:
            kind, seconds = line.split()
            if kind == "full":
                full(float(seconds))
            else:
                microscope.fail(kind, float(seconds))


if __name__ == "__main__":
    main()
