"""Motion JPEG: frames encoded as JPEG files, from network cameras and in video files."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from kinet_trt.core.errors import ImageError
from kinet_trt.io.jpeg import find_damage


def decode(packet: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Decode a frame of Motion JPEG, uint8 [n], to RGB, uint8 [height, width, 3].

    Bytes after the end marker are ignored. ImageError if a part is missing or damaged; decoders would return a picture
    that is partly grey or black.
    """
    data = packet.tobytes()
    name = f"a JPEG frame of {len(data)} bytes"
    if not data.startswith(b"\xff\xd8"):
        raise ImageError(f"{name} does not begin like a JPEG")
    try:
        return np.asarray(simplejpeg.decode_jpeg(data), np.uint8)
    except ValueError as error:  # an error, or a warning that may be harmless
        if found := find_damage(data):
            raise ImageError(f"{name} is damaged: {found}") from error
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return np.array(image.convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{name} cannot be decoded: {error}") from error
