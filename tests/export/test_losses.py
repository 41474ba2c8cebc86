"""Eq. 2 to 5 compared with sums computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kinet_trt.export.losses import correlation_penalty, joint_loss, nucleus_loss, roi_loss
from torch import Tensor


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.float64)


def test_equation_2_by_hand() -> None:
    # One class, two pixels: y = (1, 0), mean 0.5, lambda 5: weights 1 + 2.5 and 2.5; errors 0.5 and -0.2.
    target = torch.tensor([1.0, 0.0], dtype=torch.float64).view(1, 1, 1, 2)
    prediction = torch.tensor([0.5, 0.2], dtype=torch.float64).view(1, 1, 1, 2)
    expected = 0.5 * (3.5 * 0.25 + 2.5 * 0.04)
    assert nucleus_loss(prediction, target, ones(1, 1, 1, 2)).item() == pytest.approx(expected)
    assert nucleus_loss(prediction, target, ones(1, 1, 1, 2), lam=0).item() == pytest.approx(0.5 * 0.25)


def test_equation_2_uses_the_mean_of_each_class_and_image() -> None:
    rng = np.random.default_rng(1)
    y, p = rng.random((2, 3, 4, 5)), rng.normal(size=(2, 3, 4, 5))
    expected = [
        sum(
            0.5 * (y[i, s, v, u] + 7 * y[i, s].mean()) * (p[i, s, v, u] - y[i, s, v, u]) ** 2
            for s in range(3)
            for v in range(4)
            for u in range(5)
        )
        for i in range(2)
    ]
    found = nucleus_loss(torch.from_numpy(p), torch.from_numpy(y), ones(2, 3, 4, 5), lam=7)
    assert found.shape == (2,)
    np.testing.assert_allclose(found.numpy(), expected)


def test_equation_2_is_a_sum_over_pixels() -> None:
    rng = np.random.default_rng(2)
    y, p = (torch.from_numpy(rng.random((1, 3, 6, 6))) for _ in range(2))
    once = nucleus_loss(p, y, ones(1, 3, 6, 6))
    twice = nucleus_loss(torch.cat([p, p], 3), torch.cat([y, y], 3), ones(1, 3, 6, 12))
    assert twice.item() == pytest.approx(2 * once.item())


def test_masked_pixels_have_no_loss_no_gradient_and_no_weight_in_the_mean() -> None:
    rng = np.random.default_rng(3)
    y = torch.from_numpy(rng.random((1, 3, 4, 8)))
    p = torch.from_numpy(rng.normal(size=(1, 3, 4, 8))).requires_grad_()
    known = ones(1, 3, 4, 8)
    known[..., 4:] = 0
    loss = nucleus_loss(p, y, known)
    loss.sum().backward()
    assert not p.grad[..., 4:].any()
    assert (p.grad[..., :4] != 0).all()
    cut = nucleus_loss(p.detach()[..., :4], y[..., :4], ones(1, 3, 4, 4))
    assert loss.item() == pytest.approx(cut.item())
    changed = y.clone()
    changed[..., 4:] = 9
    assert nucleus_loss(p.detach(), changed, known).item() == pytest.approx(loss.item())


def test_unknown_class_has_zero_finite_loss() -> None:
    p = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(4)).requires_grad_()
    known = torch.ones(1, 3, 4, 4)
    known[:, 2] = 0
    loss = nucleus_loss(p, torch.zeros(1, 3, 4, 4), known, floor=0.1)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert not p.grad[:, 2].any()
    assert p.grad[:, :2].any()
    assert nucleus_loss(p, torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), floor=0.1).item() == 0


def test_image_without_nuclei_has_loss_only_with_a_floor() -> None:
    p, y = torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, 3, 2, 2)
    assert nucleus_loss(p, y, torch.ones_like(y)).item() == 0
    assert nucleus_loss(p, y, torch.ones_like(y), lam=5, floor=0.04).item() == pytest.approx(0.5 * 5 * 0.04 * 0.25 * 12)


def test_floor_does_not_change_a_mean_above_it() -> None:
    y = torch.full((1, 1, 2, 2), 0.3)
    p = torch.zeros_like(y)
    assert torch.equal(nucleus_loss(p, y, torch.ones_like(y)), nucleus_loss(p, y, torch.ones_like(y), floor=0.2))


def test_perfect_prediction_has_no_loss() -> None:
    y = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(5))
    assert not nucleus_loss(y, y, torch.ones_like(y)).any()


def test_penalty_of_equation_3_is_the_dot_products_of_all_pairs() -> None:
    rng = np.random.default_rng(6)
    h = rng.normal(size=(2, 3, 4, 5))
    expected = [sum((h[i, s] * h[i, t]).sum() for s, t in [(0, 1), (0, 2), (1, 2)]) for i in range(2)]
    np.testing.assert_allclose(correlation_penalty(torch.from_numpy(h)).numpy(), expected)


def test_penalty_of_mutually_exclusive_maps_is_zero() -> None:
    maps = torch.zeros(1, 3, 2, 3)
    for s in range(3):
        maps[0, s, :, s] = s + 1.0
    assert correlation_penalty(maps).item() == 0
    assert correlation_penalty(torch.ones(1, 1, 4, 4)).item() == 0


def test_equation_4_with_two_channels_by_hand() -> None:
    logits = torch.zeros(1, 2, 1, 3, dtype=torch.float64)
    logits[0, :, 0, 0] = torch.tensor([1.0, 3.0])
    logits[0, :, 0, 1] = torch.tensor([-2.0, 0.5])
    tumor = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).view(1, 1, 1, 3)
    known = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64).view(1, 1, 1, 3)
    expected = -np.log(np.exp(3) / (np.exp(1) + np.exp(3))) - np.log(np.exp(-2) / (np.exp(-2) + np.exp(0.5)))
    assert roi_loss(logits, tumor, known).item() == pytest.approx(expected)


def test_equation_4_with_one_channel_is_the_same_as_with_two() -> None:
    generator = torch.Generator().manual_seed(7)
    one = torch.randn(2, 1, 4, 5, generator=generator)
    two = torch.cat([torch.zeros_like(one), one], dim=1)
    tumor = (torch.rand(2, 1, 4, 5, generator=generator) > 0.5).float()
    known = (torch.rand(2, 1, 4, 5, generator=generator) > 0.3).float()
    assert roi_loss(one, tumor, known).shape == (2,)
    torch.testing.assert_close(roi_loss(one, tumor, known), roi_loss(two, tumor, known))


@pytest.mark.parametrize("channels", [1, 2])
def test_unannotated_regions_have_no_gradient(channels: int) -> None:
    logits = torch.randn(1, channels, 3, 4, generator=torch.Generator().manual_seed(8)).requires_grad_()
    known = torch.zeros(1, 1, 3, 4)
    known[..., :2] = 1
    roi_loss(logits, torch.ones(1, 1, 3, 4), known).sum().backward()
    assert not logits.grad[..., 2:].any()
    assert (logits.grad[..., :2] != 0).all()
    assert roi_loss(logits, torch.ones(1, 1, 3, 4), torch.zeros(1, 1, 3, 4)).item() == 0


def test_equation_5_by_hand() -> None:
    nucleus, roi = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    assert joint_loss(nucleus, roi, torch.tensor([1.0, 1.0])).item() == pytest.approx((25 * 3 + 30) / 2)
    assert joint_loss(nucleus, roi, torch.tensor([1.0, 1.0]), gamma=2).item() == pytest.approx((2 * 3 + 30) / 2)


def test_image_without_nucleus_labels_has_only_region_loss() -> None:
    nucleus, roi = torch.tensor([1.0, 2.0]).requires_grad_(), torch.tensor([10.0, 20.0]).requires_grad_()
    loss = joint_loss(nucleus, roi, torch.tensor([1.0, 0.0]))
    loss.backward()
    assert loss.item() == pytest.approx((25 + 30) / 2)
    assert nucleus.grad.tolist() == [12.5, 0]
    assert roi.grad.tolist() == [0.5, 0.5]
