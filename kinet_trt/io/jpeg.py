"""Damage in JPEG data, which Pillow and OpenCV decode to a grey or shifted lower part without an error."""

from __future__ import annotations

import re

import simplejpeg

_LOST = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")
_PADDING = 16
"""Bytes too many before the end marker that encoders of cameras leave; more belong to pixels that are lost."""


def find_damage(data: bytes) -> str | None:
    """Return what is wrong with a JPEG file or a frame of MJPEG; None where every block could be decoded.

    Parameters
    ----------
    data
        All bytes, from the start marker on.

    Returns
    -------
    str or None
        The decoder's message, such as "premature end of data segment".
    """
    try:
        # At full size: simplejpeg 1.9 writes beyond its memory where it scales a lossless JPEG.
        simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True)
    except ValueError as error:
        message = str(error)
        extra = re.search(r"(\d+) extraneous bytes before marker 0xd9", message)
        # What else libjpeg warns of, such as an odd ICC profile or scan header, leaves the pixels right.
        if not message.startswith(_LOST) or "ICC" in message or (extra and int(extra[1]) <= _PADDING):
            return None
        return message.removeprefix("Corrupt JPEG data: ")
    return None
