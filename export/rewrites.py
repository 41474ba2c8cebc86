"""Layers rewritten, with the same results, to forms that inference engines compute correctly and fast."""

from __future__ import annotations

import torch
from kinet_trt.export.networks.base import Network
from torch import nn
from torch.nn import functional


def expand_upsampler_kernels(network: Network) -> Network:
    """Pad, in place, the kernel of each transposed convolution whose stride exceeds it to the size of the stride.

    The added taps are zero, so the output is the same to the last bit. OpenVINO in BF16 leaves pixels that no tap
    reaches at 0 instead of act(bias), so no layer with stride > kernel is exported. Only the side branches of the
    release have such layers: a k3, stride s, padding 1 becomes a k = s with padding (s - 2) / 2, the old taps at offset
    padding - 1, and the same size 8n - 6 or 4n - 2.
    """
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ConvTranspose2d) and child.stride[0] > child.kernel_size[0]:
                setattr(module, name, _expanded(child))
    return network


def _expanded(old: nn.ConvTranspose2d) -> nn.ConvTranspose2d:
    stride, kernel = old.stride[0], old.kernel_size[0]
    padding = (stride - 2) // 2
    biased = old.bias is not None
    new = nn.ConvTranspose2d(old.in_channels, old.out_channels, stride, stride=stride, padding=padding, bias=biased)
    before = padding - int(old.padding[0])
    after = stride - kernel - before
    with torch.no_grad():
        new.weight.copy_(functional.pad(old.weight, (before, after, before, after)))
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    return new.to(old.weight.device, old.weight.dtype)


def densify_groups(network: Network) -> Network:
    """Rewrite grouped convolutions as dense ones with zeros between the groups, in place: engines run these faster."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and child.groups > 1:
                setattr(module, name, _dense(child))
    return network


def _dense(old: nn.Conv2d) -> nn.Conv2d:
    new = nn.Conv2d(old.in_channels, old.out_channels, old.kernel_size[0], padding=int(old.padding[0]))
    assert old.bias is not None
    assert new.bias is not None
    with torch.no_grad():
        new.weight.zero_()
        groups = zip(*(torch.arange(n).chunk(old.groups) for n in (old.out_channels, old.in_channels)), strict=True)
        for rows, columns in groups:
            new.weight[rows[:, None], columns] = old.weight[rows]
        new.bias.copy_(old.bias)
    return new
