"""Density of DAB at the nuclei of captured fields."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.frame import Frame
from kinet_trt.live.session.edits import EditedNuclei
from kinet_trt.live.session.records import Field
from kinet_trt.quality.dab import measure_dab


def dab_density(field: Field, edited: EditedNuclei, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the optical density of DAB at all nuclei of a field, removed ones included, float32 [n].

    ``pixels`` are those of the field, RGB uint8 [height, width, 3].
    """
    nuclei = Detections(edited.x, edited.y, edited.cls, edited.score, edited.classes)
    density = measure_dab(Frame(pixels, field.mpp), nuclei, field.model.card.mpp).dab
    assert density is not None
    return density
