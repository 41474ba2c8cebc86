"""kinet-trt counts nuclei in Ki67-stained tissue with a compiled KiNet. For research use only."""

from __future__ import annotations

import sys
from importlib import import_module, metadata

import lazy_loader

from kinet_trt.core.moved import MOVED, MovedModules

# The names are listed in __init__.pyi and imported on first use: `kinet-trt --help` needs neither OpenCV nor OpenVINO.
_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name == "__version__":
        return metadata.version("kinet-trt")
    if name in MOVED:
        return import_module(f"kinet_trt.{name}")
    return _attribute(name)


if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
    sys.meta_path.append(MovedModules())
