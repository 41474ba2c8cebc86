"""Conversion of a checkpoint to an ONNX model with a model card."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch
from kinet_trt.export.checkpoint import Checkpoint, ModelInfo
from kinet_trt.export.networks.base import Network
from kinet_trt.export.networks.registry import reach
from kinet_trt.export.rewrites import densify_groups, expand_upsampler_kernels
from torch import Tensor, nn

from kinet_trt.core.errors import KinetError
from kinet_trt.core.telemetry import no_telemetry
from kinet_trt.models.card import ModelCard
from kinet_trt.models.model import Model
from kinet_trt.onnx_graph.low_resolution import at_low_resolution
from kinet_trt.onnx_graph.pointwise import as_pointwise
from kinet_trt.onnx_graph.precision import compute_in_fp16, weights_to_fp16

OPSET = 18
TILE = 1024
LICENCE = "Weights: research use only; see data for the terms of the sources."


class Deployed(nn.Module):
    """Network as deployed, from camera pixels to maps and, with ``roi``, the tumour probability.

    The normalisation is not folded into the first convolution, which would be exact only if the padding had the mean
    colour.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Network, info: ModelInfo, roi: bool) -> None:
        super().__init__()
        self.network, self.roi = network, roi
        # pixel * scale + shift: one multiplication and one addition per value.
        std = torch.tensor(info.std)
        self.register_buffer("scale", 1 / (255 * std).view(3, 1, 1))
        self.register_buffer("shift", (-torch.tensor(info.mean) / std).view(3, 1, 1))

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """Convert uint8 [N, H, W, 3] to maps, float32 [N, classes, H, W], and with ``roi`` to [N, 1, H, W], too."""
        image = frame.permute(0, 3, 1, 2).float() * self.scale + self.shift
        maps, logits = self.network(image, roi=self.roi)
        return (maps,) if logits is None else (maps, self.network.tumor_probability(logits))


def export(checkpoint: Checkpoint, name: str, precision: str, half_weights: bool, roi: bool) -> Model:
    """Export a checkpoint to an ONNX model with its card, which contains ``name``.

    N is dynamic, H and W are dynamic in multiples of 16 (FCN-8s: 32). Batch norms are folded, no stride exceeds its
    kernel, side up-samplers are pointwise convolutions (the eightfold ones of the release work at low resolution up to
    the head), the graph is simplified by onnxsim, and its opset is 18.

    ``precision``, ``"fp32"`` or ``"fp16"``, is that of the network in every runtime, except for pixels and maps.
    ``half_weights`` stores the weights in FP16 and computes in FP32, for half the file size. ``roi`` outputs the
    tumour-region map.
    """
    if precision not in ("fp32", "fp16"):
        raise KinetError(f"precision: expected fp32 or fp16, found {precision!r}")
    network, info = copy.deepcopy(checkpoint.network), checkpoint.info
    if roi and not network.config.roi:
        raise KinetError("roi: this network was trained without the tumour-region branch. Omit roi")
    multiple = network.config.multiple
    halo = -(-(reach(network) + info.nms_radius) // multiple) * multiple
    graph = _traced(Deployed(densify_groups(expand_upsampler_kernels(network)), info, roi).eval())
    graph = at_low_resolution(as_pointwise(_simplified(graph)))
    if precision == "fp16":
        compute_in_fp16(graph)
    elif half_weights:
        weights_to_fp16(graph)
    card = ModelCard(
        name=name,
        classes=info.classes,
        mpp=info.mpp,
        mean=info.mean,
        std=info.std,
        multiple=multiple,
        tile=TILE,
        halo=halo,
        threshold=info.threshold,
        nms_radius=info.nms_radius,
        precision=precision,
        weights_precision="fp16" if half_weights or precision == "fp16" else "fp32",
        roi=roi,
        weights_sha256=_weights_hash(checkpoint.network),
        network=network.config.summary,
        data=info.data,
        licence=LICENCE,
        metrics=info.metrics,
    )
    return Model.from_graph(graph, card)


def _traced(deployed: Deployed) -> onnx.ModelProto:
    rows, columns = (torch.export.Dim(name, min=2, max=512) for name in ("rows", "columns"))
    multiple = deployed.network.config.multiple
    shapes = {0: torch.export.Dim("batch", min=1, max=1024), 1: multiple * rows, 2: multiple * columns}
    example = torch.zeros(2, 5 * multiple, 7 * multiple, 3, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            deployed,
            (example,),
            input_names=["frame"],
            output_names=["maps", "roi"] if deployed.roi else ["maps"],
            dynamic_shapes=(shapes,),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    found = next(entry.version for entry in graph.opset_import if entry.domain == "")
    if found != OPSET:
        raise KinetError(f"export: expected ONNX opset {OPSET}, found {found}. Run pip install 'kinet-trt[train]'")
    return graph


def _simplified(graph: onnx.ModelProto) -> onnx.ModelProto:
    with no_telemetry():
        import onnxsim  # imports ONNX Runtime

    with _quiet():
        simplified, valid = onnxsim.simplify(graph)
    if not valid:
        raise KinetError(
            "export: onnxsim changed the network's results. Report this with the checkpoint's configuration"
        )
    return simplified  # type: ignore[no-any-return]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the output and warnings of the exporters; their results are verified afterwards."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


def _weights_hash(network: Network) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
