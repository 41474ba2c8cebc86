"""Fields for training and validation, and their sampling weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kinet_trt.core.detections import CLASSES
from kinet_trt.core.errors import KinetError
from kinet_trt.core.frame import MIN_SIDE
from kinet_trt.datasets.labelled_field import LabelledField

UNLABELLED_WEIGHT = 0.2
"""Sampling weight of a source without labelled nuclei, relative to all other sources together."""


def split_fields(fields: Sequence[LabelledField]) -> tuple[list[LabelledField], list[LabelledField]]:
    """Split fields into training and validation fields.

    Uses the ``split`` of the fields; test fields are excluded. From a source with a single field, the right fifth is
    used for validation if it is wide enough to be counted. If there are still no validation fields, every fifth field
    is used, or else the last. A single narrow field is used for both. Fields without labelled nuclei are not used for
    validation.
    """
    fields = [f for f in fields if f.split != "test" and (f.labelled or f.split != "val")]
    labelled = [f for f in fields if f.labelled]
    if not labelled:
        raise KinetError("no fields to train on: expected fields with labelled nuclei outside the test split")
    training, validation = [], []
    for f in fields:
        if f.split == "val":
            validation.append(f)
            continue
        single = bool(f.labelled) and sum(g.source == f.source for g in labelled) == 1
        width = f.pixels().shape[1] if single else 0
        if width // 5 >= MIN_SIDE:
            training.append(f.part(0, width - width // 5))
            validation.append(f.part(width - width // 5, width))
        else:
            training.append(f)
    if not validation:
        validation = list(labelled[4::5]) or [labelled[-1]]
        training = [f for f in fields if f not in validation]
        if not any(f.labelled for f in training):
            training += validation
    if not training:
        raise KinetError("no fields to train on: all are marked as validation fields")
    return training, validation


def sampling_weights(fields: Sequence[LabelledField], factors: Mapping[str, float]) -> list[float]:
    """Return the sampling weight of each field.

    The weight of a source is the square root of its number of nuclei, times 3 if every class is labelled, times its
    factor; that of a source without labelled nuclei is :data:`UNLABELLED_WEIGHT` times the sum of the others. The
    fields of a source have equal weights. Raise a KinetError if a factor is given for an unknown source.
    """
    sources = {f.source for f in fields}
    if unknown := set(factors) - sources:
        raise KinetError(f"weight: expected one of the sources {sorted(sources)}, found {sorted(unknown)}")
    weight = {}
    for source in sources:
        members = [f for f in fields if f.source == source]
        nuclei = sum(len(f.x) for f in members) + 1
        is_complete = all(set(f.labelled) == set(CLASSES) for f in members)
        weight[source] = np.sqrt(nuclei) * (3 if is_complete else 1)
    unlabelled = {source for source in sources if not any(f.labelled for f in fields if f.source == source)}
    total = sum(weight[source] for source in sources - unlabelled) or 1.0
    weight |= dict.fromkeys(unlabelled, UNLABELLED_WEIGHT * total)
    number = Counter(f.source for f in fields)
    return [factors.get(f.source, 1.0) * weight[f.source] / number[f.source] for f in fields]


def unlabelled_fields(images: Sequence[Path]) -> list[LabelledField]:
    """Return images without labels as training fields of the source ``"unlabelled"``."""
    empty = np.zeros(0, np.float32)
    return [
        LabelledField(image, empty, empty, np.zeros(0, np.uint8), (), source="unlabelled", split="train")
        for image in images
    ]
