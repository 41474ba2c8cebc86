"""The KiNet of the paper and that of the authors' release.

Both have one encoder, a decoder to proximity maps, and a sibling decoder for the tumour region. They are two networks:

``release``
    The layout of the authors' public release, with the names of its state dict, so that its checkpoints load. Side
    branches are up-sampled by a 3x3 transposed convolution of stride 8 and 4.
``paper``
    Section III-A of Xing et al. 2019. The text leaves three things open; here the channels of the levels are ``w, 2w,
    4w, 8w, 8w`` (32 to 256 at the paper's width), the kernel of an up-sampler is at least its stride, and the identity
    shortcut of a decoder block is the up-sampled map.

Every batch norm uses running statistics in evaluation, so it folds into its convolution. The release evaluates with
batch statistics instead: its checkpoints give their original results only with ``norm="instance"``, which is the same
for one image per batch.
"""

from __future__ import annotations

import torch
from kinet_trt.export.networks.base import Network, NetworkConfig, activation, convolution, upsampler
from torch import Tensor, nn
from torch.nn import functional


def pad_or_crop(x: Tensor, like: Tensor) -> Tensor:
    """Pad ``x`` with zeros or crop it, about its centre, to the size of ``like``; an odd pixel is added at the end."""
    dy, dx = like.shape[-2] - x.shape[-2], like.shape[-1] - x.shape[-1]
    if dy == 0 and dx == 0:
        return x
    top, left = (dy // 2 if dy > 0 else -(-dy // 2)), (dx // 2 if dx > 0 else -(-dx // 2))
    return functional.pad(x, (left, dx - left, top, dy - top))


class _ConvNorm(nn.Module):
    """Convolution k3, batch norm, activation (``ops.N`` and ``in_tr_100`` of the release)."""

    def __init__(self, inputs: int, outputs: int, act: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))  # type: ignore[no-any-return]


class _ReleaseDown(nn.Module):
    """Strided convolution, then act(ops(d) + d)."""

    def __init__(self, inputs: int, outputs: int, convs: int, act: nn.Module, dropout: float) -> None:
        super().__init__()
        self.down_conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act = act
        self.drop = nn.Dropout2d(dropout)
        self.ops = nn.Sequential(*[_ConvNorm(outputs, outputs, act) for _ in range(convs)])

    def forward(self, x: Tensor) -> Tensor:
        down = self.act(self.bn1(self.down_conv(x)))
        return self.act(self.ops(self.drop(down)) + down)  # type: ignore[no-any-return]


class _ReleaseUp(nn.Module):
    """Transposed convolution, [up, skip], then act(ops(c) + c)."""

    def __init__(
        self, inputs: int, up: int, skip: int, convs: int, act: nn.Module, dropout: float, drop_input: bool
    ) -> None:
        super().__init__()
        self.up_conv = nn.ConvTranspose2d(inputs, up, 3, stride=2, padding=1, output_padding=1)
        self.bn1 = nn.BatchNorm2d(up)
        self.act = act
        self.drop_input = nn.Dropout2d(dropout if drop_input else 0.0)
        self.drop_skip = nn.Dropout2d(dropout)
        self.ops = nn.Sequential(*[_ConvNorm(up + skip, up + skip, act) for _ in range(convs)])

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = self.act(self.bn1(self.up_conv(self.drop_input(x))))
        joined = torch.cat([pad_or_crop(up, skip), self.drop_skip(skip)], dim=1)
        return self.act(self.ops(joined) + joined)  # type: ignore[no-any-return]


class _ReleaseSide(nn.Module):
    """Side branch: transposed convolution k3 with stride 8 or 4, padded with zeros to the size of the image."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: nn.Module) -> None:
        super().__init__()
        self.up_conv = nn.ConvTranspose2d(inputs, outputs, 3, stride=stride, padding=1, output_padding=1)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act = act

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return pad_or_crop(self.act(self.bn1(self.up_conv(x))), like)


class _ReleaseOut(nn.Module):
    """Output head: convolution k5 with norm and activation, then a linear k1."""

    def __init__(self, inputs: int, hidden: int, outputs: int, act: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, hidden, 5, padding=2)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.act = act
        self.conv2 = nn.Conv2d(hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.bn1(self.conv1(x))))  # type: ignore[no-any-return]


class ReleaseKiNet(Network):
    """Network of the release: 11.73 M parameters and 486.3 k MAC per px at width 32 (19.77 M and 904.9 k with ROI)."""

    roi_channels = 1

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        w, act, p = config.width, activation(config.activation), config.dropout
        self.in_tr_100 = _ConvNorm(3, w, act)
        self.down_tr32_50 = _ReleaseDown(w, 2 * w, 1, act, 0.0)
        self.down_tr64_25 = _ReleaseDown(2 * w, 4 * w, 2, act, 0.0)
        self.down_tr128_12 = _ReleaseDown(4 * w, 8 * w, 2, act, p)
        self.down_tr256_6 = _ReleaseDown(8 * w, 8 * w, 2, act, p)

        self.up_tr256_12 = _ReleaseUp(8 * w, 8 * w, 8 * w, 2, act, p, True)
        self.up_tr128_25 = _ReleaseUp(16 * w, 4 * w, 4 * w, 2, act, p, True)
        self.up_tr64_50 = _ReleaseUp(8 * w, 2 * w, 2 * w, 1, act, p, False)
        self.up_tr32_100 = _ReleaseUp(4 * w, w, w, 1, act, p, False)
        self.up_12_100 = _ReleaseSide(16 * w, 2 * w, 8, act)
        self.up_25_100 = _ReleaseSide(8 * w, 2 * w, 4, act)
        self.out_tr = _ReleaseOut(6 * w, w, config.classes, act)

        if config.roi:
            self.up_tr1_ROI = _ReleaseUp(8 * w, 8 * w, 8 * w, 2, act, p, True)
            self.up_tr2_ROI = _ReleaseUp(16 * w, 4 * w, 4 * w, 2, act, p, True)
            self.up_tr3_ROI = _ReleaseUp(8 * w, 2 * w, 2 * w, 1, act, p, False)
            self.up_tr4_ROI = _ReleaseUp(4 * w, w, w, 1, act, p, False)
            self.up1_ROI = _ReleaseSide(16 * w, 2 * w, 8, act)
            self.up2_ROI = _ReleaseSide(8 * w, 2 * w, 4, act)
            self.out_tr_ROI = _ReleaseOut(6 * w, w, self.roi_channels, act)

    def outputs(self, image: Tensor, roi: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return maps and region logits; see :meth:`Network.forward`."""
        skip1 = self.in_tr_100(image)
        skip2 = self.down_tr32_50(skip1)
        skip4 = self.down_tr64_25(skip2)
        skip8 = self.down_tr128_12(skip4)
        bottom = self.down_tr256_6(skip8)

        up8 = self.up_tr256_12(bottom, skip8)
        up4 = self.up_tr128_25(up8, skip4)
        up1 = self.up_tr32_100(self.up_tr64_50(up4, skip2), skip1)
        maps = self.out_tr(torch.cat([up1, self.up_12_100(up8, image), self.up_25_100(up4, image)], dim=1))
        if not roi:
            return maps, None

        self.require_roi()
        up8 = self.up_tr1_ROI(bottom, skip8)
        up4 = self.up_tr2_ROI(up8, skip4)
        up1 = self.up_tr4_ROI(self.up_tr3_ROI(up4, skip2), skip1)
        return maps, self.out_tr_ROI(torch.cat([up1, self.up1_ROI(up8, image), self.up2_ROI(up4, image)], dim=1))


class _PaperDown(nn.Module):
    """Strided convolution, then a residual block: the identity is added to the stacked non-linear output."""

    def __init__(self, inputs: int, outputs: int, act: nn.Module, dropout: float) -> None:
        super().__init__()
        self.down = convolution(inputs, outputs, act, stride=2)
        self.block = nn.Sequential(
            convolution(outputs, outputs, act), convolution(outputs, outputs, act), nn.Dropout2d(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        down = self.down(x)
        return self.block(down) + down  # type: ignore[no-any-return]


class _PaperUp(nn.Module):
    """Transposed convolution; two convolutions of [up, skip], plus up."""

    def __init__(self, inputs: int, outputs: int, skip: int, act: nn.Module) -> None:
        super().__init__()
        self.up = upsampler(inputs, outputs, act, 2)
        self.block = nn.Sequential(convolution(outputs + skip, outputs, act), convolution(outputs, outputs, act))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        # An odd skip is one px smaller than twice its half: `up` loses its last row or column.
        up = self.up(x)[..., : skip.shape[-2], : skip.shape[-1]]
        return self.block(torch.cat([up, skip], dim=1)) + up  # type: ignore[no-any-return]


class _ClassHead(nn.Module):
    """Two convolutions for each class, in parallel: the second is a grouped convolution."""

    def __init__(self, inputs: int, hidden: int, classes: int, act: nn.Module) -> None:
        super().__init__()
        self.hidden = convolution(inputs, hidden * classes, act)
        self.out = nn.Conv2d(hidden * classes, classes, 3, padding=1, groups=classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x))  # type: ignore[no-any-return]


class PaperKiNet(Network):
    """Network of section III-A of the paper."""

    roi_channels = 2

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        w, act, p = config.width, activation(config.activation), config.dropout
        self.stem = convolution(3, w, act)
        self.down2 = _PaperDown(w, 2 * w, act, 0.0)
        self.down4 = _PaperDown(2 * w, 4 * w, act, 0.0)
        self.down8 = _PaperDown(4 * w, 8 * w, act, p)
        self.down16 = _PaperDown(8 * w, 8 * w, act, p)

        self.up8 = _PaperUp(8 * w, 8 * w, 8 * w, act)
        self.up4 = _PaperUp(8 * w, 4 * w, 4 * w, act)
        self.up2 = _PaperUp(4 * w, 2 * w, 2 * w, act)
        self.up1 = _PaperUp(2 * w, w, w, act)
        self.side8 = upsampler(8 * w, w, act, 8)
        self.side4 = upsampler(4 * w, w, act, 4)
        self.out = _ClassHead(3 * w, w // 2, config.classes, act)

        if config.roi:
            self.roi_down32 = _PaperDown(8 * w, 8 * w, act, p)
            self.roi_up16 = _PaperUp(8 * w, 8 * w, 8 * w, act)
            self.roi_up8 = _PaperUp(8 * w, 8 * w, 8 * w, act)
            self.roi_up4 = _PaperUp(8 * w, 4 * w, 4 * w, act)
            self.roi_up2 = _PaperUp(4 * w, 2 * w, 2 * w, act)
            self.roi_up1 = _PaperUp(2 * w, w, w, act)
            self.roi_out = nn.Sequential(convolution(w, w, act), nn.Conv2d(w, self.roi_channels, 3, padding=1))

    def outputs(self, image: Tensor, roi: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return maps and region logits; see :meth:`Network.forward`."""
        skip1 = self.stem(image)
        skip2 = self.down2(skip1)
        skip4 = self.down4(skip2)
        skip8 = self.down8(skip4)
        bottom = self.down16(skip8)

        up8 = self.up8(bottom, skip8)
        up4 = self.up4(up8, skip4)
        up1 = self.up1(self.up2(up4, skip2), skip1)
        height, width = image.shape[-2:]
        sides = [self.side8(up8)[..., :height, :width], self.side4(up4)[..., :height, :width]]
        maps = self.out(torch.cat([up1, *sides], dim=1))
        if not roi:
            return maps, None

        self.require_roi()
        up16 = self.roi_up16(self.roi_down32(bottom), bottom)
        up4 = self.roi_up4(self.roi_up8(up16, skip8), skip4)
        return maps, self.roi_out(self.roi_up1(self.roi_up2(up4, skip2), skip1))
