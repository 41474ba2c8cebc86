"""FCN-8s: Shelhamer, Long and Darrell, Fully convolutional networks for semantic segmentation, PAMI 2017.

From memory of the paper (its text was not available): the convolutions of VGG-16 with a max pooling after each
of five blocks, its fully connected layers as convolutions (7x7 and 1x1, each with dropout), class scores by 1x1
convolutions of the last layer and of the fourth and third pooling, summed from coarse to fine behind learnt up-samplers
(2, 2, then 8 times), softmax, cross-entropy.

Changes: half of VGG's channels (32 to 256) and 512 instead of 4096 in the fully connected layers, for 10.4 instead of
134 million parameters; batch norm, since nothing is pre-trained; dropout of whole channels; zero padding that keeps the
size instead of 100 px around the image; nuclei drawn as discs. The coarsest layer is 1/32 of the image, so frames are
aligned to 32 px.
"""

from __future__ import annotations

from kinet_trt.export.networks.base import NetworkConfig, activation, convolution
from kinet_trt.export.networks.discs import PixelClassifier
from torch import Tensor, nn

_BLOCKS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Relative width and number of convolutions of the blocks of VGG-16."""


class FCN8s(PixelClassifier):
    """FCN-8s; see the module."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        w, act, scores = config.width, activation(config.activation), config.classes + 1
        blocks, inputs = [], 3
        for width, convolutions in _BLOCKS:
            block = []
            for _ in range(convolutions):
                block.append(convolution(inputs, width * w, act))
                inputs = width * w
            blocks.append(nn.Sequential(*block, nn.MaxPool2d(2)))
        self.to4 = nn.Sequential(*blocks[:2])
        self.to8, self.to16, self.to32 = blocks[2:]
        self.full = nn.Sequential(
            convolution(8 * w, 16 * w, act, kernel=7),
            nn.Dropout2d(config.dropout),
            convolution(16 * w, 16 * w, act, kernel=1),
            nn.Dropout2d(config.dropout),
        )
        self.score32 = nn.Conv2d(16 * w, scores, 1)
        self.score16 = nn.Conv2d(8 * w, scores, 1)
        self.score8 = nn.Conv2d(4 * w, scores, 1)
        self.from32 = nn.ConvTranspose2d(scores, scores, 4, stride=2, padding=1)
        self.from16 = nn.ConvTranspose2d(scores, scores, 4, stride=2, padding=1)
        self.from8 = nn.ConvTranspose2d(scores, scores, 16, stride=8, padding=4)

    def aligned_outputs(self, image: Tensor) -> Tensor:
        """Return scores of the classes and, last, of the background."""
        eighth = self.to8(self.to4(image))
        sixteenth = self.to16(eighth)
        scores = self.score32(self.full(self.to32(sixteenth)))
        scores = self.from32(scores) + self.score16(sixteenth)
        scores = self.from16(scores) + self.score8(eighth)
        return self.from8(scores)  # type: ignore[no-any-return]
