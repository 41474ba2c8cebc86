"""Shared inputs of the calibration tests: simulated fields, and a small network that is hard to quantize."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np

from kinet_trt.simulation import simulate

CLASS_NAMES = simulate.CLASSES


def write_field(folder: Path, name: str, seed: int, size: int = 192, labels: bool = True, **look) -> None:
    pixels, truth = simulate.SimulatedSlide(seed=seed, glass_share=0.0, **look).region(0, 0, size, size)
    cv2.imwrite(str(folder / f"{name}.png"), pixels[..., ::-1])
    if labels:
        rows = [f"{x},{y},{CLASS_NAMES[c]}" for x, y, c in zip(truth.x, truth.y, truth.cls, strict=True)]
        (folder / f"{name}.csv").write_text("\n".join(["x,y,class", *rows]) + "\n")


def write_fields(folder: Path) -> Path:
    """Write eight labelled fields, from no positive nuclei to many; return the folder."""
    for i in range(8):
        write_field(folder, f"field{i}", 100 + i, positive_fraction=0.1 * i)
    return folder


@functools.cache
def network() -> bytes:
    """Return a small network: residual addition, ELU, skip, both kinds of up-sampler, padding, concatenation."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    stored = []

    def weights(name: str, *shape: int, outputs: int) -> list[str]:
        values = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        bias = rng.normal(0, 0.1, outputs).astype(np.float32)
        stored.extend(
            [numpy_helper.from_array(values, f"{name}.weight"), numpy_helper.from_array(bias, f"{name}.bias")]
        )
        return [f"{name}.weight", f"{name}.bias"]

    def conv(name: str, source: str, inputs: int, outputs: int, stride: int = 1, act: bool = True) -> list:
        made = [f"{name}.linear" if act else name]
        parameters = weights(name, outputs, inputs, 3, 3, outputs=outputs)
        node = helper.make_node("Conv", [source, *parameters], made, name, pads=[1] * 4, strides=[stride] * 2)
        return [node, helper.make_node("Elu", made, [name], f"{name}.act")] if act else [node]

    def up(name: str, source: str, inputs: int, outputs: int, kernel: int, stride: int, pad: int) -> list:
        parameters = weights(name, inputs, outputs, kernel, kernel, outputs=outputs)
        options = {"pads": [pad] * 4, "strides": [stride] * 2}
        node = helper.make_node("ConvTranspose", [source, *parameters], [f"{name}.linear"], name, **options)
        return [node, helper.make_node("Elu", [f"{name}.linear"], [name], f"{name}.act")]

    stored += [
        numpy_helper.from_array(np.float32(1 / 64), "scale"),
        numpy_helper.from_array(np.array([0, 0, 3, 3, 0, 0, 3, 3], np.int64), "margins"),
    ]
    nodes = [
        helper.make_node("Transpose", ["frame"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["image"]),
        *conv("stem", "image", 3, 16),
        *conv("down", "stem", 16, 32, stride=2),
        *conv("block", "down", 32, 32),
        helper.make_node("Add", ["block", "down"], ["sum"]),
        *conv("deep", "sum", 32, 32, stride=2),
        *conv("deeper", "deep", 32, 32, stride=2),
        *up("up2", "sum", 32, 16, 4, 2, 1),
        *up("side8", "deeper", 32, 16, 8, 8, 3),
        helper.make_node("Pad", ["side8", "margins"], ["padded"], "pad"),
        helper.make_node("Concat", ["up2", "stem", "padded"], ["joined"], "join", axis=1),
        *conv("head", "joined", 48, 16),
        *conv("maps", "head", 16, 3, act=False),
    ]
    sides = ["batch", "height", "width"]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [*sides, 3])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["batch", 3, *sides[1:]])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
