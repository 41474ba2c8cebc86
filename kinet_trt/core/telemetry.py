"""Disable the telemetry of other libraries.

Importing OpenVINO runs ``openvino_telemetry``, which posts to Google Analytics and writes to ``~/intel``. ONNX Runtime,
from 1.29 on, writes to ``~/.cache/Microsoft`` and sends events to Microsoft. Both are disabled for this process and its
child processes, without changing the user's settings. See docs/privacy.md.
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
    """Disable telemetry until this process ends; call it before any other import."""
    # OpenVINO has a stub for the case that this module is missing. Its only settings are a file in the home folder,
    # which belongs to the user, and the variable CI, which changes the behaviour of other libraries.
    sys.modules[_OPENVINO] = None  # type: ignore[assignment]  # Python's way to forbid an import
    os.environ[_ONNX_RUNTIME] = "1"


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Disable telemetry while OpenVINO, ONNX Runtime or a library that uses them is imported.

    On exit the settings of the process are restored. The imported libraries stay silent, because they read the
    settings only once.

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
                # Windows builds before 1.29 ignore the variable.
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
