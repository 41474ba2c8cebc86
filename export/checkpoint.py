"""``kinet.pt``: a network's configuration and weights, and what its model card will say."""

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


@dataclass(frozen=True)
class Traits:
    """What training fixes besides the weights.

    Attributes
    ----------
    classes
        Class names in the order of the maps.
    mpp
        Scale of the training fields, um/px.
    mean, std
        Of RGB, 0 to 1, by which pixels are normalised: ``(pixel / 255 - mean) / std``.
    threshold
        Least peak, chosen on validation fields.
    nms_radius
        Half the NMS window, px.
    data
        Where the training fields came from, in words.
    metrics
        Validation figures at that threshold, by name.
    """

    classes: tuple[str, ...] = CLASSES
    mpp: float = 0.34
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    threshold: float = 0.4
    nms_radius: int = 5
    data: str = "none: random weights"
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A network in evaluation mode, its traits, and what a resumed training needs (empty when it cannot resume)."""

    network: Network
    traits: Traits
    resume: dict[str, Any] = field(default_factory=dict)


def save(path: Path, network: Network, traits: Traits, resume: dict[str, Any] | None = None) -> None:
    """Write a checkpoint, atomically."""
    buffer = io.BytesIO()
    torch.save(
        {
            "schema": SCHEMA,
            "network": asdict(network.config),
            "weights": {name: value.detach().cpu() for name, value in network.state_dict().items()},
            "traits": asdict(traits),
            "resume": resume or {},
        },
        buffer,
    )
    write_atomic(path, buffer.getvalue())


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing but tensors and plain values is unpickled.

    Raises
    ------
    KinetError
        If the file is missing, damaged, of a newer version, or not one of ours.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise KinetError(f"{path}: no such checkpoint") from None
    # torch's readers raise many kinds of errors on damaged files; all of them mean the same to the user.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise KinetError(f"{path}: not a readable checkpoint ({reason})") from error
    if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
        raise KinetError(f"{path}: not a kinet-trt checkpoint: expected one that `kinet-trt train` wrote")
    if content["schema"] > SCHEMA:
        raise KinetError(
            f"{path}: checkpoint version {content['schema']}, this kinet-trt reads up to {SCHEMA}: upgrade kinet-trt"
        )
    try:
        network = build(NetworkConfig(**content["network"]))
        network.load_state_dict(content["weights"])
        traits = content["traits"]
        traits = Traits(**{**traits, **{name: tuple(traits[name]) for name in ("classes", "mean", "std")}})
        return Checkpoint(network.eval(), traits, dict(content["resume"]))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise KinetError(f"{path}: the checkpoint is inconsistent ({error}): copy it again") from error


def describe(path: Path) -> dict[str, Any]:
    """Say what a checkpoint holds, in the form of :func:`kinet_trt.onnx_graph.inspect.inspect_file`.

    Raises
    ------
    KinetError
        As :func:`load`.
    """
    checkpoint = load(path)
    network, content = checkpoint.network, path.read_bytes()
    layers: dict[str, dict[str, Any]] = {}
    for layer in network.modules():
        if any(layer.children()):
            continue
        own = list(layer.parameters())
        name = type(layer).__name__
        row = layers.setdefault(name, {"type": name, "count": 0, "parameters": 0, "bytes": 0})
        row["count"] += 1
        row["parameters"] += sum(weight.numel() for weight in own)
        row["bytes"] += sum(weight.numel() * weight.element_size() for weight in own)
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
        "card": {"name": path.stem, "network": config, **asdict(checkpoint.traits)},
        "layers": rows,
        "total": {name: sum(row[name] for row in rows) for name in ("count", "parameters", "bytes")},
        "notes": [f"A checkpoint of kinet-trt train. {resumes} kinet-trt export converts it to a model."],
    }
