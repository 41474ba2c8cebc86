"""Optical density of DAB at nuclei, by colour deconvolution.

The optical density of a pixel in each channel is ``-log10(I / I0)``, where I0 is the white point. It is the sum of the
stains, each an amount times a unit vector of densities in R, G and B; the inverse of the matrix of vectors gives the
amounts (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291). The third vector is at right angles to haematoxylin
and DAB. The amount is linear in the optical densities: three lookups in tables of 256 values, added.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.frame import Frame, fit
from kinet_trt.quality.stain import white_point

HAEMATOXYLIN, DAB = (0.650, 0.704, 0.286), (0.268, 0.570, 0.776)
"""Optical densities of the stains in R, G and B (Ruifrok and Johnston 2001)."""
RADIUS_UM = 2.0
"""Radius of the disc over which the density is averaged, µm: it lies inside a round nucleus."""
DECIMALS = 4
"""Decimals of a density, the same in memory and in files, so that a cut-off selects the same nuclei in both."""

_MIN_WHITE = 60.0  # of 255
_MIN_RADIUS_PX = 1.5  # px: at least 3 x 3 px are averaged
_PART = 4096  # nuclei that are measured at once


def measure_dab(
    frame: Frame, nuclei: Detections, model_mpp: float = 0.34, white: tuple[float, float, float] | None = None
) -> Detections:
    """Measure the optical density of DAB at each nucleus of a frame.

    It is the mean over a disc of 2 µm radius at the model's scale. With the default white point, scaling the light
    changes it only by the rounding of pixels to 8 bits. Like QuPath's "Nucleus: DAB OD mean", it can be slightly
    negative at nuclei without DAB.

    Parameters
    ----------
    frame
        The counted frame. Without µm/px, the model's is assumed.
    nuclei
        Its nuclei, px of the frame.
    model_mpp
        The model's µm/px: ``counter.card.mpp``.
    white
        White point, R, G and B from 0 to 255; defaults to that of the frame, see
        :func:`frame_white`.

    Returns
    -------
    Detections
        The same nuclei with ``dab``, float32 [n], rounded to 4 decimals.

    Raises
    ------
    ImageError
        If the frame is too small or too large to be counted.

    Examples
    --------
    >>> from kinet_trt import NucleusCounter, measure_dab, read_image
    >>> counter, frame = NucleusCounter(), read_image("field.png")  # doctest: +SKIP
    >>> nuclei = measure_dab(frame, counter(frame), counter.card.mpp)  # doctest: +SKIP
    >>> nuclei.dab  # doctest: +SKIP
    array([0.7412, 0.0387, ...], dtype=float32)
    """
    fitted = fit(frame, model_mpp, multiple=1)
    x = (nuclei.x.astype(np.float64) + 0.5) * fitted.scale_x - 0.5
    y = (nuclei.y.astype(np.float64) + 0.5) * fitted.scale_y - 0.5
    return replace(nuclei, dab=dab_at(fitted.pixels, x, y, model_mpp, white or frame_white(fitted.pixels)))


def frame_white(pixels: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Return the white point of RGB pixels, uint8 [height, width, 3]; each channel is raised to at least 60."""
    red, green, blue = np.maximum(white_point(pixels[::4, ::4].reshape(-1, 3)), _MIN_WHITE)
    return float(red), float(green), float(blue)


def dab_at(
    pixels: NDArray[np.uint8],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    mpp: float,
    white: tuple[float, float, float],
) -> NDArray[np.float32]:
    """Return the mean density of DAB on discs about points of an image, float32 [n].

    ``pixels`` are RGB uint8 [height, width, 3] at ``mpp`` µm/px, ``x``, ``y`` px [n]. The centre of a disc is the
    nearest pixel; at the edge of the image, the pixels of the edge are repeated.
    """
    tables = _tables(white)
    dx, dy = _disc(max(_MIN_RADIUS_PX, RADIUS_UM / mpp))
    height, width = pixels.shape[:2]
    columns, rows = (
        np.rint(np.clip(centres, 0, side - 1)).astype(np.intp)[:, None] for centres, side in ((x, width), (y, height))
    )
    density = np.empty(len(x), np.float32)
    for start in range(0, len(x), _PART):
        part = slice(start, start + _PART)
        disc = pixels[np.clip(rows[part] + dy, 0, height - 1), np.clip(columns[part] + dx, 0, width - 1)]
        density[part] = sum(table[disc[..., channel]] for channel, table in enumerate(tables)).mean(axis=1)
    return np.round(density, DECIMALS)


@cache
def _unmixing() -> NDArray[np.float64]:
    """Return the weights that turn densities in R, G and B into the amount of DAB, float64 [3]."""
    stains = [np.asarray(vector) / np.linalg.norm(vector) for vector in (HAEMATOXYLIN, DAB)]
    residual = np.cross(*stains)
    weights: NDArray[np.float64] = np.linalg.inv([*stains, residual / np.linalg.norm(residual)])[:, 1]
    return weights


def _tables(white: tuple[float, float, float]) -> list[NDArray[np.float32]]:
    """Return the contribution of each level of each channel to the density of DAB; a level of 0 is taken as 1."""
    levels = np.maximum(np.arange(256), 1)
    return [
        (-weight * np.log10(levels / channel)).astype(np.float32)
        for weight, channel in zip(_unmixing(), white, strict=True)
    ]


def _disc(radius: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the offsets dx and dy of the pixels in a disc, intp [m] each, px."""
    reach = int(radius)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.intp)
    inside = dx * dx + dy * dy <= radius * radius
    return dx[inside], dy[inside]
