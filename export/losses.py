"""The paper's losses, Eq. 2 to 5, restricted to labelled classes and areas."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def nucleus_loss(prediction: Tensor, target: Tensor, known: Tensor, lam: float = 5.0, floor: float = 0.0) -> Tensor:
    """Return Eq. 2 for each image, float [N]: ``1/2 sum (y + lambda mean(y)) (y_hat - y)^2`` over known pixels.

    ``known`` is 1 where a class is labelled and 0 where it is unknown, float [N, classes, H, W] like the maps. With all
    ones this is the paper's sum; the mean of y is over known pixels. ``lam`` is the weight lambda of the pixels far
    from nuclei (no unit). ``floor`` is the lower limit of mean(y): with the paper's 0, empty images have no loss.
    """
    area = known.sum((2, 3), keepdim=True).clamp_min(1)
    mean = (target * known).sum((2, 3), keepdim=True) / area
    mean = mean.clamp_min(floor)
    weight = (target + lam * mean) * known
    return 0.5 * (weight * (prediction - target) ** 2).sum((1, 2, 3))


def correlation_penalty(maps: Tensor) -> Tensor:
    """Return the second term of Eq. 3, without its factor eta: the sum of the dot products of all channel pairs.

    ``maps`` are the proximity maps, float [N, classes, H, W]; the paper calls this layer hidden. Returns float [N].
    """
    flat = maps.flatten(2)
    gram = flat @ flat.transpose(1, 2)
    return torch.triu(gram, diagonal=1).sum((1, 2))


def roi_loss(logits: Tensor, tumor: Tensor, known: Tensor) -> Tensor:
    """Return Eq. 4 for each image: the cross-entropy summed over annotated pixels, where ``known`` [N, 1, H, W] is 1.

    ``logits`` are float [N, 2, H, W] (softmax: non-tumour, tumour) or [N, 1, H, W] (sigmoid); ``tumor`` is 1 in tumour
    and 0 elsewhere, float [N, 1, H, W].
    """
    if logits.shape[1] == 1:
        entropy = F.binary_cross_entropy_with_logits(logits, tumor, reduction="none")
    else:
        entropy = F.cross_entropy(logits, tumor[:, 0].long(), reduction="none")[:, None]
    return (entropy * known).sum((1, 2, 3))


def joint_loss(nucleus: Tensor, roi: Tensor, has_nuclei: Tensor, gamma: float = 25.0) -> Tensor:
    """Return Eq. 5, the mean over images of ``gamma * has_nuclei * nucleus + roi``, float [N]."""
    return (gamma * has_nuclei * nucleus + roi).mean()
