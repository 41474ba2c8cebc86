"""Instance norms, and running statistics measured on images."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from kinet_trt.export.networks.base import Network, NetworkConfig
from kinet_trt.export.networks.norms import estimate_statistics, restore_statistics, with_instance_norms
from kinet_trt.export.networks.registry import build
from torch import Tensor, nn

from kinet_trt.simulation import simulate

torch.set_num_threads(1)


def image(seed: int) -> Tensor:
    pixels, _ = simulate.field(seed, 160, 128)
    return (torch.tensor(pixels[None]).float() / 255 - 0.65).permute(0, 3, 1, 2) / 0.2


def trained(config: NetworkConfig) -> Network:
    """Return a network whose batch norms have random factors and statistics, as after training."""
    torch.manual_seed(1)
    network = build(config).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def maps(network: Network, x: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return [out for out in network(x, roi=network.config.roi) if out is not None]


def test_restored_statistics_keep_the_output_in_evaluation_and_nearly_in_training() -> None:
    network = trained(NetworkConfig("paper", 8, "relu", roi=False))
    seen = [image(seed) for seed in (1, 2)]
    (before,) = maps(network, image(9))
    restore_statistics(network, seen)
    (after,) = maps(network, image(9))
    scale = float(before.abs().max())
    torch.testing.assert_close(after, before, atol=1e-4 * scale, rtol=0)
    # In training a norm uses the statistics of its batch, here those that were just restored.
    (expected,) = maps(network, torch.cat(seen))
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.eval()
    (found,) = maps(network, torch.cat(seen))
    torch.testing.assert_close(found, expected, atol=1e-3 * scale, rtol=0)


def test_restored_statistics_keep_both_branches_of_a_trained_network() -> None:
    network = trained(NetworkConfig("release", 4))
    before = maps(network, image(9))
    restore_statistics(network, [image(1), image(2)])
    for expected, found in zip(before, maps(network, image(9)), strict=True):
        assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_estimated_statistics_are_the_mean_of_those_of_single_images() -> None:
    images = [image(seed) for seed in range(3)]
    network = build(NetworkConfig("release", 4, roi=False))
    estimate_statistics(network, images)
    assert not network.training
    assert all(m.momentum == 0.1 for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    with torch.no_grad():
        made = [network.in_tr_100.conv(x) for x in images]
    expected = torch.stack([m.mean((0, 2, 3)) for m in made]).mean(0)
    torch.testing.assert_close(network.in_tr_100.bn.running_mean, expected, atol=1e-4, rtol=1e-4)
    variance = torch.stack([m.var((0, 2, 3)) for m in made]).mean(0)
    torch.testing.assert_close(network.in_tr_100.bn.running_var, variance, atol=1e-4, rtol=1e-3)


def test_instance_norms_are_batch_norms_of_one_image_at_a_time() -> None:
    torch.manual_seed(0)
    batch = build(NetworkConfig("release", 4, dropout=0.0))
    with torch.no_grad():
        for module in batch.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
    instance = with_instance_norms(copy.deepcopy(batch)).eval()
    assert instance.config == replace(batch.config, norm="instance")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in instance.modules())
    images = torch.randn(2, 3, 64, 96)
    batch.train()  # the release evaluated so, at one image a batch
    with torch.no_grad():
        found = instance(images, roi=True)
        for i in range(2):
            for a, b in zip(batch(images[i : i + 1], roi=True), found, strict=True):
                torch.testing.assert_close(b[i : i + 1], a, atol=1e-4, rtol=1e-4)
    fresh = build(instance.config)
    fresh.load_state_dict(instance.state_dict())
    assert fresh.config == instance.config
