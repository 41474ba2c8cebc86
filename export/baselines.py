"""Baselines of the benchmark: networks in eager PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from kinet_trt.export.checkpoint import ModelInfo
from kinet_trt.export.networks.base import NetworkConfig
from kinet_trt.export.networks.registry import build
from kinet_trt.export.prediction import normalise
from numpy.typing import NDArray
from skimage.feature import peak_local_max

from kinet_trt.core.errors import KinetError
from kinet_trt.core.frame import Frame, fit
from kinet_trt.evaluation.benchmark import Candidate
from kinet_trt.models.card import ModelCard
from kinet_trt.peaks.reference import find_peaks


def eager_pytorch(cards: Sequence[ModelCard], frame: Frame) -> dict[str, list[Candidate]]:
    """Return the baselines of each model: the published pipeline, and the model's network in eager PyTorch."""
    networks = {card.network: card for card in cards}
    by_network = {network: eager(card, frame) for network, card in networks.items()}
    return {"published": [published(frame)] * len(cards), "eager": [by_network[card.network] for card in cards]}


def published(frame: Frame) -> Candidate:
    """Return the published pipeline: the release's network at width 32 in FP32, then ``peak_local_max``.

    Weights are random, since only the time is measured.
    """

    def find(maps: NDArray[np.float32]) -> None:
        highest = maps.max(axis=0)
        highest[highest < 0.5 * highest.max()] = 0
        centres = peak_local_max(highest, min_distance=5)  # type: ignore[no-untyped-call]
        maps[:, centres[:, 0], centres[:, 1]].argmax(axis=0)

    return _candidate("published pipeline", NetworkConfig("release", 32, "elu", roi=False), ModelInfo(), frame, find)


def eager(card: ModelCard, frame: Frame) -> Candidate:
    """Return the network of a model card in eager PyTorch in FP32, followed by our peaks; weights are random."""
    try:
        config = NetworkConfig.parse(card.network)
    except ValueError:
        raise KinetError(f"bench: the card of {card.name} names no known network ({card.network!r})") from None

    def find(maps: NDArray[np.float32]) -> None:
        # A threshold above all values of the random map, since real maps have few peaks.
        find_peaks(maps, float(maps.max()), card.nms_radius, card.classes)

    return _candidate(card.network, config, ModelInfo(mpp=card.mpp, mean=card.mean, std=card.std), frame, find)


def _candidate(
    name: str, config: NetworkConfig, info: ModelInfo, frame: Frame, find: Callable[[NDArray[np.float32]], None]
) -> Candidate:
    torch.manual_seed(0)
    network = build(config).eval()

    def run() -> Mapping[str, float]:
        start = time.perf_counter()
        pixels = torch.tensor(fit(frame, info.mpp, config.multiple).pixels[None])
        with torch.inference_mode():
            maps = network(normalise(pixels, info))[0][0].numpy()
        find(maps)
        return {"whole": time.perf_counter() - start}

    return Candidate(name, f"PyTorch {torch.__version__} eager", "fp32", run)
