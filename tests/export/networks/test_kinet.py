"""KiNet in its three forms: their size, names, shapes, gradients and reach."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kinet_trt.export.networks.base import Network, NetworkConfig
from kinet_trt.export.networks.kinet import pad_or_crop
from kinet_trt.export.networks.registry import build, reach
from kinet_trt.export.rewrites import expand_upsampler_kernels
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from random_networks import randomise_batch_norms

ARCHITECTURES = ("paper", "release", "half")
torch.set_num_threads(1)


def network(architecture: str = "paper", width: int = 2, **options: Any) -> Network:
    torch.manual_seed(1)
    return build(NetworkConfig(architecture=architecture, width=width, **options))


def parameters(net: Network) -> int:
    return sum(p.numel() for p in net.parameters())


def mac_per_pixel(net: Network, roi: bool, side: int = 608) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(1, 3, side, side, device="meta"), roi=roi)
    return counter.get_total_flops() / 2 / side**2


def randomised(net: Network) -> Network:
    """Set random statistics and factors of every batch norm."""
    torch.manual_seed(2)
    randomise_batch_norms(net)
    return net.eval()


def test_release_has_the_releases_parameters() -> None:
    with torch.device("meta"):
        assert parameters(build(NetworkConfig("release", roi=False))) == 11_724_771
        assert parameters(build(NetworkConfig("release", roi=True))) == 19_774_404


def test_release_has_the_releases_arithmetic() -> None:
    with torch.device("meta"):
        net = build(NetworkConfig("release")).eval()
    assert mac_per_pixel(net, roi=False) == pytest.approx(486_300, abs=100)
    assert mac_per_pixel(net, roi=True) == pytest.approx(904_900, abs=100)


def test_half_costs_less_than_a_quarter_of_the_paper_and_its_region_branch_little_more() -> None:
    with torch.device("meta"):
        paper, half = (build(NetworkConfig(name, 16)).eval() for name in ("paper", "half"))
    assert mac_per_pixel(half, roi=False) < mac_per_pixel(paper, roi=False) / 4
    assert mac_per_pixel(half, roi=True) < 1.2 * mac_per_pixel(half, roi=False)


def test_half_has_channels_in_multiples_of_16() -> None:
    with torch.device("meta"):
        net = build(NetworkConfig("half", 16))
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(norm.num_features % 16 == 0 for norm in norms)


def test_stem_of_half_is_space_to_depth_and_a_convolution() -> None:
    net = network("half", 4)
    image = torch.randn(1, 3, 32, 48)
    kernel = net.stem[0].weight  # tap (2u + a, 2v + b) is that of row a, column b and k3 tap (u, v)
    k3 = kernel.unflatten(2, (3, 2)).unflatten(4, (3, 2)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    expected = nn.functional.conv2d(nn.functional.pixel_unshuffle(image, 2), k3, padding=1)
    torch.testing.assert_close(net.stem[0](image), expected)


def test_paper_is_cheaper_than_the_release() -> None:
    with torch.device("meta"):
        net = build(NetworkConfig("paper")).eval()
    assert mac_per_pixel(net, roi=False) == 270_352
    assert mac_per_pixel(net, roi=False) < mac_per_pixel(net, roi=True) < 851_000


def test_release_has_the_names_and_shapes_of_the_releases_state_dict() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in build(NetworkConfig("release")).state_dict().items()}
    expected = {
        "in_tr_100.conv.weight": (32, 3, 3, 3),
        "in_tr_100.bn.running_mean": (32,),
        "down_tr32_50.down_conv.weight": (64, 32, 3, 3),
        "down_tr32_50.bn1.weight": (64,),
        "down_tr32_50.ops.0.conv.weight": (64, 64, 3, 3),
        "down_tr64_25.ops.1.bn.bias": (128,),
        "down_tr128_12.ops.0.bn.running_var": (256,),
        "down_tr256_6.down_conv.weight": (256, 256, 3, 3),
        "up_tr256_12.up_conv.weight": (256, 256, 3, 3),
        "up_tr256_12.ops.1.conv.weight": (512, 512, 3, 3),
        "up_tr128_25.up_conv.weight": (512, 128, 3, 3),
        "up_tr128_25.ops.1.conv.weight": (256, 256, 3, 3),
        "up_tr64_50.up_conv.weight": (256, 64, 3, 3),
        "up_tr32_100.up_conv.weight": (128, 32, 3, 3),
        "up_tr32_100.ops.0.conv.weight": (64, 64, 3, 3),
        "up_12_100.up_conv.weight": (512, 64, 3, 3),
        "up_25_100.up_conv.weight": (256, 64, 3, 3),
        "up_25_100.bn1.weight": (64,),
        "out_tr.conv1.weight": (32, 192, 5, 5),
        "out_tr.bn1.weight": (32,),
        "out_tr.conv2.weight": (3, 32, 1, 1),
        "up_tr1_ROI.up_conv.weight": (256, 256, 3, 3),
        "up_tr2_ROI.ops.0.conv.weight": (256, 256, 3, 3),
        "up_tr3_ROI.bn1.weight": (64,),
        "up_tr4_ROI.ops.0.bn.weight": (64,),
        "up1_ROI.up_conv.weight": (512, 64, 3, 3),
        "up2_ROI.up_conv.weight": (256, 64, 3, 3),
        "out_tr_ROI.conv1.weight": (32, 192, 5, 5),
        "out_tr_ROI.conv2.weight": (1, 32, 1, 1),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    for absent in ("down_tr32_50.ops.1", "down_tr64_25.ops.2", "up_tr64_50.ops.1", "up_tr256_12.ops.2", "out_tr.bn2"):
        assert not [name for name in shapes if name.startswith(absent)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", [(97, 131), (33, 50), (64, 80), (17, 16)])
def test_outputs_have_the_size_of_the_image(architecture: str, size: tuple[int, int]) -> None:
    net = network(architecture).eval()
    image = torch.randn(2, 3, *size)
    with torch.inference_mode():
        maps, nothing = net(image)
        again, logits = net(image, roi=True)
    assert maps.shape == (2, 3, *size)
    assert nothing is None
    assert torch.equal(maps, again)
    assert logits.shape == (2, net.roi_channels, *size)
    probability = net.tumor_probability(logits)
    assert probability.shape == (2, 1, *size)
    assert probability.min() >= 0
    assert probability.max() <= 1


def test_probability_is_that_of_the_second_channel_or_of_the_sigmoid() -> None:
    two = torch.tensor([0.0, math.log(3.0)]).view(1, 2, 1, 1)
    assert network("paper").tumor_probability(two).item() == pytest.approx(0.75)
    assert network("release").tumor_probability(two[:, 1:]).item() == pytest.approx(0.75)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("activation", ["elu", "relu"])
def test_gradients_reach_every_parameter_of_both_branches(architecture: str, activation: str) -> None:
    net = network(architecture, 4, activation=activation, dropout=0.0).train()
    maps, logits = net(torch.randn(2, 3, 48, 64), roi=True)
    (maps.square().sum() + logits.square().sum()).backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_roi_of_a_network_without_region_branch_is_refused(architecture: str) -> None:
    net = network(architecture, roi=False).eval()
    assert net(torch.zeros(1, 3, 32, 32))[1] is None
    with pytest.raises(ValueError, match="roi=False"):
        net(torch.zeros(1, 3, 32, 32), roi=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_region_branch_costs_no_parameters_when_it_is_left_out(architecture: str) -> None:
    with_roi, without = (set(network(architecture, roi=roi).state_dict()) for roi in (True, False))
    assert without < with_roi
    assert all("roi" in name.lower() for name in with_roi - without)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dropout_acts_in_training_only(architecture: str) -> None:
    net = network(architecture)
    image = torch.randn(1, 3, 64, 64)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().train = lambda *_: None  # with constant statistics
    with torch.no_grad():
        assert torch.equal(net.eval()(image)[0], net(image)[0])
        net.train()
        draws = [net(image)[0] for _ in range(4)]
    assert any(not torch.equal(draws[0], d) for d in draws[1:])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_maps_are_linear_and_not_limited_to_zero_to_one(architecture: str) -> None:
    with torch.inference_mode():
        maps, _ = network(architecture).eval()(3 * torch.randn(1, 3, 64, 64))
    assert maps.min() < 0


@pytest.mark.parametrize("size", [(64, 96), (97, 131), (33, 50)])
def test_expanded_upsampler_kernels_give_identical_output(size: tuple[int, int]) -> None:
    net = randomised(network("release", 4))
    image = torch.randn(2, 3, *size)
    with torch.inference_mode():
        before = net(image, roi=True)
        wide = expand_upsampler_kernels(net)
        after = net(image, roi=True)
    assert wide is net
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_stride_exceeds_its_kernel_after_expansion(architecture: str) -> None:
    layers = [m for m in expand_upsampler_kernels(network(architecture)).modules() if isinstance(m, nn.ConvTranspose2d)]
    assert layers or architecture == "half"
    assert all(layer.stride[0] <= layer.kernel_size[0] for layer in layers)


def test_expansion_does_not_change_the_paper_network() -> None:
    net = network("paper")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    after = expand_upsampler_kernels(net).state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("architecture", "expected"), [("release", 118), ("half", 115)])
def test_reach_fits_in_a_halo_of_128_px(architecture: str, expected: int) -> None:
    assert reach(network(architecture)) == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reach_is_the_farthest_influence(architecture: str) -> None:
    torch.manual_seed(3)
    net = network(architecture, 2, activation="relu", roi=False).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(p.abs() + 0.02)  # nothing cancels
    farthest = reach(net)
    size, differs = 320, set()
    image = torch.rand(1, 3, size, 32, dtype=torch.float64)
    with torch.inference_mode():
        before = net(image)[0]
        for row in range(144, 160):  # every alignment
            changed = image.clone()
            changed[:, :, row] += 1
            rows = (net(changed)[0] != before).any(dim=3)[0].any(dim=0).nonzero().flatten() - row
            differs |= set(rows.abs().tolist())
    assert max(differs) <= farthest
    assert max(differs) == farthest


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reach_does_not_change_the_network(architecture: str) -> None:
    net = network(architecture)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    reach(net)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("size", "like", "expected"),
    [
        ((3, 3), (3, 3), "same"),
        ((2, 4), (5, 4), [0, 1, 2, 0, 0]),
        ((4, 4), (3, 4), [1, 2, 3]),
        ((5, 4), (2, 4), [2, 3]),
    ],
)
def test_pad_or_crop_is_centred(size: Any, like: Any, expected: Any) -> None:
    x = torch.arange(1.0, size[0] + 1).view(1, 1, -1, 1).expand(1, 1, *size)
    found: Tensor = pad_or_crop(x, torch.empty(1, 1, *like))
    if expected == "same":
        assert found is x
    else:
        assert found[0, 0, :, 0].tolist() == expected


@pytest.mark.parametrize("size", [(16, 24), (17, 31), (18, 9)])
def test_pad_or_crop_returns_the_requested_size(size: tuple[int, int]) -> None:
    assert pad_or_crop(torch.ones(1, 2, 17, 20), torch.empty(1, 1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "vnet"},
        {"activation": "gelu"},
        {"width": 0},
        {"width": 1},
        {"width": 5},
        {"width": -4},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"dropout": math.nan},
        {"classes": 0},
        {"classes": -1},
    ],
)
def test_invalid_configuration_is_a_value_error_that_names_the_option(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        NetworkConfig(**options)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_number_of_classes_is_free(architecture: str) -> None:
    assert network(architecture, classes=5).eval()(torch.zeros(1, 3, 32, 32))[0].shape == (1, 5, 32, 32)


def test_class_outputs_of_the_paper_are_independent() -> None:
    net = network("paper", 4).eval()
    assert net.out.out.groups == 3
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = net(image)[0]
        net.out.out.weight[1] += 1
        after = net(image)[0]
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert not torch.equal(before[:, 1], after[:, 1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_parse_inverts_summary(architecture: Any, norm: Any) -> None:
    config = NetworkConfig(architecture, 8, "relu", roi=False, norm=norm)
    assert NetworkConfig.parse(config.summary) == config
    assert NetworkConfig.parse(config.summary, roi=True) == replace(config, roi=True)


@pytest.mark.parametrize(
    "words",
    ["", "paper", "paper, 16, relu", "paper, width x, relu", "paper, width 16, relu, group norm", "a, width 4, elu"],
)
def test_parse_refuses_other_text(words: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        NetworkConfig.parse(words)
