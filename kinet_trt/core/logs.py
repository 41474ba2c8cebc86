"""Logging to a function or to the terminal."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOGGER = "kinet_trt"
_NOTES = f"{LOGGER}.notes"  # its level is raised by --quiet

_NATIVE: dict[str, tuple[str, str | None]] = {
    "OPENCV_LOG_LEVEL": ("SILENT", "WARNING"),
    # If a log level is set, FFmpeg writes to standard output, which holds the results.
    "OPENCV_FFMPEG_LOGLEVEL": ("-8", None),
}
"""Log levels of OpenCV and its FFmpeg, by default and with --verbose; both read them when they are loaded."""


@contextmanager
def log_to(hook: Callable[[str, str], None], level: int = logging.WARNING) -> Iterator[None]:
    """Send the messages of kinet-trt to a function while the context is open.

    Parameters
    ----------
    hook
        Called with the name of the level, such as ``"WARNING"``, and the message; concurrently if several threads
        count.
    level
        Minimum level, as in :mod:`logging`; ``logging.INFO`` adds messages for developers.

    Notes
    -----
    To configure :mod:`logging` instead, use the logger ``kinet_trt``.

    Examples
    --------
    >>> from kinet_trt import log_to
    >>> with log_to(lambda level, message: print(level, message)):
    ...     pass
    """
    logger, handler = logging.getLogger(LOGGER), _Hook(hook)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def to_terminal() -> None:
    """Send the warnings of kinet-trt, but not of other libraries, to standard error.

    OpenCV and FFmpeg do not use :mod:`logging`: call this before OpenCV is imported. Their environment variables are
    not changed if the user has set them.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_is_ours)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger(_NOTES).setLevel(logging.NOTSET)
    for variable, (quiet, _) in _NATIVE.items():
        os.environ.setdefault(variable, quiet)


def be_quiet() -> None:
    """Hide progress and notes; warnings and errors are still shown."""
    logging.getLogger(_NOTES).setLevel(logging.WARNING + 1)


def is_quiet() -> bool:
    """Return True if progress and notes are hidden."""
    return not logging.getLogger(_NOTES).isEnabledFor(logging.WARNING)


def be_verbose() -> None:
    """Show the messages of other libraries, and the INFO messages of kinet-trt."""
    logging.getLogger(LOGGER).setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.removeFilter(_is_ours)
    for variable, (quiet, verbose) in _NATIVE.items():
        if os.environ.get(variable) == quiet:
            if verbose is None:
                del os.environ[variable]
            else:
                os.environ[variable] = verbose


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == LOGGER


class _Hook(logging.Handler):
    def __init__(self, hook: Callable[[str, str], None]) -> None:
        super().__init__()
        self._hook = hook

    def createLock(self) -> None:  # noqa: N802  # the name is logging's
        """Use no lock: a hook that blocks must not block other threads."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._hook(record.levelname, record.getMessage())
        except Exception:
            self.handleError(record)
