"""Checks of the GPU engine that need no GPU; tests/gpu runs the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorrt_api import names_used, versions_with_names

from kinet_trt.core.errors import EngineError
from kinet_trt.engines.tensorrt import loaded_plan, network
from kinet_trt.engines.tensorrt.engine_file import check_profile
from kinet_trt.models.card import ModelCard

PATH = Path("edge.engine")


def card(*profile):
    return ModelCard("edge", 0.5, (0, 0, 0), (1, 1, 1), 0.4, precision="fp16", profile=profile or None)


def test_check_profile_accepts_frames_within():
    ranged = card((1, 64, 64), (1, 128, 128), (4, 256, 512))
    for shape in ((1, 64, 64), (4, 256, 512), (2, 256, 64)):
        check_profile(ranged, shape, PATH)
    check_profile(card(), (9, 16, 16), PATH)


@pytest.mark.parametrize("shape", [(1, 48, 64), (1, 272, 64), (5, 64, 64), (1, 64, 528)])
def test_check_profile_names_both_sizes_and_the_command(shape):
    ranged = card((1, 64, 64), (1, 128, 128), (4, 256, 512))
    with pytest.raises(EngineError) as caught:
        check_profile(ranged, shape, PATH)
    message = str(caught.value)
    assert "edge.engine: built for frames [N, H, W] of 1 x 64 x 64 to 4 x 256 x 512 px" in message
    assert f"found {' x '.join(map(str, shape))} px" in message
    assert f"kinet-trt build edge.onnx -o edge.engine --precision fp16 --size {shape[2]}x{shape[1]}" in message


def test_check_profile_names_a_fixed_size_once():
    with pytest.raises(EngineError, match=r"of 1 x 1088 x 1920 px, found 1 x 64 x 64 px"):
        check_profile(card(*[(1, 1088, 1920)] * 3), (1, 64, 64), PATH)


def test_names_of_tensorrt_at_run_time_are_in_every_version():
    engine, context = "ICudaEngine", "IExecutionContext"
    objects = {"self._engine": engine, "engine": engine, "self._runtime": "Runtime", "context": context, "trt": ""}
    used = names_used(loaded_plan, objects) | names_used(network, {"self._context": context})
    assert len(used) >= 13
    table = versions_with_names()
    assert [name for name in used if set(table[name].values()) != {"yes"}] == []


class Stream:
    """The capture methods of a CuPy stream."""

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
    ("capture_result", "queue_error", "graph"),
    [
        ("a graph", None, "a graph"),
        (RuntimeError("cudaErrorStreamCaptureInvalidated"), None, None),
        (RuntimeError("cudaErrorStreamCaptureInvalidated"), EngineError("it allocates"), None),
        ("half a graph", EngineError("it allocates"), None),
    ],
)
def test_capture_failures_run_without_a_graph(capture_result, queue_error, graph, caplog):
    stream = Stream(capture_result)
    own = object.__new__(network.Network)
    own.stream, own._shape, own._context = stream, (1, 16, 16), object()

    def execute():
        if stream.capturing and queue_error:
            raise queue_error

    own._execute = execute
    with caplog.at_level("INFO"):
        assert own._capture() == graph
    assert not stream.capturing
    assert [r.getMessage() for r in caplog.records] == (
        [] if graph else [f"no CUDA graph for frames (1, 16, 16): {queue_error or capture_result}"]
    )
