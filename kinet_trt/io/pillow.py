"""Convert 8-bit pictures of Pillow to RGB over white."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kinet_trt.core.errors import ImageError

EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
MAX_IMAGE_PIXELS = 178_956_970
"""Largest picture that is read in one piece, px: Pillow's limit."""

_TRANSPARENT = "every pixel is transparent (alpha 0): save it without the alpha channel"

# Pillow and OpenCV apply the orientation tag of a TIFF; these undo it.
_UNDO: Mapping[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def as_stored(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo the rotation by the orientation tag of a TIFF."""
    undo = _UNDO.get(orientation)
    return undo(pixels) if undo else pixels


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return an image over white (glass), RGB uint8 [height, width, 3]; an error if every pixel is transparent."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() == (0, 0):
            raise ImageError(_TRANSPARENT)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def over_white(
    pixels: NDArray[np.uint8], alpha: NDArray[np.uint8], *, premultiplied: bool = False
) -> NDArray[np.uint8]:
    """Composite pixels over white; an error if every pixel is transparent.

    Pixels are uint8 [height, width, channels], ``premultiplied`` if they are multiplied by alpha already; alpha is
    uint8 [height, width, 1], 255 where opaque.
    """
    if not alpha.any():
        raise ImageError(_TRANSPARENT)
    opacity = alpha.astype(np.float32) / 255
    colour = pixels.astype(np.float32) * (1 if premultiplied else opacity)
    return np.asarray(np.rint(np.minimum(255, colour + 255 * (1 - opacity))), np.uint8)
