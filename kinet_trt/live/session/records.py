"""Records of a session file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kinet_trt.core.detections import Detections
from kinet_trt.inference.counter import NucleusCounter, Threshold
from kinet_trt.live.session.region import Region
from kinet_trt.models.card import ModelCard


@dataclass(frozen=True)
class Session:
    """A session: the fields of one case."""

    id: int
    title: str
    created: float  # s since the epoch
    closed: float | None = None  # s since the epoch; None if it is open, or was interrupted


@dataclass(frozen=True)
class Model:
    """Model of a count: its card, runtime and numeric precision."""

    card: ModelCard
    runtime: str
    precision: str

    @classmethod
    def from_counter(cls, counter: NucleusCounter) -> Model:
        """Return the model of a counter."""
        return cls(counter.engine.card, counter.engine.runtime, counter.engine.precision)


@dataclass(frozen=True, eq=False)
class Field:
    """A captured field, without its pixels (:meth:`~kinet_trt.live.session.store.fields.FieldTable.pixels`)."""

    id: int
    session: int
    number: int  # 1-based, in its session
    time: float  # of the frame, s since the epoch
    width: int  # px
    height: int
    mpp: float  # um/px
    mpp_source: str  # key of `kinet_trt.io.pixel_size.HOW_KNOWN`
    stage: tuple[float, float] | None  # x, y, um; None if unknown
    threshold: Threshold
    automatic: bool  # captured because the stage stopped
    model: Model
    detections: Detections  # the model's nuclei
    region: Region | None  # region that counts; None: the whole field
    registered: int  # version of the registration that processed it; 0 if none yet


@dataclass(frozen=True)
class Reading:
    """A reading of a session by one person: the first one, or a recount."""

    id: int
    session: int
    reader: str
    start: Literal["model", "nothing"]  # nuclei that each field starts with: the model's, or none
    blind: bool  # a recount that hides the first reading
    created: float  # s since the epoch


@dataclass(frozen=True)
class Note:
    """A note on a session or one of its fields, plain text."""

    id: int
    session: int
    field: int | None
    reader: str
    text: str
    time: float
    reading: int | None = None  # recount in which it was written; None outside a recount


@dataclass(frozen=True)
class Link:
    """Offset of two overlapping fields."""

    first: int
    second: int
    dx: float  # from the upper left corner of the first field to that of the second, um
    dy: float
    pairs: int  # number of nuclei that coincide
    likeness: float  # normalised cross-correlation of their optical density in the overlap, up to 1
