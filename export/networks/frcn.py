"""FRCN: Xie, Xing, Shi, Kong, Su and Yang 2018, the predecessor of KiNet.

Efficient and robust cell detection: a structured regression approach, Medical Image Analysis 44.

From memory of the paper (its text was not available): residual units along a contraction and an expansion,
multi-context aggregation (maps of several levels up-sampled to full resolution and joined before the output), proximity
maps as a structured label, and the squared error weighted by them; KiNet's Eq. 1 and 2 are these, for several classes.

Changes: channels 32 to 256, four halvings and dropout as in KiNet, and one output block for all classes. KiNet adds the
long connections between the two paths and the region branch.
"""

from __future__ import annotations

import torch
from kinet_trt.export.networks.base import Network, NetworkConfig, activation, convolution, upsampler
from torch import Tensor, nn


class _Unit(nn.Module):
    """Resizing layer, then a residual block of two convolutions."""

    def __init__(self, resize: nn.Module, channels: int, act: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.resize = resize
        self.block = nn.Sequential(
            convolution(channels, channels, act), convolution(channels, channels, act), nn.Dropout2d(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.resize(x)
        return self.block(x) + x  # type: ignore[no-any-return]


class FRCN(Network):
    """FRCN; see the module."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        w, act, p = config.width, activation(config.activation), config.dropout

        def down(inputs: int, outputs: int, dropout: float) -> _Unit:
            return _Unit(convolution(inputs, outputs, act, stride=2), outputs, act, dropout)

        def up(inputs: int, outputs: int) -> _Unit:
            return _Unit(upsampler(inputs, outputs, act, 2), outputs, act)

        self.stem = convolution(3, w, act)
        self.down2, self.down4 = down(w, 2 * w, 0.0), down(2 * w, 4 * w, 0.0)
        self.down8, self.down16 = down(4 * w, 8 * w, p), down(8 * w, 8 * w, p)
        self.up8, self.up4 = up(8 * w, 8 * w), up(8 * w, 4 * w)
        self.up2, self.up1 = up(4 * w, 2 * w), up(2 * w, w)
        self.side2, self.side4 = upsampler(2 * w, w, act, 2), upsampler(4 * w, w, act, 4)
        self.side8 = upsampler(8 * w, w, act, 8)
        self.out = nn.Sequential(convolution(4 * w, w, act), nn.Conv2d(w, config.classes, 3, padding=1))

    def aligned_outputs(self, image: Tensor) -> Tensor:
        """Return proximity maps."""
        half = self.down2(self.stem(image))
        quarter = self.down4(half)
        eighth = self.down8(quarter)
        last = self.up1(self.up2(self.up4(self.up8(self.down16(eighth)))))
        sides = [self.side2(half), self.side4(quarter), self.side8(eighth)]
        return self.out(torch.cat([last, *sides], dim=1))  # type: ignore[no-any-return]
