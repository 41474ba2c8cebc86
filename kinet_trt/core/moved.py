"""Old import paths of public modules. They keep working until 1.0, with a DeprecationWarning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

MOVED: Mapping[str, str] = {
    "bench": "evaluation.benchmark",
    "build": "deploy.build",
    "count": "counting.run",
    "counter": "inference.counter",
    "detections": "core.detections",
    "doctor": "diagnostics.doctor",
    "engines.plan": "engines.tensorrt.engine_file",
    "errors": "core.errors",
    "evaluate": "evaluation.evaluate",
    "fields": "datasets.labelled",
    "frame": "core.frame",
    "images": "io.images",
    "inspect_model": "onnx_graph.inspect",
    "ki67": "core.ki67",
    "live.headless": "live.acquisition.headless",
    "live.tables": "live.session.schema",
    "metrics": "evaluation.metrics",
    "model_card": "models.card",
    "overlay": "io.overlay",
    "peaks.graph": "onnx_graph.fuse_peaks",
    "qupath": "io.geojson",
    "simulate": "simulation.simulate",
    "slides.counted": "slides.count",
    "slides.ledger": "slides.results_db",
    "telemetry": "core.telemetry",
    "tiles": "inference.tiling",
    "triton": "deploy.triton.package",
    "unlike": "quality.domain_check",
}
"""Old name to new name, both without ``kinet_trt.``."""


class MovedModules(MetaPathFinder, Loader):
    """Import a module under its old name."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """Return a spec if the name is in :data:`MOVED`."""
        package, module = name.partition(".")[::2]
        return spec_from_loader(name, self) if package == "kinet_trt" and module in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Replace the empty module that Python created."""
        new = f"kinet_trt.{MOVED[module.__name__.partition('.')[2]]}"
        warnings.warn(f"{module.__name__} is now {new}", DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = import_module(new)
