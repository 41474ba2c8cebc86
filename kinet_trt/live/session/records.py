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
    """A session: the fields of one case.

    Attributes
    ----------
    id
        Id in its file.
    title
        Title; may be empty.
    created
        Time of its creation, s since the epoch.
    closed
        Time of its closing, s since the epoch; None if it is open, or was interrupted.
    """

    id: int
    title: str
    created: float
    closed: float | None = None


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
    """A captured field, without its pixels (:meth:`~kinet_trt.live.session.store.Store.pixels`).

    Attributes
    ----------
    id
        Id in its file.
    session, number
        Its session, and its 1-based number in it.
    time
        Time of the frame, s since the epoch.
    width, height
        px.
    mpp, mpp_source
        um/px, and how it is known: a key of :data:`kinet_trt.io.pixel_size.HOW_KNOWN`.
    stage
        Stage position x, y, um; None if unknown.
    threshold
        Threshold of the count.
    automatic
        Whether it was captured because the stage stopped.
    model
        Model of the count.
    detections
        The model's nuclei.
    region
        Region that counts; None: the whole field.
    registered
        Version of the registration that processed it; 0: none yet.
    """

    id: int
    session: int
    number: int
    time: float
    width: int
    height: int
    mpp: float
    mpp_source: str
    stage: tuple[float, float] | None
    threshold: Threshold
    automatic: bool
    model: Model
    detections: Detections
    region: Region | None
    registered: int


@dataclass(frozen=True)
class Reading:
    """A reading of a session by one person: the first one, or a recount.

    Attributes
    ----------
    id, session
        Its id, and that of its session.
    reader
        Name of the person; may be empty.
    start
        Nuclei that each field starts with: ``"model"``, the model's, or ``"nothing"``.
    blind
        Whether it is a recount that hides the first reading.
    created
        s since the epoch.
    """

    id: int
    session: int
    reader: str
    start: Literal["model", "nothing"]
    blind: bool
    created: float


@dataclass(frozen=True)
class Note:
    """A note on a session or one of its fields, plain text.

    ``reading`` is the recount in which it was written; None outside a recount.
    """

    id: int
    session: int
    field: int | None
    reader: str
    text: str
    time: float
    reading: int | None = None


@dataclass(frozen=True)
class Link:
    """Offset of two overlapping fields.

    Attributes
    ----------
    first, second
        Ids of the fields.
    dx, dy
        From the upper left corner of the first to that of the second, um.
    pairs
        Number of nuclei that coincide.
    likeness
        Normalised cross-correlation of their optical density in the overlap, up to 1.
    """

    first: int
    second: int
    dx: float
    dy: float
    pairs: int
    likeness: float
