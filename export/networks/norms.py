"""Batch norms: per-image statistics, and running statistics measured on images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from kinet_trt.export.networks.base import Network
from torch import Tensor, nn


def with_instance_norms(network: Network) -> Network:
    """Replace batch norms by instance norms, which use the statistics of each image, in place; return the network."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                norm = nn.InstanceNorm2d(child.num_features, child.eps, affine=True)
                norm.load_state_dict({"weight": child.weight, "bias": child.bias})
                setattr(module, name, norm.to(child.weight.device))
    network.config = replace(network.config, norm="instance")
    return network


def estimate_statistics(network: Network, images: Iterable[Tensor]) -> None:
    """Set the running statistics of the batch norms to the mean of the statistics of single images.

    ``images`` are normalised, float32 [1, 3, H, W] each, H and W multiples of 16. The network is left in evaluation
    mode.
    """
    network.eval()
    norms = _batch_norms(network)
    momenta = {norm: norm.momentum for norm in norms}
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    with torch.inference_mode():
        for image in images:
            network(image, roi=network.config.roi)
    for norm in norms:
        norm.momentum = momenta[norm]
    network.eval()


def restore_statistics(network: Network, images: Iterable[Tensor]) -> None:
    """Give the batch norms the statistics of their inputs without changing the network's output.

    The running mean and variance of a norm become those of its inputs over the images; its weight and bias compensate.
    In evaluation the output stays the same; in training, where a norm uses the statistics of its batch, it nearly does.
    """
    norms = _batch_norms(network)
    # Per channel: sum, sum of squares, number of values.
    sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms}

    def accumulate(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].double().transpose(0, 1).flatten(1)
        count = torch.full_like(values[:, 0], values.shape[1])
        sums[norm] += torch.stack([values.sum(1), (values**2).sum(1), count]).cpu()  # type: ignore[index]

    hooks = [norm.register_forward_pre_hook(accumulate) for norm in norms]
    try:
        with torch.inference_mode():
            for image in images:
                network.eval()(image, roi=network.config.roi)
    finally:
        for hook in hooks:
            hook.remove()
    with torch.no_grad():
        for norm in norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            total, squares, count = sums[norm]
            mean = total / count
            variance = (squares / count - mean**2).clamp_min(0)
            # The map of the norm, value * gain + shift, stays the same.
            gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
            shift = norm.bias.double() - norm.running_mean.double() * gain
            norm.weight.copy_(gain * torch.sqrt(variance + norm.eps))
            norm.bias.copy_(shift + mean * gain)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)


def _batch_norms(network: Network) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
