"""Time what a network at half resolution could be made of: stem, levels, blocks, joins and heads.

    python benchmarks/half_resolution.py    # with nothing else on the machine

Each candidate differs in one choice from ``half`` (:mod:`kinet_trt.export.networks.half`) at width 16. All have random
weights and run in turn with the first kinet-edge, in OpenVINO, on frames of 608 x 608 px: in FP32, and in
INT8 with all convolutions quantised. Results: benchmarks/results/half_resolution.json. How well a network learns is
another question: benchmarks/search.py.
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch
from kinet_trt.export.networks.base import convolution
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kinet_trt.core.files import write_atomic
from kinet_trt.core.telemetry import no_telemetry
from kinet_trt.engines.openvino import core
from kinet_trt.evaluation.benchmark import machine

with no_telemetry():
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "half_resolution.json"
REFERENCE = ROOT / "benchmarks" / "models" / "kinet-edge-0.onnx"
SIDE, ROUNDS, THREADS = 608, 15, 2


@dataclass(frozen=True)
class Candidate:
    """Choices of a network; the defaults are those of ``half`` at width 16.

    Attributes
    ----------
    stem
        ``"k6s2"``: one convolution; ``"unshuffle2"``: space-to-depth, then k3; ``"k6s2-k3s2"``: two, to a quarter.
    channels
        Of each level, from the finest on.
    encoder, decoder
        Blocks of each level, from the finest on; the deepest level has no decoder.
    block
        ``"residual"`` (two k3), ``"plain"`` (one k3), ``"inverted"`` (k1 to twice the channels, depthwise k3, k1) or
        ``"separable"`` (depthwise k5, k1 to twice the channels, k1).
    up
        ``"repeat"`` (k1, then each value 2 x 2 times), ``"transposed2"`` or ``"transposed4"`` (that kernel, stride 2).
    join
        ``"add"`` or ``"concatenate"`` (and a k3 to the level's channels).
    head
        ``"shuffle"``, ``"transposed"`` or ``"bilinear"``: how maps get full resolution.
    """

    stem: str = "k6s2"
    channels: tuple[int, ...] = (16, 48, 96, 160)
    encoder: tuple[int, ...] = (0, 1, 1, 1)
    decoder: tuple[int, ...] = (0, 1, 1)
    block: str = "residual"
    up: str = "repeat"
    join: str = "add"
    head: str = "shuffle"


HALF = Candidate()
CANDIDATES = {
    "half, width 16": HALF,
    "stem: space-to-depth, k3": replace(HALF, stem="unshuffle2"),
    "stem: to a quarter": replace(HALF, stem="k6s2-k3s2", channels=(48, 96, 160), encoder=(1, 1, 1), decoder=(1, 1)),
    "levels: five": replace(HALF, channels=(16, 48, 96, 160, 160), encoder=(0, 1, 1, 1, 1), decoder=(0, 1, 1, 1)),
    "levels: three": replace(HALF, channels=(16, 48, 96), encoder=(0, 1, 1), decoder=(0, 1)),
    "channels: 16, 32, 64, 128": replace(HALF, channels=(16, 32, 64, 128), encoder=(0, 1, 1, 1), decoder=(1, 1, 1)),
    "channels: 32, 96, 192, 320": replace(HALF, channels=(32, 96, 192, 320)),
    "blocks: one k3": replace(HALF, block="plain", encoder=(0, 2, 2, 2), decoder=(0, 2, 2)),
    "blocks: inverted": replace(HALF, channels=(16, 64, 128, 256), block="inverted", encoder=(0, 2, 2, 2)),
    "blocks: separable": replace(HALF, channels=(16, 64, 128, 256), block="separable", encoder=(0, 2, 2, 2)),
    "up: transposed k2": replace(HALF, up="transposed2"),
    "up: transposed k4": replace(HALF, up="transposed4"),
    "join: concatenate": replace(HALF, join="concatenate"),
    "head: transposed k4": replace(HALF, head="transposed"),
    "head: bilinear": replace(HALF, head="bilinear"),
}


class _Plus(nn.Module):
    """Layers, and the identity added to their output."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + x  # type: ignore[no-any-return]


def _grouped(channels: int, kernel: int, act: nn.Module) -> nn.Sequential:
    layer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(channels), act)


def _block(kind: str, c: int) -> nn.Module:
    act, none = nn.ReLU(inplace=True), nn.Identity()
    if kind == "residual":
        return _Plus(convolution(c, c, act), convolution(c, c, act))
    if kind == "plain":
        return convolution(c, c, act)
    if kind == "inverted":
        return _Plus(convolution(c, 2 * c, act, 1), _grouped(2 * c, 3, act), convolution(2 * c, c, none, 1))
    return _Plus(_grouped(c, 5, none), convolution(c, 2 * c, act, 1), convolution(2 * c, c, none, 1))


class Network(nn.Module):
    """A candidate: camera pixels in, maps out."""

    def __init__(self, plan: Candidate) -> None:
        super().__init__()
        c, act = plan.channels, nn.ReLU(inplace=True)
        first = 16 if plan.stem == "k6s2-k3s2" else c[0]
        one = nn.Sequential(nn.Conv2d(3, first, 6, 2, 2, bias=False), nn.BatchNorm2d(first), act)
        self.stem = {
            "k6s2": one,
            "unshuffle2": nn.Sequential(nn.PixelUnshuffle(2), convolution(12, c[0], act)),
            "k6s2-k3s2": nn.Sequential(one, convolution(first, c[0], act, stride=2)),
        }[plan.stem]
        step = 4 if plan.stem == "k6s2-k3s2" else 2
        levels = range(len(c))
        self.down = nn.ModuleList(
            nn.Identity() if i == 0 else convolution(c[i - 1], c[i], act, stride=2) for i in levels
        )
        self.encoder = nn.ModuleList(
            nn.Sequential(*[_block(plan.block, c[i]) for _ in range(plan.encoder[i])]) for i in levels
        )
        self.up = nn.ModuleList(self._up(plan.up, c[i + 1], c[i]) for i in levels[:-1])
        self.joined = nn.ModuleList(
            convolution(2 * c[i], c[i], act) if plan.join == "concatenate" else nn.Identity() for i in levels[:-1]
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(*[_block(plan.block, c[i]) for _ in range(plan.decoder[i])]) for i in levels[:-1]
        )
        last = {
            "shuffle": (nn.Conv2d(c[0], 3 * step**2, 3, padding=1), nn.PixelShuffle(step)),
            "transposed": (nn.ConvTranspose2d(c[0], 3, 2 * step, step, step // 2),),
            "bilinear": (nn.Conv2d(c[0], 3, 3, padding=1), nn.Upsample(scale_factor=step, mode="bilinear")),
        }[plan.head]
        self.head = nn.Sequential(convolution(c[0], c[0], act), *last)

    @staticmethod
    def _up(kind: str, inputs: int, outputs: int) -> nn.Module:
        if kind == "repeat":
            return nn.Sequential(convolution(inputs, outputs, nn.ReLU(), 1), nn.Upsample(scale_factor=2))
        kernel = int(kind[-1])
        layer = nn.ConvTranspose2d(inputs, outputs, kernel, 2, (kernel - 2) // 2, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, frame: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] to float [N, 3, H, W]."""
        x = self.stem(frame.permute(0, 3, 1, 2).float() / 64 - 2)
        skips = []
        for down, blocks in zip(self.down, self.encoder, strict=True):
            x = blocks(down(x))
            skips.append(x)
        for i in reversed(range(len(self.up))):
            up, skip = self.up[i](x), skips[i]
            both = up + skip if isinstance(self.joined[i], nn.Identity) else torch.cat([up, skip], 1)
            x = self.decoder[i](self.joined[i](both))
        return self.head(x)  # type: ignore[no-any-return]


class _Noise(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.frames = iter([{"frame": _frame(seed)} for seed in range(2)])

    def get_next(self) -> Any:
        return next(self.frames, None)


def _frame(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)


def _traced(network: nn.Module) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.from_numpy(_frame(0)),), buffer, opset_version=18, dynamo=False, input_names=["frame"]
        )
    return buffer.getvalue()


def _int8(model: bytes) -> bytes:
    """Quantise all convolutions, with ranges of noise: right for time, not for accuracy."""
    graph = onnx.load_from_string(model)
    for number, node in enumerate(graph.graph.node):
        node.name = f"{node.op_type}{number}"
    with tempfile.TemporaryDirectory() as folder:
        first, second = (Path(folder) / name for name in ("fp32.onnx", "int8.onnx"))
        onnx.save(graph, first)
        quantize_static(
            *(first, second, _Noise()),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
        return second.read_bytes()


def _opened(model: bytes) -> Any:
    graph = core().read_model(io.BytesIO(model))
    graph.reshape([1, SIDE, SIDE, 3])
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}
    return core().compile_model(graph, "CPU", config).create_infer_request()


def main() -> None:
    """Write the times of every candidate."""
    logging.getLogger().setLevel(logging.ERROR)
    requests = {"kinet-edge": _opened(REFERENCE.read_bytes())}
    rows: dict[str, dict[str, Any]] = {"kinet-edge": {}}
    for name, plan in CANDIDATES.items():
        torch.manual_seed(0)
        network = Network(plan).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.from_numpy(_frame(0)))
        rows[name] = {
            "plan": asdict(plan),
            "parameters": sum(p.numel() for p in network.parameters()),
            "kmac_per_px": round(counter.get_total_flops() / 2 / SIDE**2 / 1000, 2),
        }
        model = _traced(network)
        requests[name], requests[f"{name} int8"] = _opened(model), _opened(_int8(model))
    frame = _frame(9)
    times: dict[str, list[float]] = {name: [] for name in requests}
    for turn in range(ROUNDS + 1):
        for name, request in requests.items():
            begun = time.perf_counter()
            request.infer([frame])
            if turn:
                times[name].append(1000 * (time.perf_counter() - begun))
    base = times["kinet-edge"]
    for name, row in rows.items():
        for key, own in (("fp32", times[name]), ("int8", times.get(f"{name} int8"))):
            if own:
                ratio = median(a / b for a, b in zip(base, own, strict=True))
                row |= {f"{key}_ms": round(median(own), 2), f"{key}_times_kinet_edge": round(ratio, 2)}
        print(name, {k: v for k, v in row.items() if k != "plan"}, flush=True)
    document = {"schema": 1, "machine": machine(), "side": SIDE, "rounds": ROUNDS, "threads": THREADS, "networks": rows}
    write_atomic(RESULTS, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
