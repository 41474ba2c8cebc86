"""Nuclei as discs for networks that classify pixels, and a cross-entropy for what is labelled in part."""

from __future__ import annotations

import numpy as np
import torch
from kinet_trt.export.networks.base import Points
from kinet_trt.export.proximity import proximity_maps
from numpy.typing import NDArray
from torch import Tensor

RADIUS = 6.0
"""Of a disc, px: discs of touching nuclei (20 px across) stay apart, and the window of the peak rule holds a disc."""


def discs(x: Points, y: Points, cls: NDArray[np.integer], height: int, width: int, classes: int) -> NDArray[np.float32]:
    """Return 1 within :data:`RADIUS` of a nucleus and 0 elsewhere, in the map of its class.

    Where discs of two classes overlap a pixel belongs to the nearer nucleus.

    Returns
    -------
    NDArray
        float32 [classes, height, width].
    """
    near, _ = proximity_maps(x, y, cls, height, width, classes, distance=RADIUS)
    return (near > 0).astype(np.float32)


def cross_entropy(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return the cross-entropy of each pixel over the classes and the background.

    Where nobody looked for a class, a pixel without a nucleus is background or that class: the loss is that of the two
    together, ``-log(p_background + p_class)``. Where nobody looked for any, it is 0.

    Parameters
    ----------
    logits
        float [N, classes + 1, H, W], the background last.
    target, known
        Discs, and where a class is labelled, float [N, classes, H, W].

    Returns
    -------
    Tensor
        float [N, H, W].
    """
    marked = (target * known) > 0
    nothing = ~marked.any(dim=1, keepdim=True)
    possible = torch.cat([marked | (nothing & (known == 0)), nothing], dim=1)
    return logits.logsumexp(dim=1) - logits.masked_fill(~possible, -torch.inf).logsumexp(dim=1)
