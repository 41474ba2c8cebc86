"""Conversion of an exported model back to a network, for further training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from kinet_trt.export.checkpoint import Checkpoint, ModelInfo
from kinet_trt.export.networks.base import Network, NetworkConfig
from kinet_trt.export.networks.registry import build
from kinet_trt.export.prediction import predict
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from kinet_trt.core.errors import KinetError
from kinet_trt.engines.open import open_model
from kinet_trt.models.model import DEFAULT_MODEL, Model
from kinet_trt.onnx_graph.precision import LAYERS, weights_to_fp32
from kinet_trt.simulation import simulate

DEFAULT_NAME = DEFAULT_MODEL.stem
"""Name of the built-in model."""
DROPOUT = 0.1
"""Dropout rate of the built-in model; cards do not record it."""
MAX_DIFFERENCE = 0.05
"""Largest allowed difference between map values (about 1 at a nucleus) of network and model; FP16 causes less."""


def load(path: Path) -> Checkpoint:
    """Read an ONNX model written by ``kinet-trt export`` as a network.

    Export folds each batch norm into its convolution. Here each batch norm only adds the folded bias;
    :func:`~kinet_trt.export.networks.norms.restore_statistics` then gives it the statistics that training needs. The
    name ``kinet-edge``, if no such file exists, stands for the built-in model. Raise a KinetError if the model cannot
    be read, is INT8 or fused, or is not a network of kinet-trt.
    """
    if path.name in (DEFAULT_NAME, DEFAULT_MODEL.name) and not path.exists():
        return load(DEFAULT_MODEL)
    model = Model.read(path)
    card = model.card
    if card.precision == "int8" or card.capacity:
        raise KinetError(f"{path}: INT8 and fused models cannot be trained further. Start from the original model")
    try:
        config = replace(NetworkConfig.parse(card.network, card.roi), dropout=DROPOUT)
        network = build(config).eval()
        _fill(network, weights_to_fp32(model.graph))
    except (KeyError, ValueError) as error:
        raise KinetError(
            f"{path}: expected the weights of a network that kinet-trt exports, found {card.network!r} "
            f"({error}). Start from its checkpoint"
        ) from None
    metrics = {name: float(value) for name, value in card.metrics.items()}
    info = ModelInfo(card.classes, card.mpp, card.mean, card.std, card.threshold, card.nms_radius, card.data, metrics)
    _check(path, model, Checkpoint(network, info))
    return Checkpoint(network, info)


def _fill(network: Network, graph: onnx.ModelProto) -> None:
    """Copy the weights of the graph into the network; raise KeyError or ValueError if they do not fit."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    inputs_by_weight = {node.input[1]: list(node.input) for node in graph.graph.node if node.op_type in LAYERS}
    modules = list(network.named_modules())
    for (name, module), (next_name, next_module) in zip(modules, [*modules[1:], ("", None)], strict=True):
        if isinstance(module, nn.InstanceNorm2d):
            _copy(module.weight, stored[f"network.{name}.weight"])
            _copy(module.bias, stored[f"network.{name}.bias"])
        if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            continue
        inputs = inputs_by_weight[f"network.{name}.weight"]
        weight = stored[inputs[1]].astype(np.float32)
        bias = stored[inputs[2]].astype(np.float32) if len(inputs) > 2 else np.zeros(weight.shape[0], np.float32)
        if (branch := stored.get(f"network.{name}.side.weight")) is not None:
            weight = _with_branch(module, weight, branch[..., 0, 0].astype(np.float32))
        weight, bias = _unpacked(module, weight, bias)
        _copy(module.weight, weight)
        if isinstance(next_module, nn.BatchNorm2d):
            _set_bias_only(next_module, bias, next_name)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif module.bias is not None:
            _copy(module.bias, bias)


def _unpacked(
    module: nn.Conv2d | nn.ConvTranspose2d, weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Revert the rewrites of export: pointwise up-samplers, expanded kernels, dense groups."""
    kernel, outputs = module.kernel_size[0], module.out_channels
    if isinstance(module, nn.ConvTranspose2d):
        if weight.shape[2:] == (1, 1):
            # Up-sampler alone: the weights of one stride x stride block of output pixels. Up-sampler with the head
            # before it: those of the kernel, followed by extra ones for the border.
            stride = module.stride[0]
            edge = stride if len(weight) == stride**2 * outputs else kernel
            weight = weight[: edge**2 * outputs].reshape(edge, edge, outputs, module.in_channels).transpose(3, 2, 0, 1)
            bias = bias[:outputs]
        if weight.shape[2] > kernel:  # widened by expand_upsampler_kernels
            offset = (module.stride[0] - 2) // 2 - int(module.padding[0])
            weight = weight[:, :, offset : offset + kernel, offset : offset + kernel]
    elif module.groups > 1 and weight.shape[1] == module.in_channels:
        rows, columns = outputs // module.groups, module.in_channels // module.groups
        blocks = [weight[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] for g in range(module.groups)]
        weight = np.concatenate(blocks)
    return weight, bias


def _with_branch(
    module: nn.Conv2d | nn.ConvTranspose2d, weight: NDArray[np.float32], branch: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Restore the part of a head's kernel that export applies before the eightfold up-sampler.

    Entry (y, x, o, t, u, c) of ``branch`` is the weight of tap (t, u) and channel c of the up-sampler for the output o
    at row y and column x (:mod:`kinet_trt.onnx_graph.low_resolution`). The up-sampler is the second of three
    concatenated inputs; the other two have equal sizes.
    """
    (size, outputs), dense = (module.kernel_size[0], module.out_channels), weight.shape[1]
    channels, stride, taps = module.in_channels - dense, 8, 3
    varying = branch[:, : taps**2 * channels].reshape(stride, stride, outputs, taps, taps, channels)[:, :, :, 0, 0]
    # Last output row that the first tap reaches: it holds the kernel's first row.
    last = int(np.flatnonzero(varying.any(axis=(1, 2, 3)))[-1])
    rows = np.arange(last, last - size, -1)
    kernel = varying[np.ix_(rows, rows)].transpose(2, 3, 0, 1)
    return np.concatenate([weight[:, : dense // 2], kernel, weight[:, dense // 2 :]], axis=1)


def _set_bias_only(norm: nn.BatchNorm2d, bias: NDArray[np.float32], name: str) -> None:
    """Set a batch norm so that it only adds the folded bias."""
    assert norm.running_var is not None
    norm.reset_running_stats()
    with torch.no_grad():
        norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps))
    if bias.shape != norm.bias.shape:
        raise ValueError(f"{name}: expected {norm.num_features} channels, found {len(bias)}")
    _copy(norm.bias, bias)


def _copy(parameter: Tensor, values: NDArray[np.float32]) -> None:
    if tuple(parameter.shape) != values.shape:
        raise ValueError(f"expected weights {list(parameter.shape)}, found {list(values.shape)}")
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.array(values, np.float32)))


def _check(path: Path, model: Model, loaded: Checkpoint) -> None:
    """Compare the network with the model on a simulated field."""
    pixels, _ = simulate.field(0, 256, 256)
    expected = open_model(model, "fp32", runtime="openvino").run(pixels[None])[0]
    error = float(np.abs(predict(loaded.network, loaded.info, pixels) - expected).max())
    if not error <= MAX_DIFFERENCE:
        raise KinetError(
            f"{path}: its weights do not reproduce the maps of the model (difference {error:.3g}), so it was not "
            "exported by this version of kinet-trt. Start from its checkpoint"
        )
