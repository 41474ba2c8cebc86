"""SFCN-OPI: Zhou, Dou, Chen, Qin and Heng 2018.

Detection and fine-grained classification of nuclei using sibling FCN with objectness prior interaction, AAAI.

From memory of the paper (its text was not available): residual units; two sibling branches over shared lower
layers, one for detection (nucleus or not) and one for the class, each fused from coarse to fine behind learnt
up-samplers; the result is the probability of a nucleus (the objectness prior) times that of a class given a nucleus; a
detection loss weighted for the rarity of nuclei; a classification loss at nuclei and where the prior is high, whose
gradient also reaches the detection branch.

Changes: channels 32, 64, 128 (shared) and 256 (classification only, for a larger receptive field), two residual units
per level; dropout in the last; a weight of 4 on nuclei; a prior of at least 0.5 counts as high; nuclei drawn as discs;
both branches are trained together, where the paper trains in stages.
"""

from __future__ import annotations

import torch
from kinet_trt.export.networks.base import Network, NetworkConfig, Target, activation, convolution
from kinet_trt.export.networks.discs import cross_entropy, discs
from torch import Tensor, nn
from torch.nn import functional

NUCLEUS_WEIGHT = 4.0
"""Weight of the pixels of nuclei in the detection loss."""
MIN_PRIOR = 0.5
"""Objectness prior from which a pixel without a nucleus enters the classification loss."""


class _Residual(nn.Module):
    """act(x + two convolutions of x); where size or channels change, x passes a 1x1 convolution.

    The shortcut subsamples x and then convolves with stride 1. This equals a strided 1x1 convolution, whose backward
    pass corrupts the heap in FP32 on AVX-512 (PyTorch 2.13.0, channels-last).
    """

    def __init__(self, inputs: int, outputs: int, act: nn.Module, stride: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, act, stride=stride)
        self.second = convolution(outputs, outputs, nn.Identity())
        keeps_shape = stride == 1 and inputs == outputs
        self.short = nn.Identity() if keeps_shape else convolution(inputs, outputs, nn.Identity(), kernel=1)
        self.stride, self.act = stride, act

    def forward(self, x: Tensor) -> Tensor:
        short = self.short(x[..., :: self.stride, :: self.stride])
        return self.act(self.second(self.first(x)) + short)  # type: ignore[no-any-return]


class SFCNOPI(Network):
    """SFCN-OPI; see the module."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        w, act, classes = config.width, activation(config.activation), config.classes

        def level(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            return nn.Sequential(_Residual(inputs, outputs, act, stride), _Residual(outputs, outputs, act, 1))

        def doubled(channels: int) -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)

        self.shared1 = nn.Sequential(convolution(3, w, act), level(w, w, 1))
        self.shared2, self.shared4 = level(w, 2 * w, 2), level(2 * w, 4 * w, 2)
        self.object4, self.object2, self.object1 = nn.Conv2d(4 * w, 2, 1), nn.Conv2d(2 * w, 2, 1), nn.Conv2d(w, 2, 1)
        self.object_from4, self.object_from2 = doubled(2), doubled(2)
        self.deep8 = nn.Sequential(level(4 * w, 8 * w, 2), nn.Dropout2d(config.dropout))
        self.kind8, self.kind4 = nn.Conv2d(8 * w, classes, 1), nn.Conv2d(4 * w, classes, 1)
        self.kind2 = nn.Conv2d(2 * w, classes, 1)
        self.kind_from8, self.kind_from4, self.kind_from2 = doubled(classes), doubled(classes), doubled(classes)

    @property
    def target(self) -> Target:
        """Discs."""
        return discs

    def aligned_outputs(self, image: Tensor) -> Tensor:
        """Return scores of nucleus and background, then of the classes."""
        full = self.shared1(image)
        half = self.shared2(full)
        quarter = self.shared4(half)
        objects = self.object_from4(self.object4(quarter)) + self.object2(half)
        objects = self.object_from2(objects) + self.object1(full)
        kinds = self.kind_from8(self.kind8(self.deep8(quarter))) + self.kind4(quarter)
        kinds = self.kind_from4(kinds) + self.kind2(half)
        return torch.cat([objects, self.kind_from2(kinds)], dim=1)

    def maps(self, outputs: Tensor) -> Tensor:
        """Return, for each class, the prior times the conditional probability."""
        return outputs[:, :2].softmax(dim=1)[:, :1] * outputs[:, 2:].softmax(dim=1)

    def loss(self, outputs: Tensor, target: Tensor, known: Tensor, lam: float, floor: float) -> Tensor:
        """Return the weighted cross-entropy of detection plus that of the joint probabilities, summed over pixels."""
        del lam, floor
        nucleus = (target * known).amax(dim=1, keepdim=True)
        # Without a marked nucleus a pixel is background only where every class is labelled.
        certain = torch.maximum(nucleus, known.amin(dim=1, keepdim=True))
        detection = (1 + (NUCLEUS_WEIGHT - 1) * nucleus[:, 0]) * cross_entropy(outputs[:, :2], nucleus, certain)
        prior, kinds = functional.log_softmax(outputs[:, :2], dim=1), functional.log_softmax(outputs[:, 2:], dim=1)
        joint = cross_entropy(torch.cat([prior[:, :1] + kinds, prior[:, 1:]], dim=1), target, known)
        classified = ((nucleus[:, 0] > 0) | (prior[:, 0].exp() >= MIN_PRIOR)).detach()
        return (detection + joint * classified).sum((1, 2))
