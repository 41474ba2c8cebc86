"""Which layers hurt when they are quantised, and which of them are worth their time in float."""

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

MOST_FLOATING = 6
"""Layers that may stay in float; a network that needs more is better off in FP16."""
MOST_ALONE = 0.5
"""Share of all layers' noise that one layer may make; one that makes more roughens the maps for nothing, however few
nuclei that costs on these images. In kinet-edge the last layer makes nine tenths."""
HARMLESS = 0.05
"""Share of nuclei moved by all layers together below which nothing need stay in float."""
PROBES = 4
"""Calibration crops on which single layers are tried."""


@dataclass(frozen=True)
class Sensitivity:
    """A layer.

    Attributes
    ----------
    layer
        Its name.
    moved
        Share of nuclei that move or change class when this layer alone is quantised.
    cost
        Multiplications for each pixel of the image.
    """

    layer: str
    moved: float
    cost: float

    @property
    def worth(self) -> float:
        """What float buys here: the noise that goes away (variances add up, not deviations) for each multiplication."""
        return self.moved**2 / self.cost if self.cost else 0.0


@dataclass(frozen=True)
class Plan:
    """What stays in float.

    Attributes
    ----------
    floating
        Names of layers.
    layers
        Every layer's sensitivity, the most worthwhile in float first.
    disagreement
        With FP32 on the calibration crops; see :func:`kinet_trt.calibration.cost.disagreement`.
    """

    floating: tuple[str, ...]
    layers: tuple[Sensitivity, ...]
    disagreement: float


def steps(graph: onnx.ModelProto, histograms: Mapping[str, Histogram], floating: Sequence[str]) -> dict[str, float]:
    """Return the step of each tensor that is quantised when these layers stay in float."""
    found: dict[str, float] = {}
    for group in qdq.groups(graph, floating):
        found.update(dict.fromkeys(group, ranges.step([histograms[name] for name in group])))
    return found


def plan(
    graph: onnx.ModelProto,
    card: ModelCard,
    histograms: Mapping[str, Histogram],
    frames: Sequence[NDArray[np.uint8]],
    target: float,
    report: Callable[[int, int], None] = lambda *_: None,
) -> Plan:
    """Leave in float what makes most of the noise, and then as few layers as bring the rest down to a target.

    Parameters
    ----------
    graph
        From :func:`kinet_trt.onnx_graph.qdq.load`.
    card
        Its threshold and NMS radius say what a nucleus is.
    histograms
        Of all tensors that may be quantised.
    frames
        Calibration crops, RGB uint8 [H, W, 3].
    target
        Largest disagreement of all quantised layers together.
    report
        Called with the layers done and to do.
    """

    def opened(floating: Sequence[str]) -> OpenVinoEngine:
        made = qdq.insert(graph, steps(graph, histograms, floating), floating)
        return OpenVinoEngine(card, made.SerializeToString(), "fp32")

    expected = cost.nuclei(OpenVinoEngine(card, graph.SerializeToString(), "fp32"), frames)
    layers = qdq.layers(graph)
    names = [layer.name for layer in layers]
    some = range(0, len(frames), -(-len(frames) // PROBES))
    tried = []
    for number, layer in enumerate(layers):
        alone = cost.nuclei(opened([name for name in names if name != layer.name]), [frames[i] for i in some])
        scale = max(histograms[name].scale for name in layer.origins)
        moved = cost.moved(alone, [expected[i] for i in some])
        tried.append(Sensitivity(layer.name, moved, layer.cost * scale))
        report(number + 1, len(layers))
    tried.sort(key=lambda layer: -layer.worth)
    floating = _dominant(tried)
    others = [layer.layer for layer in tried if layer.layer not in floating]
    found = cost.disagreement(cost.nuclei(opened(floating), frames), expected)
    while found > target and len(floating) < MOST_FLOATING and len(others) > 1:
        floating.append(others.pop(0))
        found = cost.disagreement(cost.nuclei(opened(floating), frames), expected)
    return Plan(tuple(floating), tuple(tried), found)


def _dominant(layers: Sequence[Sensitivity]) -> list[str]:
    """Return the layers that make most of the noise of what would be int8, the worst first."""
    rest = sorted(layers, key=lambda layer: layer.moved)
    found: list[str] = []
    while len(rest) > 1 and len(found) < MOST_FLOATING:
        noise = sum(layer.moved**2 for layer in rest)
        if noise <= HARMLESS**2 or rest[-1].moved ** 2 <= MOST_ALONE * noise:
            break
        found.append(rest.pop().layer)
    return found
