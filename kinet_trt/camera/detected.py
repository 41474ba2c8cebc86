"""Cameras that the operating system lists, found without opening them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

LISTED = Path("/sys/class/video4linux")
DEVICES = Path("/dev")


@dataclass(frozen=True)
class DetectedCamera:
    """A camera.

    Attributes
    ----------
    index
        N of ``kinet-trt live N`` and of /dev/videoN.
    name
        As its driver calls it.
    readable
        Whether this user may open it.
    """

    index: int
    name: str
    readable: bool


def list_cameras(listed: Path = LISTED, devices: Path = DEVICES) -> list[DetectedCamera] | None:
    """Return the cameras that Linux lists, by index; None on other systems, which do not say without opening them."""
    if not listed.parent.is_dir():
        return None
    found = []
    for place in listed.glob("video*"):
        number = re.fullmatch(r"video([0-9]+)", place.name)
        # A camera often has a second node, for metadata, which gives no pictures.
        if number and _text(place / "index") in ("", "0"):
            readable = os.access(devices / place.name, os.R_OK | os.W_OK)
            found.append(DetectedCamera(int(number[1]), _text(place / "name") or place.name, readable))
    return sorted(found, key=lambda one: one.index)


def advice(wanted: int, found: list[DetectedCamera] | None) -> str:
    """Return what to do when a camera cannot be opened, with the cameras that there are."""
    if found is None:
        return "is it plugged in, is another program using it, may you read it? Try other numbers: 0, 1, 2"
    this = next((one for one in found if one.index == wanted), None)
    if this and not this.readable:
        return f"{this.name} is there, but you may not open it: join the group 'video' and log in again"
    others = [one for one in found if one is not this]
    listed = ", ".join(f"{one.index} ({one.name})" for one in others)
    choose = f"kinet-trt live {others[0].index}" if others else ""
    if this:
        more = f"; other cameras: {listed} (start with {choose})" if others else ""
        return f"{this.name} is there: is another program using it?{more}"
    if others:
        return f"cameras found: {listed}. Start with {choose}"
    return "no camera was found on this computer: is it plugged in and switched on?"


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
