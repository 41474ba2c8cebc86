"""The bar: a slide of 40,000 x 40,000 px, mostly glass, with the shipped model."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from kinet_trt import NucleusCounter
from kinet_trt.core.detections import Detections
from kinet_trt.evaluation.metrics import match
from simulated_slides import Canvas, Piece, write_tiff

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL, and memory as Linux counts it"),
]

CANVAS = Canvas(
    40_000,
    40_000,
    (
        Piece(4_000, 3_008, 2_200, 1_800, 3),
        Piece(30_000, 9_008, 1_900, 2_000, 4),
        Piece(12_000, 21_008, 2_300, 1_500, 5),
        Piece(25_600, 36_000, 1_800, 2_100, 6),
    ),
)
RUN = (
    "import resource, sys\nfrom kinet_trt.cli.main import main\n"
    "try:\n    main()\nfinally:\n"
    "    print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)\n"
)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_tiff(tmp_path_factory.mktemp("slide") / "large.ome.tif", CANVAS, downsamples=(1, 4, 16), side=512)


def command(slide, out, cache, *more):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    arguments = ["count", str(slide), "--json", str(out), *more]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip


def nuclei(out):
    (field,) = json.loads(out.read_text())["fields"]
    found = field["detections"]
    x, y, score = (np.array([one[name] for one in found], np.float32) for name in ("x", "y", "score"))
    cls = np.array([("positive", "negative", "non_tumor").index(one["class"]) for one in found], np.uint8)
    return field, Detections(x, y, cls, score)


def test_it_needs_less_than_2_gb_and_its_count_is_the_sum_over_the_owners(slide, tmp_path):
    begun = time.monotonic()
    with command(slide, tmp_path / "a.json", tmp_path / "cache", "--precision", "fp32") as process:
        said = process.stderr.read()
    assert process.returncode == 0, said
    peak = int(re.search(r"peak (\d+)", said)[1])
    field, found = nuclei(tmp_path / "a.json")
    tiles = field["slide"]["tiles"]
    print(f"\n{tiles} tiles, {len(found)} nuclei, {time.monotonic() - begun:.0f} s, {peak} MiB")  # noqa: T201
    assert peak < 2_000
    assert field["counts"] == found.counts()
    assert field["slide"]["tiles_left_out"] > 20 * tiles
    # Each piece with glass about it, counted as one picture: no nucleus is lost, doubled or moved at a seam.
    counter, total = NucleusCounter(precision="fp32"), 0
    for piece in CANVAS.pieces:
        left, top = piece.x // 16 * 16 - 320, piece.y // 16 * 16 - 320
        whole = counter(CANVAS.region(left, top, piece.width + 656, piece.height + 656))
        inside = (abs(found.x - left - piece.width / 2 - 320) < piece.width / 2 + 336) & (
            abs(found.y - top - piece.height / 2 - 320) < piece.height / 2 + 336
        )
        own = found.where(inside)
        assert np.array_equal(own.x, whole.x + left)
        assert np.array_equal(own.y, whole.y + top)
        assert np.array_equal(own.cls, whole.cls)
        total += len(whole)
    assert total == len(found)
    pairs = len(match(found.x, found.y, CANVAS.truth.x, CANVAS.truth.y)[0])
    assert 2 * pairs / (len(found) + len(CANVAS.truth)) > 0.9


def test_killed_at_ten_random_moments_it_finds_the_same_nuclei(slide, tmp_path):
    begun = time.monotonic()
    with command(slide, tmp_path / "whole.json", tmp_path / "one") as process:
        said = process.stderr.read()
    assert process.returncode == 0, said
    lasts = time.monotonic() - begun
    chance, moments, resumed = random.Random(int(os.environ.get("KINET_FUZZ_SEED", "7"))), [], []
    whole = (tmp_path / "whole.json").read_text()
    while len(moments) < 10:
        moments.append(chance.uniform(0.05, 0.35) * lasts)
        with command(slide, tmp_path / "killed.json", tmp_path / "two") as process:
            time.sleep(moments[-1])
            process.send_signal(signal.SIGKILL)
            said = process.stderr.read()
        resumed += [int(n.replace(",", "")) for n in re.findall(r": ([\d,]+) of [\d,]+ tiles were counted", said)]
        if process.returncode == 0:  # it came to its end before the kill: from the beginning again
            assert (tmp_path / "killed.json").read_text() == whole
            (tmp_path / "killed.json").unlink()
            shutil.rmtree(tmp_path / "two")
            moments.pop()
        assert not (tmp_path / "killed.json").exists()
    with command(slide, tmp_path / "killed.json", tmp_path / "two") as process:
        said = process.stderr.read()
    assert process.returncode == 0, said
    told = f"undisturbed {lasts:.0f} s; killed after {', '.join(f'{m:.1f}' for m in moments)} s; taken over {resumed}"
    print(f"\n{told}")  # noqa: T201
    assert len(resumed) > 2
    assert (tmp_path / "killed.json").read_text() == whole
