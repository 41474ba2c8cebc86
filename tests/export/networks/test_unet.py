"""U-Net's weight of the background between two nuclei."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kinet_trt.export.networks.base import NetworkConfig
from kinet_trt.export.networks.discs import RADIUS, cross_entropy, discs
from kinet_trt.export.networks.unet import BORDER, SIGMA, UNet, borders


def drawn(*x: float) -> np.ndarray:
    return borders(np.array(x), np.full(len(x), 30.0), np.arange(len(x)) % 3, 60, 80, 3)


def test_discs_come_first() -> None:
    found = drawn(20, 40)
    assert (found.dtype, found.shape) == (np.float32, (4, 60, 80))
    np.testing.assert_array_equal(found[:3], discs(np.array([20.0, 40]), np.full(2, 30.0), np.arange(2), 60, 80, 3))


def test_fewer_than_two_nuclei_have_no_border() -> None:
    assert not drawn(20)[3].any()
    assert not drawn()[3].any()


def test_border_weight_follows_the_paper() -> None:
    weight = drawn(20, 36)[3]
    for row, column in ((30, 28), (33, 29), (44, 28)):
        first, second = (np.hypot(row - 30, column - x) - RADIUS for x in (20, 36))
        assert weight[row, column] == pytest.approx(
            BORDER * np.exp(-((first + second) ** 2) / (2 * SIGMA**2)), rel=1e-4
        )
    assert weight[30, 20] == 0
    assert weight[30, 20:26].max() == 0
    # The weight is larger between closer nuclei, for the nearest two of three.
    assert drawn(20, 34)[3].max() > weight.max()
    np.testing.assert_allclose(drawn(36, 20, 75)[3][:, :40], weight[:, :40], atol=1e-6)


def test_loss_is_the_weighted_cross_entropy() -> None:
    network = UNet(NetworkConfig("unet", 2, "relu", roi=False))
    logits = torch.randn(1, 4, 60, 80, generator=torch.Generator().manual_seed(1))
    target = torch.from_numpy(drawn(20, 36))[None]
    known = torch.ones(1, 3, 60, 80)
    expected = (cross_entropy(logits, target[:, :3], known) * (1 + target[:, 3])).sum()
    assert network.loss(logits, target, known, 5.0, 0.0).item() == pytest.approx(expected.item(), rel=1e-5)
    assert network.loss(logits, target, known * 0, 5.0, 0.0).item() == 0
