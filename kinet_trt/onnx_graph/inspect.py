"""Describe a model file without running it and without a GPU: card, layers, precisions, memory."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinet_trt.core.errors import CardError, KinetError, MissingExtraError
from kinet_trt.engines.tensorrt.engine_file import read_plan
from kinet_trt.models.card import CARD_KEY, changed_since, stated_card
from kinet_trt.models.model import parse
from kinet_trt.onnx_graph.reader import bits, dtype_name, inputs, ports, text

if TYPE_CHECKING:
    import onnx

SCHEMA = 1
TILE = 1024
"""Width and height of the tile for which the activation memory is estimated, px."""

_ELEMENTWISE = (
    "Abs Add And BatchNormalization Cast Ceil Clip DequantizeLinear Div Dropout Elu Erf Exp Floor Gelu HardSigmoid "
    "HardSwish Identity LeakyRelu Log Max Min Mish Mul Neg Not Or PRelu Pow QuantizeLinear Reciprocal Relu Round Selu "
    "Sigmoid Sign Softplus Sqrt Sub Tanh"
)
_IN_PLACE = frozenset(_ELEMENTWISE.split())
_CONVERSIONS = ("Cast", "DequantizeLinear", "Identity", "QuantizeLinear")
_UNKNOWN_MACS = ("ConvInteger", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "MatMulInteger", "QLinearConv", "RNN")
_MAX_DIMS = 16
_MAX_ELEMENTS = 1 << 40


@dataclass(frozen=True)
class Layers:
    """All layers of one type."""

    type: str  # operator, like "Conv"; those outside the ONNX standard follow their domain
    count: int
    parameters: int  # without 64-bit integers, which are shapes
    bytes: int  # as stored
    stored: str  # types of the weights, joined with "+"
    computed: str  # types of the computation; "int8" if the inputs come from DequantizeLinear nodes
    macs_per_pixel: float | None  # multiply-accumulate operations per input pixel; None if unknown


@dataclass(frozen=True)
class _Tensor:
    """Element type and shape of a tensor; the shape is None if unknown."""

    dtype: str
    shape: tuple[int, ...] | None

    @property
    def elements(self) -> int:
        return math.prod(self.shape or ())

    @property
    def size(self) -> int | None:
        """Size, bytes; None if unknown."""
        return None if self.shape is None else -(-self.elements * bits(self.dtype) // 8)


@dataclass
class _Graph:
    """A graph with the properties of its tensors, by name, for a tile of the input."""

    nodes: list[onnx.NodeProto]  # in execution order
    inputs: list[str]
    outputs: list[str]
    tensors: dict[str, _Tensor]  # all of known type
    pixels: int  # of the tile; 0 if unknown
    constants: set[str] = field(default_factory=set)  # tensors that do not depend on the input
    weights: dict[str, str] = field(default_factory=dict)  # constant -> initializer that it comes from
    dequantized: set[str] = field(default_factory=set)  # outputs of DequantizeLinear nodes


def inspect_file(path: Path) -> dict[str, Any]:
    """Describe a ``.onnx`` or ``.engine`` file; a note reports a model that was changed after its card was written.

    Returns
    -------
    dict
        For JSON, schema 1: ``file``, ``kind``, ``size_bytes``, ``sha256``, ``card`` (None if missing), ``notes``.
        For an ONNX file, if the ``onnx`` package is installed, also ``producer``, ``opset``, ``inputs``, ``outputs``,
        ``layers``, ``total``, ``memory``.

    Raises
    ------
    KinetError
        If the file cannot be read, is damaged, or is an engine that does not match its card.
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
            raise KinetError(f"{path}: the model cannot be read ({error.strerror or error})") from error
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "file": str(path),
        "kind": kind[1:],
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    if card:
        note = "Only TensorRT on the engine's GPU can list its layers. Inspect the .onnx that it was built from."
        return document | {"card": asdict(card), "notes": [note]}
    try:
        return document | _describe_onnx(content)
    except CardError as error:
        raise CardError(f"{path}: {error}") from None


def _describe_onnx(content: bytes) -> dict[str, Any]:
    try:
        model = parse(content)
    except MissingExtraError as error:
        return {"card": asdict(stated_card(content)), "notes": [f"Layers and memory are not shown. {error}"]}
    if not model.graph.node:
        raise CardError("not an ONNX file: the graph has no layers")
    notes = []
    card = stated_card(content) if any(entry.key == CARD_KEY for entry in model.metadata_props) else None
    if card is None:
        notes.append("No model card: this file is not from kinet-trt export. kinet-trt cannot count with it.")
    elif changed := changed_since(card, content):
        notes.append(f"{changed[0].upper()}{changed[1:]}. kinet-trt does not count with it.")
    if any(tensor.data_location == tensor.EXTERNAL for tensor in model.graph.initializer):
        notes.append("Weights are in other files (external data). kinet-trt can only read models in a single file.")
    rows, memory = summarise(model)
    unknown = [row.type for row in rows if row.macs_per_pixel is None]
    if unknown:
        notes.append(f"The MACs of {', '.join(unknown)} are unknown. The total does not include them.")
    return {
        "card": asdict(card) if card else None,
        "producer": f"{text(model.producer_name)} {text(model.producer_version)}".strip(),
        "opset": {text(entry.domain) or "ai.onnx": entry.version for entry in model.opset_import},
        "inputs": [asdict(port) for port in inputs(model.graph)],
        "outputs": [asdict(port) for port in ports(model.graph.output)],
        "layers": [asdict(row) for row in rows],
        "total": {
            "count": len(model.graph.node),
            "parameters": sum(row.parameters for row in rows),
            "bytes": sum(row.bytes for row in rows),
            "macs_per_pixel": round(sum(row.macs_per_pixel or 0 for row in rows), 3),
        },
        "memory": memory,
        "notes": notes,
    }


def summarise(model: onnx.ModelProto) -> tuple[list[Layers], dict[str, Any]]:
    """Return the layers by type, the most expensive first, and the memory.

    The memory is ``weights_bytes`` as stored; ``activations_bytes``, the peak when the layers run in the file's order
    and in place where possible, estimated for ``tile`` x ``tile`` px (measured on two KiNets in FP32, OpenVINO took 1.3
    times and ONNX Runtime twice as much); ``activations``: ``"estimated"``; ``unknown_tensors``: number of tensors of
    unknown size, which were left out.
    """
    graph = _graph(model)
    counted: set[str] = set()
    rows: dict[str, Layers] = {}
    for node in graph.nodes:
        row = _layer(node, graph, counted)
        rows[row.type] = _merged(rows[row.type], row) if row.type in rows else row
    ordered = sorted(rows.values(), key=lambda r: (-(r.macs_per_pixel or 0), -r.parameters, -r.count, r.type))
    activations, unknown = _activations(graph)
    memory = {
        "weights_bytes": sum(row.bytes for row in ordered),
        "activations_bytes": activations,
        "activations": "estimated",
        "tile": TILE,
        "unknown_tensors": unknown,
    }
    return ordered, memory


def _graph(model: onnx.ModelProto) -> _Graph:
    """Infer the shapes of a model for one tile, and find its weights."""
    inferred = _infer_shapes(model)
    tensors = {v.name: _tensor(v) for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    names = [port.name for port in inputs(model.graph)]
    first = tensors[names[0]].shape if names else None
    graph = _Graph(list(model.graph.node), names, [v.name for v in model.graph.output], tensors, _pixels(first))
    for constant in model.graph.initializer:
        tensors[constant.name] = _stored(constant)
        graph.weights[constant.name] = constant.name
    graph.constants.update(graph.weights)
    for node in graph.nodes:
        ins, outs = [name for name in node.input if name], list(node.output)
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                tensors.update(dict.fromkeys(outs, _stored(attribute.t)))
                graph.weights.update(zip(outs, outs, strict=True))
                graph.constants.update(outs)
        if ins and graph.constants.issuperset(ins):
            graph.constants.update(outs)
            # Weights that are converted on their way to a layer, like FP16 to FP32, are still those weights.
            if node.op_type in _CONVERSIONS and ins[0] in graph.weights:
                graph.weights.update(dict.fromkeys(outs, graph.weights[ins[0]]))
        if node.op_type == "DequantizeLinear":
            graph.dequantized.update(outs)
    return graph


def _infer_shapes(model: onnx.ModelProto) -> onnx.GraphProto:
    """Return the graph with the shapes for one tile; without shapes if they cannot be inferred."""
    import onnx

    sized = copy.deepcopy(model)
    # The shapes in the file are those for variable sizes.
    del sized.graph.value_info[:]
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in sized.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                dim.dim_value = TILE if axis else 1
    try:
        return onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError):
        return sized.graph


def _tensor(value: onnx.ValueInfoProto) -> _Tensor:
    kind = value.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
    return _Tensor(dtype_name(kind.elem_type), _shape(dims) if kind.HasField("shape") else None)


def _stored(constant: onnx.TensorProto) -> _Tensor:
    dtype, shape = dtype_name(constant.data_type), _shape(constant.dims)
    if dtype == "?":
        raise _damaged(f"a tensor of the unknown type {constant.data_type}")
    if shape is None:
        raise _damaged(f"a tensor of {' x '.join(map(str, constant.dims[:_MAX_DIMS]))} elements")
    tensor = _Tensor(dtype, shape)
    if constant.HasField("raw_data") and len(constant.raw_data) != tensor.size:
        raise _damaged(f"a tensor of {tensor.size} bytes that contains {len(constant.raw_data)}")
    return tensor


def _shape(dims: Iterable[int]) -> tuple[int, ...] | None:
    """Return a shape; None if a dimension is unknown or the shape is implausible."""
    shape = tuple(dims)
    is_plausible = len(shape) <= _MAX_DIMS and min(shape, default=0) >= 0 and math.prod(shape) <= _MAX_ELEMENTS
    return shape if is_plausible else None


def _pixels(shape: tuple[int, ...] | None) -> int:
    """Return the number of pixels in a batch [N, H, W, C] or [N, C, H, W]; 0 if unknown."""
    if shape is None or len(shape) != 4:
        return 0
    return math.prod(shape[:3] if shape[3] <= 4 else (shape[0], *shape[2:]))


def _damaged(problem: str) -> CardError:
    return CardError(f"not an ONNX file, or damaged ({problem}). Copy or export it again")


def _layer(node: onnx.NodeProto, graph: _Graph, counted: set[str]) -> Layers:
    """Return one layer without weights that are in ``counted`` already; add its other weights to ``counted``."""
    ins = [name for name in node.input if name]
    is_constant = bool(ins) and graph.constants.issuperset(ins)
    converts_weights = any(name in graph.weights for name in node.output)
    weights = [] if converts_weights else [graph.weights[name] for name in ins if name in graph.weights]
    tensors = {name: graph.tensors[name] for name in weights if graph.tensors[name].dtype != "int64"}
    new = [tensor for name, tensor in tensors.items() if name not in counted]
    counted.update(tensors)
    int8 = len(ins) > 1 and graph.dequantized.issuperset(ins[:2])
    computes = "int8" if int8 else graph.tensors[ins[0]].dtype if ins and ins[0] in graph.tensors else ""
    domain, op = text(node.domain), text(node.op_type)
    op = op if domain in ("", "ai.onnx") else f"{domain}.{op}"
    return Layers(
        # A runtime computes constants once, when it opens the model.
        type=f"{op} of weights" if is_constant else op,
        count=1,
        parameters=sum(tensor.elements for tensor in new),
        bytes=sum(tensor.size or 0 for tensor in new),
        stored="+".join(sorted({tensor.dtype for tensor in tensors.values()})),
        computed="" if is_constant or op == "Shape" else computes.replace("?", ""),
        macs_per_pixel=_macs(node, graph),
    )


def _macs(node: onnx.NodeProto, graph: _Graph) -> float | None:
    if node.op_type in _UNKNOWN_MACS:
        return None
    if node.op_type not in ("Conv", "ConvTranspose"):
        return 0.0
    # Each weight is used once per output pixel, or once per input pixel of a transposed convolution.
    pixels = graph.tensors.get(node.output[0] if node.op_type == "Conv" else node.input[0])
    weights = graph.tensors.get(graph.weights.get(node.input[1], "")) if len(node.input) > 1 else None
    if weights is None or pixels is None or not pixels.shape or not graph.pixels:
        return None
    return weights.elements * math.prod((pixels.shape[0], *pixels.shape[2:])) / graph.pixels


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


def _activations(graph: _Graph) -> tuple[int, int]:
    """Return the peak memory for a tile, bytes, and the number of tensors of unknown size, which it excludes."""
    last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.input}
    last_use.update(dict.fromkeys(graph.outputs, len(graph.nodes)))
    live = {name: _size(name, graph) or 0 for name in graph.inputs}
    current = peak = sum(live.values())
    unknown = 0
    for i, node in enumerate(graph.nodes):
        outputs = {name: _size(name, graph) for name in node.output if name not in graph.constants and name not in live}
        unknown += sum(size is None for size in outputs.values())
        ending = [name for name in dict.fromkeys(node.input) if last_use.get(name) == i and name in live]
        if node.op_type in _IN_PLACE and ending:
            current -= live.pop(ending.pop(0))
        live.update({name: size or 0 for name, size in outputs.items()})
        current += sum(size or 0 for size in outputs.values())
        peak = max(peak, current)
        current -= sum(live.pop(name) for name in ending)
    return peak, unknown


def _size(name: str, graph: _Graph) -> int | None:
    """Return the size of a tensor for ``TILE`` x ``TILE`` px, bytes; None if unknown."""
    size = graph.tensors[name].size if name in graph.tensors else None
    return None if size is None or not graph.pixels else math.ceil(size * TILE * TILE / graph.pixels)
