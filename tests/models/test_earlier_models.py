"""Models that were exported by earlier versions can still be read."""

from __future__ import annotations

from pathlib import Path

from kinet_trt import NucleusCounter
from kinet_trt.simulation import simulate

FIRST = Path(__file__).resolve().parents[2] / "benchmarks" / "models" / "kinet-edge-0.onnx"


def test_first_kinet_edge_still_counts() -> None:
    counter = NucleusCounter(FIRST, precision="fp32", threads=1)
    card = counter.engine.card
    assert (card.name, card.network, card.threshold) == ("kinet-edge", "paper, width 16, relu", 0.325)
    pixels, truth = simulate.field(7, 160, 128)
    assert abs(len(counter(pixels).x) - len(truth.x)) < 0.25 * len(truth.x)
