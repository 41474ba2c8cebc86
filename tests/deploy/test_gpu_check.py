"""benchmarks/gpu_check.sh and its parts that work without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import gpu_clock
import gpu_sections

import gpu
from cupy_on_cpu import installed
from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError


def check(*arguments, **environment):
    return subprocess.run(
        ["bash", ROOT / "benchmarks" / "gpu_check.sh", *map(str, arguments)],
        env={**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "-1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_gpu_check_without_a_gpu_writes_a_record(tmp_path):
    done = check(OUT=str(tmp_path / "out"), KINET_TRT_RTX=str(tmp_path / "none"))
    assert done.returncode == 1, done.stderr
    assert "no GPU: " in done.stdout
    assert "Traceback" not in done.stderr
    document = json.loads((tmp_path / "out" / "gpu-none.json").read_text())
    assert (document["schema"], document["machine"], document["sections"]) == (1, None, {})
    assert "NVIDIA" in document["no_gpu"]


def test_gpu_check_refuses_wrong_arguments(tmp_path):
    done = check("--sections", "peaks,nonsense", OUT=str(tmp_path))
    assert done.returncode == 2
    assert "expected some of tensorrt, peaks, counting, tests, frames, found nonsense" in done.stderr
    assert check("--unpack").returncode == 2
    done = check("--unpack", tmp_path, KINET_TRT_RTX=str(tmp_path / "rtx"))
    assert done.returncode == 1
    assert "expected a part made by --pack" in done.stderr


def test_parts_are_kept_until_the_last_one_comes(tmp_path):
    for number in range(2):
        part = tmp_path / f"part-0{number}"
        part.mkdir()
        (part / "manifest.json").write_text("{}")
        # What the packer promises: 3 while parts are missing.
        (part / "pack_tensorrt.py").write_text(
            "import pathlib, sys\n_, verb, parts, site = sys.argv\nassert verb == 'unpack'\n"
            "sys.exit(0 if len(list(pathlib.Path(parts).iterdir())) == 2 else 3)\n"
        )
        done = check("--unpack", part, KINET_TRT_RTX=str(tmp_path / "rtx"))
        assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "rtx" / "parts").iterdir()) == ["part-00", "part-01"]


class Clock:
    """Fake clock that advances only when asked."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_runs_are_interleaved_and_warm_up_is_excluded():
    clock, order = Clock(), []

    def one():
        order.append("one")
        clock.now += 0.5 if len(order) < 5 else 0.002

    def two():
        order.append("two")
        return 7.0

    def broken():
        raise ValueError("as it is")

    found = gpu_clock.in_turn({"one": one, "two": two, "broken": broken}, rounds=10, warm_up=2, clock=clock)
    assert found["one"] == {"p50_ms": 2.0, "p99_ms": 2.0, "runs": 10}
    assert found["two"] == {"p50_ms": 7.0, "p99_ms": 7.0, "runs": 10}
    assert found["broken"] == {"why": "ValueError: as it is"}
    assert order == ["one", "two"] * 12


def test_rounds_stop_at_the_time_limit():
    clock = Clock()

    def slow():
        clock.now += 10

    assert gpu_clock.in_turn({"slow": slow}, rounds=50, warm_up=1, limit_s=25, clock=clock)["slow"]["runs"] == 2
    assert gpu_clock.in_turn({"slow": slow}, rounds=50, warm_up=1, limit_s=0, clock=clock)["slow"]["runs"] == 1


def test_record_is_complete_after_each_figure(tmp_path):
    record = gpu_clock.Record(tmp_path / "r.json")
    inner = {}
    record.put(step="build", fp16=inner)
    inner["build_s"] = 2
    record.put(step="run")
    assert json.loads((tmp_path / "r.json").read_text()) == {"step": "run", "fp16": {"build_s": 2}}


def test_command_result_is_described():
    assert gpu.run([sys.executable, "-c", "print('well')"], 60)["outcome"] == "done"
    failed = gpu.run([sys.executable, "-c", "import sys; sys.exit('not at all')"], 60)
    assert failed["outcome"] == "failed, exit status 1"
    assert "not at all" in failed["said"]
    crashed = gpu.run([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"], 60)
    assert crashed["outcome"] == "ended by SIGSEGV"
    stopped = gpu.run([sys.executable, "-c", "import time; print('so far', flush=True); time.sleep(600)"], 1)
    assert stopped["outcome"] == "stopped after 1 s"
    assert stopped["seconds"] < 300


def test_test_results_are_parsed(tmp_path):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n\n\ndef test_good(record_property):\n    record_property('microseconds', 12.5)\n\n\n"
        "def test_bad():\n    assert 1 == 2\n\n\ndef test_not_here():\n    pytest.skip('no TensorRT')\n"
    )
    found = gpu.gpu_tests(120, tmp_path)
    assert found["outcome"] == "failed"
    some = found["test_some"]
    assert [some[kind] for kind in ("passed", "failed", "skipped")] == [1, 1, 1]
    assert some["recorded"] == {"test_good: microseconds": "12.5"}
    assert "1 == 2" in some["why"]["test_bad"]
    assert "no TensorRT" in some["why"]["test_not_here"]


def test_section_without_a_gpu_ends_with_one_message(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    found = gpu.section("peaks", 120, tmp_path, False)
    assert found["outcome"] == "failed, exit status 1"
    assert "DriverError" in found["said"]
    assert "Traceback" not in found["said"]


def test_figures_of_the_same_machine_are_merged(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(gpu, "KEPT", tmp_path / "kept")
    here = {"device": "NVIDIA H100 80GB HBM3", "driver": "580.1"}
    path = gpu.place(tmp_path, here["device"])
    assert path.name == "gpu-nvidia-h100-80gb-hbm3.json"
    assert gpu.earlier(tmp_path, here["device"], here) == {}
    path.write_text(json.dumps({"schema": 1, "machine": here, "sections": {"peaks": {"outcome": "done"}}}))
    assert gpu.earlier(tmp_path, here["device"], here) == {"peaks": {"outcome": "done"}}
    assert gpu.earlier(tmp_path, here["device"], {**here, "driver": "590.1"}) == {}


def test_sections_have_their_code():
    assert set(gpu.SECTIONS) - {"tests"} == set(gpu_sections.SECTIONS)


def test_missing_requirements_are_named(monkeypatch):
    monkeypatch.setattr(gpu, "NEEDED", {"json": "", "no_such_module.at_all": "what for", "no_such or json": ""})
    assert gpu.missing() == {"no_such_module.at_all": "what for"}


def test_missing_opencv_is_named(tmp_path):
    script = """
import sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name == "cv2":
            raise ModuleNotFoundError("No module named 'cv2'", name=name)
sys.meta_path.insert(0, Absent)
import gpu
sys.exit(gpu.main(["--out", sys.argv[1], "--sections", "peaks"]))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(gpu.__file__).parent), "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], env=environment, capture_output=True, text=True, check=False
    )
    assert "missing: cv2. OpenCV" in done.stdout
    assert "Traceback" not in done.stderr


def test_missing_models_are_named(tmp_path):
    assert gpu_sections._source(tmp_path, "kinet-edge", "fp16") is None
    with pytest.raises(KinetError, match=r"gpu_check\.sh --pack"):
        gpu_sections._source(tmp_path, "release-32", "int8")


def test_maps_contain_nuclei_and_the_reference_is_consistent():
    maps = gpu_sections.cones(np.float16, 3, nuclei=200)
    found = gpu_sections.inside(np.pad(maps, ((0, 0), (0, 8), (0, 0))), 0.3)
    assert 150 < len(found) <= 200
    assert gpu_sections.same(found, gpu_sections.inside(maps, 0.3))
    assert not gpu_sections.same(found, Detections.empty(found.classes))


def test_frames_in_flight_are_collected_in_order():
    on_their_way, most, collected, number = [], [0], [], iter(range(1000))

    def submit():
        on_their_way.append(next(number))
        most[0] = max(most[0], len(on_their_way))
        return on_their_way[-1]

    def collect(one):
        assert on_their_way.pop(0) == one
        collected.append(one)

    figures = gpu_sections.throughput(submit, collect, 10)
    assert set(figures) == {"one_at_a_time", "two_on_their_way"}
    assert collected == list(range(23))
    assert most == [2]


def test_pytorch_counting_finds_the_reference_peaks():
    torch = pytest.importorskip("torch")
    import gpu_torch

    from kinet_trt.peaks.reference import find_peaks
    from kinet_trt.simulation import simulate

    network = gpu_torch.Network(4, torch.float32)
    frame = simulate.field(2, 96, 64)[0]
    with torch.inference_mode():
        maps = network(torch.from_numpy(frame[None]))[0].numpy()
    assert maps.shape == (3, 64, 96)
    threshold = gpu_sections.likely_threshold(maps)
    found = find_peaks(maps, threshold)
    assert len(found) > 0
    assert gpu_torch.count(network, frame, threshold, "cpu") == len(found)


@pytest.fixture
def on_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_sections, "WIDTH", 96)
    monkeypatch.setattr(gpu_sections, "HEIGHT", 64)
    monkeypatch.setattr(gpu_sections, "ROUNDS", 8)
    (tmp_path / "kernels").mkdir()
    with installed(tmp_path / "kernels"):
        yield


def test_peaks_section_runs_on_the_cpu(on_cpu, tmp_path):
    record = gpu_clock.Record(tmp_path / "peaks.json")
    gpu_sections.peaks(record, tmp_path, False)
    found = json.loads((tmp_path / "peaks.json").read_text())
    assert set(found) == {"float16", "float32"}
    for figures in found.values():
        assert figures["are_reference"] is True
        assert min(figures["nuclei"]) > 0
        assert figures["in_a_graph"] == {"p50_ms": 0.05, "p99_ms": 0.05, "runs": 6}
        assert figures["within_bar"] is True
        assert figures["host_clock"]["runs"] == 8


def test_frames_section_runs_on_the_cpu(on_cpu, tmp_path):
    record = gpu_clock.Record(tmp_path / "frames.json")
    gpu_sections.frames(record, tmp_path, False)
    found = json.loads((tmp_path / "frames.json").read_text())
    assert found["frame_bytes"] == 96 * 64 * 3
    scaled = {name: figures for name, figures in found.items() if "largest_difference_to_host" in str(figures)}
    assert len(scaled) == 5
    assert all(figures["largest_difference_to_host"] <= 1 for figures in scaled.values())


def test_run_writes_each_section_starting_with_tensorrt(tmp_path, monkeypatch, capsys):
    here = {"device": "A GPU", "driver": "1"}
    asked = []

    def section(name, limit_s, models, with_tensorrt):
        asked.append((name, with_tensorrt))
        written = json.loads((tmp_path / "gpu-a-gpu.json").read_text())["sections"] if asked[1:] else {}
        assert list(written) == [one for one, _ in asked[:-1]]
        if name == "tensorrt":
            return {"outcome": "ended by SIGSEGV", "step": "fp16: run", "runs": runs}
        return {"outcome": "done"}

    monkeypatch.setattr(gpu, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(gpu, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(gpu, "machine", lambda: here)
    monkeypatch.setattr(gpu, "section", section)
    runs = False
    assert gpu.main(["--out", str(tmp_path), "--sections", "counting,peaks"]) == 0
    assert asked == [("tensorrt", False), ("peaks", False), ("counting", False)]
    assert json.loads((tmp_path / "gpu-a-gpu.json").read_text())["machine"] == here

    # The next run knows what the first one found, also where its output folder is another.
    (tmp_path / "gpu-a-gpu.json").unlink()
    asked.clear()
    monkeypatch.setattr(gpu, "section", lambda name, *_: asked.append(name) or {"outcome": "failed, exit status 1"})
    assert gpu.main(["--out", str(tmp_path), "--sections", "counting"]) == 1
    assert asked == ["counting"]
    document = json.loads((tmp_path / "gpu-a-gpu.json").read_text())
    assert sorted(document["sections"]) == ["counting", "peaks", "tensorrt"]
    assert gpu.main(["--out", str(tmp_path), "--sections", "counting", "--limit", "5"]) == 1
    assert "no time left; --sections counting runs it alone" in capsys.readouterr().out


@pytest.mark.slow
def test_bundled_models_are_complete(tmp_path):
    import gpu_pack

    from kinet_trt.engines.onnxruntime import OnnxRuntimeEngine
    from kinet_trt.models.card import read_card
    from kinet_trt.simulation import simulate

    gpu_pack.release(tmp_path, width=4)
    maps = []
    for precision in ("fp16", "int8"):
        card, model = read_card(gpu_sections._source(tmp_path, "release-32", precision))
        assert card.precision == precision
        maps.append(OnnxRuntimeEngine(card, model).run(simulate.field(1, 64, 64)[0][None])[0])
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.9
