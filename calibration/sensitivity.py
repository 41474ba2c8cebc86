"""Choose the layers that stay in floating point: those whose quantisation changes most nuclei for their cost."""

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
"""Share of all layers' noise above which a single layer stays in floating point: it distorts the maps, even if few
nuclei of these images change. In kinet-edge the last layer makes nine tenths of the noise."""
MIN_MOVED = 0.05
"""Share of nuclei moved by all layers together below which all layers are quantised."""
PROBES = 4
"""Number of calibration crops on which single layers are tested."""


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of one layer to quantisation.

    Attributes
    ----------
    layer
        Name of the layer.
    moved
        Share of nuclei that move or change class if only this layer is quantised.
    cost
        Multiplications per pixel of the image.
    """

    layer: str
    moved: float
    cost: float

    @property
    def worth(self) -> float:
        """Noise removed per multiplication in floating point. Variances add up, so the moved share is squared."""
        return self.moved**2 / self.cost if self.cost else 0.0


@dataclass(frozen=True)
class FloatLayers:
    """The layers that stay in floating point.

    Attributes
    ----------
    floating
        Names of the layers.
    layers
        Sensitivity of every layer, the most worthwhile in floating point first.
    disagreement
        Disagreement with FP32 on the calibration crops; see :func:`kinet_trt.calibration.cost.disagreement`.
    """

    floating: tuple[str, ...]
    layers: tuple[Sensitivity, ...]
    disagreement: float


def steps(graph: onnx.ModelProto, histograms: Mapping[str, Histogram], floating: Sequence[str]) -> dict[str, float]:
    """Return the quantisation step of each tensor that is quantised if these layers stay in floating point."""
    found: dict[str, float] = {}
    for group in qdq.groups(graph, floating):
        found.update(dict.fromkeys(group, ranges.step([histograms[name] for name in group])))
    return found


def choose_floating(
    graph: onnx.ModelProto,
    card: ModelCard,
    histograms: Mapping[str, Histogram],
    frames: Sequence[NDArray[np.uint8]],
    target: float,
    report: Callable[[int, int], None] = lambda *_: None,
) -> FloatLayers:
    """Keep the layers with most of the noise in floating point, then as few others as needed to reach a target.

    Parameters
    ----------
    graph
        Network with FP32 weights (:func:`kinet_trt.onnx_graph.precision.weights_to_fp32`).
    card
        Model card with threshold and NMS radius.
    histograms
        Histograms of all tensors that may be quantised.
    frames
        Calibration crops, RGB uint8 [H, W, 3].
    target
        Maximum disagreement with FP32 with all quantised layers together.
    report
        Called with the number of finished layers and of all layers.
    """

    def open_quantised(floating: Sequence[str]) -> OpenVinoEngine:
        made = qdq.insert(graph, steps(graph, histograms, floating), floating)
        return OpenVinoEngine(card, made.SerializeToString(), "fp32")

    expected = cost.find_all(OpenVinoEngine(card, graph.SerializeToString(), "fp32"), frames)
    layers = qdq.layers(graph)
    names = [layer.name for layer in layers]
    some = range(0, len(frames), -(-len(frames) // PROBES))
    tried = []
    for number, layer in enumerate(layers):
        alone = cost.find_all(open_quantised([name for name in names if name != layer.name]), [frames[i] for i in some])
        scale = max(histograms[name].scale for name in layer.origins)
        moved = cost.moved_share(alone, [expected[i] for i in some])
        tried.append(Sensitivity(layer.name, moved, layer.cost * scale))
        report(number + 1, len(layers))
    tried.sort(key=lambda layer: -layer.worth)
    floating = _dominant(tried)
    others = [layer.layer for layer in tried if layer.layer not in floating]
    found = cost.disagreement(cost.find_all(open_quantised(floating), frames), expected)
    while found > target and len(floating) < MAX_FLOATING and len(others) > 1:
        floating.append(others.pop(0))
        found = cost.disagreement(cost.find_all(open_quantised(floating), frames), expected)
    return FloatLayers(tuple(floating), tuple(tried), found)


def _dominant(layers: Sequence[Sensitivity]) -> list[str]:
    """Return the layers that make most of the noise of the quantised layers, worst first."""
    rest = sorted(layers, key=lambda layer: layer.moved)
    found: list[str] = []
    while len(rest) > 1 and len(found) < MAX_FLOATING:
        noise = sum(layer.moved**2 for layer in rest)
        if noise <= MIN_MOVED**2 or rest[-1].moved ** 2 <= MAX_NOISE_SHARE * noise:
            break
        found.append(rest.pop().layer)
    return found
