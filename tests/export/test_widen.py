"""Widening: equal maps, and copies that diverge in further training."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kinet_trt.export.networks.base import Network, NetworkConfig
from kinet_trt.export.networks.registry import build
from kinet_trt.export.widen import widen

from kinet_trt.core.errors import KinetError


def trained(config: NetworkConfig, seed: int = 0) -> Network:
    """Return a network with random statistics of its norms, as after training."""
    torch.manual_seed(seed)
    network = build(config).eval()
    for name, value in network.state_dict().items():
        if value.ndim == 1 and value.dtype.is_floating_point:
            value.uniform_(0.5, 1.5) if "weight" in name or "var" in name else value.uniform_(-0.3, 0.3)
    return network


@pytest.mark.parametrize("architecture", ["paper", "release", "half"])
@pytest.mark.parametrize("activation", ["elu", "relu"])
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_widened_network_gives_the_same_maps(architecture: Any, activation: Any, copies: int) -> None:
    narrow = trained(NetworkConfig(architecture, 4, activation, roi=True))
    wide = widen(narrow, 4 * copies)
    assert wide.config == NetworkConfig(architecture, 4 * copies, activation, roi=True)
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = narrow(image, roi=True), wide(image, roi=True)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, atol=2e-5 * float(a.abs().max()), rtol=0)


def test_copies_of_a_channel_get_different_gradients() -> None:
    # Adam takes equal steps for gradients that differ only by a factor, so their directions must differ.
    wide = widen(trained(NetworkConfig("paper", 4, "relu", roi=False, dropout=0.0)), 8).train()
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    wide(image)[0].square().sum().backward()
    gradient = wide.down4.down[0].weight.grad.flatten(1)
    for one, other in zip(gradient[::2], gradient[1::2], strict=True):
        assert torch.nn.functional.cosine_similarity(one, other, dim=0) < 0.99


def test_widen_does_not_change_the_narrow_network_and_depends_on_the_seed() -> None:
    narrow = trained(NetworkConfig("paper", 4))
    before = {name: value.clone() for name, value in narrow.state_dict().items()}
    a, b, c = (widen(narrow, 8, seed).state_dict()["up1.up.0.weight"] for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert all(torch.equal(value, before[name]) for name, value in narrow.state_dict().items())


@pytest.mark.parametrize("width", [2, 6])
def test_widen_refuses_a_width_that_is_not_a_multiple(width: int) -> None:
    with pytest.raises(KinetError, match=f"width 4 can be widened to 8, 12, ...; found {width}"):
        widen(build(NetworkConfig("paper", 4)), width)


def test_widen_supports_instance_norms() -> None:
    narrow = trained(NetworkConfig("release", 4, roi=False, norm="instance"))
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = narrow(image)[0], widen(narrow, 8)(image)[0]
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
