"""Fields of the studies, for training, validation and testing, with and without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from kinet_trt.export.crops import weak_region

from kinet_trt.core.detections import CLASSES
from kinet_trt.datasets.labelled_field import LabelledField

TEST_SHARE, VALIDATION_SHARE = 0.3, 0.2
"""Fractions of the only field of a source for testing (its right part) and for validation (the part beside it)."""
BARE = "regions alone"
"""Source of the fields without their nuclei."""


def split_for_study(fields: Sequence[LabelledField]) -> tuple[list[LabelledField], list[LabelledField]]:
    """Return fields for training and validation, by their ``split``, and fields for testing.

    The ``val`` fields of the data are used for testing, since there are no others. The last fifth of the other fields
    of each source, by name, is for validation: some are tiles of a slide, and neighbours stay together. The single
    field of a source is cut in three.
    """
    others, test_fields = [], []
    for source in sorted({f.source for f in fields}):
        own = sorted((f for f in fields if f.source == source), key=lambda f: f.name)
        test_fields += [f for f in own if f.split == "val"]
        rest = [f for f in own if f.split != "val"]
        if len(rest) == 1:
            width = rest[0].pixels().shape[1]
            middle, right = round(width * (1 - TEST_SHARE - VALIDATION_SHARE)), round(width * (1 - TEST_SHARE))
            others.append(replace(rest[0].part(0, middle), split="train"))
            others.append(replace(rest[0].part(middle, right), split="val"))
            test_fields.append(rest[0].part(right, width))
        else:
            first = len(rest) - max(1, len(rest) // 5)
            others += [replace(f, split="train" if i < first else "val") for i, f in enumerate(rest)]
    return others, [replace(f, split="test") for f in test_fields]


def with_labels(fields: Sequence[LabelledField], fraction: float, seed: int) -> list[LabelledField]:
    """Return fields of which a fraction of those for training keeps its nuclei, and the rest only its regions.

    The order of the fields is random, but starts with one that labels every class; a smaller fraction is a subset of a
    larger one.
    """
    training = [i for i, f in enumerate(fields) if f.split != "val"]
    drawn = np.random.default_rng(seed).permutation(training)
    first = [i for i in drawn if set(fields[i].labelled) == set(CLASSES)][:1]
    order = first + [i for i in drawn if i not in first]
    kept = set(order[: max(1, round(fraction * len(order)))])
    return [f if i in kept or f.split == "val" else without_nuclei(f) for i, f in enumerate(fields)]


def without_nuclei(field: LabelledField) -> LabelledField:
    """Return a field with only its regions, those around its nuclei as in training.

    All of them are one source, which training draws a fifth as often as all others together: left among the fields of
    their own sources, they would take the place of nearly all that teach nuclei where few fields keep them.
    """
    tumor, known = weak_region(
        field.x, field.y, field.cls, field.counted_mask().astype(np.float32), field.counted is not None
    )
    nothing = np.zeros(0, np.float32)
    return replace(
        field,
        source=BARE,
        x=nothing,
        y=nothing,
        cls=np.zeros(0, np.uint8),
        labelled=(),
        counted=None,
        _masks=[],
        _regions=[(tumor[0] > 0, known[0] > 0)],
    )
