"""A picture of what was found."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.detections import COLOURS, OTHER_COLOUR, Detections
from kinet_trt.frame import Frame

RING_UM = 2.6
"""Radius of a ring, um: about a nucleus' own, so that it can be seen inside."""
_SUBPIXEL = 4  # bits of OpenCV's fixed-point coordinates


def draw(frame: Frame, detections: Detections, mpp: float) -> NDArray[np.uint8]:
    """Draw a ring on each nucleus, coloured by class: red positive, blue negative, green non-tumour.

    Parameters
    ----------
    frame
        The picture.
    detections
        Its nuclei.
    mpp
        um/px of the frame, for the size of the rings.

    Returns
    -------
    NDArray
        RGB, uint8, of the frame's size.
    """
    picture = frame.pixels.copy()
    radius = max(2.0, RING_UM / mpp)
    thickness = max(1, round(radius / 7))
    shift = 1 << _SUBPIXEL
    for x, y, cls in zip(detections.x, detections.y, detections.cls, strict=True):
        colour = COLOURS.get(detections.classes[cls], OTHER_COLOUR)
        centre = (round(float(x) * shift), round(float(y) * shift))
        cv2.circle(picture, centre, round(radius * shift), colour, thickness, cv2.LINE_AA, _SUBPIXEL)
    return picture


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode RGB pixels, uint8 [H, W, 3], as PNG."""
    _, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return data.tobytes()
