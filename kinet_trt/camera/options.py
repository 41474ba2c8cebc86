"""Options in a SOURCE text: ``seed=7,mpp=0.17,size=1280x960``."""

from __future__ import annotations

import math
import re

from kinet_trt.camera.source import SourceTextError
from kinet_trt.core.errors import shown


def parse_options(text: str, known: tuple[str, ...]) -> dict[str, str]:
    """Split ``name=value,name=value``; SourceTextError if a name is not in ``known``, or repeated."""
    found: dict[str, str] = {}
    for part in text.split(",") if text else []:
        name, equals, value = part.partition("=")
        if not equals or name not in known:
            raise SourceTextError(f"option {shown(part)}: expected NAME=VALUE with one of {', '.join(known)}")
        if name in found:
            raise SourceTextError(f"option {name} is repeated: remove one")
        found[name] = value
    return found


def number(name: str, value: str, low: float, high: float) -> float:
    """Return an option's value as a number from ``low`` to ``high``; raise SourceTextError otherwise."""
    try:
        parsed = float(value)
    except ValueError:
        parsed = math.nan
    if not low <= parsed <= high:
        raise SourceTextError(f"option {name}: expected a number from {low:g} to {high:g}, found {shown(value)}")
    return parsed


def integer(name: str, value: str, low: int, high: int) -> int:
    """Return an option's value as an integer from ``low`` to ``high``; raise SourceTextError otherwise."""
    if not re.fullmatch(r"[0-9]{1,20}", value) or not low <= int(value) <= high:
        raise SourceTextError(f"option {name}: expected a whole number from {low} to {high}, found {shown(value)}")
    return int(value)


def size(name: str, value: str) -> tuple[int, int]:
    """Return a frame size, ``WIDTHxHEIGHT`` in px, each 32 to 16384; raise SourceTextError otherwise."""
    sides = re.fullmatch(r"([0-9]{2,5})x([0-9]{2,5})", value)
    if not sides or not all(32 <= int(side) <= 16384 for side in sides.groups()):
        raise SourceTextError(f"option {name}: expected WIDTHxHEIGHT, each 32 to 16384 px, found {shown(value)}")
    return int(sides[1]), int(sides[2])
