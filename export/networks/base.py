"""What every network of the workshop has: a configuration, maps of nuclei, and a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from kinet_trt.export.losses import nucleus_loss
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

Architecture = Literal["paper", "release", "half", "fcn8s", "unet", "fcrn-a", "fcrn-b", "sfcn-opi", "frcn"]
Activation = Literal["elu", "relu"]
Norm = Literal["batch", "instance"]
Points = NDArray[np.floating]
Target = Callable[[Points, Points, NDArray[np.integer], int, int, int], NDArray[np.float32]]
"""From x, y (px), class index, height, width (px) and the number of classes to what a network should give there."""

KINETS = ("paper", "release", "half")
"""KiNet in its three forms; only they have a tumour-region branch."""
MULTIPLE = 16
"""Height and width are aligned to this many px: four halvings."""


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that decides the shape of a network.

    Attributes
    ----------
    architecture
        ``"paper"``, ``"release"`` or ``"half"``: KiNet (:mod:`kinet_trt.export.networks.kinet`); else one of
        :mod:`kinet_trt.export.networks`.
    width
        Channels at the finest level (full resolution; ``half``: half resolution); deeper levels have multiples of it.
        32 in KiNet's paper.
    activation
        ``"elu"`` (the paper, alpha 1) or ``"relu"`` (as accurate when trained so, and cheaper in BF16).
    roi
        Whether the tumour-region branch exists. At inference it is optional (see :meth:`Network.forward`).
    classes
        Number of nucleus classes, one map each.
    dropout
        Channel dropout rate, 0.5 in KiNet's paper.
    norm
        ``"batch"`` (running statistics in evaluation), or ``"instance"`` (statistics of each image, also then; they
        change with what else is in the picture, and cannot be folded).
    """

    architecture: Architecture = "paper"
    width: int = 32
    activation: Activation = "elu"
    roi: bool = True
    classes: int = 3
    dropout: float = 0.5
    norm: Norm = "batch"

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Architecture):
            raise ValueError(f"architecture: expected one of {get_args(Architecture)}, found {self.architecture!r}")
        if self.activation not in get_args(Activation):
            raise ValueError(f"activation: expected one of {get_args(Activation)}, found {self.activation!r}")
        if self.norm not in get_args(Norm):
            raise ValueError(f"norm: expected one of {get_args(Norm)}, found {self.norm!r}")
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width: expected an even number of channels from 2 on, found {self.width}")
        if self.classes < 1:
            raise ValueError(f"classes: expected 1 or more, found {self.classes}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected a rate in [0, 1), found {self.dropout}")
        if self.roi and self.architecture not in KINETS:
            raise ValueError(f"roi: only KiNet has a tumour-region branch, found {self.architecture!r}")

    @property
    def multiple(self) -> int:
        """Height and width that it sees whole are multiples of this many px: FCN-8s halves once more than the rest."""
        return 2 * MULTIPLE if self.architecture == "fcn8s" else MULTIPLE

    @property
    def words(self) -> str:
        """What a model card says of the network: ``paper, width 16, relu``."""
        return f"{self.architecture}, width {self.width}, {self.activation}" + (
            ", instance norm" if self.norm == "instance" else ""
        )

    @classmethod
    def parse(cls, words: str, roi: bool = False) -> NetworkConfig:
        """Return the configuration that :attr:`words` describes.

        Raises
        ------
        ValueError
            If it is not of a network of ours.
        """
        architecture, width, activation, *norm = (part.strip() for part in words.split(","))
        if norm not in ([], ["instance norm"]) or not width.startswith("width "):
            raise ValueError(words)
        kind: Norm = "instance" if norm else "batch"
        return cls(architecture, int(width[6:]), activation, roi, norm=kind)  # type: ignore[arg-type]


class Network(nn.Module):
    """What all networks share: the configuration, the meaning of the outputs, and a loss.

    A network of KiNet's kind is trained on proximity maps (Eq. 1) by the paper's loss (Eq. 2). One that has a target
    and a loss of its own says so by ``target`` and :meth:`loss`, and gives at inference maps of the same kind: one a
    class, that peak at nuclei, near 1 where the network is certain.

    Attributes
    ----------
    config
        What it was built by.
    """

    roi_channels = 0

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def target(self) -> Target | None:
        """What its outputs are held to; None: proximity maps."""
        return None

    def forward(self, image: Tensor, roi: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return maps and, on request, tumour-region logits.

        Parameters
        ----------
        image
            Normalised RGB, float [N, 3, H, W]; any H and W in PyTorch (training and export use multiples of 16).
        roi
            Whether to run the region branch; it costs as much again as the nucleus branch.

        Returns
        -------
        maps
            float [N, classes, H, W], about 1 at nucleus centres and 0 elsewhere.
        logits
            float [N, 2, H, W] (paper: non-tumour, tumour before the softmax) or [N, 1, H, W] (release: before the
            sigmoid), or None.
        """
        outputs, logits = self.outputs(image, roi)
        return self.maps(outputs), logits

    def outputs(self, image: Tensor, roi: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return what the loss is of, float [N, any, H, W], and region logits as :meth:`forward` does."""
        if roi:
            self.need_roi()
        height, width = image.shape[-2:]
        bottom, right = -height % self.config.multiple, -width % self.config.multiple
        if not bottom and not right:
            return self.layers(image), None
        # As a frame is padded that does not fit: its border goes on.
        padded = F.pad(image, (0, right, 0, bottom), mode="replicate")
        return self.layers(padded)[..., :height, :width], None

    def layers(self, image: Tensor) -> Tensor:
        """Return what the loss is of for an aligned image."""
        raise NotImplementedError

    def maps(self, outputs: Tensor) -> Tensor:
        """Turn what the loss is of into maps, pixel by pixel."""
        return outputs

    def loss(self, outputs: Tensor, target: Tensor, known: Tensor, lam: float, floor: float) -> Tensor:
        """Return the loss of each image, a sum over what is known, float [N].

        Parameters
        ----------
        outputs
            Of :meth:`outputs`, FP32.
        target
            Of ``self.target``, float [N, any, H, W].
        known
            1 where a class is labelled and 0 where nobody looked for it, float [N, classes, H, W].
        lam, floor
            Of Eq. 2 (:func:`kinet_trt.export.losses.nucleus_loss`); other losses do without.
        """
        return nucleus_loss(outputs, target, known, lam, floor)

    def tumor_probability(self, logits: Tensor) -> Tensor:
        """Turn region logits into the probability of tumour, float [N, 1, H, W]."""
        return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)[:, 1:]

    def need_roi(self) -> None:
        """Raise if the network was built without the region branch."""
        if not self.config.roi:
            raise ValueError(
                "the tumour-region map was asked for, but this network was built without its branch "
                "(roi=False): train it with the branch, or leave the map out"
            )


def activation(name: Activation) -> nn.Module:
    """Return the activation of this name."""
    return nn.ELU(inplace=True) if name == "elu" else nn.ReLU(inplace=True)


def convolution(inputs: int, outputs: int, act: nn.Module, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size, or divides it by ``stride``, with batch norm and activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), act
    )


def upsampler(inputs: int, outputs: int, act: nn.Module, stride: int) -> nn.Sequential:
    """Return a transposed convolution: kernel 4 for a doubling, else kernel = stride; batch norm and activation."""
    kernel, padding = (4, 1) if stride == 2 else (stride, 0)
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False),
        nn.BatchNorm2d(outputs),
        act,
    )
