"""Discs as targets of networks that classify pixels, and a cross-entropy for partly labelled images."""

from __future__ import annotations

import numpy as np
import torch
from kinet_trt.export.networks.base import Network, Points, Target
from kinet_trt.export.proximity import proximity_maps
from numpy.typing import NDArray
from torch import Tensor

RADIUS = 6.0
"""Radius of a disc, px: discs of touching nuclei (20 px across) stay apart, and a disc fits the NMS window."""


def discs(x: Points, y: Points, cls: NDArray[np.integer], height: int, width: int, classes: int) -> NDArray[np.float32]:
    """Return 1 within :data:`RADIUS` of a nucleus and 0 elsewhere, in the map of its class.

    Where discs of two classes overlap, a pixel belongs to the nearer nucleus. float32 [classes, height, width].
    """
    maps, _ = proximity_maps(x, y, cls, height, width, classes, distance=RADIUS)
    return (maps > 0).astype(np.float32)


def cross_entropy(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return the cross-entropy of each pixel over the classes and the background, float [N, H, W].

    Where a class is not labelled, a pixel without a marked nucleus is background or that class, and the loss is
    ``-log(p_background + p_class)``. Where no class is labelled, the loss is 0.

    ``logits`` are float [N, classes + 1, H, W], the background last; ``target`` and ``known`` are discs, and 1 where a
    class is labelled, float [N, classes, H, W].
    """
    is_nucleus = (target * known) > 0
    is_unmarked = ~is_nucleus.any(dim=1, keepdim=True)
    possible = torch.cat([is_nucleus | (is_unmarked & (known == 0)), is_unmarked], dim=1)
    return logits.logsumexp(dim=1) - logits.masked_fill(~possible, -torch.inf).logsumexp(dim=1)


class PixelClassifier(Network):
    """Base of networks with scores of the classes and, last, of the background."""

    @property
    def target(self) -> Target:
        """Discs."""
        return discs

    def maps(self, outputs: Tensor) -> Tensor:
        """Return the probabilities of the classes."""
        return outputs.softmax(dim=1)[:, :-1]

    def loss(self, outputs: Tensor, target: Tensor, known: Tensor, lam: float, floor: float) -> Tensor:
        """Return the cross-entropy summed over pixels."""
        del lam, floor
        return cross_entropy(outputs, target, known).sum((1, 2))
