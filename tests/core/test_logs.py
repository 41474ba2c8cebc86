"""Logging."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from kinet_trt import NucleusCounter, log_to


def test_log_to_passes_warnings_to_the_hook():
    counter, heard = NucleusCounter(precision="fp32"), []
    with log_to(lambda *message: heard.append(message)):
        counter(np.full((64, 64, 3), 200, np.uint8))
    assert [level for level, _ in heard] == ["WARNING"]
    assert "no colour" in heard[0][1]
    counter(np.full((64, 64, 3), 200, np.uint8))
    assert len(heard) == 1


def test_log_to_restores_levels_and_handlers(caplog):
    log, heard = logging.getLogger("kinet_trt.inference.counter"), []
    before = logging.getLogger("kinet_trt").level
    with log_to(lambda *message: heard.append(message), logging.INFO):
        log.info("for %s", "developers")
        log.debug("for us")
    assert heard == [("INFO", "for developers")]
    assert caplog.records == []
    assert logging.getLogger("kinet_trt").level == before
    log.warning("again")
    assert [record.message for record in caplog.records] == ["again"]


def test_log_to_survives_a_failing_hook(capsys):
    def fails(level, message):
        raise ValueError("the hook's own")

    with log_to(fails):
        assert len(NucleusCounter(precision="fp32")(np.full((64, 64, 3), 200, np.uint8))) == 0
    assert "the hook's own" in capsys.readouterr().err


NOISE = """
import logging, sys, warnings
from kinet_trt.core.logs import be_verbose, to_terminal
to_terminal()
if sys.argv[1:]:
    be_verbose()
import cv2, distributed, tifffile
logging.getLogger("distributed.scheduler").info("Lost all workers")
logging.getLogger("distributed.nanny").warning("Restarting worker")
logging.getLogger("tifffile").warning("unknown tag")
warnings.warn("a library's own")
tifffile.imwrite("odd.tif", cv2.UMat(8, 8, cv2.CV_8UC3).get(), extratags=[(65000, "s", 0, "hello", True)])
cv2.imread("odd.tif")
cv2.VideoCapture("nothing.avi")
cv2.VideoCapture("rtsp://127.0.0.1:9/nothing", cv2.CAP_FFMPEG)
logging.getLogger("kinet_trt.inference.counter").warning("ours")
"""


def noise(folder, *arguments):
    """Return the standard error of a program while libraries log messages."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_")}
    command = [sys.executable, "-c", NOISE, *arguments]
    done = subprocess.run(command, cwd=folder, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_to_terminal_hides_messages_of_other_libraries_unless_verbose(tmp_path):
    pytest.importorskip("distributed")
    assert noise(tmp_path).splitlines() == ["ours"]
    verbose = noise(tmp_path, "verbose")
    for message in (
        "Lost all workers",
        "Restarting worker",
        "unknown tag",
        "a library's own",
        "TIFFReadDirectory",
        "ours",
    ):
        assert message in verbose
