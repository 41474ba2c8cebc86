"""What a model file holds: card, layers, precisions, memory, without running it and without a GPU."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from kinet_trt.core.errors import CardError, KinetError
from kinet_trt.engines.tensorrt.engine_file import read_plan
from kinet_trt.models.card import CARD_KEY, ModelCard, changed_since, stated_card
from kinet_trt.onnx_graph.reader import BITS, DTYPES, Node, OnnxFile, Tensor, read_onnx

SCHEMA = 1
TILE = 1024
"""Side, px, of the tile for which the memory of activations is given."""

_ELEMENTWISE = (
    "Abs Add And BatchNormalization Cast Ceil Clip DequantizeLinear Div Dropout Elu Erf Exp Floor Gelu HardSigmoid "
    "HardSwish Identity LeakyRelu Log Max Min Mish Mul Neg Not Or PRelu Pow QuantizeLinear Reciprocal Relu Round Selu "
    "Sigmoid Sign Softplus Sqrt Sub Tanh"
)
_LIKEWISE = "Concat Equal Greater GreaterOrEqual InstanceNormalization Less LessOrEqual Pad Softmax Sum Transpose Where"
_IN_PLACE = frozenset(_ELEMENTWISE.split())
_SAME_SIZE = _IN_PLACE.union(_LIKEWISE.split())
_LARGEST_STEP = 1 << 16
_LARGEST_SCALE = 1 << 48
# What is made of the shape of a tensor by these is as large as a tensor again.
_GROWING = frozenset(["ConstantOfShape", "Expand", "Range", "Resize", "Tile", "Upsample"])
_MAKES = {
    **dict.fromkeys(("ArgMax", "ArgMin", "NonZero", "Shape", "Size"), "int64"),
    **dict.fromkeys(("And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN"), "bool"),
    **dict.fromkeys(("Less", "LessOrEqual", "Not", "Or"), "bool"),
}
_POOLS = ("AveragePool", "LpPool", "MaxPool")


@dataclass(frozen=True)
class Layers:
    """All layers of one type.

    Attributes
    ----------
    type
        Like ``"Conv"``.
    count
        How many.
    parameters, bytes
        Of their weights, as stored. Integers of 64 bits are shapes, not weights.
    stored, computed
        What the weights are stored in and what the file says to compute in, like ``"fp16"``; several with ``"+"``.
        ``"int8"`` as computed: between DequantizeLinear nodes, which runtimes fuse.
    macs_per_pixel
        Multiplications with additions for each pixel of the input; None: not known.
    """

    type: str
    count: int
    parameters: int
    bytes: int
    stored: str
    computed: str
    macs_per_pixel: float | None


@dataclass(frozen=True)
class _Flow:
    """What is known of a tensor between layers: pixels for one of the input, channels, type, the weights it comes from.

    ``scale`` and ``channels`` are None where they are not known; ``shape``: it is a few numbers made of a shape.
    """

    scale: Fraction | None
    channels: int | None
    dtype: str
    weights: str = ""
    dequantised: bool = False
    shape: bool = False

    def size(self) -> int | None:
        """Bytes for a tile; None: not known."""
        if self.shape:
            return 0
        if self.scale is None or self.channels is None:
            return None
        return math.ceil(self.scale * self.channels * TILE * TILE * BITS.get(self.dtype, 0) / 8)


def inspect_file(path: Path) -> dict[str, Any]:
    """Describe a ``.onnx`` or ``.engine`` file; a model that was changed after its card was written gets a note.

    Returns
    -------
    dict
        For JSON, schema 1: ``file``, ``kind``, ``size_bytes``, ``sha256``, ``card`` (None: there is none), ``notes``
        and, of an ONNX file, ``producer``, ``opset``, ``inputs``, ``outputs``, ``layers``, ``total``, ``memory``.

    Raises
    ------
    KinetError
        If the file cannot be read, is damaged, or is an engine that its card was not written for.
    """
    kind = path.suffix.lower()
    if kind not in (".onnx", ".engine"):
        raise KinetError(f"{path}: expected a file ending in .onnx, .engine or .pt, found {path.suffix or 'no suffix'}")
    card = None
    if kind == ".engine":
        card, content = read_plan(path)
    else:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise KinetError(f"{path}: the model cannot be read: {error.strerror or error}") from error
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "file": str(path),
        "kind": kind[1:],
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    try:
        return document | (_of_engine(card) if card else _of_onnx(content))
    except CardError as error:
        raise CardError(f"{path}: {error}") from None


def _of_onnx(model: bytes) -> dict[str, Any]:
    file = read_onnx(model)
    card = stated_card(model) if CARD_KEY in file.metadata else None
    rows, memory = summarise(file)
    notes = []
    if card is None:
        notes.append("No model card: kinet-trt export did not write this file, and kinet-trt cannot count with it.")
    if card and (changed := changed_since(card, model)):
        notes.append(f"{changed[0].upper()}{changed[1:]}. kinet-trt does not count with it.")
    if any(tensor.external for tensor in file.constants.values()):
        notes.append("Weights are in other files (external data); kinet-trt reads models of one file.")
    unknown = [row.type for row in rows if row.macs_per_pixel is None]
    if unknown:
        notes.append(f"MACs of {', '.join(unknown)} are unknown: the file does not state their sizes.")
    known = [row.macs_per_pixel for row in rows if row.macs_per_pixel is not None]
    return {
        "card": asdict(card) if card else None,
        "producer": file.producer,
        "opset": dict(file.opset),
        "inputs": [asdict(port) for port in file.inputs],
        "outputs": [asdict(port) for port in file.outputs],
        "layers": [asdict(row) for row in rows],
        "total": {
            "count": len(file.nodes),
            "parameters": sum(row.parameters for row in rows),
            "bytes": sum(row.bytes for row in rows),
            "macs_per_pixel": round(sum(known), 3),
        },
        "memory": memory,
        "notes": notes,
    }


def _of_engine(card: ModelCard) -> dict[str, Any]:
    note = "The layers of an engine are seen only by its runtime on its GPU: inspect the .onnx that it was built from."
    return {"card": asdict(card), "notes": [note]}


def summarise(file: OnnxFile) -> tuple[list[Layers], dict[str, Any]]:
    """Return the layers by type, the heaviest first, and the memory.

    Returns
    -------
    list of Layers
        One for each type.
    dict
        ``weights_bytes`` as stored; ``activations_bytes``, the most that is alive at a time when the layers run in
        the file's order and work in place where they can, estimated for ``tile`` x ``tile`` px (measured on two KiNets
        in FP32, OpenVINO took 1.3 times and ONNX Runtime twice as much); ``activations``: ``"estimated"``;
        ``unknown_tensors``: those whose size is not known and that were left out.
    """
    flows: dict[str, _Flow] = {name: _Flow(None, None, t.dtype, weights=name) for name, t in file.constants.items()}
    constants = dict(file.constants)
    for port in file.inputs:
        flows[port.name] = _Flow(Fraction(1), _channels(port.shape), port.dtype)
    claimed: set[str] = set()
    rows: dict[str, Layers] = {}
    for node in file.nodes:
        if node.op == "Constant" and node.value is not None:
            for name in node.outputs:
                constants[name] = node.value
                flows[name] = _Flow(None, None, node.value.dtype, weights=name)
        ins = [flows.get(name, _Flow(None, None, "?")) for name in node.inputs if name]
        out = _flow(node, ins, constants)
        for name in node.outputs:
            flows.setdefault(name, out)
        row = _row(node, ins, out, constants, claimed)
        rows[row.type] = _merged(rows[row.type], row) if row.type in rows else row
    ordered = sorted(rows.values(), key=lambda r: (-(r.macs_per_pixel or 0), -r.parameters, -r.count, r.type))
    activations, unknown = _activations(file, flows)
    memory = {
        "weights_bytes": sum(row.bytes for row in ordered),
        "activations_bytes": activations,
        "activations": "estimated",
        "tile": TILE,
        "unknown_tensors": unknown,
    }
    return ordered, memory


def _channels(shape: tuple[int | str, ...]) -> int | None:
    """Return the channels of an input [N, H, W, C] or [N, C, H, W]."""
    if len(shape) != 4:
        return None
    last, second = shape[3], shape[1]
    if isinstance(last, int) and 0 < last <= 4:
        return last
    return second if isinstance(second, int) else None


def _flow(node: Node, ins: list[_Flow], constants: Mapping[str, Tensor]) -> _Flow:
    """Return what is known of a node's outputs."""
    if not ins:
        return _Flow(None, None, "?")
    first, moving = ins[0], [one for one in ins if not one.weights]
    dtype = _MAKES.get(node.op, first.dtype)
    if node.op == "Where":
        dtype = ins[1].dtype if len(ins) > 1 else "?"
    elif node.op == "Cast":
        code = (node.numbers.get("to") or (0,))[-1]
        dtype = DTYPES.get(code, ("?", 0))[0]
    elif node.op == "QuantizeLinear":
        dtype = ins[2].dtype if len(ins) > 2 else "uint8"
    elif node.op == "DequantizeLinear":
        dtype = ins[1].dtype if len(ins) > 1 else "fp32"
    if not moving:
        # Weights on their way to a layer, like FP16 ones that are cast to FP32, are still those weights.
        prepared = node.op in ("Cast", "DequantizeLinear", "QuantizeLinear", "Identity")
        return _Flow(None, None, dtype, first.weights if prepared else "", node.op == "DequantizeLinear")
    if node.op in ("Shape", "Size") or (all(one.shape for one in moving) and node.op not in _GROWING):
        return _Flow(None, None, dtype, shape=True)
    scale, channels = first.scale, first.channels
    steps, block, groups = (_product(node, name) for name in ("strides", "blocksize", "group"))
    weights = constants.get(ins[1].weights) if len(ins) > 1 else None
    dims = weights.dims if weights and len(weights.dims) > 1 else None
    if node.op in _POOLS:
        scale = _times(scale, _inverse(steps))
    elif node.op == "Conv":
        scale, channels = _times(scale, _inverse(steps)), dims[0] if dims else None
    elif node.op == "ConvTranspose":
        scale, channels = _times(scale, steps), int(dims[1] * groups) if dims and groups else None
    elif node.op in ("DepthToSpace", "SpaceToDepth"):
        by = _times(block, block)
        by = by if node.op == "DepthToSpace" else _inverse(by)
        scale, channels = _times(scale, by), int(channels / by) if channels is not None and by else None
    elif node.op in ("Resize", "Upsample"):
        scale = _times(scale, _resized(node, constants))
    elif node.op == "Concat":
        parts = [one.channels for one in moving]
        joined = node.numbers.get("axis") in ((1,), (-3,)) and len(moving) == len(ins)
        channels = sum(p for p in parts if p is not None) if joined and None not in parts else None
    elif node.op in _SAME_SIZE:
        scale = max((one.scale for one in moving if one.scale is not None), default=None)
        channels = max((one.channels for one in moving if one.channels is not None), default=None)
    else:
        scale = channels = None
    return _Flow(scale, channels, dtype, dequantised=node.op == "DequantizeLinear")


def _product(node: Node, attribute: str) -> Fraction | None:
    """Return the product of an attribute, 1 if it is left out; None: it makes no sense."""
    numbers = node.numbers.get(attribute) or (1,)
    whole = len(numbers) <= 4 and all(0 < number <= _LARGEST_STEP for number in numbers)
    return Fraction(math.prod(numbers)) if whole else None


def _inverse(factor: Fraction | None) -> Fraction | None:
    return 1 / factor if factor else None


def _resized(node: Node, constants: Mapping[str, Tensor]) -> Fraction | None:
    factors = [constants[name].floats() for name in node.inputs[1:] if name in constants]
    factor = next((math.prod(f) for f in factors if len(f) == 4), 0.0)
    return Fraction(factor).limit_denominator(1 << 20) if 1e-6 < factor < 1e6 else None


def _times(scale: Fraction | None, factor: Fraction | None) -> Fraction | None:
    if scale is None or factor is None:
        return None
    product = scale * factor
    # A chain of nonsense must not grow numbers that take forever to multiply.
    return product if 1 / _LARGEST_SCALE < product < _LARGEST_SCALE and product.denominator < _LARGEST_SCALE else None


def _row(node: Node, ins: list[_Flow], out: _Flow, constants: Mapping[str, Tensor], claimed: set[str]) -> Layers:
    """Return one layer; its weights are claimed, so that no other layer that shares them counts them too."""
    weights = [] if out.weights else list(dict.fromkeys(one.weights for one in ins if one.weights))
    tensors = [constants[name] for name in weights if name in constants and constants[name].dtype != "int64"]
    new = [constants[n] for n in weights if n not in claimed and n in constants and constants[n].dtype != "int64"]
    claimed.update(weights)
    quantised = len(ins) > 1 and all(one.dequantised for one in ins[:2])
    computed = "int8" if quantised else ins[0].dtype if ins and node.op != "Shape" else ""
    # Weights on their way to a layer are made ready once, when the model is opened.
    ready = bool(ins) and all(one.weights for one in ins)
    return Layers(
        type=f"{node.op} of weights" if ready else node.op,
        count=1,
        parameters=sum(tensor.elements for tensor in new),
        bytes=sum(tensor.size for tensor in new),
        stored="+".join(sorted({tensor.dtype for tensor in tensors})),
        computed="" if ready else computed.replace("?", ""),
        macs_per_pixel=_macs(node, ins, out, constants),
    )


def _macs(node: Node, ins: list[_Flow], out: _Flow, constants: Mapping[str, Tensor]) -> float | None:
    if node.op in ("Gemm", "MatMul", "MatMulInteger", "QLinearConv", "ConvInteger", "LSTM", "GRU", "RNN", "Einsum"):
        return None
    if node.op not in ("Conv", "ConvTranspose"):
        return 0.0
    # Each weight is used once for each pixel: of what comes out, or of what a transposed convolution spreads.
    scale = out.scale if node.op == "Conv" else ins[0].scale if ins else None
    weights = constants.get(ins[1].weights) if len(ins) > 1 else None
    return float(weights.elements * scale) if weights and scale is not None else None


def _merged(a: Layers, b: Layers) -> Layers:
    stored, computed = (
        "+".join(sorted({*x.split("+"), *y.split("+")} - {""}))
        for x, y in ((a.stored, b.stored), (a.computed, b.computed))
    )
    macs = None if a.macs_per_pixel is None or b.macs_per_pixel is None else a.macs_per_pixel + b.macs_per_pixel
    return replace(
        a,
        count=a.count + b.count,
        parameters=a.parameters + b.parameters,
        bytes=a.bytes + b.bytes,
        stored=stored,
        computed=computed,
        macs_per_pixel=macs,
    )


def _activations(file: OnnxFile, flows: Mapping[str, _Flow]) -> tuple[int, int]:
    """Return the most bytes alive at a time for a tile, and how many tensors of unknown size were left out."""
    last = {name: i for i, node in enumerate(file.nodes) for name in node.inputs}
    last.update({port.name: len(file.nodes) for port in file.outputs})
    alive: dict[str, int] = {port.name: flows[port.name].size() or 0 for port in file.inputs}
    now = most = sum(alive.values())
    unknown = 0
    for i, node in enumerate(file.nodes):
        made = [] if _is_constant(node, flows) else [name for name in dict.fromkeys(node.outputs) if name not in alive]
        sizes = {name: flows[name].size() for name in made}
        unknown += sum(size is None for size in sizes.values())
        ending = [name for name in dict.fromkeys(node.inputs) if last.get(name) == i and name in alive]
        if node.op in _IN_PLACE and ending:
            now -= alive.pop(ending.pop(0))
        alive.update({name: size or 0 for name, size in sizes.items()})
        now += sum(size or 0 for size in sizes.values())
        most = max(most, now)
        now -= sum(alive.pop(name) for name in ending)
    return most, unknown


def _is_constant(node: Node, flows: Mapping[str, _Flow]) -> bool:
    return all(flows[name].weights for name in node.inputs if name in flows)
