"""Counting on a bad day: killed, crowded, without a home, a free disk or the right to write; and for weeks on end."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from conftest import skip
from kinet_trt.simulation import simulate

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's mounts, capabilities and /proc")
CLI = [sys.executable, "-m", "kinet_trt"]


@pytest.fixture(scope="module")
def fields(tmp_path_factory) -> Path:
    """Give a folder of three small fields."""
    folder = tmp_path_factory.mktemp("fields")
    for seed in range(3):
        Image.fromarray(simulate.field(1_000 + seed, 160, 128)[0]).save(folder / f"f{seed}.png")
    return folder


def count(fields: Path, out: Path) -> list[str]:
    """Return the command that counts a folder and writes everything that can be written."""
    options = ["--json", out / "o.json", "--csv", out / "o.csv", "--geojson", out / "geo", "--overlay", out / "pics"]
    return [*CLI, "count", str(fields), "--mpp", "0.5", "--force", *map(str, options)]


def run(command: Sequence[str], **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def whole_files(out: Path) -> list[Path]:
    """Return the finished files, after a look into each."""
    found = [path for path in sorted(out.rglob("*")) if path.is_file() and not path.name.endswith(".part")]
    for path in found:
        if path.suffix in (".json", ".geojson"):
            json.loads(path.read_text())
        elif path.suffix == ".csv":
            assert len({len(row) for row in csv.reader(path.read_text().splitlines())}) == 1
        else:
            Image.open(path).load()
    return found


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines on standard error but for the warnings that such pictures are unlike the training data."""
    expected = ("is unlike the training data", "does not look like H-DAB stained tissue")
    return [line for line in done.stderr.splitlines() if line and not any(words in line for words in expected)]


def one_message(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Assert that a run failed with one message a failure, each holding these words, and no traceback."""
    errors = said(done)
    assert done.returncode == 1, done
    assert errors, done
    assert all(line.startswith("Error: ") and all(part in line for part in parts) for line in errors), errors


def killed_at_random(command: Sequence[str], times: int, seed: int) -> Iterator[None]:
    """Run a command again and again, kill it at a random moment, and give way after each."""
    rng = random.Random(seed)
    start = time.perf_counter()
    assert run(command).returncode == 0
    usual = time.perf_counter() - start
    for _ in range(times):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # More often towards the end, where files are written.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(usual * (1 - rng.random() ** 2))
        process.kill()
        process.wait()
        yield


def killed_counts(fields: Path, out: Path, times: int) -> None:
    old = None
    for _ in killed_at_random(count(fields, out), times, 1):
        files = whole_files(out)
        old = old or files
        assert files == old, "a finished file is gone"
    assert run(count(fields, out)).returncode == 0
    assert len(whole_files(out)) == 8


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_count_leaves_whole_files(fields, tmp_path):
    killed_counts(fields, tmp_path, 3)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_hundred_killed_counts_leave_whole_files(fields, tmp_path):
    killed_counts(fields, tmp_path, 100)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_export_leaves_the_old_model(tmp_path):
    torch = pytest.importorskip("torch")
    from kinet_trt.export.checkpoint import ModelInfo, save
    from kinet_trt.export.networks.base import NetworkConfig
    from kinet_trt.export.networks.registry import build

    from kinet_trt.models.card import read_card

    torch.manual_seed(0)
    save(tmp_path / "k.pt", build(NetworkConfig("paper", 4, "relu", roi=False)), ModelInfo())
    out = tmp_path / "k.onnx"
    command = [*CLI, "export", str(tmp_path / "k.pt"), "-o", str(out)]
    for _ in killed_at_random(command, 20, 2):
        read_card(out)  # whole, by its own checksum
    read_card(out)


def test_two_counts_into_the_same_files_leave_those_of_one(fields, tmp_path):
    both = [tmp_path / name for name in ("a", "b")]
    for place, images in zip(both, (["f0.png"], ["f1.png", "f2.png"]), strict=True):
        place.mkdir()
        for image in images:
            shutil.copy(fields / image, place)
    commands = [
        [
            *CLI,
            "count",
            str(place),
            "--mpp",
            "0.5",
            "--json",
            str(tmp_path / "o.json"),
            "--csv",
            str(tmp_path / "o.csv"),
        ]
        for place in both
    ]
    alone = []
    for command in commands:
        assert run(command).returncode == 0
        alone.append(((tmp_path / "o.json").read_text(), (tmp_path / "o.csv").read_text()))
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    assert [process.wait() for process in processes] == [0, 0]
    assert (tmp_path / "o.json").read_text() in [one[0] for one in alone]
    assert (tmp_path / "o.csv").read_text() in [one[1] for one in alone]
    assert not list(tmp_path.glob(".kinet-*"))


@linux_only
def test_a_folder_that_may_not_be_written_is_said_once_for_each_file(fields, tmp_path):
    # Root may write everywhere; without this capability it is a user like others.
    plain = [] if os.getuid() else ["setpriv", "--bounding-set=-dac_override"]
    if plain and (not shutil.which("setpriv") or run([*plain, "true"]).returncode):
        skip("root cannot give up its right to write everywhere: setpriv (util-linux) is missing or may not")
    out = tmp_path / "out"
    out.mkdir()
    (out / "o.json").write_text("old")
    out.chmod(0o555)
    try:
        done = run([*plain, *count(fields, out)])
        one_message(done, "cannot be written", "Permission denied")
        assert len(said(done)) == 5  # three images, JSON, CSV
        assert (out / "o.json").read_text() == "old"
        # The count itself is not lost: it stands on the screen.
        assert "Ki67" in run([*plain, *CLI, "count", str(fields), "--mpp", "0.5"], cwd=out).stdout
    finally:
        out.chmod(0o755)


@linux_only
def test_a_full_disk_leaves_the_old_files(fields, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    # In a mount namespace of its own there is nothing to undo, and a user may mount too.
    private = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"]), "sh", "-c"]
    small = f"mount -t tmpfs -o size=16k tmpfs {disk} && echo old > {disk}/o.json || exit 77"
    if run([*private, small]).returncode:
        skip("no small disk can be mounted here (unshare, tmpfs)")
    script = f'{small}; "$@"; code=$?; echo AFTER; cat {disk}/o.json; find {disk} -name "*.part"; exit $code'
    done = run([*private, script, "sh", *count(fields, disk)])
    one_message(done, "cannot be written", "No space left on device")
    assert done.stdout.partition("AFTER")[2].split() == ["old"]


@pytest.mark.parametrize("home", [None, "/nowhere/at/all", "/dev/null"])
def test_no_home_folder_is_needed(fields, tmp_path, home):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HOME", "XDG_", "USER"))}
    if home:
        environment["HOME"] = home
    out = tmp_path / "out"
    done = run(count(fields, out), env=environment)
    assert (done.returncode, said(done)) == (0, [])
    assert len(whole_files(out)) == 8


_COUNTS = """
import ctypes, json, os, sys
from pathlib import Path
import numpy as np
from kinet_trt.simulation import simulate
from kinet_trt.inference.counter import NucleusCounter

runtime, counts, every, sizes = sys.argv[1], *map(int, sys.argv[2:])

def held():
    ctypes.CDLL(None).malloc_trim(0)  # what is free, but not yet given back, is no leak
    status = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))
    return resident, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

generator = np.random.default_rng(0)
field = simulate.field(1_000, 256, 256)[0]
counter = NucleusCounter(runtime=runtime)
shapes = generator.integers(60, 200, (sizes, 2))
for number in range(1, counts + 1):
    height, width = shapes[number % sizes]
    counter(field[:height, :width], 0.2)
    if number % every == 0:
        print(json.dumps(held()), flush=True)
"""


def leak(runtime: str, counts: int, every: int, sizes: int, allowed: int) -> None:
    """Count images of so many sizes, and hold memory (to some MiB), open files and threads to what they were.

    Memory is the least of the first and of the last third: single samples differ by what the allocators keep.
    """
    done = run([sys.executable, "-c", _COUNTS, runtime, str(counts), str(every), str(sizes)])
    assert done.returncode == 0, done.stderr
    samples = [json.loads(line) for line in done.stdout.splitlines()]
    third = len(samples) // 3
    least = [min(sample[0] for sample in part) for part in (samples[:third], samples[-third:])]
    assert least[1] < least[0] + allowed, f"MiB: {done.stdout}"
    assert samples[-1][1:] == samples[0][1:], f"files, threads: {done.stdout}"


@linux_only
def test_counting_does_not_leak():
    leak("openvino", 400, 40, 30, 12)  # 30 sizes, for OpenVINO keeps what it prepared for 200, however much that is


@linux_only
@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_five_thousand_counts_do_not_leak(runtime):
    pytest.importorskip(runtime)
    leak(runtime, 5_000, 500, 5_000, 60)
