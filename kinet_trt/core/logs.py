"""Messages: ours to a function or to the terminal, those of other libraries only where they are asked for."""

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
"""What OpenCV and its FFmpeg write past Python, by default and with --verbose; both read these when they are loaded."""


@contextmanager
def log_to(hook: Callable[[str, str], None], level: int = logging.WARNING) -> Iterator[None]:
    """Hand every message to a function while the context lasts, and nowhere else.

    Parameters
    ----------
    hook
        Called with the level's name, such as ``"WARNING"``, and one sentence for a person; from any thread that counts,
        by several at a time if several count.
    level
        Least level, as in :mod:`logging`: warnings are for the person at the microscope, ``logging.INFO`` adds what a
        developer may want to know.

    Notes
    -----
    It is the logger ``kinet_trt`` of :mod:`logging`, for programs that would rather configure that.

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
    """Send messages to standard error, for the command line: warnings of kinet-trt, and nothing of other libraries.

    What another library finds odd about a file, kinet-trt says in its own words where it matters. OpenCV and FFmpeg
    write past :mod:`logging`: call this before OpenCV is imported. Levels that the user has set stay.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_is_ours)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger(_NOTES).setLevel(logging.NOTSET)
    for variable, (quiet, _) in _NATIVE.items():
        os.environ.setdefault(variable, quiet)


def be_quiet() -> None:
    """Leave out progress and notes; warnings and errors are still shown."""
    logging.getLogger(_NOTES).setLevel(logging.WARNING + 1)


def is_quiet() -> bool:
    """Return whether progress and notes are left out."""
    return not logging.getLogger(_NOTES).isEnabledFor(logging.WARNING)


def be_verbose() -> None:
    """Let everything through that :func:`to_terminal` holds back, and what kinet-trt does."""
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
        """Make no lock: a hook that waits must not hold up other threads."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._hook(record.levelname, record.getMessage())
        except Exception:
            self.handleError(record)
