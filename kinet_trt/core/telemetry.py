"""Switch off what other libraries send about their use.

Importing OpenVINO runs ``openvino_telemetry``, which posts to Google Analytics and writes to ``~/intel``. ONNX Runtime,
from 1.29 on, writes to ``~/.cache/Microsoft`` and sends events to Microsoft. Both are switched off for this process and
the processes that it starts; the user's own settings do not change. See docs/privacy.md.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_OPENVINO = "openvino_telemetry"
_ONNX_RUNTIME = "ORT_DISABLE_TELEMETRY"

_importing = threading.RLock()


def switch_off() -> None:
    """Switch telemetry off until this process ends: for a program of ours, before it imports anything else."""
    # OpenVINO takes its own empty stand-in where this module cannot be imported. Of settings it knows only a file in
    # the home folder, which belongs to the user, and CI, which changes what other libraries do.
    sys.modules[_OPENVINO] = None  # type: ignore[assignment]  # Python's way to forbid an import
    os.environ[_ONNX_RUNTIME] = "1"


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Switch telemetry off while OpenVINO, ONNX Runtime or a library that uses them is imported.

    Afterwards the process is as it was: a program that uses kinet-trt as a library keeps its own settings. What is
    imported here stays silent, for both look at these settings only once.

    Examples
    --------
    >>> from kinet_trt.core.telemetry import no_telemetry
    >>> with no_telemetry():
    ...     import openvino
    """
    with _importing:
        module, hidden = sys.modules.get(_OPENVINO), _OPENVINO in sys.modules
        variable, imported = os.environ.get(_ONNX_RUNTIME), "onnxruntime" in sys.modules
        switch_off()
        try:
            yield
            if not imported and "onnxruntime" in sys.modules:
                # Builds for Windows before 1.29 hand events to Windows and do not know the variable.
                sys.modules["onnxruntime"].disable_telemetry_events()
        finally:
            if hidden:
                sys.modules[_OPENVINO] = module  # type: ignore[assignment]
            else:
                del sys.modules[_OPENVINO]
            if variable is None:
                del os.environ[_ONNX_RUNTIME]
            else:
                os.environ[_ONNX_RUNTIME] = variable
