"""Discs, and a cross-entropy for partly labelled images."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st
from kinet_trt.export.networks.discs import RADIUS, cross_entropy, discs
from torch import Tensor


def scores(seed: int, classes: int = 3, size: int = 8) -> Tensor:
    return torch.randn(2, classes + 1, size, size, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def marks(seed: int, classes: int = 3, size: int = 8) -> Tensor:
    """Return logits of pixels of one class, or of the background."""
    kinds = torch.randint(classes + 1, (2, size, size), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.one_hot(kinds, classes + 1).permute(0, 3, 1, 2)[:, :classes].float()


def test_disc_is_drawn_in_the_map_of_its_class() -> None:
    drawn = discs(np.array([20.0]), np.array([15.0]), np.array([1]), 40, 50, 3)
    rows, columns = np.mgrid[:40, :50]
    expected = np.hypot(rows - 15, columns - 20) < RADIUS
    assert (drawn.dtype, drawn.shape) == (np.float32, (3, 40, 50))
    np.testing.assert_array_equal(drawn[1], expected)
    assert not drawn[[0, 2]].any()


def test_pixel_belongs_to_the_nearer_of_two_nuclei() -> None:
    drawn = discs(np.array([20.0, 26.0]), np.array([15.0, 15.0]), np.array([0, 2]), 40, 50, 3)
    assert drawn[0, 15, 21] == 1
    assert drawn[2, 15, 25] == 1
    assert drawn.sum(axis=0).max() == 1


def test_cross_entropy_is_the_ordinary_one_where_all_classes_are_known() -> None:
    logits, target = scores(1), marks(2)
    labels = torch.cat([target, 1 - target.sum(1, keepdim=True)], 1).argmax(1)
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(cross_entropy(logits, target, torch.ones_like(target)), expected)


@given(seed=st.integers(0, 99), unknown=st.integers(0, 2))
def test_cross_entropy_allows_an_unlabelled_class_at_unmarked_pixels(seed: int, unknown: int) -> None:
    target = marks(seed)
    target[:, unknown] = 0
    known = torch.ones_like(target)
    known[:, unknown] = 0
    logits = scores(seed)
    found = cross_entropy(logits, target, known)
    chances = logits.softmax(1)
    of_marked = (chances[:, :3] * target).sum(1)
    expected = torch.where(target.sum(1) > 0, of_marked, chances[:, unknown] + chances[:, 3]).log()
    torch.testing.assert_close(found, -expected)


def test_cross_entropy_is_zero_without_gradient_outside_the_counted_region() -> None:
    logits, target = scores(3), marks(4)
    known = torch.ones_like(target)
    known[..., 4:] = 0
    loss = cross_entropy(logits, target, known)
    assert (loss[..., 4:] == 0).all()
    loss.sum().backward()
    assert (logits.grad[..., 4:] == 0).all()
    assert logits.grad.isfinite().all()
    assert (logits.grad[..., :4] != 0).any()
