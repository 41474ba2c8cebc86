"""Errors that a user can cause. Each message states what was expected, what was found and what to do."""

from __future__ import annotations

import unicodedata

MAX_VALUE_LENGTH = 120
"""Longest value in a message; a damaged file can contain millions of characters."""

MAX_MESSAGE_LENGTH = 1_000


def shown(value: object) -> str:
    """Return the ``repr`` of a value for a message, truncated if it is long."""
    text = repr(value)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 3]}..."


def printable(text: object) -> str:
    """Return text, such as a file name, on one line; control characters become escapes."""
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char
        for char in str(text)
    )


class KinetError(Exception):
    """An error in the user's input or machine. The command line prints its message without a traceback."""

    def __str__(self) -> str:
        text, half = super().__str__(), MAX_MESSAGE_LENGTH // 2
        # A path from a damaged index can be very long; the end of the message says what to do.
        return text if len(text) <= MAX_MESSAGE_LENGTH else f"{text[:half]} ... {text[-half:]}"


class ImageError(KinetError):
    """An image file that cannot be read, or a frame that cannot be counted."""


class CardError(KinetError):
    """A model file without a model card, with a damaged one, or one of a newer version."""


class EngineError(KinetError):
    """A compiled model that cannot be opened or run on this machine."""


class CountCancelledError(KinetError):
    """A count that was cancelled."""


class MissingExtraError(KinetError):
    """A command that needs an optional extra that is not installed."""

    def __init__(self, command: str, extra: str, missing: str) -> None:
        super().__init__(
            f'{command} needs the package {missing!r}, which is not installed: pip install "kinet-trt[{extra}]"'
        )
