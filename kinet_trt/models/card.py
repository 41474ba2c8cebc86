"""ModelCard: metadata of a compiled model, and the check that a model's bytes match its card.

In an ONNX file the card is JSON in the metadata, next to its own sha256. It is read without the ``onnx`` package, by
walking the outermost level of the protobuf, and the model's hash is checked before any native parser reads the bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from kinet_trt.core.detections import CLASSES
from kinet_trt.core.errors import CardError, shown
from kinet_trt.core.notice import NOTICE
from kinet_trt.core.runtimes import PRECISIONS
from kinet_trt.core.units import MAX_MPP, MIN_MPP, is_mpp

VERSION = 1
CARD_KEY = "kinet_trt.card"
CARD_HASH_KEY = "kinet_trt.card.sha256"

_TEXTS = (
    *("name", "weights_precision", "runtime", "runtime_version", "gpu", "network", "data", "licence", "notice"),
    *("weights_sha256", "calibration_sha256", "model_sha256"),
)
_METADATA_FIELD = 14  # ModelProto.metadata_props
_MAX_SIDE = 1 << 16

Profile = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
"""Minimum, optimum and maximum shape [N, H, W] of the frames that an engine accepts, px."""


@dataclass(frozen=True)
class ModelCard:
    """Metadata that is needed to count with a model.

    Attributes
    ----------
    name
        Name of the model.
    classes
        Nucleus classes in the order of the maps.
    mpp
        Scale at which it was trained, um/px.
    mean, std
        Normalisation ``(pixel / 255 - mean) / std`` per channel; part of the graph.
    colour_order
        Channel order of the input: ``"RGB"``.
    multiple
        Height and width are multiples of this many px.
    tile, halo
        Side of the core of a tile and the margin around it, px. The halo is at least the receptive field plus the NMS
        radius, so that tiled detections equal those of the whole image.
    threshold
        Minimum height of a peak, chosen on validation fields.
    nms_radius
        Radius of the suppression window, px (side 2 x radius + 1).
    precision
        Precision of the computation, ``"fp32"``, ``"fp16"`` or ``"int8"``.
    weights_precision
        Precision of the stored weights.
    roi
        Whether it also outputs the tumour-region map.
    capacity
        Maximum number of nuclei per frame of a fused model; 0 if it is not fused and outputs maps.
    runtime, runtime_version, gpu
        Runtime, its version, and GPU of a compiled engine; empty for an ONNX file, which any runtime can compile.
    profile
        Minimum, optimum and maximum shape [N, H, W] of a compiled engine; None for any.
    weights_sha256, calibration_sha256, model_sha256
        Hashes of the weights, the calibration images and the model (ONNX: without its metadata; engine: all bytes).
    network
        Architecture, width and activation.
    data, licence
        Training data, and terms of use.
    parity
        Differences from PyTorch, measured during export.
    metrics
        Validation metrics at the threshold.
    quantisation
        For an INT8 model: calibration, layers kept in floating point, loss on held-out images.
    notice
        Intended use.
    version
        Version of the card's format.
    """

    name: str
    mpp: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    threshold: float
    classes: tuple[str, ...] = CLASSES
    colour_order: str = "RGB"
    multiple: int = 16
    tile: int = 1024
    halo: int = 144
    nms_radius: int = 5
    precision: str = "fp32"
    weights_precision: str = "fp32"
    roi: bool = False
    capacity: int = 0
    runtime: str = ""
    runtime_version: str = ""
    gpu: str = ""
    profile: Profile | None = None
    weights_sha256: str = ""
    calibration_sha256: str = ""
    model_sha256: str = ""
    network: str = ""
    data: str = ""
    licence: str = ""
    parity: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    quantisation: Mapping[str, Any] = field(default_factory=dict)
    notice: str = NOTICE
    version: int = VERSION

    def __post_init__(self) -> None:
        named = isinstance(self.classes, tuple) and all(isinstance(name, str) and name for name in self.classes)
        _expect(named and len(set(self.classes)) == len(self.classes) > 0, "classes", "distinct names", self)
        _expect(is_mpp(self.mpp), "mpp", f"µm/px from {MIN_MPP:g} to {MAX_MPP:g}", self)
        _expect(len(self.mean) == 3 and all(map(_is_number, self.mean)), "mean", "three numbers", self)
        _expect(
            len(self.std) == 3 and all(_is_number(s) and s > 0 for s in self.std), "std", "three positive numbers", self
        )
        _expect(_is_number(self.threshold), "threshold", "a finite number", self)
        _expect(self.colour_order == "RGB", "colour_order", "'RGB'", self)
        _expect(_is_size(self.multiple), "multiple", "a positive number of px", self)
        for name in ("tile", "halo"):
            value = getattr(self, name)
            aligned = _is_size(value) and value % self.multiple == 0
            _expect(aligned, name, f"a positive multiple of {self.multiple} px", self)
        _expect(_is_size(self.nms_radius) and self.nms_radius <= 64, "nms_radius", "1 to 64 px", self)
        _expect(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}", self)
        for name in _TEXTS:
            _expect(isinstance(getattr(self, name), str), name, "text", self)
        ordered = self.profile is None or _is_profile(self.profile, self.multiple)
        _expect(ordered, "profile", f"three increasing shapes N, H, W (H and W multiples of {self.multiple} px)", self)
        _expect(isinstance(self.roi, bool), "roi", "true or false", self)
        _expect(self.capacity == 0 or _is_size(self.capacity), "capacity", "0, or a number of nuclei", self)
        for name in ("parity", "metrics", "quantisation"):
            _expect(isinstance(getattr(self, name), Mapping), name, "figures by name", self)

    def to_json(self) -> str:
        """Return the card as JSON, keys sorted."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Read and validate a card.

        Raises
        ------
        CardError
            If it is of a newer version, incomplete, or contains an invalid value.
        """
        try:
            raw = json.loads(text, parse_constant=_finite)
        except (ValueError, RecursionError) as error:
            raise CardError(f"the model card is damaged ({error}). Export the model again") from None
        version = raw.get("version") if isinstance(raw, dict) else None
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise CardError(f"the model card is damaged: expected a version number, found {shown(version)}")
        if version > VERSION:
            raise CardError(
                f"the model card is of version {version}, this kinet-trt reads up to version {VERSION}. "
                "Upgrade kinet-trt"
            )
        known = {f.name for f in fields(cls)}
        for name in ("classes", "mean", "std"):
            if isinstance(raw.get(name), list):
                raw[name] = tuple(raw[name])
        if isinstance(raw.get("profile"), list):
            raw["profile"] = tuple(tuple(s) if isinstance(s, list) else s for s in raw["profile"])
        try:
            return cls(**{name: value for name, value in raw.items() if name in known})
        except TypeError as error:
            raise CardError(f"the model card is incomplete or damaged ({error}). Export the model again") from None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _finite(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_SIDE


def _is_profile(value: object, multiple: int) -> bool:
    if not isinstance(value, tuple) or len(value) != 3:
        return False
    shapes = [s for s in value if isinstance(s, tuple) and len(s) == 3 and all(map(_is_size, s))]
    aligned = [s for s in shapes if not s[1] % multiple and not s[2] % multiple]
    return len(aligned) == 3 and all(a <= b <= c for a, b, c in zip(*aligned, strict=True))


def _expect(holds: bool, name: str, expected: str, card: ModelCard) -> None:
    if not holds:
        raise CardError(f"the model card's {name}: expected {expected}, found {shown(getattr(card, name))}")


# --- the card inside an ONNX file -------------------------------------------------------------------------------------


def onnx_hash(model: bytes) -> str:
    """Return the sha256 of a serialised ONNX model without its metadata, in hexadecimal."""
    digest = hashlib.sha256()
    for number, start, _, end in walk(model):
        if number != _METADATA_FIELD:
            digest.update(model[start:end])
    return digest.hexdigest()


def with_card(model: bytes, card: ModelCard) -> bytes:
    """Return a serialised ONNX model with this card, which replaces any other."""
    text = card.to_json()
    entries = {CARD_KEY: text, CARD_HASH_KEY: hashlib.sha256(text.encode()).hexdigest()}
    other_fields = [
        model[start:end]
        for number, start, value, end in walk(model)
        if number != _METADATA_FIELD or _entry(model[value:end])[0] not in entries
    ]
    return b"".join(other_fields) + b"".join(
        _field(_METADATA_FIELD, _field(1, k.encode()) + _field(2, v.encode())) for k, v in entries.items()
    )


def read_onnx_card(model: bytes) -> ModelCard:
    """Read the card of a serialised ONNX model and verify the checksums of both.

    Raise a CardError if there is no card, if it is damaged or newer than this version, or if the model was changed
    after its card was written.
    """
    card = stated_card(model)
    if changed := changed_since(card, model):
        raise CardError(changed)
    return card


def changed_since(card: ModelCard, model: bytes) -> str:
    """Return an error message if a model does not match its card; empty if it does."""
    actual = onnx_hash(model)
    if actual == card.model_sha256:
        return ""
    return (
        f"the model was changed or damaged after its card was written: it was written for sha256 "
        f"{card.model_sha256[:12] or 'none'}, the file has {actual[:12]}. If another tool saved it (a simplifier, an "
        "opset conversion, external data), use the file that kinet-trt wrote, or export it again; else copy it again"
    )


def stated_card(model: bytes) -> ModelCard:
    """Read the card of a serialised ONNX model without checking the model's hash (:func:`changed_since`)."""
    found = dict(_entry(model[value:end]) for number, _, value, end in walk(model) if number == _METADATA_FIELD)
    if CARD_KEY not in found:
        raise CardError(
            "no model card: expected an ONNX file that `kinet-trt export` wrote. Without a card, "
            "um/px, classes and threshold are unknown. Export it again from its checkpoint"
        )
    text = found[CARD_KEY]
    if hashlib.sha256(text.encode()).hexdigest() != found.get(CARD_HASH_KEY):
        raise CardError("the model card is damaged: its checksum is wrong. Copy or export the model again")
    return ModelCard.from_json(text)


def read_card(path: Path) -> tuple[ModelCard, bytes]:
    """Read an ONNX file; return its verified card and its bytes.

    Raises
    ------
    CardError
        As :func:`read_onnx_card`, or if the file cannot be read.
    """
    try:
        model = path.read_bytes()
    except OSError as error:
        raise CardError(f"{path}: the model cannot be read ({error.strerror or error})") from error
    if not model:
        raise CardError(f"{path}: the file is empty (0 bytes). Copy or export it again")
    try:
        return read_onnx_card(model), model
    except CardError as error:
        raise CardError(f"{path}: {error}") from None


def walk(message: bytes | memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, start, start of its value, end) of each field of a protobuf message.

    Raise a CardError if the bytes are not one. The wire format: https://protobuf.dev/programming-guides/encoding
    """
    position = 0
    while position < len(message):
        start = position
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == 2:
            length, position = _varint(message, position)
            end = position + length
        elif wire == 0:
            _, end = _varint(message, position)
        elif wire in (1, 5):
            end = position + (8 if wire == 1 else 4)
        else:
            raise CardError("not an ONNX file, or a damaged one. Copy or export it again")
        if end > len(message) or number == 0:
            raise CardError("not an ONNX file, or one that is cut short. Copy or export it again")
        yield number, start, position, end
        position = end


def _varint(message: bytes | memoryview, position: int) -> tuple[int, int]:
    """Return the unsigned integer at a position of a protobuf message, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise CardError("not an ONNX file, or a damaged one. Copy or export it again")


def _entry(message: bytes) -> tuple[str, str]:
    """Return key and value of a StringStringEntryProto."""
    parts = {number: message[value:end] for number, _, value, end in walk(message)}
    try:
        return parts.get(1, b"").decode(), parts.get(2, b"").decode()
    except UnicodeDecodeError:
        raise CardError("the model's metadata is damaged. Copy or export it again") from None


def _field(number: int, value: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    return _encode(number << 3 | 2) + _encode(len(value)) + value


def _encode(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
