"""Cameras that the operating system lists, without opening them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

SYSTEM_LIST = Path("/sys/class/video4linux")
DEVICES = Path("/dev")


@dataclass(frozen=True)
class DetectedCamera:
    """A camera: its number in /dev/videoN, its name in its driver, and whether this user may open it."""

    index: int
    name: str
    readable: bool


def list_cameras(system_list: Path = SYSTEM_LIST, devices: Path = DEVICES) -> list[DetectedCamera] | None:
    """Return the cameras that Linux lists, by index; None on other systems, which list none without opening them."""
    if not system_list.parent.is_dir():
        return None
    cameras = []
    for node in system_list.glob("video*"):
        number = re.fullmatch(r"video([0-9]+)", node.name)
        # Many cameras have a second node, for metadata, without pictures.
        if number and _read_text(node / "index") in ("", "0"):
            readable = os.access(devices / node.name, os.R_OK | os.W_OK)
            cameras.append(DetectedCamera(int(number[1]), _read_text(node / "name") or node.name, readable))
    return sorted(cameras, key=lambda camera: camera.index)


def advice(index: int, cameras: list[DetectedCamera] | None) -> str:
    """Return what to do if camera ``index`` cannot be opened, with the cameras that were found."""
    if cameras is None:
        return "is it plugged in, is another program using it, may you read it? Try other numbers: 0, 1, 2"
    this = next((camera for camera in cameras if camera.index == index), None)
    if this and not this.readable:
        return f"{this.name} is there, but you may not open it: join the group 'video' and log in again"
    others = [camera for camera in cameras if camera is not this]
    names = ", ".join(f"{camera.index} ({camera.name})" for camera in others)
    command = f"kinet-trt live {others[0].index}" if others else ""
    if this:
        more = f"; other cameras: {names} (start with {command})" if others else ""
        return f"{this.name} is there: is another program using it?{more}"
    if others:
        return f"cameras found: {names}. Start with {command}"
    return "no camera was found on this computer: is it plugged in and switched on?"


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
