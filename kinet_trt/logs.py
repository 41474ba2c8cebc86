"""What kinet-trt has to say, handed to a program that it is built into."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOGGER = "kinet_trt"


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
