"""kinet-trt counts nuclei in Ki67-stained tissue with a compiled KiNet. For research use only."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from kinet_trt.core.moved import MOVED, MovedModules
from kinet_trt.core.notice import NOTICE as NOTICE

if TYPE_CHECKING:
    from kinet_trt.core.detections import Detections as Detections
    from kinet_trt.core.errors import CountCancelledError as CountCancelledError
    from kinet_trt.core.errors import EngineError as EngineError
    from kinet_trt.core.errors import ImageError as ImageError
    from kinet_trt.core.errors import KinetError as KinetError
    from kinet_trt.core.frame import Frame as Frame
    from kinet_trt.core.ki67 import Ki67 as Ki67
    from kinet_trt.core.logs import log_to as log_to
    from kinet_trt.inference.counter import Counter as Counter
    from kinet_trt.inference.counter import NucleusCounter as NucleusCounter
    from kinet_trt.inference.counter import Threshold as Threshold
    from kinet_trt.io.images import read_image as read_image

    __version__: str

_HOMES = {
    "CountCancelledError": "core.errors",
    "Counter": "inference.counter",
    "Detections": "core.detections",
    "EngineError": "core.errors",
    "Frame": "core.frame",
    "ImageError": "core.errors",
    "Ki67": "core.ki67",
    "KinetError": "core.errors",
    "NucleusCounter": "inference.counter",
    "Threshold": "inference.counter",
    "log_to": "core.logs",
    "read_image": "io.images",
}
__all__ = ["NOTICE", "__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> object:
    # Imported on first use: `kinet-trt --help` and other rooms need neither OpenCV nor OpenVINO.
    if name == "__version__":
        return import_module("importlib.metadata").version("kinet-trt")
    if name in MOVED:
        return import_module(f"kinet_trt.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'kinet_trt' has no attribute {name!r}")
    return getattr(import_module(f"kinet_trt.{_HOMES[name]}"), name)


if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
    sys.meta_path.append(MovedModules())
