"""Find damage in JPEG data, which Pillow and OpenCV decode without an error."""

from __future__ import annotations

import re

import simplejpeg

_LOST = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")
_PADDING = 16
"""Extra bytes before the end marker that the encoders of some cameras write; more bytes are lost pixels."""


def find_damage(data: bytes) -> str | None:
    """Return the decoder's message on a damaged JPEG file or MJPEG frame; None if every block can be decoded."""
    try:
        # At full size: simplejpeg 1.9 overflows a buffer when it scales a lossless JPEG.
        simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True)
    except ValueError as error:
        message = str(error)
        extra = re.search(r"(\d+) extraneous bytes before marker 0xd9", message)
        # Other warnings of libjpeg, such as an odd ICC profile or scan header, do not affect the pixels.
        if not message.startswith(_LOST) or "ICC" in message or (extra and int(extra[1]) <= _PADDING):
            return None
        return message.removeprefix("Corrupt JPEG data: ")
    return None
