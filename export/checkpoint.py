"""Checkpoints (``kinet.pt``): configuration and weights of a network, and the information for its model card."""

from __future__ import annotations

import hashlib
import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from kinet_trt.export.networks.base import Network, NetworkConfig
from kinet_trt.export.networks.registry import build

from kinet_trt.core.detections import CLASSES
from kinet_trt.core.errors import KinetError
from kinet_trt.core.files import write_atomic

SCHEMA = 1
MPP = 0.34
"""Nominal scale of the training fields, um/px; the sources do not state theirs."""


@dataclass(frozen=True)
class ModelInfo:
    """Results of training other than the weights."""

    classes: tuple[str, ...] = CLASSES  # in the order of the maps
    mpp: float = MPP  # scale of the training fields, um/px
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of RGB, 0 to 1
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)  # normalisation: (pixel / 255 - mean) / std
    threshold: float = 0.4  # minimum height of a peak, chosen on validation fields
    nms_radius: int = 5  # radius of the suppression window, px
    data: str = "none: random weights"  # origin of the training fields, as text
    metrics: dict[str, float] = field(default_factory=dict)  # validation figures at this threshold


@dataclass(frozen=True)
class Checkpoint:
    """Network in evaluation mode, its information, and the state for resuming training, which may be empty."""

    network: Network
    info: ModelInfo
    resume: dict[str, Any] = field(default_factory=dict)


def save(path: Path, network: Network, info: ModelInfo, resume: dict[str, Any] | None = None) -> None:
    """Write a checkpoint atomically."""
    buffer = io.BytesIO()
    torch.save(
        {
            "schema": SCHEMA,
            "network": asdict(network.config),
            "weights": {name: value.detach().cpu() for name, value in network.state_dict().items()},
            "traits": asdict(info),
            "resume": resume or {},
        },
        buffer,
    )
    write_atomic(path, buffer.getvalue())


def read_torch_file(path: Path, kind: str) -> Any:
    """Read a file of ``torch.save``; unpickles only tensors and plain values. ``kind`` names the file in errors."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise KinetError(f"{path}: no such {kind}") from None
    except Exception as error:  # torch raises many kinds of exceptions for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise KinetError(f"{path}: not a readable {kind} ({reason})") from error


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; unpickles only tensors and plain values.

    Raise a KinetError if the file is missing, damaged, of a newer version, or not a kinet-trt checkpoint.
    """
    content = read_torch_file(path, "checkpoint")
    if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
        raise KinetError(f"{path}: not a kinet-trt checkpoint, as `kinet-trt train` writes")
    if content["schema"] > SCHEMA:
        raise KinetError(
            f"{path}: checkpoint version {content['schema']}, this kinet-trt reads up to {SCHEMA}. Upgrade kinet-trt"
        )
    try:
        network = build(NetworkConfig(**content["network"]))
        network.load_state_dict(content["weights"])
        info = content["traits"]
        info = ModelInfo(**{**info, **{name: tuple(info[name]) for name in ("classes", "mean", "std")}})
        return Checkpoint(network.eval(), info, dict(content["resume"]))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise KinetError(f"{path}: the checkpoint is inconsistent ({error}). Copy it again") from error


def describe(path: Path) -> dict[str, Any]:
    """Describe a checkpoint, in the form of :func:`kinet_trt.onnx_graph.inspect.inspect_file`."""
    checkpoint = load(path)
    network, content = checkpoint.network, path.read_bytes()
    layers: dict[str, dict[str, Any]] = {}
    for layer in network.modules():
        if any(layer.children()):
            continue
        name = type(layer).__name__
        row = layers.setdefault(name, {"type": name, "count": 0, "parameters": 0, "bytes": 0})
        row["count"] += 1
        row["parameters"] += sum(weight.numel() for weight in layer.parameters())
        row["bytes"] += sum(weight.nbytes for weight in layer.parameters())
        row |= {"stored": "fp32" if row["bytes"] else "", "computed": ""}
    rows = sorted(layers.values(), key=lambda row: (-row["parameters"], -row["count"], row["type"]))
    config = {name: value for name, value in asdict(network.config).items() if name != "classes"}
    resumes = "Training can resume from it." if checkpoint.resume else "Training cannot resume from it."
    return {
        "schema": SCHEMA,
        "file": str(path),
        "kind": "pt",
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "card": {"name": path.stem, "network": config, **asdict(checkpoint.info)},
        "layers": rows,
        "total": {name: sum(row[name] for row in rows) for name in ("count", "parameters", "bytes")},
        "notes": [f"A checkpoint of kinet-trt train. {resumes} kinet-trt export converts it to a model."],
    }
