"""Model: an ONNX model and its card, as the passes over its graph take and return it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kinet_trt.core.errors import CardError, KinetError, MissingExtraError
from kinet_trt.models.card import ModelCard, onnx_hash, read_card, with_card

if TYPE_CHECKING:
    import onnx

DEFAULT_MODEL = Path(__file__).with_name("kinet-edge.onnx")
"""The built-in model."""
INT8_MODEL = Path(__file__).with_name("kinet-edge-int8.onnx")
"""The built-in model, quantized."""


def built_in(precision: str) -> Path:
    """Return the built-in model for a numeric precision."""
    return INT8_MODEL if precision == "int8" else DEFAULT_MODEL


@dataclass(frozen=True)
class Model:
    """An ONNX model and its card. The graph is parsed once, on first use; a pass returns another model."""

    card: ModelCard
    data: bytes  # the serialised model

    @classmethod
    def read(cls, path: Path = DEFAULT_MODEL) -> Model:
        """Read an ONNX file; see :func:`kinet_trt.models.card.read_card`."""
        return cls(*read_card(path))

    @classmethod
    def from_graph(cls, graph: onnx.ModelProto, card: ModelCard) -> Model:
        """Check and serialise a graph, and store the card with its hash in it. Do not change the graph afterwards.

        Raise a KinetError if the graph is not valid ONNX.
        """
        import onnx

        try:
            onnx.checker.check_model(graph, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise KinetError(
                f"the model cannot be converted ({str(error).splitlines()[0]}): expected one that `kinet-trt export` "
                "wrote"
            ) from None
        del graph.metadata_props[:]
        data = graph.SerializeToString(deterministic=True)
        card = replace(card, model_sha256=onnx_hash(data))
        model = cls(card, with_card(data, card))
        model.__dict__["graph"] = graph
        return model

    @cached_property
    def graph(self) -> onnx.ModelProto:
        """The parsed model; do not change it, change :meth:`graph_copy`."""
        return parse(self.data)

    def graph_copy(self) -> onnx.ModelProto:
        """Return a copy of :attr:`graph` for a pass to change."""
        return copy.deepcopy(self.graph)

    def with_card(self, card: ModelCard) -> Model:
        """Return the same graph with another card."""
        return type(self)(card, with_card(self.data, card))

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width of the frames, px, if the model accepts only one size; else None."""
        shape = self.graph.graph.input[0].type.tensor_type.shape.dim
        height, width = (shape[i].dim_value if len(shape) == 4 else 0 for i in (1, 2))
        return (height, width) if height and width else None


def parse(data: bytes) -> onnx.ModelProto:
    """Parse a serialised ONNX model; raise a CardError if it is not one."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingExtraError("Reading the layers of a model", "build", error.name or "onnx") from None
    try:
        return onnx.load_model_from_string(data)
    except DecodeError as error:
        raise CardError(
            f"not an ONNX file, or one that is damaged or cut short ({error}). Copy or export it again"
        ) from None
