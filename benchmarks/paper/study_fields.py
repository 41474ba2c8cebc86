"""The fields of the studies: which are learnt from, which choose the threshold, which judge, and which lose labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from kinet_trt.export.crops import weak_region

from kinet_trt.core.detections import CLASSES
from kinet_trt.datasets.labelled_field import LabelledField

JUDGED, CHOOSING = 0.3, 0.2
"""Shares of a field that is its source's only one: the right part judges, the one beside it chooses the threshold."""
BARE = "regions alone"
"""Source of the fields that lost their nuclei."""


def divided(fields: Sequence[LabelledField]) -> tuple[list[LabelledField], list[LabelledField]]:
    """Return fields to train and validate on, by their ``split``, and fields that judge.

    The data's ``val`` fields judge, since no others are at hand. Of each source's others the last fifth, in the order
    of their names, validates: some are tiles of a slide, and neighbours stay together. A source of one field is cut in
    three.
    """
    learnt, judging = [], []
    for source in sorted({f.source for f in fields}):
        own = sorted((f for f in fields if f.source == source), key=lambda f: f.name)
        judging += [f for f in own if f.split == "val"]
        rest = [f for f in own if f.split != "val"]
        if len(rest) == 1:
            width = rest[0].pixels().shape[1]
            middle, right = round(width * (1 - JUDGED - CHOOSING)), round(width * (1 - JUDGED))
            learnt.append(replace(rest[0].part(0, middle), split="train"))
            learnt.append(replace(rest[0].part(middle, right), split="val"))
            judging.append(rest[0].part(right, width))
        else:
            first = len(rest) - max(1, len(rest) // 5)
            learnt += [replace(f, split="train" if i < first else "val") for i, f in enumerate(rest)]
    return learnt, [replace(f, split="test") for f in judging]


def with_labels(fields: Sequence[LabelledField], fraction: float, seed: int) -> list[LabelledField]:
    """Return fields of which a share of those for training keeps its nuclei, and the rest its regions alone.

    The order in which fields keep them is drawn by the seed, but begins with one that labels every class; a smaller
    share is part of a larger one.
    """
    training = [i for i, f in enumerate(fields) if f.split != "val"]
    drawn = np.random.default_rng(seed).permutation(training)
    first = [i for i in drawn if set(fields[i].labelled) == set(CLASSES)][:1]
    order = first + [i for i in drawn if i not in first]
    kept = set(order[: max(1, round(fraction * len(order)))])
    return [f if i in kept or f.split == "val" else without_nuclei(f) for i, f in enumerate(fields)]


def without_nuclei(field: LabelledField) -> LabelledField:
    """Return a field with its regions alone: those that its nuclei stand in, as training takes them.

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
