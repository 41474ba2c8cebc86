"""The one family of errors that a user should read: what was expected, what was found, what to do."""

from __future__ import annotations


class KinetError(Exception):
    """Something about the user's input or machine, in one message; the command line prints no traceback."""


class ImageError(KinetError):
    """An image file that cannot be read, or a frame that cannot be counted."""


class CardError(KinetError):
    """A model file without a model card, with a damaged one, or with one this version does not understand."""


class EngineError(KinetError):
    """A compiled model that cannot be opened or run here."""


class MissingExtraError(KinetError):
    """A command that needs an optional extra which is not installed."""

    def __init__(self, command: str, extra: str, missing: str) -> None:
        super().__init__(
            f'{command} needs the package {missing!r}, which is not installed: pip install "kinet-trt[{extra}]"'
        )
