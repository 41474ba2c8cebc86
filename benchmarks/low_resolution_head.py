"""An experiment: what the release's network gains when a part of its head works at an eighth of the resolution.

`python benchmarks/low_resolution_head.py`. Of what the eightfold side up-sampler gives, 9 of 64 pixels depend on the
picture; the others are its activated bias. The head's 5x5 convolution spreads each group of 3x3 over 7x7 pixels, so the
groups never meet, and up-sampler and head together are two pointwise convolutions of the small picture (512 to 576 to
64 x 32 channels) and DepthToSpace. The constant part, and what the padding cuts off at the border, depends only on
which neighbours a small pixel has: a 3x3 convolution of ones. The result is the same but for the order of additions.

Not in `kinet_trt.export` yet: half precision, Q/DQ, TensorRT and the ROI branch's head have not been tried with it.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cpu import SIDE, release_onnx
from kinet_trt.calibration import qdq
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from kinet_trt.engines.openvino import core

STRIDE, KERNEL = 8, 5
ROUNDS = 9


def with_low_resolution_head(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the release's network with the eightfold up-sampler's share of the head at low resolution."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    head = next(n for n in graph.node if n.op_type == "Conv" and stored[n.input[1]].shape[2:] == (KERNEL, KERNEL))
    joined = maker[head.input[0]]
    position, chain, up = _eightfold(joined, maker)
    pad, crop, activation = (next(n for n in chain if n.op_type in kinds) for kinds in (("Pad",), ("Slice",), ("Elu",)))
    before, after = (int(side[-1]) for side in stored[pad.input[1]].reshape(2, -1))
    shift = before - int(stored[crop.input[1]][-1])

    weights, bias = stored[up.input[1]], stored[up.input[2]]
    channels, inputs = weights.shape[0] // STRIDE**2, weights.shape[1]
    phases = weights.reshape(STRIDE, STRIDE, channels, inputs)
    rows = [y for y in range(STRIDE) if np.abs(phases[y]).max() > 0]
    at = _offset(model, joined, position)
    kernel = stored[head.input[1]]
    own, rest = kernel[:, at : at + channels], np.delete(kernel, np.s_[at : at + channels], axis=1)
    constant = np.where(bias[:channels] > 0, bias[:channels], np.expm1(bias[:channels]))

    parts = len(rows) ** 2
    down = np.concatenate([phases[y, x] for y in rows for x in rows])[..., None, None]
    spread = np.zeros((STRIDE, STRIDE, len(kernel), parts, channels), np.float32)
    mask = np.zeros((parts, channels, 1, 3, 3), np.float32)
    for part, (y, x) in enumerate((y + shift, x + shift) for y in rows for x in rows):
        # The first group's first row and column are cut off where no neighbour stands before them.
        mask[part, :, 0, int(y >= before), int(x >= before)] = 1
        for ky in range(KERNEL):
            for kx in range(KERNEL):
                spread[y + KERNEL // 2 - ky, x + KERNEL // 2 - kx, :, part] = own[:, :, ky, kx]
    values = {
        "down.weight": down,
        "down.bias": np.tile(bias[:channels], parts),
        "constant": np.tile(constant, parts).reshape(1, -1, 1, 1),
        "ones.weight": np.zeros((1, inputs, 1, 1)),
        "ones.bias": np.ones(1),
        "mask.weight": mask.reshape(-1, 1, 3, 3),
        "spread.weight": spread.reshape(STRIDE**2 * len(kernel), -1, 1, 1),
        "border.weight": _border(np.einsum("ocyx,c->oyx", own, constant), before, after),
        "rest.weight": rest,
    }
    for name, value in values.items():
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), f"low.{name}"))

    small = up.input[0]
    nodes = [
        helper.make_node("Conv", [small, "low.down.weight", "low.down.bias"], ["low.down"]),
        helper.make_node(activation.op_type, ["low.down"], ["low.active"]),
        helper.make_node("Sub", ["low.active", "low.constant"], ["low.varying"]),
        helper.make_node("Conv", [small, "low.ones.weight", "low.ones.bias"], ["low.ones"]),
        helper.make_node("Conv", ["low.ones", "low.mask.weight"], ["low.mask"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["low.varying", "low.mask"], ["low.inside"]),
        helper.make_node("Conv", ["low.inside", "low.spread.weight"], ["low.spread"]),
        helper.make_node("Conv", ["low.ones", "low.border.weight"], ["low.border"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["low.spread", "low.border"], ["low.packed"]),
        helper.make_node("DepthToSpace", ["low.packed"], ["low.share"], blocksize=STRIDE, mode="DCR"),
        helper.make_node("Concat", [n for i, n in enumerate(joined.input) if i != position], ["low.others"], axis=1),
        helper.make_node("Conv", ["low.others", "low.rest.weight", head.input[2]], ["low.dense"], pads=[2, 2, 2, 2]),
        helper.make_node("Add", ["low.dense", "low.share"], [head.output[0]]),
    ]
    replaced = {node.output[0] for node in (up, *chain, joined)}
    kept = [new for n in graph.node for new in (nodes if n.output[0] == head.output[0] else [n])]
    kept = [node for node in kept if node.output[0] not in replaced]
    del graph.node[:]
    graph.node.extend(kept)
    del graph.value_info[:]
    onnx.checker.check_model(made)
    return made


def _eightfold(
    joined: onnx.NodeProto, maker: Mapping[str, onnx.NodeProto]
) -> tuple[int, list[onnx.NodeProto], onnx.NodeProto]:
    """Return which input of the head's concatenation comes from the up-sampler, the nodes between, and its layer."""
    for position, name in enumerate(joined.input):
        chain, node = list[onnx.NodeProto](), maker[name]
        while node.op_type in ("Pad", "Slice", "DepthToSpace", "Elu"):
            chain.append(node)
            node = maker[node.input[0]]
        sizes = [a.i for n in chain if n.op_type == "DepthToSpace" for a in n.attribute if a.name == "blocksize"]
        if sizes == [STRIDE]:
            return position, chain, node
    raise ValueError("expected the release's network with its up-samplers as pointwise convolutions")


def _offset(model: onnx.ModelProto, joined: onnx.NodeProto, position: int) -> int:
    """Return the channels of a concatenation before one of its inputs."""
    shapes = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    return sum(shapes[name].type.tensor_type.shape.dim[1].dim_value for name in list(joined.input)[:position])


def _border(constant: NDArray[np.float32], before: int, after: int) -> NDArray[np.float32]:
    """Return the weights on the existence of a small pixel's neighbours that give the head's share of the constant."""

    def exists(pixel: int, tap: int) -> int:
        """Which neighbour must be there for a tap to lie inside: 0 the one before, 1 itself, 2 the one after."""
        seen = pixel + tap - KERNEL // 2
        return 0 if seen < before else 2 if seen >= STRIDE - after else 1

    weights = np.zeros((STRIDE, STRIDE, len(constant), 3, 3), np.float32)
    for y in range(STRIDE):
        for x in range(STRIDE):
            for ky in range(KERNEL):
                for kx in range(KERNEL):
                    weights[y, x, :, exists(y, ky), exists(x, kx)] += constant[:, ky, kx]
    return weights.reshape(-1, 1, 3, 3)


def _request(model: onnx.ModelProto, precision: str) -> Any:
    network = core().read_model(io.BytesIO(model.SerializeToString()))
    return core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": precision}).create_infer_request()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        plain = qdq.load(release_onnx(Path(folder)).read_bytes())
    models = {"plain": plain, "low-resolution head": with_low_resolution_head(plain)}
    generator = np.random.default_rng(0)
    for size in ((16, 16), (64, 80), (32, 16), (128, 96)):
        frame = generator.integers(0, 256, (2, *size, 3), np.uint8)
        first, second = (np.array(_request(model, "f32").infer({0: frame})[0]) for model in models.values())
        print(f"{size}: largest difference {np.abs(first - second).max():.1e}, deviation {first.std():.3f}")
    requests = {(name, p): _request(model, p) for name, model in models.items() for p in ("bf16", "f32")}
    took: dict[tuple[str, str], list[float]] = {key: [] for key in requests}
    frame = generator.integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    for _ in range(ROUNDS):
        for key, request in requests.items():
            start = time.process_time()
            request.infer({0: frame})
            took[key].append(time.process_time() - start)
    for key, seconds in took.items():
        print(f"{' '.join(key)}: {1000 * float(np.median(seconds[1:])):.0f} ms of processor time")
