"""FCRN-A and FCRN-B: Xie, Noble and Zisserman 2018.

Microscopy cell counting and detection with fully convolutional regression networks, Computer Methods in Biomechanics
and Biomedical Engineering: Imaging and Visualization 6.

From memory of the paper (its text was not available): no connections past the bottleneck; in A 3x3 convolutions
with three max poolings (32, 64, 128, 512 channels) and back (128, 64, 32); in B fewer poolings, two, and 5x5
convolutions (32, 64, 128, 256, 256, 256); up-sampling by bilinear interpolation followed by a convolution; density
maps, the sum of a Gaussian for each nucleus, and the mean square error.

Changes: one map per class; batch norm; Gaussians with sigma = 3 px for nuclei of 20 px, scaled by 2 pi sigma^2 so that
a single Gaussian peaks at 1 (the paper multiplies by 100) and the sum of a map is 56.5 times the number of nuclei. The
maps of A are rounded to steps of 1/256: three interpolations leave its maxima so flat that neighbours differ only by
rounding, which depends on the engine.
"""

from __future__ import annotations

import numpy as np
from kinet_trt.export.networks.base import Network, NetworkConfig, Points, Target, activation, convolution
from kinet_trt.export.proximity import windows
from numpy.typing import NDArray
from torch import Tensor, nn

SIGMA = 3.0
"""Standard deviation of the Gaussian of a nucleus, px."""
STEPS = 256
"""Steps between 0 and 1 in the maps of FCRN-A."""


def densities(
    x: Points, y: Points, cls: NDArray[np.integer], height: int, width: int, classes: int
) -> NDArray[np.float32]:
    """Return, for each class, the sum of the Gaussians of its nuclei, float32 [classes, height, width].

    A single nucleus peaks at 1 and sums to ``2 pi SIGMA**2``.
    """
    maps = np.zeros((classes, height, width), np.float32)
    for index, (window, dy, dx) in windows(x, y, 5 * SIGMA, height, width):
        maps[cls[index]][window] += np.exp(-(dy**2) / (2 * SIGMA**2)) * np.exp(-(dx**2) / (2 * SIGMA**2))
    return maps


class _Density(Network):
    """Base of A and B: density maps and the squared error over known pixels."""

    body: nn.Sequential

    @property
    def target(self) -> Target:
        """Density maps."""
        return densities

    def aligned_outputs(self, image: Tensor) -> Tensor:
        """Return density maps."""
        return self.body(image)  # type: ignore[no-any-return]

    def loss(self, outputs: Tensor, target: Tensor, known: Tensor, lam: float, floor: float) -> Tensor:
        """Return the squared error summed over known pixels."""
        del lam, floor
        return (known * (outputs - target) ** 2).sum((1, 2, 3))


def _doubled() -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)


class FCRNA(_Density):
    """FCRN-A; see the module."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        w, act = config.width, activation(config.activation)
        self.body = nn.Sequential(
            *(convolution(3, w, act), nn.MaxPool2d(2)),
            *(convolution(w, 2 * w, act), nn.MaxPool2d(2)),
            *(convolution(2 * w, 4 * w, act), nn.MaxPool2d(2)),
            convolution(4 * w, 16 * w, act),
            *(_doubled(), convolution(16 * w, 4 * w, act)),
            *(_doubled(), convolution(4 * w, 2 * w, act)),
            *(_doubled(), convolution(2 * w, w, act)),
            nn.Conv2d(w, config.classes, 1),
        )

    def maps(self, outputs: Tensor) -> Tensor:
        """Return densities in steps, so that every engine finds the same peak: the first of equal values."""
        return (outputs * STEPS).round() / STEPS


class FCRNB(_Density):
    """FCRN-B; see the module."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        w, act = config.width, activation(config.activation)
        self.body = nn.Sequential(
            convolution(3, w, act),
            *(convolution(w, 2 * w, act, kernel=5), nn.MaxPool2d(2)),
            convolution(2 * w, 4 * w, act),
            *(convolution(4 * w, 8 * w, act, kernel=5), nn.MaxPool2d(2)),
            convolution(8 * w, 8 * w, act),
            *(_doubled(), convolution(8 * w, 8 * w, act, kernel=5)),
            *(_doubled(), nn.Conv2d(8 * w, config.classes, 5, padding=2)),
        )
