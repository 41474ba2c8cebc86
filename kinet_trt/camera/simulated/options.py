"""Options of the simulated microscope, and their text: ``seed=7,mpp=0.17,size=1280x960,fps=30,path=snake``."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Literal, get_args

from kinet_trt.camera.options import integer, number, parse_options, size
from kinet_trt.camera.simulated.stage import Point
from kinet_trt.camera.source import SourceTextError
from kinet_trt.core.errors import shown

Kind = Literal["stall", "disconnect", "torn", "resize", "never"]
FAULTS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of faults. stall: no frames. disconnect: the camera is gone and cannot be opened. torn: the lower half of a
frame is older than the upper. resize: the camera restarts with frames of half the size and the old um/px. never: like
disconnect, but for good; SECONDS is ignored."""


@dataclass(frozen=True)
class Fault:
    """A fault that starts ``start`` s after the microscope was first opened."""

    kind: Kind
    start: float = 0.0
    seconds: float = 2.0

    def is_active(self, time: float) -> bool:
        """Return whether the fault is active ``time`` s after the microscope was first opened."""
        return time >= self.start and (self.kind == "never" or time < self.start + self.seconds)


@dataclass(frozen=True)
class Options:
    """Settings of the simulated microscope; `_NUMBERS` and `_INTEGERS` give the allowed ranges."""

    seed: int = 7  # of the slide
    mpp: float = 0.17  # um/px
    size: tuple[int, int] = (1280, 960)  # width and height of a frame, px, even
    fps: float = 30.0  # frames a second
    # "snake": field by field over some tissue; "still"; or points x:y, um from the start, joined by "/"
    path: Literal["snake", "still"] | tuple[Point, ...] = "snake"
    overlap: float = 0.5  # overlap of consecutive fields of the snake, as a fraction of the field
    speed: float = 300.0  # of the stage, um/s
    rest: float = 2.0  # pause at each point of the path, s
    exposure: float = 5.0  # ms; a moving stage blurs the picture
    vignetting: float = 0.15  # fraction of the light lost in the corners
    defocus: float = 0.0  # sigma of the blur, px
    noise: float = 2.0  # standard deviation of the sensor's noise, grey levels
    hot: int = 20  # number of hot pixels
    drift: float = 0.02  # relative amplitude of the brightness oscillation, period 20 s
    tint: float = 0.05  # fraction of blue missing in the light
    positive: float = 0.15  # this and the next two: the shares of `kinet_trt.simulation.simulate.SimulatedSlide`
    tumor: float = 0.6
    glass: float = 0.08
    blank: int = 0  # 1 for glass without tissue, for flat-field correction
    hurry: float = 1.0  # speed-up of frames, stage and faults: simulated seconds per second
    faults: tuple[Fault, ...] = ()  # kind@start+seconds, joined by "/", such as stall@5+2/torn@9

    @classmethod
    def parse(cls, text: str) -> Options:
        """Parse ``name=value,name=value``; missing options have their defaults."""
        given = parse_options(text, tuple(field.name for field in fields(cls)))
        values: dict[str, object] = {}
        for name, value in given.items():
            if name in _INTEGERS:
                values[name] = integer(name, value, *_INTEGERS[name])
            elif name in _NUMBERS:
                values[name] = number(name, value, *_NUMBERS[name])
            elif name == "size":
                values[name] = _even(value)
            elif name == "path":
                values[name] = value if value in ("snake", "still") else _points(value)
            else:
                values[name] = tuple(_fault(part) for part in value.split("/"))
        return cls(**values)  # type: ignore[arg-type]


_INTEGERS = {"seed": (0, 2**64 - 1), "hot": (0, 10_000), "blank": (0, 1)}
_NUMBERS = {
    "mpp": (0.05, 4.0),
    "fps": (0.1, 1000.0),
    "overlap": (0.0, 0.95),
    "speed": (1.0, 1e5),
    "rest": (0.0, 3600.0),
    "exposure": (0.0, 1000.0),
    "vignetting": (0.0, 0.9),
    "defocus": (0.0, 20.0),
    "noise": (0.0, 30.0),
    "drift": (0.0, 0.5),
    "tint": (0.0, 0.5),
    "positive": (0.0, 1.0),
    "tumor": (0.0, 1.0),
    "glass": (0.0, 1.0),
    "hurry": (0.01, 1000.0),
}
_MAX_COORDINATE = 1e6  # um


def _even(value: str) -> tuple[int, int]:
    width, height = size("size", value)
    if width % 2 or height % 2:
        raise SourceTextError(f"option size: expected even numbers, found {value}")
    return width, height


def _points(value: str) -> tuple[Point, ...]:
    points = []
    for part in value.split("/"):
        x, colon, y = part.partition(":")
        if not colon:
            raise SourceTextError(f"option path: expected snake, still or X:Y/X:Y/... in um, found {shown(value)}")
        points.append((_coordinate(x), _coordinate(y)))
    return tuple(points)


def _coordinate(value: str) -> float:
    return number("path", value, -_MAX_COORDINATE, _MAX_COORDINATE)


def _fault(part: str) -> Fault:
    found = re.fullmatch(r"([a-z]+)(?:@([^+]+)(?:\+(.+))?)?", part)
    kind = next((kind for kind in FAULTS if found and found[1] == kind), None)
    if not found or kind is None:
        raise SourceTextError(
            f"option faults: expected KIND@START+SECONDS with KIND one of {', '.join(FAULTS)}, found {shown(part)}"
        )
    start, seconds = number("faults", found[2] or "0", 0, 1e6), number("faults", found[3] or "2", 0, 1e6)
    return Fault(kind, start, seconds)
