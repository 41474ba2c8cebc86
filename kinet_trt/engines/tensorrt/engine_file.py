"""Engine files: ``NAME.engine``, a plain TensorRT plan, and beside it ``NAME.engine.json``, its model card.

These checks need neither TensorRT nor a GPU and come first: parsing a damaged plan, or one of another version, can end
the process.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from kinet_trt.core.errors import CardError, EngineError
from kinet_trt.core.files import write_atomic
from kinet_trt.models.card import ModelCard

AMPERE = "any of compute capability 8.0 or newer"
TURING = "any of compute capability 7.5"
"""Targets of TensorRT for RTX: by default Ampere and newer; Turing needs a separate build."""
_CARD_HASH_KEY = "card_sha256"
_MAX_CARD_BYTES = 1 << 20


def card_path(engine: Path) -> Path:
    """Return the path of an engine's card."""
    return engine.with_name(f"{engine.name}.json")


def write_plan(path: Path, plan: bytes, card: ModelCard) -> None:
    """Write an engine and its card. After a crash between the two, :func:`read_plan` reports that they do not match."""
    raw = json.loads(card.to_json())
    raw[_CARD_HASH_KEY] = _card_hash(raw)
    write_atomic(path, plan)
    write_atomic(card_path(path), json.dumps(raw, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_plan(path: Path) -> tuple[ModelCard, bytes]:
    """Read an engine and its card, and check that both are intact and match.

    Raise a KinetError if a file is missing, unreadable or modified, or the card has a newer version.
    """
    card_file = card_path(path)
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: the engine cannot be read ({error.strerror or error})") from error
    try:
        with card_file.open("rb") as file:
            text = file.read(_MAX_CARD_BYTES + 1)
    except FileNotFoundError:
        raise CardError(
            f"{path}: expected its model card {card_file.name} beside it, found none. Copy both files, or build "
            f"the engine on this machine with: kinet-trt build MODEL.onnx -o {path.name}"
        ) from None
    except OSError as error:
        raise CardError(f"{card_file}: the model card cannot be read ({error.strerror or error})") from error
    try:
        card = _parse(text)
    except CardError as error:
        raise CardError(f"{card_file}: {error}") from None
    actual = hashlib.sha256(plan).hexdigest()
    if actual != card.model_sha256:
        raise CardError(
            f"{path}: this is not the engine that {card_file.name} was written for (sha256 {card.model_sha256[:12]} in "
            f"the card, {actual[:12]} in the file of {len(plan):,} bytes). The copy or the build was interrupted. "
            f"Copy both files again, or rebuild the engine with: {build_command(card, path)}"
        )
    return card, plan


def check_runtime(card: ModelCard, path: Path, name: str, version: str) -> None:
    """Raise an EngineError unless this TensorRT, name and version, built the engine: plans run on no other version."""
    if card.runtime != name or not _is_same_version(card.runtime_version, version):
        raise EngineError(
            f"{path}: built by {card.runtime} {card.runtime_version}, found {name} {version}. An engine needs the "
            f"version that built it. Rebuild the engine with the installed one: {build_command(card, path)}"
        )


def check_gpu(card: ModelCard, path: Path, name: str, capability: tuple[int, int]) -> None:
    """Raise an EngineError unless the engine was built for this GPU; ``name`` is that in the driver."""
    installed = gpu_label(name, capability)
    if card.gpu == AMPERE:
        is_supported = capability >= (8, 0)
    elif card.gpu == TURING:
        is_supported = capability == (7, 5)
    else:
        is_supported = card.gpu == installed
    if not is_supported:
        expected = card.gpu.replace("any of", "any GPU of") if card.gpu in (AMPERE, TURING) else card.gpu
        raise EngineError(
            f"{path}: built for {expected}, found {installed}. Rebuild the engine for this GPU: "
            f"{build_command(card, path)}"
        )


def check_profile(card: ModelCard, shape: tuple[int, int, int], path: Path) -> None:
    """Raise an EngineError unless the engine accepts frames of this shape, [N, H, W] with padding, px."""
    if card.profile is None:
        return
    smallest, _, largest = card.profile
    if all(low <= dim <= high for low, dim, high in zip(smallest, shape, largest, strict=True)):
        return
    rebuilt = replace(card, profile=(shape, shape, shape))
    accepted = " to ".join(dict.fromkeys(f"{n} x {h} x {w}" for n, h, w in (smallest, largest)))
    raise EngineError(
        f"{path}: built for frames [N, H, W] of {accepted} px, found {' x '.join(map(str, shape))} px (at the model's "
        f"{card.mpp:g} um/px, with padding). Rebuild the engine for this size: {build_command(rebuilt, path)}"
    )


def gpu_label(name: str, capability: tuple[int, int]) -> str:
    """Return the GPU entry in the card of an engine built on this GPU."""
    return f"{name} (compute capability {capability[0]}.{capability[1]})"


def rtx_target(capability: tuple[int, int] | None) -> str:
    """Return the target of TensorRT for RTX on a machine with this GPU, or without one (None)."""
    return TURING if capability == (7, 5) else AMPERE


def build_command(card: ModelCard, path: Path) -> str:
    """Return the command that builds an equivalent engine."""
    words = [f"kinet-trt build {card.name or 'MODEL'}.onnx -o {path.name} --precision {card.precision}"]
    if card.precision == "int8":
        words.append("--calibration DIR")
    if card.profile:
        smallest, optimal, largest = card.profile
        words += [f"--size {w}x{h}" for _, h, w in dict.fromkeys((optimal, smallest, largest))]
        words += [f"--batch {largest[0]}"] if largest[0] > 1 else []
    if card.capacity:
        words.append("--fused")
    return " ".join(words)


def _is_same_version(first: str, second: str) -> bool:
    """Whether the parts that both versions state are equal.

    TensorRT 10.3 to 10.7 state three parts in Python and four in C++; ``.postN`` is a number of the package.
    """
    parts = [version.partition(".post")[0].split(".") for version in (first, second)]
    return all(a == b for a, b in zip(*parts, strict=False))


def _parse(text: bytes) -> ModelCard:
    message = "expected the model card of an engine, found {}. Copy it again, or rebuild the engine"
    if len(text) > _MAX_CARD_BYTES:
        raise CardError(message.format(f"more than {_MAX_CARD_BYTES:,} bytes"))
    try:
        decoded = text.decode()
        card = ModelCard.from_json(decoded)
        raw = json.loads(decoded)
        is_intact = raw.get(_CARD_HASH_KEY) == _card_hash(raw)
    except (ValueError, RecursionError) as error:
        raise CardError(message.format(f"damage ({str(error)[:200]})")) from None
    if not is_intact:
        raise CardError(message.format("a wrong checksum (damaged, or edited by hand)"))
    if not card.runtime or not card.runtime_version or card.profile is None:
        raise CardError(message.format("a card without runtime or sizes, as in an ONNX file"))
    return card


def _card_hash(raw: dict[str, Any]) -> str:
    """Return the sha256 of a card without its hash entry; detects a flipped bit, which could change the threshold."""
    content = {name: value for name, value in raw.items() if name != _CARD_HASH_KEY}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
