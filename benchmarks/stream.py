"""Speed of `NucleusCounter.stream` against a loop of single counts, interleaved on the same frames.

Run: python benchmarks/stream.py [MODEL]
"""

from __future__ import annotations

import statistics
import sys
import time

from kinet_trt import Frame, NucleusCounter
from kinet_trt.simulation import simulate

FRAMES, ROUNDS = 24, 7
SIZE, MPP = (1280, 960), 0.17


def main(model: str | None = None) -> None:
    """Print the ratio for each suitable precision of this machine."""
    frames = [Frame(simulate.field(seed, *SIZE)[0], MPP) for seed in range(4)] * (FRAMES // 4)
    for precision in ("auto", "fp32"):
        with NucleusCounter(model, precision=precision) as counter:
            for _ in counter.stream(frames[:4]):
                pass
            seconds: dict[str, list[float]] = {"loop": [], "stream": []}
            for _ in range(ROUNDS):
                for name in seconds:
                    began = time.perf_counter()
                    for _ in map(counter, frames) if name == "loop" else counter.stream(frames):
                        pass
                    seconds[name].append(time.perf_counter() - began)
        loop, stream = (statistics.median(taken) / FRAMES * 1e3 for taken in seconds.values())
        print(
            f"{counter.engine.precision}: loop {loop:.1f} ms, stream {stream:.1f} ms per frame: {loop / stream:.2f} x"
        )


if __name__ == "__main__":
    main(*sys.argv[1:2])
