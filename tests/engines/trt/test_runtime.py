"""What the GPU engine says before a GPU is needed; tests/gpu runs it."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import skip
from kinet_trt.core.errors import EngineError
from kinet_trt.engines.tensorrt import runtime as tensorrt
from kinet_trt.engines.tensorrt.runtime import check_profile
from kinet_trt.models.card import ModelCard

PATH = Path("edge.engine")


def card(*profile):
    return ModelCard("edge", 0.5, (0, 0, 0), (1, 1, 1), 0.4, precision="fp16", profile=profile or None)


def test_frames_within_the_profile_are_taken():
    ranged = card((1, 64, 64), (1, 128, 128), (4, 256, 512))
    for shape in ((1, 64, 64), (4, 256, 512), (2, 256, 64)):
        check_profile(ranged, shape, PATH)
    check_profile(card(), (9, 16, 16), PATH)


@pytest.mark.parametrize("shape", [(1, 48, 64), (1, 272, 64), (5, 64, 64), (1, 64, 528)])
def test_frames_outside_are_told_both_sides_and_the_command(shape):
    ranged = card((1, 64, 64), (1, 128, 128), (4, 256, 512))
    with pytest.raises(EngineError) as caught:
        check_profile(ranged, shape, PATH)
    said = str(caught.value)
    assert "edge.engine: built for frames [N, H, W] of 1 x 64 x 64 to 4 x 256 x 512 px" in said
    assert f"found {' x '.join(map(str, shape))} px" in said
    assert f"kinet-trt build edge.onnx -o edge.engine --precision fp16 --size {shape[2]}x{shape[1]}" in said


def test_a_fixed_size_is_named_once():
    with pytest.raises(EngineError, match=r"of 1 x 1088 x 1920 px, found 1 x 64 x 64 px"):
        check_profile(card(*[(1, 1088, 1920)] * 3), (1, 64, 64), PATH)


def test_every_name_of_tensorrt_that_is_used_is_in_every_version_we_serve():
    table = Path(__file__).resolve().parents[4] / "shared" / "tensorrt" / "api-presence.tsv"
    if not table.is_file():
        skip(f"no table of TensorRT's names at {table}")
    with table.open(newline="") as file:
        rows = {row.pop("name"): row for row in csv.DictReader(file, delimiter="\t")}
    code = Path(tensorrt.__file__).read_text()
    used = [
        f"ICudaEngine.{name}"
        for name in re.findall(r"(?:self\.plan|\bplan)\.(num_\w+|get_\w+|create_\w+|device_\w+)", code)
    ]
    used += [f"IExecutionContext.{name}" for name in re.findall(r"context\.(set_\w+|get_\w+|execute\w+)", code)]
    used += [f"Runtime.{name}" for name in re.findall(r"_runtime\.(\w+)", code)]
    used += ["TensorIOMode.OUTPUT", "nptype"]
    assert len(set(used)) >= 13
    assert [name for name in used if set(rows[name].values()) != {"yes"}] == []


class Stream:
    """A CuPy stream, as far as capturing goes."""

    ptr = 7

    def __init__(self, outcome):
        self.outcome, self.capturing, self.calls = outcome, False, []

    def synchronize(self):
        assert not self.capturing

    def begin_capture(self):
        self.capturing = True

    def end_capture(self):
        assert self.capturing
        self.capturing = False
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    ("at_the_end", "inside", "graph"),
    [
        ("a graph", None, "a graph"),
        (RuntimeError("cudaErrorStreamCaptureInvalidated"), None, None),
        (RuntimeError("cudaErrorStreamCaptureInvalidated"), EngineError("it allocates"), None),
        ("half a graph", EngineError("it allocates"), None),
    ],
)
def test_what_cannot_be_captured_runs_without_a_graph(at_the_end, inside, graph, caplog):
    stream = Stream(at_the_end)
    lane = object.__new__(tensorrt._Lane)
    lane._engine, lane._shape, lane._peaks, lane._context = SimpleNamespace(stream=stream), (1, 16, 16), None, object()

    def queue():
        if stream.capturing and inside:
            raise inside

    lane._queue = queue
    with caplog.at_level("INFO"):
        assert lane._capture() == graph
    assert not stream.capturing
    assert [r.getMessage() for r in caplog.records] == (
        [] if graph else [f"no CUDA graph for frames (1, 16, 16): {inside or at_the_end}"]
    )
