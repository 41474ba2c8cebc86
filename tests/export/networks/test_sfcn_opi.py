"""The objectness prior and its effect on the two losses."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from kinet_trt.export.networks.base import NetworkConfig
from kinet_trt.export.networks.sfcn_opi import NUCLEUS_WEIGHT, SFCNOPI
from torch import Tensor

network = SFCNOPI(NetworkConfig("sfcn-opi", 2, "relu", roi=False))


def one_pixel(prior: float, kinds: tuple[float, float, float]) -> Tensor:
    """Return scores of one pixel with the given probabilities."""
    values = torch.tensor([prior, 1 - prior, *kinds]).log()
    return values.view(1, 5, 1, 1).requires_grad_()


def loss(outputs: Tensor, target: tuple[int, int, int], known: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
    marked, looked = (torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1) for values in (target, known))
    return network.loss(outputs, marked, looked, 5.0, 0.0)[0]


def test_maps_are_prior_times_conditional() -> None:
    maps = network.maps(one_pixel(0.8, (0.5, 0.3, 0.2)))
    torch.testing.assert_close(maps.flatten(), torch.tensor([0.4, 0.24, 0.16]))


def test_loss_of_a_nucleus_is_weighted_detection_plus_joint_probability() -> None:
    expected = -(NUCLEUS_WEIGHT * torch.tensor(0.3).log() + torch.tensor(0.3 * 0.2).log())
    torch.testing.assert_close(loss(one_pixel(0.3, (0.5, 0.3, 0.2)), (0, 0, 1)), expected)


def test_background_enters_the_classification_only_where_the_prior_is_high() -> None:
    torch.testing.assert_close(loss(one_pixel(0.3, (0.5, 0.3, 0.2)), (0, 0, 0)), -torch.tensor(0.7).log())
    torch.testing.assert_close(loss(one_pixel(0.6, (0.5, 0.3, 0.2)), (0, 0, 0)), -2 * torch.tensor(0.4).log())


def test_unmarked_pixel_is_not_background_where_a_class_is_unlabelled() -> None:
    # No detection loss; the classification excludes the other two classes.
    expected = -torch.tensor(0.4 + 0.6 * 0.2).log()
    torch.testing.assert_close(loss(one_pixel(0.6, (0.5, 0.3, 0.2)), (0, 0, 0), (1, 1, 0)), expected)
    assert loss(one_pixel(0.3, (0.5, 0.3, 0.2)), (0, 0, 0), (1, 1, 0)).item() == 0
    assert loss(one_pixel(0.6, (0.5, 0.3, 0.2)), (1, 0, 0), (0, 0, 0)).item() == pytest.approx(0, abs=1e-6)


def test_classification_loss_reaches_the_detection_branch() -> None:
    outputs = one_pixel(0.6, (0.5, 0.3, 0.2))
    loss(outputs, (0, 0, 0), (1, 1, 0)).backward()
    assert outputs.grad[0, 0].abs() > 0
    assert outputs.grad[0, 2].abs() > 0
