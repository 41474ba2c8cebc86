"""Cost of a network: parameters, multiplications, and time on the available engines, with random weights."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kinet_trt.export.checkpoint import Checkpoint, ModelInfo
from kinet_trt.export.networks.base import Network
from kinet_trt.export.networks.registry import build
from studies import SHOWN, Run
from torch import nn

SIDE = 608
"""Side of the timed frame, px, as in the other benchmarks."""


def parameters(network: Network) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in network.parameters())


def multiplications(network: Network, side: int = 64) -> float:
    """Return multiply-accumulates of convolutions per pixel of the image."""
    total = 0.0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
        # Each weight is used once per pixel of the output, or of the input for transposed convolutions.
        pixels = (output if isinstance(layer, nn.Conv2d) else inputs[0])[0, 0].numel()
        total += layer.weight.numel() * pixels

    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        network(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return total / side**2


def on_cpu(networks: tuple[str, ...], width: int, rounds: int, side: int = SIDE) -> dict[str, Any]:
    """Return the median time per frame of every network on the CPU engines, ms, interleaved."""
    from kinet_trt.export.to_onnx import export

    from kinet_trt.evaluation.benchmark import Setting, measure, simulated_frame

    with tempfile.TemporaryDirectory() as folder:
        settings = []
        for name in networks:
            network = _untrained(name, width)
            model = export(Checkpoint(network, ModelInfo(threshold=0.7)), SHOWN[name], "fp32", False, False)
            path = Path(folder) / f"{name}.onnx"
            path.write_bytes(model.data)
            settings += [(name, Setting(path, "fp32", runtime)) for runtime in ("openvino", "onnxruntime")]
            settings.append((name, Setting(path, "auto", "openvino")))
        document = measure([setting for _, setting in settings], simulated_frame(side, side), rounds)
    rows = [
        {
            "network": name,
            "runtime": row["runtime"],
            "precision": row["precision"],
            "network_ms": row["network_ms"]["p50"],
        }
        for (name, _), row in zip(settings, document["rows"], strict=True)
    ]
    return {"side": side, "width": width, "rounds": rounds, "machine": document["machine"], "rows": rows}


def on_gpu(networks: tuple[str, ...], width: int, rounds: int, side: int = SIDE) -> dict[str, Any]:
    """Return the median time per frame of every network in PyTorch on the GPU, FP16, channels last, ms, interleaved."""
    image = torch.zeros(1, 3, side, side, device="cuda", dtype=torch.float16)
    image = image.contiguous(memory_format=torch.channels_last)
    ready = {
        name: _untrained(name, width).half().to("cuda", memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name in networks
    }
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for _ in range(rounds):
            for name, network in ready.items():
                network(image)
                torch.cuda.synchronize()
                start = time.perf_counter()
                network(image)
                torch.cuda.synchronize()
                times[name].append(1000 * (time.perf_counter() - start))
    rows = [
        {"network": name, "runtime": "PyTorch eager", "precision": "fp16", "network_ms": float(np.median(taken))}
        for name, taken in times.items()
    ]
    machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    return {"side": side, "width": width, "rounds": rounds, "machine": machine, "rows": rows}


def sizes(networks: tuple[str, ...], width: int) -> dict[str, dict[str, float]]:
    """Return parameters, and multiply-accumulates per pixel, of each network."""
    made = {name: _untrained(name, width) for name in networks}
    return {
        name: {"parameters": parameters(network), "macs_per_px": multiplications(network)}
        for name, network in made.items()
    }


def _untrained(name: str, width: int) -> Network:
    """Return the network without the region branch, which is for training only."""
    torch.manual_seed(0)
    return build(Run("okinet" if name == "kinet" else name, 0).config(width)).eval()
