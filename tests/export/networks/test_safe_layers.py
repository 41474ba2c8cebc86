"""Networks use only layers that train on all CPUs and run in all engines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest

torch = pytest.importorskip("torch")

from kinet_trt.export.networks.base import KINET_ARCHITECTURES, Architecture, NetworkConfig
from kinet_trt.export.networks.registry import build
from kinet_trt.export.rewrites import expand_upsampler_kernels
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

torch.set_num_threads(1)
PLAIN = (nn.BatchNorm2d, nn.InstanceNorm2d, nn.ELU, nn.ReLU, nn.Dropout2d, nn.Identity)
"""Layers that are safe with any options."""
CONFIGS = [
    NetworkConfig(architecture, 4, roi=roi, norm=norm)
    for architecture in get_args(Architecture)
    for roi in ((False, True) if architecture in KINET_ARCHITECTURES else (False,))
    for norm in ("batch", "instance")
]
every_network = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.architecture}-{c.norm}" + "-roi" * c.roi)


def unsafe_convolution(kernel: int, stride: int, dilation: int, transposed: bool) -> str:
    """Return why a convolution must not be used, empty if it may be."""
    if dilation != 1:
        return "dilated convolutions have not been tried on every CPU and engine"
    if stride > 1 and kernel == 1:
        return (
            "PyTorch 2.13.0 corrupts the heap in the backward pass of a strided 1x1 convolution (FP32, channels-last, "
            "AVX-512): take x[..., ::stride, ::stride] and a stride of 1"
        )
    if stride > kernel and transposed:
        return (
            "OpenVINO in BF16 leaves the pixels between the taps at 0 where stride > kernel: only where "
            "expand_upsampler_kernels rewrites it for export"
        )
    if stride > kernel:
        return "pixels between the taps are ignored where stride > kernel: take a larger kernel"
    return ""


def unsafe(layer: nn.Module) -> str:
    """Return why a layer must not be used, empty if it may be."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        shapes = {(k, s, d) for k, s, d in zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)}
        reasons = [unsafe_convolution(*shape, isinstance(layer, nn.ConvTranspose2d)) for shape in sorted(shapes)]
        if layer.padding_mode != "zeros":
            reasons.append("engines pad convolutions with zeros only")
        if layer.groups > 1 and isinstance(layer, nn.ConvTranspose2d):
            reasons.append("export makes grouped convolutions dense, but not transposed ones")
        return "; ".join(filter(None, reasons))
    if isinstance(layer, nn.MaxPool2d):
        plain = layer.kernel_size == layer.stride and not layer.padding and layer.dilation == 1 and not layer.ceil_mode
        return "" if plain else "only pooling of whole, disjoint windows has been tried in every engine"
    if isinstance(layer, nn.Upsample):
        plain = layer.mode in ("nearest", "bilinear") and layer.scale_factor in (2, 8) and not layer.align_corners
        return "" if plain else "only nearest and bilinear factors of 2 and 8 have been tried in every engine"
    if isinstance(layer, nn.PixelShuffle):
        return "" if layer.upscale_factor == 2 else "only a shuffle to twice the size has been tried in every engine"
    if type(layer) in PLAIN:
        return ""
    return "this kind of layer has not been tried on every CPU and engine: try it, then add it here"


def layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in network.named_modules():
        if not any(layer.children()):
            yield name, layer


class Convolutions(TorchDispatchMode):
    """Record of the convolutions that are computed, including those outside modules."""

    def __init__(self) -> None:
        super().__init__()
        self.unsafe: list[str] = []
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            _, weight, _, stride, _, dilation, transposed = args[:7]
            self.seen += 1
            for shape in set(zip(weight.shape[2:], stride, dilation, strict=True)):
                if reason := unsafe_convolution(*shape, transposed):
                    self.unsafe.append(f"kernel {shape[0]}, stride {shape[1]}: {reason}")
        return func(*args, **(kwargs or {}))


@every_network
def test_every_layer_is_safe(config: NetworkConfig) -> None:
    with torch.device("meta"):
        network = build(config)
    found = {name: reason for name, layer in layers(network) if (reason := unsafe(layer))}
    if config.architecture == "release":
        # The side branches of the authors, whose weights must load; they train well, and export rewrites them.
        found = {name: reason for name, reason in found.items() if "expand_upsampler_kernels" not in reason}
    assert found == {}


@every_network
def test_every_convolution_in_the_exported_forward_pass_is_safe(config: NetworkConfig) -> None:
    with torch.device("meta"):
        network = expand_upsampler_kernels(build(config)).train()
        image = torch.zeros(2, 3, 64, 64)
        with Convolutions() as computed:
            network.outputs(image, roi=config.roi)
    assert computed.seen == sum(isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) for layer in network.modules())
    assert computed.unsafe == []


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(8, 16, 1, stride=2), "corrupts the heap"),
        (nn.Conv2d(8, 16, (1, 3), stride=(2, 1), padding=(0, 1)), "corrupts the heap"),
        (nn.ConvTranspose2d(8, 16, 1, stride=2), "corrupts the heap"),
        (nn.Conv2d(8, 16, 2, stride=3), "pixels between the taps"),
        (nn.ConvTranspose2d(8, 16, 3, stride=4), "leaves the pixels between the taps at 0"),
        (nn.ConvTranspose2d(8, 16, 4, stride=4, groups=2), "grouped"),
        (nn.Conv2d(8, 16, 3, dilation=2), "dilated"),
        (nn.Conv2d(8, 16, 3, padding=1, padding_mode="reflect"), "zeros only"),
        (nn.MaxPool2d(3, stride=2), "disjoint"),
        (nn.Upsample(scale_factor=2, mode="bicubic"), "nearest and bilinear"),
        (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), "nearest and bilinear"),
        (nn.PixelShuffle(4), "twice the size"),
        (nn.GELU(), "has not been tried"),
    ],
)
def test_layers_that_are_not_safe_are_refused_with_a_reason(layer: nn.Module, reason: str) -> None:
    assert re.search(reason, unsafe(layer))


def test_convolutions_outside_modules_are_checked() -> None:
    with torch.device("meta"), Convolutions() as computed:
        nn.functional.conv2d(torch.zeros(1, 2, 8, 8), torch.zeros(4, 2, 1, 1), stride=2)
    assert [words.split(":")[0] for words in computed.unsafe] == ["kernel 1, stride 2"]


def test_shortcut_equals_a_strided_convolution() -> None:
    network = build(NetworkConfig("sfcn-opi", 4, "relu", roi=False)).eval()
    torch.manual_seed(1)

    def strided(unit: Any, x: Tensor) -> Tensor:
        convolution, norm, _ = unit.short
        return norm(nn.functional.conv2d(x, convolution.weight, stride=unit.stride))  # type: ignore[no-any-return]

    unit = network.shared2[0]
    for side in (16, 17):
        x = torch.randn(2, 4, side, side)
        expected = unit.act(unit.second(unit.first(x)) + strided(unit, x))
        torch.testing.assert_close(unit(x), expected)
