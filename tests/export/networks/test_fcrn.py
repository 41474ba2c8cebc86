"""Density maps."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st
from kinet_trt.export.networks.base import NetworkConfig
from kinet_trt.export.networks.fcrn import FCRNA, SIGMA, STEPS, densities

UNIT = 2 * np.pi * SIGMA**2
coordinates = st.floats(20, 76, width=32)


@given(st.lists(st.tuples(coordinates, coordinates, st.integers(0, 2)), max_size=12))
def test_map_sums_to_the_number_of_its_nuclei(nuclei: list[tuple[float, float, int]]) -> None:
    x, y, cls = (np.array([nucleus[i] for nucleus in nuclei]) for i in range(3))
    found = densities(x, y, cls.astype(int), 96, 96, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found.sum((1, 2)) / UNIT, np.bincount(cls.astype(int), minlength=3), atol=1e-3 * max(1, len(nuclei))
    )


def test_nucleus_peaks_at_one_and_neighbours_add_up() -> None:
    found = densities(np.array([30.0]), np.array([40.0]), np.array([2]), 96, 96, 3)
    assert found[2, 40, 30] == 1
    assert found[2, 40, 33] == pytest.approx(np.exp(-0.5), rel=1e-5)
    two = densities(np.array([30.0, 36.0]), np.array([40.0, 40.0]), np.array([2, 2]), 96, 96, 3)
    assert two[2, 40, 30] == pytest.approx(1 + np.exp(-2), rel=1e-5)


def test_nucleus_outside_is_drawn_in_part() -> None:
    found = densities(np.array([-3.0, 200.0]), np.array([40.0, 40.0]), np.array([0, 0]), 96, 96, 3)
    assert found[0, 40, 0] == pytest.approx(np.exp(-0.5), rel=1e-5)
    assert not found[0, :, 60:].any()


def test_loss_is_the_squared_error_over_known_pixels() -> None:
    network = FCRNA(NetworkConfig("fcrn-a", 2, "relu", roi=False))
    outputs = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    target, known = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
    known[0, 1] = 0
    known[1] = 0
    loss = network.loss(outputs, target, known, 5.0, 0.0)
    assert loss[0].item() == pytest.approx((outputs[0, [0, 2]] ** 2).sum().item(), rel=1e-5)
    assert loss[1].item() == 0
    loss.sum().backward()
    assert not outputs.grad[0, 1].any()
    assert not outputs.grad[1].any()


def test_maps_have_steps_and_the_loss_does_not() -> None:
    network = FCRNA(NetworkConfig("fcrn-a", 2, "relu", roi=False)).eval()
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        outputs, _ = network.outputs(image)
        maps, _ = network(image)
    steps = maps * STEPS
    assert torch.equal(steps, steps.round())
    assert not torch.equal(outputs * STEPS, (outputs * STEPS).round())
    assert float((maps - outputs).abs().max()) <= 0.5 / STEPS + 1e-6
