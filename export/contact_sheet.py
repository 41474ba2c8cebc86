"""Contact sheet of detections during training."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.evaluation.evaluate import comparable_nuclei, marked

MAX_FIELDS, SIDE = 6, 512
"""Number of fields in a sheet, and side of the upper left part of each, px."""
GAP = 8
"""Space between fields, px."""


def contact_sheet(found: Sequence[Detections], fields: Sequence[LabelledField], threshold: float) -> bytes:
    """Draw false negatives (yellow), false positives (magenta) and wrong classes (orange) of a field of each source.

    ``found`` are the detections in each field, px of the field, which is at the model's scale; those below
    ``threshold`` are not drawn. Return a JPEG file.
    """
    first = {f.source: i for i, f in reversed(list(enumerate(fields)))}
    chosen = sorted(first.values())
    chosen += [i for i in range(len(fields)) if i not in chosen]
    pictures: list[NDArray[np.uint8]] = []
    for i in chosen[:MAX_FIELDS]:
        sides = comparable_nuclei(found[i].where(found[i].score >= np.float32(threshold)), fields[i])
        pictures.append(marked(fields[i].pixels(), *sides, 1.0)[:SIDE, :SIDE])
    height = max(picture.shape[0] for picture in pictures)
    sheet = np.full((height, sum(p.shape[1] + GAP for p in pictures) - GAP, 3), 255, np.uint8)
    left = 0
    for picture in pictures:
        sheet[: picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + GAP
    packed: bytes = cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    return packed
