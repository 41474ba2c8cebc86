"""Sharpness and contrast of a picture from two bands of its green channel, in which both stains are visible.

``sharpness = std(g1 - g2) / std(g1 - g8)``, where g<s> is the green channel after a Gaussian of sigma s px, at the
model's µm/px. Noise is mostly at higher frequencies than both bands, vignetting at lower ones, and exposure cancels.
The normalised variance of the Laplacian (Pech-Pacheco 2000) was rejected: it is less sensitive to defocus in noisy
pictures.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

MIN_CONTRAST = 0.015
"""Minimum contrast; pictures below it show glass and noise. The palest labelled fields have 0.034."""
MIN_SHARPNESS = 0.14
"""Minimum sharpness; pictures below it are blurred. Sharp labelled fields have 0.157 to 0.40."""


def contrast_and_sharpness(green: NDArray[np.float32]) -> tuple[float, float]:
    """Return contrast, the standard deviation of structure over the mean brightness, and sharpness, 0 to 1.

    The green channel is at the model's µm/px, 0 to 255, float32 [height, width].
    """
    g1, g2 = cv2.GaussianBlur(green, (0, 0), 1), cv2.GaussianBlur(green, (0, 0), 2)
    # The wide blur is much cheaper at a quarter of the resolution.
    height, width = green.shape
    quarter = cv2.resize(g2, (-(-width // 4), -(-height // 4)), interpolation=cv2.INTER_AREA)
    g8 = cv2.resize(cv2.GaussianBlur(quarter, (0, 0), 2), (width, height), interpolation=cv2.INTER_LINEAR)
    fine, coarse = (float(cv2.meanStdDev(cv2.subtract(g1, blurred))[1][0, 0]) for blurred in (g2, g8))
    return coarse / max(1.0, float(green.mean())), fine / max(coarse, 1e-6)
