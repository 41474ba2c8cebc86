"""Import of the authors' weights: names and shapes, equal results, and errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kinet_trt.export import checkpoint
from kinet_trt.export.import_weights import MEAN, STD, import_weights, read_state_dict
from kinet_trt.export.networks.base import Network, NetworkConfig
from kinet_trt.export.networks.registry import build
from torch import Tensor, nn

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.simulation import simulate

torch.set_num_threads(1)
Shapes = dict[str, tuple[int, ...]]


def conv(shapes: Shapes, name: str, norm: str, inputs: int, outputs: int, kernel: int, *, up: bool = False) -> None:
    shapes[f"{name}.weight"] = (inputs, outputs, kernel, kernel) if up else (outputs, inputs, kernel, kernel)
    shapes[f"{name}.bias"] = (outputs,)
    if norm:
        shapes.update({f"{norm}.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{norm}.num_batches_tracked"] = ()


def ops(shapes: Shapes, block: str, channels: int, count: int) -> None:
    for n in range(count):
        conv(shapes, f"{block}.ops.{n}.conv", f"{block}.ops.{n}.bn", channels, channels, 3)


def release(roi: bool, w: int = 32) -> Shapes:
    """Return the names and shapes of the public release, from a table."""
    shapes: Shapes = {"device_id": (1,)}
    conv(shapes, "in_tr_100.conv", "in_tr_100.bn", 3, w, 3)
    for name, inputs, outputs, count in (
        ("down_tr32_50", w, 2 * w, 1),
        ("down_tr64_25", 2 * w, 4 * w, 2),
        ("down_tr128_12", 4 * w, 8 * w, 2),
        ("down_tr256_6", 8 * w, 8 * w, 2),
    ):
        conv(shapes, f"{name}.down_conv", f"{name}.bn1", inputs, outputs, 3)
        ops(shapes, name, outputs, count)
    nucleus = ("up_tr256_12", "up_tr128_25", "up_tr64_50", "up_tr32_100", "up_12_100", "up_25_100", "out_tr")
    region = ("up_tr1_ROI", "up_tr2_ROI", "up_tr3_ROI", "up_tr4_ROI", "up1_ROI", "up2_ROI", "out_tr_ROI")
    for names, outputs in ((nucleus, 3), (region, 1)) if roi else ((nucleus, 3),):
        for name, inputs, up, both, count in zip(
            names, (8 * w, 16 * w, 8 * w, 4 * w), (8 * w, 4 * w, 2 * w, w), (16 * w, 8 * w, 4 * w, 2 * w), (2, 2, 1, 1),
            strict=False,
        ):  # fmt: skip
            conv(shapes, f"{name}.up_conv", f"{name}.bn1", inputs, up, 3, up=True)
            ops(shapes, name, both, count)
        for name, inputs in zip(names[4:6], (16 * w, 8 * w), strict=True):
            conv(shapes, f"{name}.up_conv", f"{name}.bn1", inputs, 2 * w, 3, up=True)
        conv(shapes, f"{names[6]}.conv1", f"{names[6]}.bn1", 6 * w, w, 5)
        conv(shapes, f"{names[6]}.conv2", "", w, outputs, 1)
    return shapes


def made(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights of trained magnitude, with unrelated running statistics."""
    torch.manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        value = torch.randn(shape)
        if len(shape) == 4:
            value *= (2 / (shape[0 if "up_conv" in name else 1] * shape[2] * shape[3])) ** 0.5
        elif name.endswith(("bn.weight", "bn1.weight", "running_var")):
            value = 0.5 + torch.rand(shape)
        elif name.endswith("num_batches_tracked"):
            value = torch.tensor(1000)
        else:
            value *= 0.2
        weights[name] = value
    return weights


def as_the_release_computes(weights: dict[str, Tensor], roi: bool, width: int, image: Tensor) -> list[Tensor]:
    """Make the batch norms always use the statistics of the batch."""
    network = build(NetworkConfig("release", width, "elu", roi)).eval()
    network.load_state_dict({name: value for name, value in weights.items() if name != "device_id"})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    with torch.no_grad():
        return [out for out in network(image, roi=roi) if out is not None]


def outputs(network: Network, image: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [out for out in network(image, roi=network.config.roi) if out is not None]


def write_fields(folder: Path, n: int, points: bool = True) -> None:
    folder.mkdir()
    for seed in range(n):
        pixels, truth = simulate.field(seed, 160, 128, counterstain=0.7 + 0.2 * seed)
        (folder / f"{seed}.png").write_bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
        if points:
            found = Detections(truth.x, truth.y, truth.cls, np.ones(len(truth), np.float32))
            (folder / f"{seed}.geojson").write_text(found.to_geojson())


@pytest.mark.parametrize(("roi", "parameters"), [(False, 11.73), (True, 19.77)])
def test_import_reproduces_both_networks_of_the_release(tmp_path: Path, roi: bool, parameters: float) -> None:
    weights = made(release(roi))
    torch.save(weights, tmp_path / "best.pth")
    imported = import_weights(tmp_path / "best.pth", tmp_path / "kinet.pt", None)
    assert imported.config == NetworkConfig("release", 32, "elu", roi, norm="instance")
    assert imported.parameters / 1e6 == pytest.approx(parameters, abs=0.01)
    assert imported.ignored == ("device_id",)
    loaded = checkpoint.load(tmp_path / "kinet.pt")
    assert (loaded.info.mean, loaded.info.std, loaded.info.threshold) == (MEAN, STD, 0.5)
    image = torch.randn(1, 3, 64, 96)
    for expected, found in zip(
        as_the_release_computes(weights, roi, 32, image), outputs(loaded.network, image), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    weights = made(release(False, 4))
    # So that some pixels exceed the threshold.
    weights["out_tr.conv2.weight"] *= 2
    torch.save(weights, tmp_path / "small.pth")
    return tmp_path / "small.pth", weights


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"model": {f"module.{name}": value for name, value in w.items()}},
        lambda w: {name: value for name, value in w.items() if not name.endswith("num_batches_tracked")},
        lambda w: {name: value.half() if value.is_floating_point() else value for name, value in w.items()},
    ],
)
def test_import_finds_weights_in_wrapping_dictionaries(
    tmp_path: Path, small: tuple[Path, dict[str, Tensor]], wrap: Callable[[dict[str, Tensor]], Any]
) -> None:
    torch.save(wrap(small[1]), tmp_path / "w.pth")
    assert import_weights(tmp_path / "w.pth", tmp_path / "k.pt", None).config.width == 4
    found = checkpoint.load(tmp_path / "k.pt").network.state_dict()
    torch.testing.assert_close(found["in_tr_100.conv.weight"], small[1]["in_tr_100.conv.weight"], atol=1e-2, rtol=1e-2)


def test_import_reads_the_old_file_format(tmp_path: Path, small: tuple[Path, dict[str, Tensor]]) -> None:
    torch.save(small[1], tmp_path / "old.pth", _use_new_zipfile_serialization=False)  # as PyTorch 0.4.1
    assert import_weights(tmp_path / "old.pth", tmp_path / "k.pt", None).ignored == ("device_id",)


@pytest.mark.parametrize(("n", "points", "separate"), [(4, True, True), (2, False, False)])
def test_import_estimates_running_statistics_and_reports_their_effect(
    tmp_path: Path, small: tuple[Path, dict[str, Tensor]], n: int, points: bool, separate: bool
) -> None:
    write_fields(tmp_path / "mine", n, points)
    imported = import_weights(small[0], tmp_path / "k.pt", tmp_path / "mine")
    assert imported.config.norm == "batch"
    assert (imported.separate, imported.calibrated, imported.measured) == (separate, 2, 2)
    assert imported.chosen == points
    shift, of_file = imported.shift, imported.shift_of_file
    assert shift is not None
    assert of_file is not None
    assert shift.before == of_file.before > 20
    assert shift.matched > of_file.matched or shift.distance < of_file.distance
    text = " ".join(imported.sentences())
    assert "estimated on 2 fields" in text
    assert re.search(r"\d+ of \d+ nuclei are found again \([\d.]+ px away on average, \d+ with another class\)", text)
    loaded = checkpoint.load(tmp_path / "k.pt")
    assert "norms calibrated on 2 fields of mine" in loaded.info.data
    assert loaded.info.threshold == imported.threshold


def test_import_weights_command_exports_and_counts(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, small: tuple[Path, dict[str, Tensor]]
) -> None:
    onnx = pytest.importorskip("onnx")
    from kinet_trt.export import from_onnx

    code, out, _ = run("import-weights", small[0], "-o", tmp_path / "k.pt")
    assert code == 0
    assert "release, width 4, elu, instance norm, without the region branch" in out
    assert "device_id is not a weight and was ignored" in out
    assert "--calibrate" in out
    write_fields(tmp_path / "mine", 1, points=False)
    model = tmp_path / "k.onnx"
    code, out, err = run("export", tmp_path / "k.pt", "-o", model, "--precision", "fp16")
    assert code == 0, err
    found = re.search(r"max error ([\d.e-]+); (\d+) detections the same, (\d+) only in PyTorch, (\d+) only", out)
    assert found
    same, lost, new = map(int, found.groups()[1:])
    assert same > 20
    assert lost + new <= 0.1 * same  # of random weights, whose peaks are shallow
    graph = onnx.load(model).graph
    norms = [node for node in graph.node if node.op_type == "InstanceNormalization"]
    assert len(norms) == 1 + (4 + 7) + (4 + 6) + 2 + 1
    made_by = {name: node for node in graph.node for name in node.output}
    for node in norms:
        assert made_by[node.input[0]].op_type == "Cast"
        assert made_by[node.input[0]].attribute[0].i == onnx.TensorProto.FLOAT
    restored, imported = from_onnx.load(model).network, checkpoint.load(tmp_path / "k.pt").network
    assert restored.config == replace(imported.config, dropout=from_onnx.DROPOUT)
    image = torch.randn(1, 3, 64, 96)
    for expected, other in zip(outputs(imported, image), outputs(restored, image), strict=True):
        assert float((other - expected).abs().max()) < 0.02 * max(1.0, float(expected.abs().max()))
    assert run("count", tmp_path / "mine", "-m", model, "--mpp", 0.34)[0] == 0
    assert run("import-weights", small[0], "-o", small[0])[0] == 2


# --- files that are none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04nothing", b"\x80\x02}q\x00." * 3, b"x" * 1000])
def test_import_reports_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(KinetError, match=r"w\.pth"):
        import_weights(tmp_path / "w.pth", tmp_path / "k.pt", None)


def test_import_reports_a_truncated_file(tmp_path: Path, small: tuple[Path, dict[str, Tensor]]) -> None:
    content = small[0].read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "w.pth").write_bytes(content[: int(share * len(content))])
        with pytest.raises(KinetError, match=r"w\.pth: not a readable state dict"):
            read_state_dict(tmp_path / "w.pth")


class Trap:
    """Object that runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/kinet-trt-was-careless"),))


def test_import_unpickles_only_tensors(tmp_path: Path) -> None:
    torch.save({"in_tr_100.conv.weight": torch.zeros(4, 3, 3, 3), "trap": Trap()}, tmp_path / "w.pth")
    with pytest.raises(KinetError, match=r"w\.pth: not a readable state dict"):
        read_state_dict(tmp_path / "w.pth")
    assert not Path("/tmp/kinet-trt-was-careless").exists()


@pytest.mark.parametrize("content", [5, [torch.zeros(1)], {"a": 1}, torch.zeros(3), {"state_dict": {"a": "b"}}])
def test_import_reports_other_content(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(KinetError, match=r"w\.pth"):
        import_weights(tmp_path / "w.pth", tmp_path / "k.pt", None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("out_tr.conv2.bias"), "1 are missing, like out_tr.conv2.bias"),
        (lambda w: w.update(extra=torch.zeros(1)), "1 are unknown, like extra"),
        (lambda w: w.update({"out_tr.conv2.bias": torch.zeros(4)}), r"out_tr.conv2.bias is \[4\] instead of \[3\]"),
        (lambda w: w.update({"in_tr_100.conv.weight": torch.zeros(7)}), "is .* instead of"),
        (lambda w: w.update({"in_tr_100.bn.bias": torch.full((4,), torch.nan)}), "in_tr_100.bn.bias contains NaN"),
        (lambda w: w.update({"up1_ROI.bn1.bias": torch.zeros(8)}), "are missing, like"),
        (lambda w: w.clear(), r"expected the \d+ tensors of the authors' release"),
    ],
)
def test_import_reports_weights_of_another_network(
    tmp_path: Path, small: tuple[Path, dict[str, Tensor]], change: Callable[[dict[str, Tensor]], Any], says: str
) -> None:
    weights = dict(small[1])
    change(weights)
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(KinetError, match=says) as raised:
        import_weights(tmp_path / "w.pth", tmp_path / "k.pt", None)
    assert "w.pth" in str(raised.value)
    assert not (tmp_path / "k.pt").exists()


def test_import_reports_missing_files_and_folders(tmp_path: Path, small: tuple[Path, dict[str, Tensor]]) -> None:
    with pytest.raises(KinetError, match=r"missing\.pth: no such state dict"):
        import_weights(tmp_path / "missing.pth", tmp_path / "k.pt", None)
    with pytest.raises(KinetError, match="nowhere"):
        import_weights(small[0], tmp_path / "k.pt", tmp_path / "nowhere")
