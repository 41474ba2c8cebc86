"""Networks by architecture, and their reach, half the receptive field."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from kinet_trt.export.networks.base import BASE_MULTIPLE, Architecture, Network, NetworkConfig
from kinet_trt.export.networks.fcn8s import FCN8s
from kinet_trt.export.networks.fcrn import FCRNA, FCRNB
from kinet_trt.export.networks.frcn import FRCN
from kinet_trt.export.networks.half import HalfKiNet
from kinet_trt.export.networks.kinet import PaperKiNet, ReleaseKiNet
from kinet_trt.export.networks.norms import with_instance_norms
from kinet_trt.export.networks.sfcn_opi import SFCNOPI
from kinet_trt.export.networks.unet import UNet
from torch import nn

NETWORKS: Mapping[Architecture, type[Network]] = {
    "paper": PaperKiNet,
    "release": ReleaseKiNet,
    "half": HalfKiNet,
    "fcn8s": FCN8s,
    "unet": UNet,
    "fcrn-a": FCRNA,
    "fcrn-b": FCRNB,
    "sfcn-opi": SFCNOPI,
    "frcn": FRCN,
}


def build(config: NetworkConfig) -> Network:
    """Return a freshly initialised network."""
    network = NETWORKS[config.architecture](config)
    return with_instance_norms(network) if config.norm == "instance" else network


def reach(network: Network) -> int:
    """Return the largest distance, px, at which an input pixel changes the nucleus maps: half the receptive field.

    The reach is measured: with positive weights, linear activations and mean pooling, no influence cancels, so the
    farthest pixel with a non-zero gradient is at the reach. Returns the maximum over all alignments of the output
    pixel.
    """
    return _reach(network.config.architecture)


@cache
def _reach(architecture: Architecture) -> int:
    """Measure once per architecture: width, activation and norm do not change the reach."""
    probe = build(NetworkConfig(architecture, 2, roi=False, dropout=0.0)).eval()
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.fill_(1.0)
    for module in probe.modules():
        for name, child in module.named_children():
            if isinstance(child, (nn.ELU, nn.ReLU, nn.BatchNorm2d)):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(child.kernel_size))
    probe = probe.double()
    size, farthest = 64 * BASE_MULTIPLE, 0
    centre = size // 2
    multiple = probe.config.multiple
    image = torch.zeros(1, 3, size, multiple, dtype=torch.float64, requires_grad=True)
    # The raw outputs: a softmax of equal scores has no gradient.
    outputs, _ = probe.outputs(image)
    for offset in range(multiple):
        (gradient,) = torch.autograd.grad(outputs[0, :, centre + offset].sum(), image, retain_graph=True)
        rows = gradient[0].abs().sum((0, 2)).nonzero().flatten()
        farthest = max(farthest, int((rows - centre - offset).abs().max()))
    return farthest
