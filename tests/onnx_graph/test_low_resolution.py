"""Head at low resolution: equal outputs at every size, and no other change."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper
from samples import network

from kinet_trt.models.model import DEFAULT_MODEL
from kinet_trt.onnx_graph.low_resolution import at_low_resolution
from kinet_trt.onnx_graph.pointwise import as_pointwise
from kinet_trt.onnx_graph.precision import weights_to_fp32


@dataclass(frozen=True)
class Sample:
    """A small network whose head reads a sparse up-sampler and another tensor; defaults to the release's values."""

    stride: int = 8
    margin: int = 3
    taps: tuple[int, ...] = (2, 3, 4)
    kernel: int = 5
    activation: str = "Elu"
    alpha: float = 1.0
    position: int = 1
    outputs: int = 3
    seed: int = 0
    kind: str = ""

    def model(self) -> onnx.ModelProto:
        """Return a variant that must not be rewritten."""
        rng = np.random.default_rng(self.seed)
        s, m, inputs, channels, others = self.stride, self.margin, 4, 2, 3
        up = np.zeros((s, s, channels, inputs))
        up[np.ix_(self.taps, self.taps)] = rng.normal(size=(len(self.taps), len(self.taps), channels, inputs))
        bias = np.tile(rng.normal(size=channels), s * s)
        if self.kind == "biases that differ":
            bias[-1] += 1
        values = {
            "up.weight": up.reshape(-1, inputs, 1, 1),
            "up.bias": bias,
            "head.weight": rng.normal(size=(self.outputs, channels + others, self.kernel, self.kernel)),
            "head.bias": rng.normal(size=self.outputs),
            "plain.weight": np.eye(others).reshape(others, others, 1, 1),
        }
        whole = {
            "margins": [0, 0, m, m, 0, 0, m, m],
            "starts": [m, m],
            "ends": [-m, -m] if self.kind != "cut less than padded" else [2**31] * 2,
            "axes": [2, 3],
        }
        stored = [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in values.items()]
        stored += [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in whole.items()]
        joined = ["plain", "wide"] if self.position == 1 else ["wide", "plain"]
        options = {"alpha": self.alpha} if self.activation == "Elu" else {}
        pads = [self.kernel // 2] * 4
        nodes = [
            helper.make_node("Conv", ["picture", "plain.weight"], ["plain"]),
            helper.make_node("Conv", ["small", "up.weight", "up.bias"], ["up"]),
            helper.make_node(self.activation, ["up"], ["active"], **options),
            helper.make_node("DepthToSpace", ["active"], ["spread"], blocksize=s, mode="DCR"),
            helper.make_node("Slice", ["spread", "starts", "ends", "axes"], ["cut"]),
            helper.make_node("Pad", ["cut", "margins"], ["wide"]),
            helper.make_node("Concat", joined, ["joined"], axis=1),
            helper.make_node("Conv", ["joined", "head.weight", "head.bias"], ["maps"], pads=pads),
        ]
        results = [("maps", self.outputs), *([("wide", channels)] if self.kind == "read twice" else [])]
        graph = helper.make_graph(
            nodes,
            "sparse",
            [
                helper.make_tensor_value_info("small", TensorProto.FLOAT, ["n", inputs, "h", "w"]),
                helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", others, "H", "W"]),
            ],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", k, "H", "W"]) for name, k in results],
            stored,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    def frames(self, n: int, height: int, width: int) -> dict[str, np.ndarray]:
        """Return n inputs for a small image of this height and width."""
        rng = np.random.default_rng(self.seed + 1)
        small = rng.normal(size=(n, 4, height, width)).astype(np.float32)
        picture = rng.normal(size=(n, 3, height * self.stride, width * self.stride)).astype(np.float32)
        return {"small": small, "picture": picture}


def kinds(graph: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph.node)


def run(graph: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["maps"], inputs)[0]


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Draw networks that can be rewritten: all taps are far enough from the border of their pixels."""
    kernel = draw(st.sampled_from([3, 5]))
    reach = kernel // 2
    stride = draw(st.integers(2 * reach + 1, 9))
    rows = st.integers(reach, stride - 1 - reach)
    return Sample(
        stride=stride,
        margin=draw(st.integers(1, stride - reach)),
        taps=tuple(sorted(draw(st.sets(rows, min_size=1)))),
        kernel=kernel,
        activation=draw(st.sampled_from(["Relu", "Elu"])),
        alpha=draw(st.sampled_from([1.0, 0.5])),
        position=draw(st.integers(0, 1)),
        outputs=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 1000)),
    )


@given(sample=samples(), n=st.integers(1, 2), height=st.integers(2, 4), width=st.integers(2, 4))
def test_outputs_are_equal_at_every_size(sample: Sample, n: int, height: int, width: int) -> None:
    before, inputs = sample.model(), sample.frames(n, height, width)
    after = at_low_resolution(before)
    onnx.checker.check_model(after, full_check=True)
    assert kinds(after)["Pad"] == kinds(after)["Slice"] == 0
    expected = run(before, inputs)
    np.testing.assert_allclose(run(after, inputs), expected, atol=2e-5 * np.abs(expected).max())


def test_largest_convolution_has_no_upsampled_inputs() -> None:
    sample = Sample()
    before = sample.model()
    kept = before.SerializeToString()
    after = at_low_resolution(before)
    assert before.SerializeToString() == kept
    shapes = {tensor.name: tuple(tensor.dims) for tensor in after.graph.initializer}
    assert shapes["head.weight"] == (3, 3, 5, 5)
    assert shapes["up.weight"] == (9 * 2 + 8 * 4, 4, 1, 1)
    assert shapes["head.side.weight"] == (64 * 3, 9 * 2 + 8 * 4, 1, 1)
    read = {name for node in after.graph.node for name in node.input}
    assert shapes.keys() <= read


def test_rewritten_network_is_not_changed_again() -> None:
    after = at_low_resolution(Sample().model())
    assert at_low_resolution(after) == after


@pytest.mark.parametrize(
    "sample",
    [
        Sample(kind="biases that differ"),
        Sample(kind="cut less than padded"),
        Sample(kind="read twice"),
        Sample(taps=(1, 2, 3)),  # what they spread reaches the pixels before
        Sample(taps=(4, 5, 6)),
        Sample(margin=7),
        Sample(stride=4, margin=1, taps=(0, 1, 2)),  # the release's fourfold one
    ],
    ids=lambda sample: sample.kind or f"{sample.stride}, {sample.margin}, {sample.taps}",
)
def test_unsuitable_networks_are_not_changed(sample: Sample) -> None:
    before = sample.model()
    assert at_low_resolution(before) == before


def test_other_architectures_are_not_changed() -> None:
    for model in (network(), DEFAULT_MODEL.read_bytes()):
        graph = as_pointwise(weights_to_fp32(onnx.load_from_string(model)))
        assert at_low_resolution(graph) == graph
