"""Requirements on every network: sizes, reach, training, export and counting."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kinet_trt.export import checkpoint
from kinet_trt.export.checkpoint import Checkpoint, ModelInfo
from kinet_trt.export.crops import CropPlan, Crops
from kinet_trt.export.networks.base import KINET_ARCHITECTURES, Architecture, Network, NetworkConfig
from kinet_trt.export.networks.fcrn import STEPS
from kinet_trt.export.networks.registry import build, reach
from kinet_trt.export.optimization import training_step
from kinet_trt.export.recipes import BEST, Recipe
from kinet_trt.export.train_folder import NetworkName
from kinet_trt.export.training import Progress, TrainingRun, train, train_by_stages
from kinet_trt.export.widen import widen

from kinet_trt.core.detections import CLASSES
from kinet_trt.core.errors import KinetError
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.models.card import read_card
from kinet_trt.simulation import simulate

torch.set_num_threads(1)
OTHERS = [name for name in get_args(Architecture) if name not in KINET_ARCHITECTURES]
SOME = [pytest.param(name, marks=[] if name in ("unet", "sfcn-opi") else pytest.mark.slow) for name in OTHERS]
"""All of them, only two of which are not slow."""
NAMES = get_args(NetworkName)
TINY = replace(BEST, iterations=4, every=2, batch=2, crops=replace(BEST.crops, size=64, simulated=0.0))
Run = Callable[..., tuple[int, str, str]]


def network(architecture: str, width: int = 2) -> Network:
    torch.manual_seed(3)
    return build(NetworkConfig(architecture, width, "relu", roi=False)).eval()


def field(seed: int = 1) -> LabelledField:
    pixels, truth = simulate.field(seed, 200, 160)
    return LabelledField.simulated(pixels, truth.x, truth.y, truth.cls)


# --- each by itself ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", OTHERS)
def test_any_size_gives_maps_of_that_size(architecture: str) -> None:
    net = network(architecture)
    with torch.inference_mode():
        for height, width in ((64, 96), (50, 71)):
            maps, logits = net(torch.zeros(2, 3, height, width))
            assert (tuple(maps.shape), logits) == ((2, 3, height, width), None)


@pytest.mark.parametrize("architecture", OTHERS)
def test_networks_have_at_most_thirty_million_parameters(architecture: str) -> None:
    with torch.device("meta"):
        net = build(NetworkConfig(architecture, 32, "relu", roi=False))
    assert 1e6 < sum(p.numel() for p in net.parameters()) < 30e6


@pytest.mark.parametrize("architecture", OTHERS)
def test_only_pixels_within_the_reach_change_the_output(architecture: str) -> None:
    net = network(architecture).double()
    far, multiple = reach(net), net.config.multiple
    side, column = 2 * (far // multiple + 2) * multiple, 5
    image = torch.rand(1, 3, side, multiple, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    changed = image.clone()
    changed[..., 0, column] += 3
    with torch.inference_mode():
        difference = (net.outputs(image)[0] - net.outputs(changed)[0]).abs().amax((0, 1, 3))
    assert difference[far + 1 :].max() == 0
    assert difference[: far // 3].max() > 0


@pytest.mark.parametrize("architecture", OTHERS)
def test_only_kinet_has_a_region_branch(architecture: str) -> None:
    with pytest.raises(ValueError, match="roi: only KiNet"):
        NetworkConfig(architecture, 2)
    with pytest.raises(ValueError, match="built without its branch"):
        network(architecture)(torch.zeros(1, 3, 32, 32), roi=True)


@pytest.mark.parametrize("architecture", OTHERS)
def test_summary_identifies_the_network(architecture: str) -> None:
    config = NetworkConfig(architecture, 6, "relu", roi=False)
    assert NetworkConfig.parse(config.summary) == config


@pytest.mark.parametrize("architecture", OTHERS)
def test_widened_network_gives_the_same_maps(architecture: str) -> None:
    net = network(architecture)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(widen(net, 4)(image)[0], net(image)[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("architecture", OTHERS)
def test_perfect_outputs_have_no_loss_and_peak_at_nuclei(architecture: str) -> None:
    """Perfect outputs cost nothing, and peak in the map of the class at the nucleus, near 1."""
    net = network(architecture)
    x, y, cls = np.array([12.0, 40.0]), np.array([20.0, 24.0]), np.array([2, 0])
    plan = CropPlan(size=64)
    made = LabelledField.simulated(np.zeros((64, 64, 3), np.uint8), x, y, cls.astype(np.uint8))
    item = Crops([made], [1.0], plan, 0, 1, net.target)[0]
    target, known = item[1][None], item[2][None]
    if architecture in ("fcn8s", "unet"):
        classes = target[:, :3]
        outputs = 40 * torch.cat([classes, 1 - classes.sum(1, keepdim=True)], 1)
    elif architecture == "sfcn-opi":
        nucleus = target.sum(1, keepdim=True)
        outputs = 40 * torch.cat([nucleus, 1 - nucleus, target], 1)
    else:
        outputs = target
    assert net.loss(outputs, target, known, 5.0, 0.0).item() < 1e-3
    assert net.loss(outputs * 0, target, known, 5.0, 0.0).item() > 1
    maps = net.maps(outputs)[0]
    assert maps.shape == (3, 64, 64)
    assert maps[[0, 2]].amax((1, 2)).min() > 0.95
    assert maps[1].max() < 0.05


# --- training ---------------------------------------------------------------------------------------------------------


def learn(architecture: str, out: Path, recipe: Recipe = TINY) -> list[float]:
    losses: list[float] = []
    config = NetworkConfig(architecture, 2, "relu", roi=False)
    train(TrainingRun([field()], out, config, recipe, workers=0, report=lambda p: losses.append(p.loss)))
    return losses


@pytest.mark.training
@pytest.mark.parametrize("architecture", get_args(Architecture))
@pytest.mark.parametrize("width", [2, 8])
def test_every_network_takes_a_few_steps(architecture: Architecture, width: int) -> None:
    """Forward and backward passes as in training; a faulty kernel crashes the process."""
    config = NetworkConfig(architecture, width, "relu", roi=architecture in KINET_ARCHITECTURES)
    net = build(config).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    crops = Crops([field()], [1.0], CropPlan(size=64), 0, 6, net.target)
    optimizer = torch.optim.SGD(net.parameters(), 1e-4)
    for iteration in range(3):
        examples = [torch.stack(parts) for parts in zip(*(crops[2 * iteration + i] for i in (0, 1)), strict=True)]
        assert np.isfinite(training_step(net, optimizer, TINY, iteration + 1, examples, ModelInfo()))


@pytest.mark.parametrize("architecture", SOME)
def test_loss_goes_down_on_one_field(architecture: str, tmp_path: Path) -> None:
    crops = replace(TINY.crops, stain=False, scale=1.0, empty=0.0)
    recipe = replace(TINY, iterations=25, every=25, batch=2, lr=0.02, crops=crops)
    losses = learn(architecture, tmp_path / "k.pt", recipe)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.parametrize("architecture", ["fcrn-b", "sfcn-opi"])
def test_diverging_run_is_reported(architecture: str, tmp_path: Path) -> None:
    recipe = replace(TINY, optimizer="sgd", lr=1e30, mean_loss=False, clip=0.0, iterations=12, every=12)
    with pytest.raises(KinetError, match=r"diverged at iteration \d+"):
        learn(architecture, tmp_path / "k.pt", recipe)


def test_teacher_of_proximity_maps_is_refused_for_density_maps(tmp_path: Path) -> None:
    teacher = Checkpoint(network("paper"), ModelInfo())
    config = NetworkConfig("fcrn-a", 2, "relu", roi=False)
    with pytest.raises(KinetError, match=r"^teacher: expected a network that learns proximity maps, found fcrn-a"):
        train(TrainingRun([field()], tmp_path / "k.pt", config, TINY, workers=0, teacher=teacher))


def changed(before: Network, after: Network) -> set[str]:
    """Return the names of the layers whose weights differ."""
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    return {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}


def test_stages_train_one_branch_at_a_time(tmp_path: Path) -> None:
    config = NetworkConfig("paper", 2, "relu")
    torch.manual_seed(0)
    begun = build(config)
    seen: list[int] = []
    train_by_stages(
        TrainingRun([field()], tmp_path / "k.pt", config, TINY, workers=0, report=lambda p: seen.append(p.iteration))
    )
    assert seen == [1, 2, 3, 4, 0, 1, 2, 3, 4]
    first = checkpoint.load(tmp_path / "k.roi.pt").network
    last = checkpoint.load(tmp_path / "k.last.pt").network
    learnt = changed(begun, first)
    assert {"stem", "down16", "roi_down32", "roi_out"} <= learnt
    assert not learnt & {"up8", "up4", "up2", "up1", "side8", "side4", "out"}
    learnt = changed(first, last)
    assert {"stem", "down16", "up8", "side8", "out"} <= learnt
    assert not any(name.startswith("roi") for name in learnt)
    assert checkpoint.load(tmp_path / "k.pt").info.data == "simulated (1 fields)"


def test_remaining_time_of_the_first_stage_includes_the_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinet_trt.export.training.time.perf_counter", itertools.count(0.0, 10.0).__next__)
    seen: list[Progress] = []
    recipe = replace(TINY, iterations=8, every=8)
    config = NetworkConfig("paper", 2, "relu")
    train_by_stages(TrainingRun([field()], tmp_path / "k.pt", config, recipe, workers=0, report=seen.append))
    first, second = (p.seconds for p in seen if p.seconds is not None)
    # Three of eight iterations remain in each, plus all of the second stage.
    assert first == pytest.approx(second * (1 + 8 / 3))


def test_interrupted_training_by_stages_resumes_in_its_stage(tmp_path: Path) -> None:
    config = NetworkConfig("paper", 2, "relu")

    class Stop(Exception):  # noqa: N818
        pass

    def stop(progress: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Stop

    seen: list[int] = []
    for left, expected in ((3, [3, 4, 0, 1, 2, 3, 4]), (8, [3, 4])):
        out = tmp_path / f"{left}.pt"
        seen.clear()
        with pytest.raises(Stop):
            train_by_stages(TrainingRun([field()], out, config, TINY, workers=0, report=stop))
        train_by_stages(TrainingRun([field()], out, config, TINY, workers=0, report=lambda p: seen.append(p.iteration)))
        assert seen == expected


# --- from the command line to a count ---------------------------------------------------------------------------------


@pytest.fixture
def fields(tmp_path: Path) -> Path:
    """Write a folder of two labelled fields."""
    folder = tmp_path / "fields"
    folder.mkdir()
    for seed in (1, 2):
        pixels, truth = simulate.field(seed, 256, 224)
        (folder / f"{seed}.png").write_bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
        rows = [f"{x},{y},{CLASSES[c]}" for x, y, c in zip(truth.x, truth.y, truth.cls, strict=True)]
        (folder / f"{seed}.csv").write_text("x,y,class\n" + "\n".join(rows))
    return folder


def to_a_count(run: Run, folder: Path, name: str, *options: object) -> tuple[int, dict[str, object]]:
    """Train, export, evaluate and count; return the number of nuclei and the parity of the model."""
    made, model = folder.parent / "k.pt", folder.parent / "k.onnx"
    given = ("--network", name, "--recipe", "best", "--classes", ",".join(CLASSES), *options)
    code, out, err = run("train", folder, "-o", made, *given)
    assert code == 0, err
    assert "threshold" in out
    code, out, err = run("export", made, "-o", model)
    assert code == 0, err
    card, _ = read_card(model)
    assert card.halo >= reach(checkpoint.load(made).network) + card.nms_radius
    found = folder.parent / "found.json"
    assert run("count", folder, "-m", model, "--threshold", 0.05, "--json", found)[0] == 0
    assert run("eval", folder, "-m", model, "--json", folder.parent / "eval.json")[0] == 0
    return sum(sum(image["counts"].values()) for image in json.loads(found.read_text())["fields"]), card.parity


@pytest.mark.parametrize("name", [pytest.param("unet", marks=pytest.mark.slow), "fcrn-a"])
def test_network_trains_exports_and_counts(name: str, run: Run, fields: Path) -> None:
    _, parity = to_a_count(run, fields, name, "--width", 2, "--iterations", 3)
    # A value between two steps may be rounded differently, by one step, with the same nuclei.
    assert parity["max_error"] < (1.01 / STEPS if name == "fcrn-a" else 1e-4)
    assert parity["only_pytorch"] == parity["only_onnx"] == 0 < parity["same"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_network_trains_quickly_exports_builds_and_counts(name: str, run: Run, fields: Path) -> None:
    found, parity = to_a_count(run, fields, name, "--width", 8, "--quick")
    assert found > 20
    assert parity["only_pytorch"] == parity["only_onnx"] == 0
    pytest.importorskip("tensorrt_rtx")
    engine = fields.parent / "k.engine"
    code, _, err = run("build", fields.parent / "k.onnx", "-o", engine, "--precision", "fp16")
    assert code == 0, err
    assert json.loads(engine.with_name("k.engine.json").read_text())["precision"] == "fp16"


def test_options_that_contradict_the_network_are_refused(run: Run, fields: Path, tmp_path: Path) -> None:
    for options, words in (
        (("--network", "skinet", "--no-roi"), "needs the region branch"),
        (("--network", "unet", "--architecture", "release"), "architecture: only for KiNet"),
        (("--network", "unet", "--from", "kinet-edge"), "already defines the network"),
    ):
        code, _, err = run("train", fields, "-o", tmp_path / "no.pt", *options)
        assert code == 1
        assert words in err
