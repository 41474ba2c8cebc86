"""Orders: the bodies of the page's requests, checked before anything is done with them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from kinet_trt.live.session.region import MOST_POINTS

Name = Annotated[str, Field(max_length=200)]
Corners = Annotated[list[tuple[FiniteFloat, FiniteFloat]], Field(max_length=MOST_POINTS)]


class Order(BaseModel):
    """A JSON object with these keys and no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Switch(Order):
    """Something on or off."""

    on: bool


class Capture(Order):
    """Keep the frame of this number, even if it is blurred or moves."""

    frame: int
    anyway: bool = False


class Pause(Switch):
    """Hold the picture of this number, or count again; without a number the last counted one is held."""

    frame: int | None = None


class Threshold(Order):
    """Count with another threshold, as text: ``0.4`` or ``relative:0.5``."""

    value: Annotated[str, Field(max_length=40)]


class Scale(Order):
    """Take these um/px; None: what the camera says."""

    mpp: FiniteFloat | None
    source: Literal["option", "calibrated", "objective"] = "option"


class Preset(Order):
    """An objective."""

    name: Name
    mpp: FiniteFloat


class Presets(Order):
    """All objectives."""

    presets: Annotated[list[Preset], Field(max_length=100)]


class Region(Order):
    """Corners x, y of what counts, px; None: all."""

    # JSON has lists where Python has pairs.
    model_config = ConfigDict(extra="forbid", strict=False)
    points: Corners | None


class FieldRegion(Region):
    """The same of a captured field; ``map``: what the model takes for tumour."""

    points: Corners | None = None
    map: bool = False


class Session(Order):
    """One of the sessions."""

    session: int


class NewSession(Order):
    """A new session."""

    title: Name = ""
    reader: Name = ""


class Names(Order):
    """Another title, or another name for the first reader; what is left out stays."""

    title: Name | None = None
    reader: Name | None = None


class Place(Order):
    """A nucleus that the model missed: its centre, px, and its class by name."""

    x: FiniteFloat
    y: FiniteFloat
    cls: Annotated[Name, Field(alias="class")]


class Reclass(Order):
    """Another class for a nucleus."""

    nucleus: int
    cls: Annotated[Name, Field(alias="class")]


class Nucleus(Order):
    """A nucleus by its number in the field."""

    nucleus: int


class Text(Order):
    """What a person wrote."""

    text: Annotated[str, Field(max_length=10_000)]


class Undo(Order):
    """Undo or redo in this field; None: wherever the last correction was."""

    field: int | None = None


class Recount(Order):
    """Continue a recount by its id; None: back to the first reading; without the key: begin a new one."""

    reader: Name = ""
    start: Literal["nothing", "model"] = "nothing"
    recount: int | None = None

    @property
    def begins(self) -> bool:
        """Whether a new one begins."""
        return "recount" not in self.model_fields_set
