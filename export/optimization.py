"""One step of training: loss, gradient, learning rate and running average of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from kinet_trt.export.checkpoint import ModelInfo
from kinet_trt.export.losses import correlation_penalty, joint_loss, nucleus_loss, roi_loss
from kinet_trt.export.networks.base import KINET_ARCHITECTURES, Network
from kinet_trt.export.prediction import has_bfloat16, normalise
from kinet_trt.export.recipes import Recipe
from torch import Tensor

IMITATION_SHARE = 0.5
"""Share of the teacher's maps in the nucleus loss."""

Task = Literal["both", "roi", "nuclei"]
"""Tasks that are trained: both jointly (Eq. 5), or one of them while the other branch's own layers stay unchanged."""


def make_optimizer(network: Network, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimizer of a recipe."""
    if recipe.optimizer not in ("sgd", "adamw"):
        raise ValueError(f"optimizer: expected sgd or adamw, found {recipe.optimizer!r}")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        network.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )


def _learning_rate(recipe: Recipe, iteration: int) -> float:
    if recipe.optimizer == "sgd":
        return recipe.lr
    warm_up = min(1.0, iteration / min(200, max(1, recipe.iterations // 10)))
    return recipe.lr * warm_up * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * iteration / recipe.iterations))))


def update_average(average: Network, network: Network, decay: float) -> None:
    """Move the running average of the weights towards the weights, in place."""
    with torch.no_grad():
        for a, b in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if a.dtype.is_floating_point:
                a.lerp_(b, 1 - decay)
            else:
                a.copy_(b)


def training_step(
    network: Network,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    iteration: int,
    examples: Sequence[Tensor],
    info: ModelInfo,
    task: Task = "both",
) -> float:
    """Update the weights by a batch of :class:`~kinet_trt.export.crops.Crops`, and return the loss."""
    pixels, target, known, tumor, region, total, unclassified, *teacher = examples
    for group in optimizer.param_groups:
        group["lr"] = _learning_rate(recipe, iteration)
    network.train()
    image = normalise(pixels, info).contiguous(memory_format=torch.channels_last)
    with torch.autocast(image.device.type, torch.bfloat16, enabled=has_bfloat16(image.device)):
        predicted, logits = network.outputs(image, roi=network.config.roi and task != "nuclei")
    predicted = predicted.float()
    nucleus = network.loss(predicted, target, known, recipe.lam, recipe.floor)
    if not network.target:
        nucleus = nucleus + nucleus_loss(predicted.sum(1, keepdim=True), total, unclassified, recipe.lam, recipe.floor)
    has_nuclei = (torch.cat([known, unclassified], 1).amax((1, 2, 3)) > 0).float()
    if teacher:
        teacher_maps, teacher_known = teacher
        share = IMITATION_SHARE * teacher_known.amax((1, 2, 3))
        imitation = nucleus_loss(predicted, teacher_maps, teacher_known.expand_as(known), recipe.lam, recipe.floor)
        nucleus = (1 - share) * nucleus + share * imitation
        has_nuclei = torch.ones_like(nucleus)
    if recipe.eta and iteration > recipe.eta_after and network.config.architecture in KINET_ARCHITECTURES:
        nucleus = nucleus + recipe.eta * correlation_penalty(predicted)
    roi = torch.zeros_like(nucleus) if logits is None else roi_loss(logits.float(), tumor, region)
    if recipe.mean_loss:
        area = pixels.shape[1] * pixels.shape[2]
        nucleus, roi = nucleus / area, roi / area
    if task == "roi":
        # Layers without gradient are not changed by the optimizer, not even by weight decay.
        nucleus = torch.zeros_like(nucleus)
    loss = joint_loss(nucleus, roi, has_nuclei, recipe.gamma)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if recipe.clip:
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
    optimizer.step()
    return float(loss.detach())
