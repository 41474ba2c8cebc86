"""Widening of a trained network."""

from __future__ import annotations

from dataclasses import replace

import torch
from kinet_trt.export.networks.base import Network
from kinet_trt.export.networks.registry import build
from torch import Tensor, nn

from kinet_trt.core.errors import KinetError


def widen(network: Network, width: int, seed: int = 0) -> Network:
    """Return a network of ``width`` channels that computes what ``network`` does, up to rounding.

    Every channel is copied, and each weight that reads it is divided at random among the copies (Net2WiderNet; Chen,
    Goodfellow and Shlens 2016). The shares differ between weights, so that copies get different gradients and diverge
    in further training. Raise a KinetError if the width is not a multiple of the network's.
    """
    copies, rest = divmod(width, network.config.width)
    if rest or not copies:
        raise KinetError(
            f"a network of width {network.config.width} can be widened to {2 * network.config.width}, "
            f"{3 * network.config.width}, ...; found {width}"
        )
    random = torch.Generator().manual_seed(seed)
    wide = build(replace(network.config, width=width)).train(network.training)
    with torch.no_grad():
        for old, new in zip(network.modules(), wide.modules(), strict=True):
            if isinstance(old, (nn.Conv2d, nn.ConvTranspose2d)) and isinstance(new, (nn.Conv2d, nn.ConvTranspose2d)):
                source = 0 if isinstance(old, nn.ConvTranspose2d) else 1
                new.weight.copy_(_copied(old.weight, new.weight, source, random))
                if old.bias is not None and new.bias is not None:
                    new.bias.copy_(old.bias.repeat_interleave(len(new.bias) // len(old.bias)))
            elif isinstance(old, (nn.BatchNorm2d, nn.InstanceNorm2d)):
                for name, value in old.state_dict().items():
                    new.state_dict()[name].copy_(value.repeat_interleave(copies) if value.ndim else value)
    return wide


def _copied(old: Tensor, new: Tensor, source: int, random: torch.Generator) -> Tensor:
    """Copy the output channels of a weight, and divide it among the copies of its input channels."""
    repeated = old.repeat_interleave(new.shape[1 - source] // old.shape[1 - source], dim=1 - source)
    copies = new.shape[source] // old.shape[source]
    shares = torch.rand(*repeated.shape, copies, generator=random) + 0.25
    shares /= shares.sum(-1, keepdim=True)
    divided = (repeated.unsqueeze(-1) * shares).movedim(-1, source + 1)
    return divided.reshape(new.shape)
