"""Parts common to all networks: configuration, base class, layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from kinet_trt.export.losses import nucleus_loss
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Architecture = Literal["paper", "release", "half", "fcn8s", "unet", "fcrn-a", "fcrn-b", "sfcn-opi", "frcn"]
Activation = Literal["elu", "relu"]
Norm = Literal["batch", "instance"]
Points = NDArray[np.floating]
Target = Callable[[Points, Points, NDArray[np.integer], int, int, int], NDArray[np.float32]]
"""Function from x, y (px), class indices, height, width (px) and number of classes to the target of a network."""

KINET_ARCHITECTURES = ("paper", "release", "half")
"""The forms of KiNet, the only networks with a tumour-region branch."""
BASE_MULTIPLE = 16
"""Alignment of height and width, px: four halvings."""


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture and size of a network.

    ``architecture`` is ``"paper"``, ``"release"`` or ``"half"`` for KiNet, else a network that the paper compares it
    with. ``width`` is the number of channels at the finest level (full resolution; ``half``: half resolution), 32 in
    KiNet's paper; deeper levels have multiples of it. The activation ``"elu"`` is that of the paper, alpha 1;
    ``"relu"`` is as accurate after training, and faster in BF16. ``roi`` is whether the network has a tumour-region
    branch; its use at inference is optional. ``dropout`` is that of channels, 0.5 in KiNet's paper. The norm
    ``"batch"`` uses running statistics in evaluation; ``"instance"`` uses those of each image, which depend on the rest
    of the image and cannot be folded.
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
            raise ValueError(f"width: expected an even number of channels >= 2, found {self.width}")
        if self.classes < 1:
            raise ValueError(f"classes: expected 1 or more, found {self.classes}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected a rate in [0, 1), found {self.dropout}")
        if self.roi and self.architecture not in KINET_ARCHITECTURES:
            raise ValueError(f"roi: only KiNet has a tumour-region branch, found {self.architecture!r}")

    @property
    def multiple(self) -> int:
        """Alignment of height and width, px; FCN-8s halves once more than the other networks."""
        return 2 * BASE_MULTIPLE if self.architecture == "fcn8s" else BASE_MULTIPLE

    @property
    def summary(self) -> str:
        """Network in a model card, such as ``paper, width 16, relu``."""
        return f"{self.architecture}, width {self.width}, {self.activation}" + (
            ", instance norm" if self.norm == "instance" else ""
        )

    @classmethod
    def parse(cls, summary: str, roi: bool = False) -> NetworkConfig:
        """Return the configuration with this :attr:`summary`; raise a ValueError if there is none."""
        architecture, width, activation, *norm = (part.strip() for part in summary.split(","))
        if norm not in ([], ["instance norm"]) or not width.startswith("width "):
            raise ValueError(summary)
        kind: Norm = "instance" if norm else "batch"
        return cls(architecture, int(width[6:]), activation, roi, norm=kind)  # type: ignore[arg-type]


class Network(nn.Module):
    """Base class of the networks.

    Outputs are proximity maps (Eq. 1) and the loss is that of the paper (Eq. 2). A network with other outputs overrides
    ``target`` and :meth:`loss`, and converts its outputs in :meth:`maps`: one map a class, about 1 at nuclei.
    """

    roi_channels = 0

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def target(self) -> Target | None:
        """Function that draws the training target; None for proximity maps."""
        return None

    def forward(self, image: Tensor, roi: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return maps, float [N, classes, H, W], about 1 at nuclei and 0 elsewhere, and tumour-region logits or None.

        ``image`` is normalised RGB, float [N, 3, H, W]; any H and W in PyTorch (training and export use multiples of
        16). The logits are float [N, 2, H, W] (non-tumour, tumour before the softmax) or [N, 1, H, W] (``release``:
        before the sigmoid). With ``roi`` the region branch runs; in ``paper`` and ``release`` it doubles the cost.
        """
        outputs, logits = self.outputs(image, roi)
        return self.maps(outputs), logits

    def outputs(self, image: Tensor, roi: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the input of the loss, float [N, any, H, W], and region logits as in :meth:`forward`."""
        if roi:
            self.require_roi()
        height, width = image.shape[-2:]
        bottom, right = -height % self.config.multiple, -width % self.config.multiple
        if not bottom and not right:
            return self.aligned_outputs(image), None
        # Replicated borders, as in frames that are padded for inference.
        padded = functional.pad(image, (0, right, 0, bottom), mode="replicate")
        return self.aligned_outputs(padded)[..., :height, :width], None

    def aligned_outputs(self, image: Tensor) -> Tensor:
        """Return the input of the loss for an image whose sides are multiples of ``config.multiple``."""
        raise NotImplementedError

    def maps(self, outputs: Tensor) -> Tensor:
        """Convert the input of the loss to maps, pixel by pixel."""
        return outputs

    def loss(self, outputs: Tensor, target: Tensor, known: Tensor, lam: float, floor: float) -> Tensor:
        """Return the loss of each image, summed over known pixels, float [N].

        ``outputs`` is the result of :meth:`outputs`, FP32; ``target`` that of ``self.target``, float [N, any, H, W].
        ``known`` is 1 where a class is labelled and 0 where it is unknown, float [N, classes, H, W]. ``lam`` and
        ``floor`` are parameters of Eq. 2 (:func:`kinet_trt.export.losses.nucleus_loss`); other losses ignore them.
        """
        return nucleus_loss(outputs, target, known, lam, floor)

    def tumor_probability(self, logits: Tensor) -> Tensor:
        """Convert region logits to the probability of tumour, float [N, 1, H, W]."""
        return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)[:, 1:]

    def require_roi(self) -> None:
        """Raise ValueError if the network has no region branch."""
        if not self.config.roi:
            raise ValueError(
                "the tumour-region map was requested, but this network was built without its branch (roi=False): "
                "train it with the branch, or omit the map"
            )


def activation(name: Activation) -> nn.Module:
    """Return the activation with this name."""
    return nn.ELU(inplace=True) if name == "elu" else nn.ReLU(inplace=True)


def convolution(inputs: int, outputs: int, act: nn.Module, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size, or divides it by ``stride``, with batch norm and activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), act
    )


def upsampler(inputs: int, outputs: int, act: nn.Module, stride: int) -> nn.Sequential:
    """Return a transposed convolution with batch norm and activation; kernel 4 for stride 2, else kernel = stride."""
    kernel, padding = (4, 1) if stride == 2 else (stride, 0)
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False),
        nn.BatchNorm2d(outputs),
        act,
    )
