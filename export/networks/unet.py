"""U-Net: Ronneberger, Fischer and Brox, U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015.

From memory of the paper (its text was not available): two 3x3 convolutions a level, four max poolings, channels
doubled each time, 2x2 transposed convolutions back joined with the maps of the level, dropout at the end of the
contraction, softmax, and the cross-entropy with a weight of 1 + w0 exp(-(d1 + d2)^2 / 2 sigma^2), w0 = 10, sigma = 5
px, on the background between two nuclei at the distances d1 and d2.

Changes: 32 channels at full resolution instead of 64 (7.8 instead of 31.0 million parameters), batch norm, zero padding
that keeps the size, nuclei drawn as discs. The weight that balances class frequencies is omitted, because the frequency
of a partly labelled class is unknown.
"""

from __future__ import annotations

import numpy as np
import torch
from kinet_trt.export.networks.base import NetworkConfig, Points, Target, activation, convolution
from kinet_trt.export.networks.discs import RADIUS, PixelClassifier, cross_entropy, discs
from kinet_trt.export.proximity import windows
from numpy.typing import NDArray
from torch import Tensor, nn

BORDER, SIGMA = 10.0, 5.0
"""w0 (no unit) and sigma (px) of the paper's Eq. 2."""
_FAR = 15.0
"""Distance from a disc, px, beyond which the weight (below 0.12) is set to 0."""


def borders(
    x: Points, y: Points, cls: NDArray[np.integer], height: int, width: int, classes: int
) -> NDArray[np.float32]:
    """Return discs and, as the last map, the weight of the background between two nuclei, from 0 to :data:`BORDER`.

    float32 [classes + 1, height, width].
    """
    nuclei = discs(x, y, cls, height, width, classes)
    nearest = np.full((2, height, width), np.inf, np.float32)
    for _, (window, dy, dx) in windows(x, y, RADIUS + _FAR, height, width):
        distance = np.hypot(dy, dx) - np.float32(RADIUS)
        distance[distance > _FAR] = np.inf
        first, second = nearest[0][window], nearest[1][window]
        np.minimum(second, np.maximum(first, distance), out=second)
        np.minimum(first, distance, out=first)
    distance_sum = nearest.clip(0).sum(axis=0)
    weight = np.where(nuclei.any(axis=0), 0, BORDER * np.exp(-(distance_sum**2) / (2 * SIGMA**2)))
    return np.concatenate([nuclei, weight[None].astype(np.float32)])


class UNet(PixelClassifier):
    """U-Net; see the module."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        w, act = config.width, activation(config.activation)

        def twice(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(convolution(inputs, outputs, act), convolution(outputs, outputs, act))

        self.pool, self.drop = nn.MaxPool2d(2), nn.Dropout2d(config.dropout)
        self.down1, self.down2, self.down4 = twice(3, w), twice(w, 2 * w), twice(2 * w, 4 * w)
        self.down8, self.down16 = twice(4 * w, 8 * w), twice(8 * w, 16 * w)
        self.up8, self.join8 = nn.ConvTranspose2d(16 * w, 8 * w, 2, stride=2), twice(16 * w, 8 * w)
        self.up4, self.join4 = nn.ConvTranspose2d(8 * w, 4 * w, 2, stride=2), twice(8 * w, 4 * w)
        self.up2, self.join2 = nn.ConvTranspose2d(4 * w, 2 * w, 2, stride=2), twice(4 * w, 2 * w)
        self.up1, self.join1 = nn.ConvTranspose2d(2 * w, w, 2, stride=2), twice(2 * w, w)
        self.score = nn.Conv2d(w, config.classes + 1, 1)

    @property
    def target(self) -> Target:
        """Discs and the weight between them."""
        return borders

    def aligned_outputs(self, image: Tensor) -> Tensor:
        """Return scores of the classes and, last, of the background."""
        skip1 = self.down1(image)
        skip2 = self.down2(self.pool(skip1))
        skip4 = self.down4(self.pool(skip2))
        skip8 = self.drop(self.down8(self.pool(skip4)))
        x = self.drop(self.down16(self.pool(skip8)))
        x = self.join8(torch.cat([skip8, self.up8(x)], dim=1))
        x = self.join4(torch.cat([skip4, self.up4(x)], dim=1))
        x = self.join2(torch.cat([skip2, self.up2(x)], dim=1))
        x = self.join1(torch.cat([skip1, self.up1(x)], dim=1))
        return self.score(x)  # type: ignore[no-any-return]

    def loss(self, outputs: Tensor, target: Tensor, known: Tensor, lam: float, floor: float) -> Tensor:
        """Return the weighted cross-entropy summed over pixels."""
        del lam, floor
        entropy = cross_entropy(outputs, target[:, :-1], known)
        return ((1 + target[:, -1]) * entropy).sum((1, 2))
