"""Training: loss, resuming, messages, sampling of fields, and validation."""

from __future__ import annotations

import csv
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from kinet_trt.export import checkpoint
from kinet_trt.export.checkpoint import Checkpoint, ModelInfo
from kinet_trt.export.networks.base import NetworkConfig
from kinet_trt.export.networks.registry import build
from kinet_trt.export.prediction import normalise, predict
from kinet_trt.export.recipes import BEST, PAPER, RECIPES, Recipe
from kinet_trt.export.sampling import sampling_weights, split_fields
from kinet_trt.export.training import TIMED_ITERATIONS, Progress, TrainingRun, train
from kinet_trt.export.validation import THRESHOLDS, contact_sheet, validate
from torch import Tensor, nn

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.frame import Frame
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.simulation.simulate import field as simulated_field

torch.set_num_threads(1)
CONFIG = NetworkConfig("paper", 4)
TINY = replace(BEST, iterations=6, every=3, batch=2, crops=replace(BEST.crops, size=64, simulated=0.0))


def simulated(seed: int = 1, width: int = 200, height: int = 160, **options: Any) -> LabelledField:
    pixels, truth = simulated_field(seed, width, height)
    return replace(LabelledField.simulated(pixels, truth.x, truth.y, truth.cls), **options)


def blank(n: int = 3, source: str = "a", width: int = 200, **options: Any) -> LabelledField:
    """Return a white field with n nuclei in a row."""
    x = np.linspace(10, width - 10, n).astype(np.float32)
    cls = (np.arange(n) % 3).astype(np.uint8)
    pixels = np.full((64, width, 3), 250, np.uint8)
    return LabelledField(
        Path(source), x, np.full(n, 32, np.float32), cls, source=source, _frames=[Frame(pixels)], **options
    )


def run(fields: list[LabelledField], out: Path, recipe: Recipe = TINY, **options: Any) -> list[Progress]:
    seen: list[Progress] = []
    config = options.pop("config", CONFIG)
    train(TrainingRun(fields, out, config, recipe, workers=0, report=seen.append, **options))
    return seen


def weights(path: Path) -> dict[str, Tensor]:
    return dict(checkpoint.load(path).network.state_dict())


class Stop(Exception):  # noqa: N818
    pass


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.training
def test_loss_goes_down_on_one_field(tmp_path: Path) -> None:
    crops = replace(TINY.crops, stain=False, scale=1.0, empty=0.0)
    recipe = replace(TINY, iterations=16, every=16, batch=4, lr=0.03, crops=crops)
    losses = [p.loss for p in run([simulated()], tmp_path / "k.pt", recipe)]
    assert len(losses) == 16
    assert np.mean(losses[-4:]) < 0.75 * np.mean(losses[:4])


@pytest.mark.parametrize("config", [CONFIG, NetworkConfig("release", 2), NetworkConfig("paper", 2, "relu", roi=False)])
def test_run_writes_best_and_last_checkpoint_and_a_table(tmp_path: Path, config: NetworkConfig) -> None:
    seen = run([simulated()], tmp_path / "k.pt", config=config, data="made up:")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["k.csv", "k.last.pt", "k.pictures", "k.pt"]
    assert sorted(p.name for p in (tmp_path / "k.pictures").iterdir()) == ["000003.jpg", "000006.jpg"]
    assert [p.iteration for p in seen] == [1, 2, 3, 4, 5, 6]
    assert [p.validation is not None for p in seen] == [False, False, True, False, False, True]
    loaded = checkpoint.load(tmp_path / "k.pt")
    assert loaded.network.config == config
    assert loaded.info.data == "made up: simulated (1 fields)"
    best = max((p.validation for p in seen if p.validation), key=lambda v: v.figure)
    assert loaded.info.threshold == best.threshold
    assert loaded.info.metrics["figure"] == pytest.approx(best.figure, abs=1e-4)
    with (tmp_path / "k.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == ["3", "6"]
    assert float(rows[0]["figure"]) == pytest.approx(seen[2].validation.figure, abs=1e-4)


def test_normalisation_is_that_of_the_training_fields(tmp_path: Path) -> None:
    one = simulated()
    run([one], tmp_path / "k.pt")
    info = checkpoint.load(tmp_path / "k.pt").info
    values = one.pixels().reshape(-1, 3) / 255
    np.testing.assert_allclose(info.mean, values.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(info.std, values.std(axis=0), atol=0.03)
    image = normalise(torch.from_numpy(one.pixels()[None].copy()), info)
    assert image.shape == (1, 3, 160, 200)
    assert image.mean((0, 2, 3)).abs().max() < 0.2
    expected = (one.pixels()[5, 7, 2] / 255 - info.mean[2]) / info.std[2]
    assert image[0, 2, 5, 7].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.training
@pytest.mark.parametrize("recipe", [TINY, replace(TINY, optimizer="sgd", lr=1e-3, average=0.0)])
def test_interrupted_run_ends_with_the_same_weights(tmp_path: Path, recipe: Recipe) -> None:
    whole, cut = tmp_path / "whole.pt", tmp_path / "cut.pt"
    run([simulated()], whole, recipe)

    def interrupt(progress: Progress) -> None:
        if progress.iteration == 4:
            raise Stop

    with pytest.raises(Stop):
        train(TrainingRun([simulated()], cut, CONFIG, recipe, workers=0, report=interrupt))
    seen = run([simulated()], cut, recipe)
    assert [p.iteration for p in seen] == [4, 5, 6]
    for name in ("{}.pt", "{}.last.pt"):
        expected, found = (weights(tmp_path / name.format(stem)) for stem in ("whole", "cut"))
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], atol=1e-6, rtol=0, msg=lambda m, k=key: f"{k}: {m}")
    state, other = (checkpoint.load(tmp_path / f"{stem}.last.pt").resume["network"] for stem in ("whole", "cut"))
    assert all(torch.allclose(state[key].float(), other[key].float(), atol=1e-6) for key in state)


def test_run_resumes_between_two_validations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinet_trt.export.training.SAVE_EVERY", 2)
    recipe = replace(TINY, every=6)
    run([simulated()], tmp_path / "whole.pt", recipe)

    def interrupt(progress: Progress) -> None:
        if progress.iteration == 5:
            raise Stop

    with pytest.raises(Stop):
        train(TrainingRun([simulated()], tmp_path / "cut.pt", CONFIG, recipe, workers=0, report=interrupt))
    assert not (tmp_path / "cut.pt").exists()
    assert [p.iteration for p in run([simulated()], tmp_path / "cut.pt", recipe)] == [5, 6]
    expected, found = weights(tmp_path / "whole.pt"), weights(tmp_path / "cut.pt")
    assert all(torch.allclose(found[key], expected[key], atol=1e-6) for key in expected)


def test_seed_determines_the_weights(tmp_path: Path) -> None:
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        run([simulated()], tmp_path / f"{name}.pt", seed=seed)
    a, b, c = (weights(tmp_path / f"{name}.last.pt") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["stem.0.weight"], c["stem.0.weight"])


@pytest.mark.slow
def test_workers_do_not_change_the_weights(tmp_path: Path) -> None:
    run([simulated()], tmp_path / "a.pt")
    train(TrainingRun([simulated()], tmp_path / "b.pt", CONFIG, TINY, workers=1))
    a, b = weights(tmp_path / "a.last.pt"), weights(tmp_path / "b.last.pt")
    assert all(torch.allclose(a[key].float(), b[key].float(), atol=1e-6) for key in a)


def test_divergence_names_lambda_and_learning_rate(tmp_path: Path) -> None:
    recipe = replace(TINY, optimizer="sgd", lr=1e9, mean_loss=False, clip=0.0, iterations=20, every=20)
    with pytest.raises(KinetError, match=r"diverged at iteration \d+.*lambda 5 and lr 1e\+09"):
        run([simulated()], tmp_path / "k.pt", recipe)
    assert not (tmp_path / "k.pt").exists()


def test_diverged_run_can_be_repeated_with_a_lower_learning_rate(tmp_path: Path) -> None:
    recipe = replace(TINY, optimizer="sgd", lr=1e9, mean_loss=False, clip=0.0, iterations=20, every=1)
    with pytest.raises(KinetError, match="diverged"):
        run([simulated()], tmp_path / "k.pt", recipe)
    run([simulated()], tmp_path / "k.pt", replace(recipe, lr=1e-7, iterations=8))


def test_remaining_time_is_estimated_once_from_iterations_and_validations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinet_trt.export.training.time.perf_counter", itertools.count(0.0, 10.0).__next__)
    field = simulated()
    other = simulated(2, 400, 160, split="val")
    seen = run([field, other, replace(other)], tmp_path / "k.pt", replace(TINY, iterations=20, every=8))
    estimates = {p.iteration: p.seconds for p in seen if p.seconds is not None}
    # Clock reads: after the first iteration, after TIMED_ITERATIONS more, and before and after one field of two.
    assert estimates == {1 + TIMED_ITERATIONS: pytest.approx((20 - 5) * 10 / TIMED_ITERATIONS + 3 * 10 * 2)}
    with pytest.raises(KinetError, match="finished"):
        run([field, other, replace(other)], tmp_path / "k.pt", replace(TINY, iterations=20, every=8))
    short = run([field], tmp_path / "short.pt")
    assert [p.seconds for p in short[:4]] == [None] * 4


def test_run_without_improvement_stops_after_its_patience(tmp_path: Path) -> None:
    recipe = replace(TINY, optimizer="sgd", lr=0.0, iterations=40, every=2, patience=4, average=0.0, weight_decay=0.0)
    blind = blank(0, "simulated")
    seen = run([blind], tmp_path / "k.pt", recipe)
    assert seen[-1].iteration == 6  # best at 2


def test_resume_refuses_another_network(tmp_path: Path) -> None:
    run([simulated()], tmp_path / "k.pt")
    with pytest.raises(KinetError, match=r"k\.last\.pt is of another network"):
        run([simulated()], tmp_path / "k.pt", config=NetworkConfig("paper", 6))


def test_resume_refuses_another_optimizer(tmp_path: Path) -> None:
    run([simulated()], tmp_path / "k.pt", replace(TINY, iterations=3))
    with pytest.raises(KinetError, match=r"k\.last\.pt"):
        run([simulated()], tmp_path / "k.pt", replace(TINY, optimizer="sgd", lr=1e-4))


def test_resume_refuses_a_checkpoint_without_state(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "k.last.pt", build(CONFIG), ModelInfo())
    with pytest.raises(KinetError, match=r"k\.last\.pt"):
        run([simulated()], tmp_path / "k.pt")


def test_resume_refuses_other_fields(tmp_path: Path) -> None:
    run([simulated()], tmp_path / "k.pt", replace(TINY, iterations=3))
    with pytest.raises(KinetError, match=r"k\.last\.pt is of another run"):
        run([simulated(), simulated(2)], tmp_path / "k.pt")


def test_resume_keeps_the_normalisation(tmp_path: Path) -> None:
    field = simulated()
    run([field], tmp_path / "k.pt", replace(TINY, iterations=3))
    before = checkpoint.load(tmp_path / "k.last.pt").info
    dark = replace(field, _frames=[Frame(field.pixels() // 2)])
    run([dark], tmp_path / "k.pt", TINY)
    after = checkpoint.load(tmp_path / "k.last.pt")
    assert after.resume["iteration"] == 6
    assert (after.info.mean, after.info.std) == (before.mean, before.std)


def test_training_starts_from_a_given_network(tmp_path: Path) -> None:
    start = build(CONFIG)
    with torch.no_grad():
        start.stem[0].weight.fill_(0.5)
    run([simulated()], tmp_path / "k.pt", replace(TINY, lr=0.0), start=Checkpoint(start, ModelInfo()))
    assert weights(tmp_path / "k.pt")["stem.0.weight"].allclose(torch.tensor(0.5), atol=1e-3)


def test_fine_tuning_keeps_the_normalisation_and_never_gets_worse(tmp_path: Path) -> None:
    info = ModelInfo(
        mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), mpp=0.3, data="elsewhere (9 fields)", metrics={"x": 1.0}
    )
    start = Checkpoint(build(CONFIG), info)
    before = {name: value.clone() for name, value in start.network.state_dict().items()}
    # Weights that are never better than the first ones: the start is written.
    seen = run([blank(0, "simulated")], tmp_path / "k.pt", replace(TINY, lr=1e-9, average=0.0), start=start)
    assert [p.iteration for p in seen] == [0, 1, 2, 3, 4, 5, 6]
    assert [p.validation is not None for p in seen] == [True, False, False, True, False, False, True]
    found = checkpoint.load(tmp_path / "k.pt")
    assert (found.info.mean, found.info.std, found.info.mpp) == (info.mean, info.std, info.mpp)
    assert found.info.data == "elsewhere (9 fields); then simulated (1 fields)"
    assert "x" not in found.info.metrics
    assert all(torch.equal(value, before[name]) for name, value in found.network.state_dict().items())
    assert (tmp_path / "k.pictures" / "000000.jpg").is_file()
    # The last weights are the trained ones.
    last = checkpoint.load(tmp_path / "k.last.pt")
    assert any(not torch.equal(value, before[name]) for name, value in last.network.state_dict().items())


def test_run_without_improvement_over_its_start_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run([blank(0, "simulated")], tmp_path / "k.pt", start=Checkpoint(build(CONFIG), ModelInfo()))
    assert "no result was better on the validation fields than the initial network" in caplog.text


def test_contact_sheet_shows_false_negatives_and_false_positives() -> None:
    fields = [blank(4, "a"), blank(4, "a"), blank(4, "b", width=120)]
    found = [peaks_found(f) for f in fields]
    found[0] = found[0].where(np.arange(4) > 0)
    sheet = cv2.imdecode(np.frombuffer(contact_sheet(found, fields, 0.5), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert sheet.shape == (64, 200 + 120 + 200 + 16, 3)  # first one field of each source
    x, y = round(float(fields[0].x[0])), 32

    def yellow(part: NDArray[np.uint8]) -> int:
        red, green, blue = (part[..., i].astype(int) for i in range(3))
        return int(((red > 180) & (green > 140) & (blue < 120)).sum())

    assert yellow(sheet[y - 9 : y + 10, x - 9 : x + 10]) > 5
    assert yellow(sheet[:, 40:]) == 0
    false_positives_only = [replace(found[0], score=np.full(3, 0.4, np.float32)), *found[1:]]
    sheet = cv2.imdecode(np.frombuffer(contact_sheet(false_positives_only, fields, 0.5), np.uint8), cv2.IMREAD_COLOR)
    assert yellow(sheet[:, :200, ::-1]) > 20


def peaks_found(f: LabelledField) -> Detections:
    return Detections(f.x, f.y, f.cls, np.full(len(f.x), 0.9, np.float32))


def test_paper_recipe_has_the_values_of_the_paper() -> None:
    assert RECIPES["paper"] is PAPER
    assert (PAPER.lr, PAPER.momentum, PAPER.weight_decay, PAPER.optimizer) == (0.01, 0.9, 1e-6, "sgd")
    assert (PAPER.iterations, PAPER.patience, PAPER.batch) == (100_000, 20_000, 4 * PAPER.crops.per_image)
    assert (PAPER.lam, PAPER.eta, PAPER.eta_after, PAPER.gamma) == (5, 1e-6, 10_000, 25)
    assert (PAPER.crops.alpha, PAPER.crops.distance, PAPER.floor) == (3, 15, 0)
    assert not PAPER.mean_loss


def test_paper_recipe_learns_and_diverges_without_clipping(tmp_path: Path) -> None:
    recipe = replace(PAPER, crops=replace(PAPER.crops, size=64), iterations=16, every=16)
    config = NetworkConfig("paper", 4)
    losses = [p.loss for p in run([simulated()], tmp_path / "k.pt", recipe, config=config)]
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])
    with pytest.raises(KinetError, match=r"diverged at iteration \d+.*lambda 5 and lr 0\.01"):
        run([simulated()], tmp_path / "text.pt", replace(recipe, clip=0.0), config=config)


# --- a teacher --------------------------------------------------------------------------------------------------------


def unmarked() -> LabelledField:
    f = simulated(labelled=(), source="bare", split="train")
    return replace(f, x=f.x[:0], y=f.y[:0], cls=f.cls[:0])


def taught(tmp_path: Path, teacher: checkpoint.Checkpoint | None, **options: Any) -> float:
    """Train on an unlabelled field and return the mean difference from the teacher there."""
    bare = unmarked()
    recipe = replace(TINY, iterations=30, every=30, lr=0.1, average=0.0, crops=replace(TINY.crops, empty=0.0))
    run([bare, simulated(2, split="val")], tmp_path / "k.pt", recipe, teacher=teacher, **options)
    found = checkpoint.load(tmp_path / "k.pt")
    judge = teacher or constant(0.0)
    maps = [predict(c.network, c.info, bare.pixels()) for c in (found, judge)]
    return float(np.abs(maps[0] - maps[1]).mean())


def constant(value: float) -> checkpoint.Checkpoint:
    """Return a network with the same output at every pixel."""
    torch.manual_seed(0)
    network = build(CONFIG).eval()
    with torch.no_grad():
        network.out.out.weight.zero_()
        network.out.out.bias.fill_(value)
    return checkpoint.Checkpoint(network, ModelInfo())


def test_teacher_is_imitated_on_unlabelled_fields(tmp_path: Path) -> None:
    assert taught(tmp_path, constant(0.8)) < 0.2


def test_unlabelled_field_without_a_teacher_has_no_loss(tmp_path: Path) -> None:
    fields = [unmarked(), simulated(2, split="val")]
    recipe = replace(TINY, crops=replace(TINY.crops, empty=0.0))
    seen = run(fields, tmp_path / "k.pt", recipe, config=NetworkConfig("paper", 4, roi=False))
    assert [p.loss for p in seen] == [0] * 6


def test_teacher_and_labels_share_the_loss(tmp_path: Path) -> None:
    crops = replace(TINY.crops, empty=0.0)
    config = NetworkConfig("paper", 4, roi=False)
    alone, with_one = (
        run([simulated()], tmp_path / f"{name}.pt", replace(TINY, iterations=1, crops=crops), config=config, teacher=t)
        for name, t in (("a", None), ("b", constant(0.5)))
    )
    assert with_one[0].loss > 0.5 * alone[0].loss  # half of its own loss, plus the teacher's
    assert with_one[0].loss != pytest.approx(alone[0].loss)


def test_resume_refuses_another_teacher(tmp_path: Path) -> None:
    run([simulated()], tmp_path / "k.pt", replace(TINY, iterations=3), teacher=constant(0.5))
    with pytest.raises(KinetError, match="another run"):
        run([simulated()], tmp_path / "k.pt", teacher=constant(0.6))
    run([simulated()], tmp_path / "k.pt", teacher=constant(0.5))


def test_nuclei_without_classes_are_trained_and_validated(tmp_path: Path) -> None:
    fields = [simulated(classified=False), simulated(2, split="val", classified=False)]
    recipe = replace(
        TINY, iterations=40, every=40, lr=0.02, average=0.0, crops=replace(TINY.crops, stain=False, empty=0.0)
    )
    seen = run(fields, tmp_path / "k.pt", recipe, config=NetworkConfig("paper", 4, "relu", roi=False, dropout=0.0))
    losses = [p.loss for p in seen]
    assert 0 < np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert seen[-1].validation is not None
    ((detection, classification),) = seen[-1].validation.by_source.values()
    assert detection == classification > 0


def test_resume_refuses_fields_that_lost_their_classes(tmp_path: Path) -> None:
    run([simulated()], tmp_path / "k.pt", replace(TINY, iterations=3))
    with pytest.raises(KinetError, match="another run"):
        run([simulated(classified=False)], tmp_path / "k.pt")


# --- fields -----------------------------------------------------------------------------------------------------------


def test_split_follows_the_split_of_the_fields() -> None:
    fields = [blank(source="a", split="train"), blank(source="a", split="val"), blank(source="a")]
    training, validating = split_fields(fields)
    assert validating == [fields[1]]
    assert training == [fields[0], fields[2]]


def test_split_cuts_the_right_fifth_off_a_source_of_one_field() -> None:
    fields = [blank(source="a"), blank(source="a", split="val"), blank(21, source="lone")]
    training, validating = split_fields(fields)
    left, right = training[1], validating[-1]
    assert (left.source, right.source) == ("lone", "lone")
    assert left.pixels().shape[1] == 160
    assert right.pixels().shape[1] == 40
    assert len(left.x) + len(right.x) == 21
    assert left.x.max() < 159.5
    assert right.x.min() >= -0.5
    assert right.x.max() == fields[2].x.max() - 160


def test_split_without_validation_fields_takes_every_fifth() -> None:
    fields = [blank(source="a") for _ in range(11)]
    training, validating = split_fields(fields)
    assert [next(i for i, f in enumerate(fields) if f is v) for v in validating] == [4, 9]
    assert len(training) == 9


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8])
def test_split_never_validates_on_a_training_field_where_there_are_several(n: int) -> None:
    fields = [blank(source="a") for _ in range(n)]
    training, validating = split_fields(fields)
    assert training
    assert validating
    assert not {id(f.pixels()) for f in training} & {id(f.pixels()) for f in validating}


def test_split_of_one_field_uses_it_for_both_and_of_validation_fields_only_is_an_error() -> None:
    one = blank()
    training, validating = split_fields([one])
    assert training
    assert validating
    with pytest.raises(KinetError, match="all are marked as validation fields"):
        split_fields([blank(split="val"), blank(split="val")])


def test_split_excludes_test_fields_and_validates_on_nuclei() -> None:
    regions, kept = blank(0, "a", labelled=(), split="val"), blank(source="a", split="test")
    fields = [blank(source="a"), blank(source="a", split="val"), regions, kept, blank(0, "a", labelled=())]
    training, validating = split_fields(fields)
    assert training == [fields[0], fields[4]]
    assert validating == [fields[1]]
    training, validating = split_fields([blank(source="a"), *(blank(0, "a", labelled=()) for _ in range(6))])
    assert sum(bool(f.labelled) for f in training) == len(validating) == 1
    with pytest.raises(KinetError, match="expected fields with labelled nuclei"):
        split_fields([kept, regions])


@pytest.mark.parametrize("width", [100, 150])
def test_narrow_field_that_is_alone_in_its_source_can_be_validated(width: int) -> None:
    _, validating = split_fields([blank(source="a"), blank(source="b", width=width)])
    validate(build(NetworkConfig("paper", 2)).eval(), ModelInfo(), validating)


def test_sampling_weight_is_the_root_of_the_nuclei_and_triple_if_complete() -> None:
    two = ("positive", "negative")
    fields = [
        blank(7, "full"),
        blank(8, "full"),
        blank(24, "some", labelled=two),
        blank(24, "some", labelled=("positive",)),
    ]
    found = sampling_weights(fields, {"some": 2.0})
    np.testing.assert_allclose(found, [3 * 4 / 2] * 2 + [2 * 7 / 2] * 2)
    np.testing.assert_allclose(sampling_weights(fields[:2], {}), [6, 6])


def test_sampling_weight_without_labels_is_a_fifth_of_the_others() -> None:
    fields = [blank(8, "full"), blank(24, "some", labelled=("positive",)), *[blank(0, "bare", labelled=())] * 2]
    np.testing.assert_allclose(sampling_weights(fields, {"bare": 3.0}), [9, 5, *[3 * 0.2 * 14 / 2] * 2])
    np.testing.assert_allclose(sampling_weights(fields[2:], {}), [0.1, 0.1])


def test_factor_of_an_unknown_source_lists_the_known_ones() -> None:
    with pytest.raises(KinetError, match=r"weight: expected one of the sources \['a', 'b'\], found \['nobody'\]"):
        sampling_weights([blank(source="b"), blank(source="a")], {"a": 1, "nobody": 2})


# --- validation -------------------------------------------------------------------------------------------------------


class Oracle(nn.Module):
    """Network that returns given maps, one image after the other."""

    def __init__(self, *pictures: NDArray[np.float32]) -> None:
        super().__init__()
        self.pictures = list(pictures)
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor, roi: bool = False) -> tuple[Tensor, None]:
        maps = torch.zeros(1, 3, *image.shape[2:])
        drawn = torch.from_numpy(self.pictures.pop(0))
        maps[0, :, : drawn.shape[1], : drawn.shape[2]] = drawn
        return maps, None


def peaks(*nuclei: tuple[float, float, int, float], height: int = 64, width: int = 200) -> NDArray[np.float32]:
    maps = np.zeros((3, height, width), np.float32)
    for x, y, s, score in nuclei:
        maps[s, round(y), round(x)] = score
    return maps


def truth_of(f: LabelledField, score: float = 0.6) -> list[tuple[float, float, int, float]]:
    return [(x, y, s, score) for x, y, s in zip(f.x, f.y, f.cls, strict=True)]


def judge(f: LabelledField, *extra: tuple[float, float, int, float], score: float = 0.6) -> Any:
    return validate(Oracle(peaks(*truth_of(f, score), *extra)), ModelInfo(), [f])


def test_validation_finds_the_threshold_between_nuclei_and_noise() -> None:
    found = judge(blank(6), (30, 10, 0, 0.32), (60, 5, 1, 0.35), (100, 60, 2, 0.2))
    assert found.figure == 1
    assert found.by_source == {"a": (1.0, 1.0)}
    assert 0.35 < found.threshold <= 0.6
    assert found.threshold in THRESHOLDS


def test_validation_counts_false_negatives_and_false_positives() -> None:
    f = blank(6)
    missed = validate(Oracle(peaks(*truth_of(f)[:3])), ModelInfo(), [f])
    assert missed.by_source["a"][0] == pytest.approx(2 * 3 / (3 + 6))
    assert judge(f, (30, 5, 0, 0.7), (60, 60, 1, 0.7)).by_source["a"][0] == pytest.approx(2 * 6 / (8 + 6))


def test_wrong_class_costs_classification_only() -> None:
    f = blank(3)
    wrong = [(x, y, 0, s) for x, y, _, s in truth_of(f)]
    detection, classification = validate(Oracle(peaks(*wrong)), ModelInfo(), [f]).by_source["a"]
    assert detection == 1
    assert classification == pytest.approx((2 * 1 / (3 + 1)) / 3)


def test_detections_outside_the_counted_region_and_in_the_padding_are_ignored() -> None:
    f = blank(6)
    mask = np.ones((64, 200), bool)
    mask[40:] = False
    f = replace(f, counted=Path("m.png"), _frames=[Frame(f.pixels())], _masks=[mask])
    assert judge(f, (30, 50, 0, 0.9), (60, 60, 1, 0.9)).figure == 1
    padded = peaks(*truth_of(f), (204, 20, 0, 0.9), width=208)
    assert validate(Oracle(padded), ModelInfo(), [f]).figure == 1


def test_detections_of_an_unlabelled_class_are_ignored() -> None:
    f = blank(6)
    two = f.cls < 2
    f = replace(f, x=f.x[two], y=f.y[two], cls=f.cls[two], labelled=("positive", "negative"))
    assert judge(f, (30, 5, 2, 0.9), (60, 60, 2, 0.9)).figure == 1


def test_labels_of_an_unlabelled_class_are_ignored() -> None:
    f = replace(blank(6), labelled=("positive", "negative"))
    assert judge(f).figure == 1


def test_figure_is_the_mean_over_sources_of_any_size() -> None:
    good, bad = blank(9, "good"), blank(3, "bad")
    found = validate(Oracle(*(peaks(*truth_of(good)), peaks())), ModelInfo(), [good, bad])
    assert found.by_source == {"bad": (0.0, 0.0), "good": (1.0, 1.0)}
    assert found.figure == 0.5


def test_prediction_pads_to_multiples_of_sixteen() -> None:
    net = build(CONFIG).eval()
    maps = predict(net, ModelInfo(), np.full((70, 90, 3), 200, np.uint8))
    assert (maps.shape, maps.dtype) == ((3, 80, 96), np.float32)


def test_prediction_of_read_only_pixels_does_not_warn() -> None:
    pixels = np.full((64, 96, 3), 200, np.uint8)
    pixels.flags.writeable = False  # as Pillow gives them
    assert predict(build(CONFIG).eval(), ModelInfo(), pixels).shape == (3, 64, 96)


def test_resume_refuses_other_sampling_weights(tmp_path: Path) -> None:
    fields = [simulated(), blank(source="other")]
    run(fields, tmp_path / "k.pt", replace(TINY, iterations=3), factors={"other": 2.0})
    with pytest.raises(KinetError, match="another run"):
        run(fields, tmp_path / "k.pt", factors={"other": 3.0})
