"""Tiles land once, whole, and are there after a kill."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinet_trt.core.detections import CLASSES, Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.slides.plan import Plan
from kinet_trt.slides.resample import Scaling
from kinet_trt.slides.results_db import ResultsDB

PLAN = Plan(
    fingerprint="f" * 64, slide_width=4000, slide_height=3000, mpp=0.34, mpp_source="file", level=0, downsample=1.0,
    scaling=Scaling(4000, 3000, 4000, 3000), tile=512, halo=144, multiple=16, tiles=tuple(range(1, 40, 2)),
    region=None, classes=CLASSES, model_sha256="a" * 64, threshold=0.3, precision="fp32",
    white=(240.0, 241.0, 242.0),
)  # fmt: skip


def nuclei(number, n=50):
    tile, generator = PLAN.tile_of(number), np.random.default_rng(number)
    found = Detections(
        generator.uniform(tile.left, tile.right, n).astype(np.float32),
        generator.integers(tile.top, tile.bottom, n).astype(np.float32),
        generator.integers(0, 3, n).astype(np.uint8),
        generator.random(n, np.float32),
        dab=generator.random(n, np.float32),
    )
    return found.where(np.lexsort((found.x, found.y)))


def test_what_landed_is_there_to_the_last_bit(tmp_path):
    with ResultsDB(tmp_path / "a.tiles", PLAN) as results:
        assert results.missing() == list(PLAN.tiles)
        for number in PLAN.tiles[:5]:
            assert results.save(number, nuclei(number))
        assert results.save(PLAN.tiles[5], Detections.empty())
    with ResultsDB(tmp_path / "a.tiles", PLAN) as results:
        assert results.saved() == set(PLAN.tiles[:6])
        assert results.missing() == list(PLAN.tiles[6:])
        for number in PLAN.tiles[:5]:
            for name in ("x", "y", "cls", "score", "dab"):
                np.testing.assert_array_equal(getattr(results.tile(number), name), getattr(nuclei(number), name))
        assert len(results.tile(PLAN.tiles[5])) == 0
        with pytest.raises(KinetError, match="not counted yet"):
            results.tile(PLAN.tiles[7])


def test_a_tile_lands_once(tmp_path):
    with ResultsDB(tmp_path / "a.tiles", PLAN) as results:
        assert results.save(1, nuclei(1))
        assert not results.save(1, nuclei(3))
        np.testing.assert_array_equal(results.tile(1).x, nuclei(1).x)
        with pytest.raises(KinetError, match="is not in the plan"):
            results.save(2, nuclei(1))
        with pytest.raises(KinetError, match="classes"):
            results.save(3, Detections.empty(("a", "b")))


def test_the_fullest_tiles_come_first_and_of_equal_ones_the_first(tmp_path):
    with ResultsDB(tmp_path / "a.tiles", PLAN) as results:
        for number, n in zip(PLAN.tiles[:5], (3, 9, 0, 9, 4), strict=True):
            results.save(number, nuclei(number, n))
        assert results.tiles_with_most_nuclei(3) == [PLAN.tiles[1], PLAN.tiles[3], PLAN.tiles[4]]


def test_bands_are_all_nuclei_in_raster_order(tmp_path):
    with ResultsDB(tmp_path / "a.tiles", PLAN) as results:
        for number in reversed(PLAN.tiles):
            results.save(number, nuclei(number))
        bands = list(results.iter_detections())
    x, y = (np.concatenate([getattr(band, name) for band in bands]) for name in ("x", "y"))
    assert len(x) == 50 * len(PLAN.tiles)
    assert (np.lexsort((x, y)) == np.arange(len(x))).all()


def test_another_plans_tiles_are_not_mixed_in(tmp_path):
    ResultsDB(tmp_path / "a.tiles", PLAN).close()
    for other in (
        replace(PLAN, threshold=0.4),
        replace(PLAN, model_sha256="b" * 64),
        replace(PLAN, fingerprint="0" * 64),
    ):
        with pytest.raises(KinetError, match=r"another slide, or were counted with another model.*Delete the file"):
            ResultsDB(tmp_path / "a.tiles", other)
    with ResultsDB(tmp_path / "a.tiles", PLAN):
        pass


def test_one_program_at_a_time(tmp_path):
    with ResultsDB(tmp_path / "a.tiles", PLAN), pytest.raises(KinetError, match="another program is counting"):
        ResultsDB(tmp_path / "a.tiles", PLAN)
    ResultsDB(tmp_path / "a.tiles", PLAN).close()


def test_other_files_and_damaged_ones_are_told(tmp_path):
    (tmp_path / "text.tiles").write_bytes(b"nothing of ours " * 100)
    with pytest.raises(KinetError, match="not counted tiles, or a damaged file"):
        ResultsDB(tmp_path / "text.tiles", PLAN)
    with sqlite3.connect(tmp_path / "other.tiles") as db:
        db.execute("CREATE TABLE people (name TEXT)")
    db.close()
    with pytest.raises(KinetError, match="a file of another program"):
        ResultsDB(tmp_path / "other.tiles", PLAN)
    with ResultsDB(tmp_path / "a.tiles", PLAN) as results:
        results.save(1, nuclei(1))
    with sqlite3.connect(tmp_path / "a.tiles") as db:
        db.execute("UPDATE tiles SET crc = crc + 1")
    db.close()
    with ResultsDB(tmp_path / "a.tiles", PLAN) as results, pytest.raises(KinetError, match=r"damaged\. Delete it"):
        results.tile(1)


def test_a_full_disk_is_one_message_and_keeps_what_landed(tmp_path):
    with ResultsDB(tmp_path / "a.tiles", PLAN) as results:
        results.save(1, nuclei(1))
        (pages,) = results._connection.execute("PRAGMA page_count").fetchone()
        results._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(KinetError, match=r"the disk is full.*earlier tiles are kept"):  # noqa: PT012
            for number in PLAN.tiles[1:]:
                results.save(number, nuclei(number, 2000))
    with ResultsDB(tmp_path / "a.tiles", PLAN) as results:
        assert 1 in results.saved()
        np.testing.assert_array_equal(results.tile(1).x, nuclei(1).x)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_kill_leaves_whole_tiles(tmp_path):
    """Killed between any two bytes: what it said had landed is there, and nothing is half there."""
    script = (
        "import sys\nsys.path[:0] = sys.argv[2:]\nfrom pathlib import Path\nfrom test_results_db import PLAN, nuclei\n"
        "from kinet_trt.slides.results_db import ResultsDB\nresults = ResultsDB(Path(sys.argv[1]), PLAN)\n"
        "for number in PLAN.tiles:\n    results.save(number, nuclei(number, 3000))\n    print(number, flush=True)\n"
    )
    for landed in (1, 4, 9):
        path = tmp_path / f"{landed}.tiles"
        with subprocess.Popen(
            [sys.executable, "-c", script, str(path), *map(str, Path(__file__).resolve().parents[:2])],
            stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            said = [int(process.stdout.readline()) for _ in range(landed)]
            process.send_signal(signal.SIGKILL)
        with ResultsDB(path, PLAN) as results:
            assert set(said) <= results.saved()
            for number in results.saved():
                np.testing.assert_array_equal(results.tile(number).score, nuclei(number, 3000).score)
