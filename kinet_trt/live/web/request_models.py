"""Request bodies of the page's API, validated by pydantic."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from kinet_trt.live.session.region import MAX_POINTS

Name = Annotated[str, Field(max_length=200)]
Points = Annotated[list[tuple[FiniteFloat, FiniteFloat]], Field(max_length=MAX_POINTS)]


class Body(BaseModel):
    """A JSON object without unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Switch(Body):
    """On or off."""

    on: bool


class Capture(Body):
    """Sequence number of the frame to capture; ``anyway``: even if it is blurred or moving."""

    frame: int
    anyway: bool = False


class Pause(Switch):
    """Pause or resume; ``frame``: sequence number of the displayed frame, else the last counted one is held."""

    frame: int | None = None


class Threshold(Body):
    """Threshold as text: ``0.4`` or ``relative:0.5``."""

    value: Annotated[str, Field(max_length=40)]


class Scale(Body):
    """Pixel size, um/px; None: the camera's value."""

    mpp: FiniteFloat | None
    source: Literal["option", "calibrated", "objective"] = "option"


class Preset(Body):
    """An objective preset."""

    name: Name
    mpp: FiniteFloat


class Presets(Body):
    """All objective presets."""

    presets: Annotated[list[Preset], Field(max_length=100)]


class Region(Body):
    """Region of interest: corners x, y, px; None: the whole field."""

    # JSON has lists instead of tuples.
    model_config = ConfigDict(extra="forbid", strict=False)
    points: Points | None


class FieldRegion(Region):
    """Region of a captured field; ``map``: the model's tumour map."""

    points: Points | None = None
    map: bool = False


class Session(Body):
    """Id of a session."""

    session: int


class NewSession(Body):
    """Title and reader of a new session."""

    title: Name = ""
    reader: Name = ""


class Rename(Body):
    """New title, or new name of the first reader; None: unchanged."""

    title: Name | None = None
    reader: Name | None = None


class NewNucleus(Body):
    """Centre of a missing nucleus, px, and its class by name."""

    x: FiniteFloat
    y: FiniteFloat
    cls: Annotated[Name, Field(alias="class")]


class Nucleus(Body):
    """Number of a nucleus in the field."""

    nucleus: int


class Reclassify(Nucleus):
    """New class of a nucleus, by name."""

    cls: Annotated[Name, Field(alias="class")]


class Note(Body):
    """Text of a note."""

    text: Annotated[str, Field(max_length=10_000)]


class Undo(Body):
    """Field to undo or redo in; None: the field edited last."""

    field: int | None = None


class Recount(Body):
    """Id of a recount to resume; None: return to the first reading; key missing: start a new recount."""

    reader: Name = ""
    start: Literal["nothing", "model"] = "nothing"
    recount: int | None = None

    @property
    def begins(self) -> bool:
        """Whether a new recount starts."""
        return "recount" not in self.model_fields_set
