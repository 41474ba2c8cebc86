"""Counting on a cluster: real schedulers and workers of this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from conftest import skip
from kinet_trt import KinetError, NucleusCounter
from kinet_trt.slides.plan import make_plan
from kinet_trt.slides.results_db import ResultsDB
from kinet_trt.slides.slide import open_slide
from kinet_trt.slides.tiles import count_tiles
from simulated_slides import Canvas, Piece, write_tiff

cluster = pytest.importorskip("kinet_trt.slides.dask")
# Dask's own: it says so of sockets that its processes leave when they are killed, and of its own deprecations.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed"),
]


@pytest.fixture(scope="module")
def counter():
    return NucleusCounter(precision="fp32", threads=1)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_tiff(path, Canvas(1600, 240, (Piece(50, 10, 1500, 220, 3),)))
    return path


@pytest.fixture(scope="module")
def plan(slide, counter):
    """Return a plan with small tiles."""
    with open_slide(slide) as opened:
        card = dataclasses.replace(counter.card, tile=256)
        return make_plan(opened, card, counter.threshold, counter.engine.precision)


@pytest.fixture(scope="module")
def expected(slide, plan, counter):
    with open_slide(slide) as opened:
        return dict(count_tiles(opened, plan, plan.tiles, counter))


def on(client, slide, plan, size=1, **changes):
    asked = {"model": None, "plan": plan, **changes}
    return cluster.count_batches(client, cluster.batches(slide, None, plan, plan.tiles, size), **asked)


def landed(results, expected):
    """Hold results to what one process found; return how often each tile came."""
    seen = Counter()
    for batch, tiles in results:
        assert not isinstance(tiles, KinetError), str(tiles)
        assert [number for number, _ in tiles] == list(batch.plan.tiles)
        for number, nuclei in tiles:
            seen[number] += 1
            for name in ("x", "y", "cls", "score"):
                assert np.array_equal(getattr(nuclei, name), getattr(expected[number], name))
    return seen


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Give an empty home folder for the workers."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def two(home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        # Where CI is set, OpenVINO sends nothing anyway, and the test of the home folder would see nothing.
        patch.delenv("CI", raising=False)
        with cluster.connect("local", 2) as client:
            patch.undo()
            yield client


def test_workers_find_the_same_nuclei(two, slide, plan, expected):
    assert len(plan.tiles) > 5
    assert sum(map(len, expected.values())) > 500
    assert landed(on(two, slide, plan, 2), expected) == dict.fromkeys(plan.tiles, 1)


def test_workers_write_nothing_into_the_home_folder(two, home, slide, plan):
    list(on(two, slide, dataclasses.replace(plan, tiles=plan.tiles[:2])))
    assert list(home.iterdir()) == []


def test_every_worker_opens_its_engine_once(two, slide, plan):
    list(on(two, slide, plan))
    opened = two.run(
        lambda dask_worker: [id(p._counter) for p in dask_worker.plugins.values() if hasattr(p, "_slides")]
    )
    list(on(two, slide, plan))
    again = two.run(lambda dask_worker: [id(p._counter) for p in dask_worker.plugins.values() if hasattr(p, "_slides")])
    assert again == opened
    assert all(len(ids) == 1 for ids in opened.values())


def test_what_is_wrong_is_said_once_a_batch_and_the_rest_is_counted(two, slide, plan, expected, tmp_path):
    missing = tmp_path / "moved.tif"
    good = list(cluster.batches(slide, None, plan, plan.tiles[:2], 1))
    work = [good[0], *cluster.batches(missing, None, plan, plan.tiles[:1]), good[1]]
    results = list(cluster.count_batches(two, work, None, plan))
    (wrong,) = (result for _, result in results if isinstance(result, KinetError))
    assert "on the worker tcp://127.0.0.1" in str(wrong)
    assert "the same path on every machine" in str(wrong)
    assert landed([r for r in results if r[1] is not wrong], expected).total() == 2


def test_a_worker_with_another_model_is_refused(two, slide, plan, fused_model):
    results = [result for _, result in on(two, slide, plan, 8, model=fused_model)]
    assert all("the model differs from the plan's" in str(result) for result in results)


def test_another_slide_and_another_model_under_the_same_paths_are_opened_anew(two, counter, fused_model, tmp_path):
    slide, model = tmp_path / "case.tif", tmp_path / "model.onnx"
    built_in = resources.files("kinet_trt.models") / "kinet-edge.onnx"
    for seed, content in ((3, built_in.read_bytes()), (4, fused_model.read_bytes())):
        model.write_bytes(content)
        write_tiff(slide, Canvas(700, 480, (Piece(100, 100, 400, 300, seed),)))
        own = NucleusCounter(model, threads=1)
        with open_slide(slide) as opened:
            plan = make_plan(opened, own.card, own.threshold, own.engine.precision)
            expected = dict(count_tiles(opened, plan, plan.tiles, own))
        assert landed(on(two, slide, plan, model=model), expected).total() == len(plan.tiles) > 0


def test_an_address_without_a_scheduler_is_one_message(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", 1.0)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(KinetError, match=r"no Dask scheduler answers .* such as tcp"), cluster.connect(address):
            pass


def test_a_lost_worker_costs_time_only(slide, plan, expected, tmp_path):
    if not hasattr(signal, "SIGKILL"):
        skip("no SIGKILL here")
    with cluster.connect("local", 2) as client, ResultsDB(tmp_path / "a.tiles", plan) as results:
        pids = list(client.run(os.getpid).values())
        for killed, (_, tiles) in enumerate(on(client, slide, plan)):
            if killed == 2:
                os.kill(pids[0], signal.SIGKILL)
            assert not isinstance(tiles, KinetError), str(tiles)
            for number, nuclei in tiles:
                results.save(number, nuclei)
        assert results.missing() == []
        for number, nuclei in expected.items():
            assert np.array_equal(results.tile(number).x, nuclei.x)


def test_a_lost_scheduler_is_one_message(slide, plan, tmp_path):
    bin_ = Path(sys.executable)
    with subprocess.Popen(
        [
            bin_,
            "-m",
            "distributed.cli.dask_scheduler",
            "--port",
            "0",
            "--host",
            "127.0.0.1",
            "--no-dashboard",
            "--scheduler-file",
            tmp_path / "s.json",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as scheduler:
        end = time.monotonic() + 60
        while not (tmp_path / "s.json").exists():
            assert time.monotonic() < end
            time.sleep(0.1)
        address = json.loads((tmp_path / "s.json").read_text())["address"]
        with cluster.connect(address) as client:
            results = on(client, slide, plan)
            client.submit(int, 1)
            scheduler.kill()
            with pytest.raises(KinetError, match="scheduler was lost"):
                next(results)


def test_the_command_counts_slides_on_a_cluster(two, slide, plan, expected, tmp_path):
    address, out = two.scheduler.address, tmp_path / "out.json"
    command = [sys.executable, "-m", "kinet_trt", "count", slide, "--precision", plan.precision, "--json", out]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--cluster", address], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    (field,) = json.loads(out.read_text())["fields"]
    assert sum(field["counts"].values()) == sum(map(len, expected.values()))


def test_a_slide_that_is_moved_away_is_one_message(two, slide, plan, counter, tmp_path):
    moved = tmp_path / "moved.tif"
    moved.write_bytes(slide.read_bytes())
    with open_slide(moved) as opened:
        planned = make_plan(opened, counter.card, counter.threshold, counter.engine.precision)
        moved.rename(tmp_path / "elsewhere.tif")
        with pytest.raises(KinetError, match=r"cannot be read: .*on the worker"):
            list(cluster.cluster_tile_counter(two, None)(opened, planned, planned.tiles))


@pytest.mark.slow
def test_two_workers_are_nearly_twice_as_fast(tmp_path, counter):
    """At least 1.6 times one, one thread each, on two cores; the engines are open and the runs take turns."""
    if len(os.sched_getaffinity(0)) < 2:
        skip("two cores are needed")
    path = tmp_path / "slide.tif"
    write_tiff(path, Canvas(9000, 6000, (Piece(100, 100, 8000, 5000, 3),)))
    with open_slide(path) as opened:
        plan = make_plan(opened, counter.card, counter.threshold, counter.engine.precision)
    plan = dataclasses.replace(plan, tiles=plan.tiles[:16])
    seconds = {1: [], 2: []}
    with cluster.connect("local", 1) as one, cluster.connect("local", 2) as two:
        clients = {1: one, 2: two}
        for client in clients.values():
            list(on(client, path, plan))
        for _ in range(3):
            for workers, client in clients.items():
                began = time.perf_counter()
                assert all(not isinstance(tiles, KinetError) for _, tiles in on(client, path, plan))
                seconds[workers].append(time.perf_counter() - began)
    assert sorted(seconds[1])[1] / sorted(seconds[2])[1] > 1.6, (seconds, len(plan.tiles))
