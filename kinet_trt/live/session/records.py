"""What a session is made of: values that the store keeps and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kinet_trt.core.detections import Detections
from kinet_trt.inference.counter import NucleusCounter, Threshold
from kinet_trt.live.session.region import Region
from kinet_trt.models.card import ModelCard


@dataclass(frozen=True)
class Session:
    """One visit to the microscope.

    Attributes
    ----------
    id
        In its file.
    title
        As typed; may be empty.
    created
        s since the epoch.
    closed
        When it was left, s since the epoch; None: it is open, or the program that had it open was killed.
    """

    id: int
    title: str
    created: float
    closed: float | None = None


@dataclass(frozen=True)
class Model:
    """What counted a field: a model's card, what ran it and what it computed in."""

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
        In its file.
    session, number
        Which session, and the how manieth field of it, from 1.
    time
        When the frame was taken, s since the epoch.
    width, height
        px.
    mpp, mpp_source
        um/px, and how it was known: a key of :data:`kinet_trt.io.pixel_size.HOW_KNOWN`.
    stage
        Stage position x, y, um; None when it is not known.
    threshold
        Least height of a peak.
    automatic
        Whether it was captured because the stage rested, not by a person.
    model
        What counted it.
    detections
        The model's answer.
    region
        What counts of it; None: all.
    registered
        Version of the registration that has looked at it; 0: none yet.
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
    """One person's count of a session. Its first reading belongs to the session; others are recounts.

    Attributes
    ----------
    id, session
        In its file.
    reader
        Who, as typed; may be empty.
    start
        What each field begins with: ``"model"``, the model's nuclei, or ``"nothing"``.
    blind
        Whether it is a recount that shows nothing of the first reading.
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
    """What a person wrote about a session or one of its fields: text, never markup.

    ``reading`` is the recount in which it was written; None: outside a recount.
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
    """Two fields that show the same tissue where they overlap.

    Attributes
    ----------
    first, second
        Fields.
    dx, dy
        From the upper left corner of the first to that of the second, um.
    pairs
        Nuclei that stand at the same place in both.
    likeness
        Normalised cross-correlation of their optical density in the overlap, up to 1.
    """

    first: int
    second: int
    dx: float
    dy: float
    pairs: int
    likeness: float
