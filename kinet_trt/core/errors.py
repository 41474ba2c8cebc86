"""The one family of errors that a user should read: what was expected, what was found, what to do."""

from __future__ import annotations

import unicodedata

MAX_VALUE_LENGTH = 120
"""Characters of a wrong value that a message shows: a damaged file can hold millions."""

MAX_MESSAGE_LENGTH = 1_000
"""Characters of a message."""


def shown(value: object) -> str:
    """Return a wrong value as a message shows it: its ``repr``, cut where it is long."""
    text = repr(value)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 3]}..."


def printable(text: object) -> str:
    """Return text, such as a file name, on one line that any file can hold: control characters as escapes."""
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char
        for char in str(text)
    )


class KinetError(Exception):
    """Something about the user's input or machine, in one message; the command line prints no traceback."""

    def __str__(self) -> str:
        text, half = super().__str__(), MAX_MESSAGE_LENGTH // 2
        # A path of a damaged index can fill a screen; what to do stands at the end.
        return text if len(text) <= MAX_MESSAGE_LENGTH else f"{text[:half]} ... {text[-half:]}"


class ImageError(KinetError):
    """An image file that cannot be read, or a frame that cannot be counted."""


class CardError(KinetError):
    """A model file without a model card, with a damaged one, or with one this version does not understand."""


class EngineError(KinetError):
    """A compiled model that cannot be opened or run here."""


class CountCancelledError(KinetError):
    """A count that was told to stop before its end."""


class MissingExtraError(KinetError):
    """A command that needs an optional extra which is not installed."""

    def __init__(self, command: str, extra: str, missing: str) -> None:
        super().__init__(
            f'{command} needs the package {missing!r}, which is not installed: pip install "kinet-trt[{extra}]"'
        )
