"""The benchmark: that it times what it says, not how long it takes."""

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet_trt import KinetError
from kinet_trt.evaluation.benchmark import (
    STAGES,
    Candidate,
    Setting,
    candidate,
    cold_start,
    interleave,
    measure,
    pareto_front,
    row,
    simulated_frame,
)
from kinet_trt.models.model import DEFAULT_MODEL


def test_contestants_run_in_turn_and_of_two_runs_the_second_counts():
    order = []

    def runs(name, seconds):
        def run():
            order.append(name)
            return {"whole": seconds[order.count(name) - 1]}

        return Candidate(name, "here", "fp32", run)

    told = []
    both = [runs("a", [9, 1, 9, 2, 9, 3]), runs("b", [9, 4, 9, 5, 9, 6])]
    a, b = interleave(both, 3, lambda done, total: told.append((done, total)))
    assert order == ["a", "a", "b", "b"] * 3
    assert a[:, -1].tolist() == [1, 2, 3]
    assert b[:, -1].tolist() == [4, 5, 6]
    assert np.isnan(a[:, :-1]).all()
    assert told == [(i, 12) for i in range(1, 13)]


def test_a_row_holds_quantiles_and_ratios_of_medians():
    times = np.tile(np.array([[0.001, 0.006, 0.003, 0.010]]), (5, 1))
    got = row(Candidate("m", "r", "fp32", dict), times, {"seconds": 1.5, "peak_memory_mib": 300.0}, {"published": 0.25})
    assert [got[f"{stage}_ms"]["p50"] for stage in STAGES] == [1, 6, 3, 10]
    assert got["frames_per_second"] == 100
    assert got["speedup_over_published"] == 25
    assert (got["cold_start_s"], got["peak_memory_mib"]) == (1.5, 300)


def test_the_stages_of_a_count_add_up():
    one = candidate(Setting(None, "fp32").open(), simulated_frame(128, 96))
    took = one.run()
    assert set(took) == set(STAGES)
    assert all(seconds > 0 for seconds in took.values())
    assert took["whole"] == pytest.approx(took["prepare"] + took["network"] + took["peaks"])
    with pytest.raises(KinetError, match="at most"):
        candidate(Setting(None, "fp32").open(), simulated_frame(1200, 64))


def test_the_peaks_of_a_fused_model_are_a_part_of_its_network(fused_model):
    setting = Setting(fused_model, "fp32")
    took = candidate(setting.open(), simulated_frame(128, 96)).run()
    assert set(took) == set(STAGES) - {"peaks"}
    assert took["whole"] == pytest.approx(took["prepare"] + took["network"])
    (got,) = measure([setting], simulated_frame(64, 64), 3)["rows"]
    assert {"prepare_ms", "network_ms", "whole_ms"} <= set(got)
    assert "peaks_ms" not in got


def test_a_cold_start_is_a_process_of_its_own():
    start = time.perf_counter()
    cold = cold_start(Setting(None, "fp32", threads=1), 96, 64)
    assert 0 < cold["seconds"] < time.perf_counter() - start
    assert cold["peak_memory_mib"] is None or 50 < cold["peak_memory_mib"] < 3000
    with pytest.raises(KinetError, match="new process"):
        cold_start(Setting(None, "fp64"), 96, 64)


def test_everything_is_measured_beside_eager_pytorch():
    pytest.importorskip("torch")
    pytest.importorskip("skimage")
    from kinet_trt.export.baselines import eager_pytorch

    document = json.loads(json.dumps(measure([Setting(None, "fp32")], simulated_frame(64, 64), 3, eager_pytorch)))
    ours, published, eager = document["rows"]
    assert ours["speedup_over_published"] > 1
    assert {"prepare_ms", "network_ms", "peaks_ms", "whole_ms", "speedup_over_eager", "cold_start_s"} <= set(ours)
    assert (published["model"], eager["model"]) == ("published pipeline", "half, width 16, relu")
    assert document["machine"]["versions"]["numpy"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_the_front_holds_what_no_other_point_beats(points: list[tuple[int, int]]) -> None:
    cost, gain = [c for c, _ in points], [g for _, g in points]
    best = pareto_front(cost, gain)
    assert [cost[i] for i in best] == sorted({cost[i] for i in best})
    for i, point in enumerate(points):
        beaten = any(c <= point[0] and g >= point[1] and (c, g) != point for c, g in points)
        assert beaten != (point in [points[k] for k in best]), (i, point)


def test_models_with_the_same_name_are_named_by_their_files(tmp_path):
    files = [tmp_path / "before.onnx", tmp_path / "after.onnx"]
    for file in files:
        file.write_bytes(DEFAULT_MODEL.read_bytes())
    settings = [Setting(None, "fp32"), *(Setting(file, "fp32") for file in files)]
    rows = measure(settings, simulated_frame(64, 64), 3)["rows"]
    assert [row["model"] for row in rows] == ["kinet-edge", "before", "after"]
