"""Teacher's maps as targets, computed once per field instead of once per crop."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.files import write_atomic
from kinet_trt.datasets.labelled_field import LabelledField

log = logging.getLogger(__name__)

VIEWS = tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True))
"""Quarter turns and reflections of a field whose maps are averaged."""

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Function from RGB, uint8 [H, W, 3], to maps, float32 [classes, H or more, W or more]."""


def mean_of_views(predict: Predict, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean of a network's maps over the turned and mirrored views of an image, uint8 [H, W, classes].

    255 stands for 1, and values outside 0 to 1 are clipped. The mean is a better target than the maps of a single view:
    errors that depend on the orientation cancel.
    """
    total: NDArray[np.float32] | None = None
    for turns, mirrored in VIEWS:
        view = np.rot90(pixels, turns)
        view = np.ascontiguousarray(view[:, ::-1] if mirrored else view)
        maps = predict(view)[:, : view.shape[0], : view.shape[1]]
        maps = maps[:, :, ::-1] if mirrored else maps
        upright = np.rot90(maps, -turns, axes=(1, 2))
        total = upright.copy() if total is None else total + upright
    assert total is not None
    rounded = np.rint(np.clip(total / len(VIEWS), 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(rounded.transpose(1, 2, 0))


def maps_of_fields(
    predict: Predict, fields: Sequence[LabelledField], folder: Path, key: str
) -> list[NDArray[np.uint8]]:
    """Return :func:`mean_of_views` of each field, at the network's scale, cached in a folder with one file per image.

    ``key`` identifies the network: cached maps of another one are ignored.
    """
    found: list[NDArray[np.uint8]] = []
    for f in fields:
        pixels = f.pixels()
        name = hashlib.sha256(f"{key} {pixels.shape}".encode() + pixels.tobytes()).hexdigest()[:20]
        path = folder / f"{name}.npz"
        maps = _read(path)
        if maps is None:
            log.info("maps of the teacher: %s (%d of %d)", f.name, len(found) + 1, len(fields))
            maps = mean_of_views(predict, pixels)
            buffer = io.BytesIO()
            np.savez_compressed(buffer, maps=maps)
            write_atomic(path, buffer.getvalue())
        found.append(maps)
    return found


def _read(path: Path) -> NDArray[np.uint8] | None:
    """Return cached maps; None if the file is missing or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as stored:
            return np.asarray(stored["maps"], np.uint8)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
