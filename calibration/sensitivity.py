"""Choose the layers that stay in floating point: those whose quantization changes the most nuclei for their cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from kinet_trt.calibration import cost, ranges
from kinet_trt.calibration.ranges import Histogram
from numpy.typing import NDArray

from kinet_trt.engines.openvino import OpenVinoEngine
from kinet_trt.models.card import ModelCard
from kinet_trt.onnx_graph import qdq

MAX_FLOATING = 6
"""Maximum number of layers in floating point; for a network that needs more, FP16 is the better choice."""
MAX_NOISE_SHARE = 0.5
"""Share of the total noise above which a single layer stays in floating point: it distorts the maps, even if few nuclei
in these images change. In kinet-edge, the last layer causes nine tenths of the noise."""
MIN_MOVED = 0.05
"""Share of nuclei moved by all layers together below which all layers are quantized."""
PROBES = 4
"""Number of calibration crops on which single layers are tested."""


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of one layer to quantization."""

    layer: str
    moved: float  # share of nuclei that move or change class if only this layer is quantized
    cost: float  # multiplications per pixel of the image

    @property
    def benefit(self) -> float:
        """Reduction of noise per multiplication in floating point: the squared moved share, since variances add up."""
        return self.moved**2 / self.cost if self.cost else 0.0


@dataclass(frozen=True)
class FloatLayers:
    """The layers that stay in floating point."""

    floating: tuple[str, ...]
    layers: tuple[Sensitivity, ...]  # every layer, in order of decreasing benefit of floating point
    disagreement: float  # with FP32, on the calibration crops; see :func:`cost.disagreement`


def steps(graph: onnx.ModelProto, histograms: Mapping[str, Histogram], floating: Sequence[str]) -> dict[str, float]:
    """Return the quantization step of each tensor that is quantized if these layers stay in floating point."""
    found: dict[str, float] = {}
    for group in qdq.groups(graph, floating):
        found.update(dict.fromkeys(group, ranges.choose_step([histograms[name] for name in group])))
    return found


def choose_floating(
    graph: onnx.ModelProto,
    card: ModelCard,
    histograms: Mapping[str, Histogram],
    frames: Sequence[NDArray[np.uint8]],
    target: float,
    report: Callable[[int, int], None] = lambda *_: None,
) -> FloatLayers:
    """Choose the layers with most of the noise, and then as few others as needed to reach a target.

    ``graph`` is a network with FP32 weights (:func:`kinet_trt.onnx_graph.precision.weights_to_fp32`), ``histograms``
    are those of all tensors that may be quantized, and ``frames`` are calibration crops, RGB uint8 [H, W, 3].
    ``target`` is the maximum disagreement with FP32 for all quantized layers together. ``report`` is called with the
    number of finished layers and of all layers.
    """

    def open_quantized(floating: Sequence[str]) -> OpenVinoEngine:
        quantized = qdq.insert(graph, steps(graph, histograms, floating), floating)
        return OpenVinoEngine(card, quantized.SerializeToString(), "fp32")

    def disagreement() -> float:
        return cost.disagreement(cost.find_all(open_quantized(floating), frames), expected)

    expected = cost.find_all(OpenVinoEngine(card, graph.SerializeToString(), "fp32"), frames)
    layers = qdq.layers(graph)
    names = [layer.name for layer in layers]
    probes = range(0, len(frames), -(-len(frames) // PROBES))
    sensitivities = []
    for number, layer in enumerate(layers):
        others = [name for name in names if name != layer.name]
        nuclei = cost.find_all(open_quantized(others), [frames[i] for i in probes])
        scale = max(histograms[name].scale for name in layer.origins)
        moved = cost.moved_share(nuclei, [expected[i] for i in probes])
        sensitivities.append(Sensitivity(layer.name, moved, layer.cost * scale))
        report(number + 1, len(layers))
    sensitivities.sort(key=lambda layer: -layer.benefit)
    floating = _dominant(sensitivities)
    others = [layer.layer for layer in sensitivities if layer.layer not in floating]
    found = disagreement()
    while found > target and len(floating) < MAX_FLOATING and len(others) > 1:
        floating.append(others.pop(0))
        found = disagreement()
    return FloatLayers(tuple(floating), tuple(sensitivities), found)


def _dominant(layers: Sequence[Sensitivity]) -> list[str]:
    """Return the layers that cause most of the noise of the quantized layers, in decreasing order of noise."""
    rest = sorted(layers, key=lambda layer: layer.moved)
    found: list[str] = []
    while len(rest) > 1 and len(found) < MAX_FLOATING:
        noise = sum(layer.moved**2 for layer in rest)
        if noise <= MIN_MOVED**2 or rest[-1].moved ** 2 <= MAX_NOISE_SHARE * noise:
            break
        found.append(rest.pop().layer)
    return found
