"""What several tests share."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from kinet_trt.core.errors import EngineError
from kinet_trt.core.telemetry import switch_off
from kinet_trt.cuda.driver import query_driver

switch_off()

settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")

FUZZ_SEED = "KINET_FUZZ_SEED"
PROGRAMS = ("g++", "cmake", "chromium", "node", "unshare", "ip")
"""What some tests run; others need the GStreamer packages of ci/apt.txt."""


def pytest_configure(config: pytest.Config) -> None:
    """Draw the seed of the long fuzzing, once for all workers."""
    os.environ.setdefault(
        f"{FUZZ_SEED}_LONG", os.environ.get(FUZZ_SEED) or str(random.SystemRandom().randrange(1 << 32))
    )


def pytest_report_header(config: pytest.Config) -> Iterator[str]:
    """Print the seeds, and what is missing here."""
    short, long = _fuzz_seeds()
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        yield f"not installed, tests that need them are skipped: {', '.join(missing)} (Debian's packages: ci/apt.txt)"
    yield f"fuzz seeds: {short} for a hundred cases, {long} for ten thousand; {FUZZ_SEED}=N sets both"


def _fuzz_seeds() -> tuple[int, int]:
    return int(os.environ.get(FUZZ_SEED, "2019")), int(os.environ[f"{FUZZ_SEED}_LONG"])


@pytest.fixture(scope="session")
def fuzz_seeds() -> tuple[int, int]:
    """Give the seeds of short and long fuzzing: the short one is always the same, so that CI does not roll dice."""
    return _fuzz_seeds()


def skip(reason: str) -> None:
    """Skip a test for want of a program or of data; with CI=true that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI has everything, yet: {reason}")
    pytest.skip(reason)


def find_program(*names: str, package: str) -> str:
    """Return the path of the first of these programs that is installed; else skip the test, naming Debian's package."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        skip(f"no {' or '.join(names)}: apt-get install {package} (all packages that the tests use: ci/apt.txt)")
    return str(found)


def find_chromium() -> str:
    """Return the path of Chromium; skip the test where there is none."""
    return find_program("chromium", "chromium-browser", "google-chrome", package="chromium fonts-dejavu-core")


@pytest.fixture(autouse=True)
def no_camera_is_left() -> Iterator[None]:
    """Fail a test that leaves a thread of a camera or of the live page behind; a module's own camera may go on."""
    names = ("camera", "slide", "count", "watch", "sum", "web")
    before = [thread.name for thread in threading.enumerate() if thread.name in names]
    yield
    if not before:
        assert [thread.name for thread in threading.enumerate() if thread.name in names] == []


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Give the real fields beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "index.csv").is_file():
        skip(f"no real fields at {folder}")
    return folder


@pytest.fixture(scope="session")
def fused_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the shipped model with the peaks inside its graph."""
    pytest.importorskip("onnx")
    from kinet_trt.models.model import Model
    from kinet_trt.onnx_graph.fuse_peaks import fuse

    path = tmp_path_factory.mktemp("fused") / "fused.onnx"
    path.write_bytes(fuse(Model.read()).data)
    return path


@cache
def no_gpu() -> str:
    """Return why tests marked ``gpu`` cannot run here; empty where they can."""
    try:
        query_driver()
    except EngineError as error:
        return str(error)
    return "" if find_spec("cupy") else 'no CuPy: pip install "kinet-trt[gpu]"'


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none, CI included; KINET_TRT_GPU=1 says that there must be one."""
    if item.get_closest_marker("gpu") is None or not (reason := no_gpu()):
        return
    if os.environ.get("KINET_TRT_GPU") == "1":
        pytest.fail(f"KINET_TRT_GPU=1, yet: {reason}")
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def log_levels() -> None:
    """Give every test the levels that a program starts with, whatever a library or an earlier test set."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("kinet_trt").setLevel(logging.NOTSET)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Give a function that runs the command line and returns exit status, standard output and standard error."""

    from kinet_trt.cli import main as cli

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kinet-trt", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        code = stop.value.code or 0
        assert isinstance(code, int)
        return code, out, err

    return call
