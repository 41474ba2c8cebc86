"""KiNet at half resolution: the nucleus network for CPUs without matrix extensions.

A nucleus is 12 to 22 px across, so full resolution costs time and adds nothing: three quarters of the arithmetic of
``paper`` at width 16 is in its two finest levels. This network keeps KiNet's plan (an encoder of residual blocks, a
decoder that joins each level with the encoder's map, one proximity map a class, a sibling branch for the tumour region)
and computes it from half resolution on. With width ``w``:

========== ===================== =======================================================================
level      channels              layers
========== ===================== =======================================================================
1/2        w                     stem: convolution k6 s2
1/4        3w                    convolution k3 s2, residual block
1/8        6w                    convolution k3 s2, residual block
1/16       10w                   convolution k3 s2, residual block, dropout
1/8        6w                    up(x) + skip, residual block, dropout
1/4        3w                    up(x) + skip, residual block
1/2        w                     up(x) + skip, convolution k3, convolution k3 to 4 x classes
1          classes               sub-pixel shuffle
========== ===================== =======================================================================

- A residual block is the paper's, ``R(x) = f(f(x)) + x`` with ``f`` = convolution k3, batch norm, activation.
- ``up(x) = U(g(x))``: ``g`` = convolution k1, batch norm, activation, to the channels of the level above; ``U`` repeats
  each value 2 x 2 times. Adding it to the skip halves the channels that the next convolution reads, and needs no copy.
- The stem equals a space-to-depth of 2 followed by a convolution k3 (each of its 6 x 6 taps is one of 4 x
  3 x 3), in one layer.
- The sub-pixel shuffle (Shi et al. 2016) writes ``map(c, 2i + a, 2j + b) = z(4c + 2a + b, i, j)``: maps keep the
  resolution of the image, so the definition of a nucleus does not change.
- The region branch reads the deepest map and the skip at 1/8, and gives its two logits at 1/8, enlarged bilinearly:
  regions are coarse.

Dense convolutions, in channels that are multiples of 16 at width 16: in FP32 the time of a network on such CPUs follows
its multiplications, for dense and for depthwise layers alike, while dense layers gain more from INT8 and train twice as
fast.
"""

from __future__ import annotations

from kinet_trt.export.networks.base import Network, NetworkConfig, activation, convolution
from torch import Tensor, nn
from torch.nn import functional


class _Residual(nn.Module):
    """Two convolutions, and the identity added to their non-linear output."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(convolution(channels, channels, act), convolution(channels, channels, act))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) + x  # type: ignore[no-any-return]


class _Down(nn.Sequential):
    """Strided convolution and residual block."""

    def __init__(self, inputs: int, outputs: int, act: nn.Module, dropout: float = 0.0) -> None:
        super().__init__(convolution(inputs, outputs, act, stride=2), _Residual(outputs, act), nn.Dropout2d(dropout))


class _Up(nn.Module):
    """Pointwise convolution, doubled by repetition, plus the skip."""

    def __init__(self, inputs: int, outputs: int, act: nn.Module) -> None:
        super().__init__()
        self.reduce = convolution(inputs, outputs, act, kernel=1)
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        # Where a side of the skip is odd, the doubled map loses its last row or column.
        return self.enlarge(self.reduce(x))[..., : skip.shape[-2], : skip.shape[-1]] + skip  # type: ignore[no-any-return]


class HalfKiNet(Network):
    """KiNet at half resolution; see the module."""

    roi_channels = 2

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        w, act, p = config.width, activation(config.activation), config.dropout
        self.stem = nn.Sequential(nn.Conv2d(3, w, 6, stride=2, padding=2, bias=False), nn.BatchNorm2d(w), act)
        self.down4 = _Down(w, 3 * w, act)
        self.down8 = _Down(3 * w, 6 * w, act)
        self.down16 = _Down(6 * w, 10 * w, act, p)

        self.up8 = _Up(10 * w, 6 * w, act)
        self.block8 = nn.Sequential(_Residual(6 * w, act), nn.Dropout2d(p))
        self.up4 = _Up(6 * w, 3 * w, act)
        self.block4 = _Residual(3 * w, act)
        self.up2 = _Up(3 * w, w, act)
        self.out = nn.Sequential(
            convolution(w, w, act), nn.Conv2d(w, 4 * config.classes, 3, padding=1), nn.PixelShuffle(2)
        )
        if config.roi:
            self.roi_up8 = _Up(10 * w, 6 * w, act)
            self.roi_out = nn.Sequential(
                convolution(6 * w, 3 * w, act),
                nn.Conv2d(3 * w, self.roi_channels, 3, padding=1),
                nn.Upsample(scale_factor=8, mode="bilinear", align_corners=False),
            )

    def outputs(self, image: Tensor, roi: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return maps and region logits; see :meth:`Network.forward`."""
        if roi:
            self.require_roi()
        height, width = image.shape[-2:]
        if height % 2 or width % 2:
            image = functional.pad(image, (0, width % 2, 0, height % 2), mode="replicate")
        skip2 = self.stem(image)
        skip4 = self.down4(skip2)
        skip8 = self.down8(skip4)
        bottom = self.down16(skip8)

        up4 = self.block4(self.up4(self.block8(self.up8(bottom, skip8)), skip4))
        maps = self.out(self.up2(up4, skip2))[..., :height, :width]
        if not roi:
            return maps, None
        return maps, self.roi_out(self.roi_up8(bottom, skip8))[..., :height, :width]
