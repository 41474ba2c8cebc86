"""The paper's studies: runs, fields, tables and page."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "paper"))

import page
from costs import multiplications, sizes
from kinet_trt.export.networks.base import NetworkConfig
from kinet_trt.export.networks.registry import build
from kinet_trt.export.sampling import UNLABELLED_WEIGHT, sampling_weights
from results import Results
from run import done
from studies import BUDGETS, NETWORKS, Budget, Run, all_runs, runs_of
from study_fields import split_for_study, with_labels, without_nuclei

from kinet_trt.core.detections import CLASSES
from kinet_trt.datasets.labelled import read_fields
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.simulation import simulate

torch.set_num_threads(1)
SMALL, QUICK = BUDGETS["small"], BUDGETS["quick"]


def write_fields(folder: Path) -> Path:
    """Write simulated fields of three sources with an index: one field, six, and two with two labelled classes."""
    rows = ["image,points,counted_mask,source,split,classes"]
    for seed, (source, split, classes) in enumerate(
        [("alone", "train", CLASSES)]
        + [("many", "train", CLASSES)] * 5
        + [("many", "val", CLASSES)]
        + [("two", "train", CLASSES[:2])] * 2
    ):
        pixels, truth = simulate.field(seed, 320 if source == "alone" else 128, 128)
        name = f"{source}{seed}"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.png").write_bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
        marked = [
            f"{x},{y},{CLASSES[c]}"
            for x, y, c in zip(truth.x, truth.y, truth.cls, strict=True)
            if CLASSES[c] in classes
        ]
        (folder / f"{name}.csv").write_text("\n".join(["x,y,class", *marked]) + "\n")
        rows.append(f"{name}.png,{name}.csv,,{source},{split},{'+'.join(classes)}")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fields(tmp_path_factory.mktemp("paper") / "data")


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=list(BUDGETS))
def test_runs_are_unique_with_unique_names(budget: Budget) -> None:
    runs = all_runs(budget)
    assert len({run.name for run in runs}) == len(set(runs)) == len(runs)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    budget.recipe(5.0, 25.0)


def test_studies_are_those_of_the_paper() -> None:
    assert [run.network for run in runs_of("table", SMALL, 0)] == list(NETWORKS)
    assert {run.fraction for run in runs_of("labels", SMALL, 0)} == {0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0}
    assert {run.network for run in runs_of("labels", SMALL, 0)} == {"kinet", "okinet"}
    assert {run.network for run in runs_of("stages", SMALL, 0)} == {"kinet", "skinet", "frcn"}
    assert {run.gamma for run in runs_of("gamma", SMALL, 0)} >= {0.1, 100}
    assert {run.lam for run in runs_of("lambda", SMALL, 0)} >= {0, 0.05, 0.5, 5, 10}
    # KiNet with the paper's parameters is part of every study, and trained once.
    assert all(
        Run("kinet", 0) in runs_of(study, SMALL, 0) for study in ("table", "labels", "stages", "gamma", "lambda")
    )
    recipe = SMALL.recipe(0.5, 7)
    assert (recipe.lam, recipe.gamma, recipe.crops.simulated) == (0.5, 7, 0)


# --- fields -----------------------------------------------------------------------------------------------------------


def test_training_and_test_fields_are_disjoint(data: Path) -> None:
    others, test_fields = split_for_study(read_fields(data))
    by_split = {split: [f for f in others if f.split == split] for split in ("train", "val")}
    assert sorted(f.source for f in test_fields) == ["alone", "many"]
    assert sorted(f.source for f in by_split["val"]) == ["alone", "many", "two"]
    assert sorted(f.source for f in by_split["train"]) == ["alone"] + 4 * ["many"] + ["two"]
    parts = [f for f in (*others, *test_fields) if f.source == "alone"]
    assert [f.pixels().shape[1] for f in parts] == [160, 64, 96]
    whole = next(f for f in read_fields(data) if f.source == "alone")
    np.testing.assert_array_equal(np.concatenate([f.pixels() for f in parts], axis=1), whole.pixels())
    assert sum(len(f.x) for f in parts) == len(whole.x)
    names = [f.name for f in (*others, *test_fields) if f.source != "alone"]
    assert len(set(names)) == len(names)


def test_smaller_share_of_labels_is_part_of_a_larger_one(data: Path) -> None:
    others, _ = split_for_study(read_fields(data))

    def labelled(fraction: float, seed: int) -> set[int]:
        chosen = with_labels(others, fraction, seed)
        assert [f.split for f in chosen] == [f.split for f in others]
        assert all(f.labelled for f in chosen if f.split == "val")
        return {i for i, f in enumerate(chosen) if f.labelled and f.split != "val"}

    shares = [labelled(fraction, 1) for fraction in (0.05, 0.5, 1.0)]
    assert [len(share) for share in shares] == [1, 3, 6]
    assert shares[0] < shares[1] < shares[2]
    assert set(others[min(shares[0])].labelled) == set(CLASSES)
    assert len({frozenset(labelled(0.5, seed)) for seed in range(8)}) > 1


def test_labelled_fields_are_sampled_most(data: Path) -> None:
    others, _ = split_for_study(read_fields(data))
    training = [f for f in with_labels(others, 0.2, 0) if f.split != "val"]
    drawn = np.array(sampling_weights(training, {}))
    bare = np.array([not f.labelled for f in training])
    assert bare.any()
    assert drawn[bare].sum() / drawn[~bare].sum() == pytest.approx(UNLABELLED_WEIGHT)


def test_field_without_nuclei_keeps_its_regions() -> None:
    x, y = np.array([20, 80], np.float32), np.array([30, 30], np.float32)
    field = LabelledField.simulated(np.zeros((64, 96, 3), np.uint8), x, y, np.array([1, 2], np.uint8))
    bare = without_nuclei(field)
    assert (len(bare.x), bare.labelled) == (0, ())
    tumor, known = bare.regions()
    assert (tumor.shape, known.shape) == ((64, 96), (64, 96))
    assert (tumor[30, 20], known[30, 20]) == (True, True)
    assert (tumor[30, 80], known[30, 80]) == (False, True)
    assert not known[5, 50]
    mask = np.zeros((64, 96), bool)
    mask[:, :48] = True
    drawn = without_nuclei(replace(field, counted=Path("mask.png"), _masks=[mask]))
    np.testing.assert_array_equal(drawn.regions()[1], mask)
    assert not drawn.bounded


# --- costs ------------------------------------------------------------------------------------------------------------


def test_multiplications_are_those_of_the_known_network() -> None:
    network = build(NetworkConfig("release", 32, "elu", roi=False)).eval()
    assert multiplications(network) == pytest.approx(486.3e3, rel=1e-3)
    found = sizes(("unet", "kinet"), 8)
    assert found["kinet"]["parameters"] == sum(
        p.numel() for p in build(NetworkConfig("paper", 8, "elu", roi=False)).parameters()
    )


# --- the page ---------------------------------------------------------------------------------------------------------


def made_up(run: Run, f1: float) -> dict[str, object]:
    """Return the result of a run with a given F1."""
    line = [[round(1 - i / 20, 2), i / 20] for i in range(21)]
    return {
        "run": {"network": run.network, "seed": run.seed, "fraction": run.fraction, "gamma": run.gamma, "lam": run.lam},
        "fields": {"labelled": 6, "regions_alone": 0, "validating": 3, "judging": 2},
        "device": "CPU",
        "detection": [f1, f1, f1],
        "classification": [f1 / 2, f1 / 2, f1 / 2],
        "distance": [2.0, 1.0],
        "auc": 0.5,
        "curves": {"detection": line, "classification": line},
    }


def test_page_reports_the_results(tmp_path: Path) -> None:
    budget = replace(SMALL, name="made up", seeds=(0, 1))
    for run in all_runs(budget):
        f1 = {"unet": 0.9, "kinet": 0.8, "okinet": 0.82, "skinet": 0.7}.get(run.network, 0.5) + 0.01 * run.seed
        document = made_up(run, f1)
        if run.lam == 50:
            document = {**{k: document[k] for k in ("run", "fields", "device")}, "diverged": "at iteration 3"}
        (tmp_path / f"{run.name}.json").write_text(json.dumps(document))
    Results(budget, tmp_path).collect(tmp_path)
    written = page.write(budget, tmp_path, tmp_path / "docs")
    assert {path.name for path in written} == {
        "paper.md",
        "paper-labels.svg",
        "paper-gamma.svg",
        "paper-lambda.svg",
    }
    text = (tmp_path / "docs" / "paper.md").read_text()
    assert "Detection F1: KiNet (0.805) does not lead, U-Net (0.905) does (paper: KiNet leads by 0.038)." in text
    assert "joint training against training by stages: +0.100 F1 on average, better with 2 of 2 seeds" in text
    assert "Detection, with regions against without: better at 0 of 7 shares of labels, -0.020 to -0.020 F1" in text
    each = len(all_runs(budget)) // 2
    assert f"seeds 0, 1 ({each}, {each} runs), on CPU" in text
    assert "Diverged: KiNet with lambda 50, gamma 25, seed 0; KiNet with lambda 50, gamma 25, seed 1 " in text
    assert "| 50 | diverged | diverged | diverged |" in text
    assert "| KiNet | 0.805 ± 0.007 |" in text
    assert "0.898" in text
    assert f"{len(all_runs(budget))} of {len(all_runs(budget))} runs are done" in text
    before = (tmp_path / "docs" / "paper-labels.svg").read_bytes()
    page.write(budget, tmp_path, tmp_path / "docs")
    assert (tmp_path / "docs" / "paper-labels.svg").read_bytes() == before


def test_tables_contain_each_run_once_and_are_read_unchanged(tmp_path: Path) -> None:
    runs = all_runs(SMALL)
    for run in runs:
        document = made_up(run, 0.5 + 0.01 * run.seed) | {"nuclei": 7, "by_class": dict.fromkeys(CLASSES, 0.25)}
        if run.lam == 50:
            document = {**{k: document[k] for k in ("run", "fields", "device")}, "diverged": "at iteration 3"}
        (tmp_path / f"{run.name}.json").write_text(json.dumps(document))
    Results(SMALL, tmp_path).collect(tmp_path)
    assert {path.stem for path in tmp_path.glob("*.csv")} == {"table", "labels", "stages", "gamma", "lambda"}
    assert sum(len(path.read_text().splitlines()) - 1 for path in tmp_path.glob("*.csv")) == len(runs)
    read = Results(SMALL, tmp_path)
    for run in runs:
        expected = json.loads((tmp_path / f"{run.name}.json").read_text())
        found = read.get(run)
        assert found is not None
        assert {name: found[name] for name in expected} == expected
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")}
    read.collect(tmp_path / "nothing")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")} == before


def test_page_of_an_unfinished_study_states_its_progress(tmp_path: Path) -> None:
    run = Run("kinet", 0)
    (tmp_path / f"{run.name}.json").write_text(json.dumps(made_up(run, 0.8)))
    results = Results(SMALL, tmp_path)
    results.collect(tmp_path)
    text = page.text(results)
    assert page.text(Results(SMALL, tmp_path)) == text
    assert f"seeds 0, 1, 2 (1, 0, 0 runs), on CPU. 1 of {len(all_runs(SMALL))} runs are done" in text
    assert "leads" not in text.split("## Table I")[0].split("## Results")[1]


# --- runs, done -------------------------------------------------------------------------------------------------------


def test_run_is_trained_once_and_divergence_is_recorded(data: Path, tmp_path: Path) -> None:
    budget = replace(QUICK, iterations=2)
    places = (data, tmp_path / "results", tmp_path / "work", 0)
    first = done(Run("frcn", 0), budget, *places)
    assert first["nuclei"] > 0
    assert len(first["curves"]["detection"]) == 21
    assert first["fields"] == {"labelled": 6, "regions_alone": 0, "validating": 3, "judging": 2}
    file = tmp_path / "work" / "frcn-f1-g25-l5-s0.json"
    # Interrupted between training and writing the result: not trained again.
    file.unlink()
    weights = (tmp_path / "work" / "frcn-f1-g25-l5-s0.pt").read_bytes()
    again = done(Run("frcn", 0), budget, *places)
    assert again["detection"] == first["detection"]
    assert (tmp_path / "work" / "frcn-f1-g25-l5-s0.pt").read_bytes() == weights
    assert done(Run("frcn", 0), budget, tmp_path / "nowhere", *places[1:]) == again
    told = done(Run("frcn", 0, lam=1e38), budget, *places)
    assert "diverged at iteration" in told["diverged"]
    assert "detection" not in told


@pytest.mark.slow
def test_quick_budget_runs_completely(data: Path, tmp_path: Path) -> None:
    places = ("--results", tmp_path / "results", "--work", tmp_path / "work", "--docs", tmp_path / "docs")
    command = [sys.executable, ROOT / "benchmarks" / "paper" / "run.py", "--budget", "quick", "--data", data]

    def begun(*options: object) -> subprocess.Popen[str]:
        arguments = [*map(str, command), *map(str, options), *map(str, places)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    def ended(process: subprocess.Popen[str]) -> str:
        out, _ = process.communicate()
        assert process.returncode == 0
        return out

    def call(*options: object) -> str:
        return ended(begun(*options))

    runs = all_runs(QUICK)
    out = "".join(ended(process) for process in [begun("--workers", 0) for _ in range(2)])
    assert sorted(line.split()[0] for line in out.splitlines()) == sorted(run.name for run in runs)
    assert call("--workers", 0) == ""
    call("--costs", "--rounds", 1, "--side", 64)
    call("--page")
    text = (tmp_path / "docs" / "paper.md").read_text()
    assert f"{len(runs)} of {len(runs)} runs are done" in text
    assert " fp32, ms |" in text
    figures = json.loads((tmp_path / "work" / "quick" / f"{runs[0].name}.json").read_text())
    assert figures["budget"]["iterations"] == 20
    assert all(Results(QUICK, tmp_path / "results" / "quick").get(run) for run in runs)
    assert 0 <= figures["detection"][2] <= 1
