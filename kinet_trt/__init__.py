"""kinet-trt counts nuclei in Ki67-stained tissue with a compiled KiNet. For research use only."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kinet_trt.counter import Counter as Counter
    from kinet_trt.counter import Threshold as Threshold
    from kinet_trt.detections import Detections as Detections
    from kinet_trt.errors import CountCancelledError as CountCancelledError
    from kinet_trt.errors import EngineError as EngineError
    from kinet_trt.errors import ImageError as ImageError
    from kinet_trt.errors import KinetError as KinetError
    from kinet_trt.frame import Frame as Frame
    from kinet_trt.images import read_image as read_image
    from kinet_trt.ki67 import Ki67 as Ki67
    from kinet_trt.logs import log_to as log_to

    __version__: str

NOTICE = "For Research Use Only. Not for use in diagnostic procedures."
"""Stands wherever a result does."""

_HOMES = {
    "CountCancelledError": "errors",
    "Counter": "counter",
    "Detections": "detections",
    "EngineError": "errors",
    "Frame": "frame",
    "ImageError": "errors",
    "Ki67": "ki67",
    "KinetError": "errors",
    "Threshold": "counter",
    "log_to": "logs",
    "read_image": "images",
}
__all__ = ["NOTICE", "__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> object:
    # Imported on first use: `kinet-trt --help` and other rooms need neither OpenCV nor OpenVINO.
    if name == "__version__":
        return import_module("importlib.metadata").version("kinet-trt")
    if name not in _HOMES:
        raise AttributeError(f"module 'kinet_trt' has no attribute {name!r}")
    return getattr(import_module(f"kinet_trt.{_HOMES[name]}"), name)
