"""Exported models are restored as networks with the same maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from kinet_trt.export import checkpoint, from_onnx, to_onnx
from kinet_trt.export.checkpoint import Checkpoint, ModelInfo
from kinet_trt.export.networks.base import Network, NetworkConfig
from kinet_trt.export.networks.registry import build
from kinet_trt.export.prediction import normalise
from torch import Tensor, nn

from kinet_trt.core.errors import KinetError
from kinet_trt.evaluation.agreement import Agreement
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.models.card import read_card, with_card
from kinet_trt.models.model import DEFAULT_MODEL
from kinet_trt.peaks.reference import find_peaks
from kinet_trt.simulation import simulate

torch.set_num_threads(1)
EDGE = DEFAULT_MODEL
INFO = ModelInfo(
    mean=(0.7, 0.6, 0.65), std=(0.2, 0.25, 0.15), threshold=0.3, nms_radius=4, data="simulated", metrics={"figure": 0.5}
)


def trained(config: NetworkConfig) -> Network:
    """Return a network with random weights and statistics of its norms, as after training."""
    torch.manual_seed(1)
    network = build(config).eval()
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def image(seed: int = 3, info: ModelInfo = INFO) -> Tensor:
    pixels, _ = simulate.field(seed, 160, 128)
    return normalise(torch.tensor(pixels[None]), info)


def maps(network: Network, x: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return [out for out in network(x, roi=network.config.roi) if out is not None]


@pytest.mark.parametrize(
    ("architecture", "activation", "precision", "half", "roi", "norm"),
    [
        pytest.param("paper", "relu", "fp32", False, True, "batch", marks=pytest.mark.slow),
        pytest.param("paper", "elu", "fp16", False, False, "batch", marks=pytest.mark.slow),
        pytest.param("release", "elu", "fp32", True, True, "batch", marks=pytest.mark.slow),
        pytest.param("release", "relu", "fp32", False, False, "instance", marks=pytest.mark.slow),
        pytest.param("half", "relu", "fp32", True, True, "batch", marks=pytest.mark.slow),
    ],
)
def test_load_restores_an_exported_network(
    tmp_path: Path, architecture: Any, activation: Any, precision: str, half: bool, roi: bool, norm: Any
) -> None:
    config = NetworkConfig(architecture, 4, activation, roi=True, norm=norm)
    network = trained(config)
    exported = to_onnx.export(Checkpoint(network, INFO), "tiny", precision, half, roi)
    model, card = exported.data, exported.card
    (tmp_path / "tiny.onnx").write_bytes(model)
    loaded = from_onnx.load(tmp_path / "tiny.onnx")
    assert loaded.network.config == replace(config, roi=roi, dropout=from_onnx.DROPOUT)
    assert replace(loaded.info, metrics={}) == replace(INFO, metrics={})
    assert loaded.info.metrics == INFO.metrics
    tolerance = 0.02 if half or precision == "fp16" else 1e-4
    for expected, found in zip(maps(network, image()), maps(loaded.network, image()), strict=False):
        assert float((found - expected).abs().max()) < tolerance * max(1.0, float(expected.abs().max()))
    assert not loaded.network.training
    assert card.network == config.summary


@pytest.fixture(scope="module")
def edge() -> Checkpoint:
    return from_onnx.load(Path("kinet-edge"))


def test_load_finds_the_packaged_model_by_name(edge: Checkpoint) -> None:
    counter = NucleusCounter(precision="fp32", threads=1)
    card = counter.engine.card
    assert edge.network.config == NetworkConfig("half", 16, "relu", roi=False, dropout=from_onnx.DROPOUT)
    assert (edge.info.mean, edge.info.std, edge.info.threshold) == (card.mean, card.std, card.threshold)
    pixels, _ = simulate.field(7, 160, 128)
    (found,) = maps(edge.network, image(7, edge.info))
    expected = counter(pixels)
    ours = find_peaks(found[0].numpy(), card.threshold, card.nms_radius)
    assert len(expected) > 20
    assert abs(len(ours) - len(expected)) <= 1
    agreement = Agreement.between(ours, expected)
    assert agreement.only_first + agreement.only_second <= 2


def test_load_refuses_a_model_that_does_not_match_its_card(tmp_path: Path) -> None:
    card, model = read_card(EDGE)
    path = tmp_path / "tiny.onnx"
    for network, message in [
        ("paper, width 6, relu", "expected the weights of a network that kinet-trt exports"),
        ("release, width 4, relu", "expected the weights of a network that kinet-trt exports"),
        ("somebody's network", "expected the weights of a network that kinet-trt exports"),
        ("half, width 16, elu", "do not reproduce the maps of the model"),
    ]:
        path.write_bytes(with_card(model, replace(card, network=network)))
        with pytest.raises(KinetError, match=message) as raised:
            from_onnx.load(path)
        assert "tiny.onnx" in str(raised.value)
    for changed in (replace(card, precision="int8"), replace(card, capacity=100)):
        path.write_bytes(with_card(model, changed))
        with pytest.raises(KinetError, match="Start from the original model"):
            from_onnx.load(path)


def test_load_refuses_files_that_are_not_models(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    for name in ("a.onnx", "missing.onnx"):
        with pytest.raises(KinetError, match=name):
            from_onnx.load(tmp_path / name)


def test_loaded_model_can_be_saved_as_a_checkpoint(edge: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "edge.pt", edge.network, edge.info)
    again = checkpoint.load(tmp_path / "edge.pt")
    assert again.info == edge.info
    card, _ = read_card(EDGE)
    assert NetworkConfig.parse(card.network) == replace(again.network.config, dropout=0.5)
