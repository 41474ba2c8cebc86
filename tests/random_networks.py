"""Networks with random weights, which are traced once for all tests, since tracing takes most of an export's time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import pytest
import torch
from kinet_trt.export import to_onnx
from kinet_trt.export.checkpoint import Checkpoint, ModelInfo
from kinet_trt.export.networks.base import NetworkConfig
from kinet_trt.export.networks.registry import build
from torch import nn

from kinet_trt.core.files import write_atomic
from kinet_trt.models.model import Model

torch.set_num_threads(1)
INFO = ModelInfo(
    mean=(0.7, 0.6, 0.65), std=(0.2, 0.25, 0.15), threshold=0.3, nms_radius=4, data="simulated", metrics={"figure": 0.5}
)


def checkpoint_of(architecture: str, width: int = 4, **options: Any) -> Checkpoint:
    """Return a checkpoint with random weights and statistics of the batch norms."""
    torch.manual_seed(1)
    net = build(NetworkConfig(architecture, width, **options)).eval()
    randomise_batch_norms(net)
    return Checkpoint(net, INFO)


def randomise_batch_norms(net: nn.Module) -> None:
    """Draw factors and statistics of every batch norm, as after training."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)


@contextmanager
def traces_shared(factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trace a network only if no test of the session, in any worker, has traced one of the same weights."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    trace = to_onnx._traced

    def once(deployed: Any) -> Any:
        path = folder / f"traced-{_digest(deployed)}.onnx"
        if not path.exists():
            write_atomic(path, trace(deployed).SerializeToString())
        return onnx.load(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_onnx, "_traced", once)
        yield


def _digest(deployed: nn.Module) -> str:
    digest = hashlib.sha256(f"{deployed.network.config} {deployed.roi}".encode())
    for name, value in deployed.state_dict().items():
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:32]


def export_with_region(architecture: str, width: int, factory: pytest.TempPathFactory) -> Model:
    """Export a network with the region branch in FP32."""
    with traces_shared(factory):
        checkpoint = checkpoint_of(architecture, width, activation="relu")
        return to_onnx.export(checkpoint, "random", "fp32", half_weights=False, roi=True)
