"""Summary of a session: counts, index, hot spot, average, area and cautions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.hot_spot import HOT_SPOT as HOT_SPOT
from kinet_trt.core.hot_spot import MAX_CENTRES, Disc, HotSpot, find_disc
from kinet_trt.core.ki67 import NET, Bands, Ki67, Statement
from kinet_trt.core.protocols import (
    ProtocolCount,
    TumorPoints,
    count_breast_global,
    count_hot_spot,
    statement_bands,
)
from kinet_trt.live.session.layout import Layout
from kinet_trt.live.session.merge import FieldNuclei, Merged, area_mm2
from kinet_trt.live.session.records import Field

GOALS = (500, 2_000)
"""Tumour nuclei that WHO and ENETS recommend, at least and at best."""


@dataclass(frozen=True, eq=False)
class SessionCount:
    """Count of a session in one reading."""

    fields: tuple[Field, ...]  # in the order of capture
    field_nuclei: tuple[FieldNuclei, ...]  # input of the merge
    layout: Layout
    merged: Merged
    domain_warnings: Mapping[int, str]  # of out-of-distribution fields, by id


@dataclass(frozen=True)
class SessionHotSpot:
    """Hot spot of a session: the disc of n tumour nuclei with the highest index."""

    group: int  # number of the group of aligned fields
    x: float  # centre in its group, um
    y: float
    radius: float  # um
    ki67: Ki67  # as the highest of many, slightly too high by chance
    fields: tuple[int, ...]  # ids of the fields that show its nuclei


@dataclass(frozen=True)
class Summary:
    """Summary of a session."""

    fields: int  # number of fields
    group_count: int  # number of groups of aligned fields
    counts: dict[str, int]  # by class, each nucleus once
    ki67: Ki67  # over all nuclei
    statement: Statement  # on the grade ranges of average and hot spot
    more_nuclei: int | None  # tumour nuclei still to count, see `Ki67.more_nuclei`
    mean_of_fields: float | None  # mean of the indices of the fields; None without tumour nuclei
    hot_spot: SessionHotSpot | None  # None if no group of fields has enough tumour nuclei
    area_mm2: float  # overlaps once
    repeats: int  # not counted because another field shows them
    corrected: int  # counted nuclei that were added, confirmed or reclassified
    cautions: tuple[str, ...]  # sentences on possible errors of the count
    protocol: ProtocolCount | None = None  # None if it was not asked for
    protocol_sentences: tuple[str, ...] = ()  # its index, its range, and the fields that are still needed

    @property
    def progress(self) -> tuple[float, ...]:
        """Progress towards each of :data:`GOALS`, up to 1."""
        return tuple(min(1.0, self.ki67.tumor / goal) for goal in GOALS)


def summarise(
    counted: SessionCount, *, hot_spot: int = HOT_SPOT, bands: Bands | None = NET, protocol: str | None = None
) -> Summary:
    """Summarise the count of a session.

    ``hot_spot`` is the number of tumour nuclei in a hot spot; with ``bands`` None no ranges are stated. ``protocol`` is
    one of :data:`kinet_trt.core.protocols.NAMES`, or None.
    """
    merged = counted.merged
    counts = merged.counts()
    ki67, spot = Ki67.from_counts(counts), find_session_hot_spot(merged, hot_spot)
    by_protocol = _count_protocol(protocol, merged, spot) if protocol else None
    has_ranges = bands is not None and not _no_range(counted)
    bands = statement_bands(protocol, bands)
    own = [index for nuclei in counted.field_nuclei if (index := nuclei.detections().ki67.index) is not None]
    return Summary(
        fields=len(counted.fields),
        group_count=counted.layout.group_count,
        counts=counts,
        ki67=ki67,
        statement=Statement(ki67, spot.ki67 if spot else None, bands, _no_range(counted)),
        more_nuclei=ki67.more_nuclei(bands) if bands else 0,
        mean_of_fields=math.fsum(own) / len(own) if own else None,
        hot_spot=spot,
        area_mm2=area_mm2(counted.field_nuclei, counted.layout),
        repeats=merged.repeats,
        corrected=int(merged.corrected.sum()),
        cautions=tuple(_cautions(counted)),
        protocol=by_protocol,
        protocol_sentences=tuple(by_protocol.sentences(ranges=has_ranges)) if by_protocol else (),
    )


def _count_protocol(name: str, merged: Merged, spot: SessionHotSpot | None) -> ProtocolCount:
    """Return the result of a protocol; the centres of its fields are in µm of their group."""
    if name != "breast-global":
        return count_hot_spot(name, HotSpot(spot.x, spot.y, spot.radius, spot.ki67) if spot else None)
    tumor, positive = _tumor_masks(merged)
    masks = [tumor & (merged.group == group) for group in np.unique(merged.group)]
    return count_breast_global(
        [
            TumorPoints(merged.x[own].astype(np.float32), merged.y[own].astype(np.float32), positive[own], 1.0)
            for own in masks
        ]
    )


def _tumor_masks(merged: Merged) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the masks of the tumour nuclei and of the positive nuclei, bool [n]."""
    tumor = np.isin(merged.cls, [k for k, name in enumerate(merged.classes) if name in ("positive", "negative")])
    return tumor, np.array([name == "positive" for name in merged.classes])[merged.cls]


def find_session_hot_spot(merged: Merged, n: int = HOT_SPOT) -> SessionHotSpot | None:
    """Find the disc of n tumour nuclei with the highest index; None if no group of fields has n of them.

    About tumour nuclei (all of them, or up to 800 spread evenly) the n nearest tumour nuclei of the same group are
    taken, the centre included; the highest index wins, and of equal ones the smallest disc.
    """
    tumor, positive = _tumor_masks(merged)
    groups = [np.flatnonzero(tumor & (merged.group == group)) for group in np.unique(merged.group)]
    groups = [nuclei for nuclei in groups if len(nuclei) >= n]
    step = max(1, -(-sum(map(len, groups)) // MAX_CENTRES))
    best: tuple[NDArray[np.intp], Disc] | None = None
    for nuclei in groups:
        disc = find_disc(merged.x[nuclei], merged.y[nuclei], positive[nuclei], n, step)
        if disc is not None and (best is None or disc.rank > best[1].rank):
            best = nuclei, disc
    if best is None:
        return None
    nuclei, disc = best
    centre = nuclei[disc.centre]
    fields = tuple(sorted({int(field) for field in merged.field[nuclei[disc.nuclei]]}))
    x, y, group = float(merged.x[centre]), float(merged.y[centre]), int(merged.group[centre])
    return SessionHotSpot(group, x, y, disc.radius, Ki67(disc.positive, n), fields)


def _no_range(counted: SessionCount) -> str:
    """Return why no grade range is given; empty if one is."""
    numbers = _out_of_distribution(counted)
    if not numbers:
        return ""
    look = "looks" if len(numbers) == 1 else "look"
    return f"No grade range is given, because {_field_list(numbers)} {look} unlike the model's training data."


def _out_of_distribution(counted: SessionCount) -> list[int]:
    return [field.number for field in counted.fields if counted.domain_warnings.get(field.id)]


def _cautions(counted: SessionCount) -> list[str]:
    """Return sentences on possible errors of a count."""
    fields = counted.fields
    cautions = [
        f"Field {field.number}: {warning}" for field in fields if (warning := counted.domain_warnings.get(field.id))
    ]
    if assumed := [f.number for f in fields if f.mpp_source == "model"]:
        cautions.append(
            f"The pixel size of {_field_list(assumed)} is only assumed. If it is wrong, so are the count, the area and "
            "the index."
        )
    if len({round(f.mpp, 4) for f in fields}) > 1:
        cautions.append("The fields differ in pixel size.")
    if len({(f.model.card.model_sha256, f.model.precision) for f in fields}) > 1:
        cautions.append("The fields were counted with different models or precisions.")
    if len({str(f.threshold) for f in fields}) > 1:
        cautions.append("The fields were counted at different thresholds.")
    if counted.layout.group_count > 1:
        cautions.append(
            f"The fields form {counted.layout.group_count} groups that could not be aligned. Where fields of different "
            "groups show the same tissue, its nuclei are counted more than once."
        )
    if doubtful := _overlap_by_stage(counted):
        cautions.append(
            f"According to the stage position, {_field_list(sorted(doubtful))} overlap other fields, but their "
            "pictures could not be aligned: their nuclei may be counted twice."
        )
    return cautions


def _overlap_by_stage(counted: SessionCount) -> set[int]:
    """Return the numbers of fields whose stage positions overlap a field of another group by half or more."""
    placed, found = counted.layout.placed, set[int]()
    for k, a in enumerate(counted.fields):
        for b in counted.fields[:k]:
            if a.stage is None or b.stage is None or placed[a.id].group == placed[b.id].group:
                continue
            apart = math.hypot(a.stage[0] - b.stage[0], a.stage[1] - b.stage[1])
            if apart < 0.5 * min(one.mpp * min(one.width, one.height) for one in (a, b)):
                found |= {a.number, b.number}
    return found


def _field_list(numbers: Sequence[int]) -> str:
    """Return "field 3", "fields 1, 2 and 3" or "12 fields"."""
    if len(numbers) > 6:
        return f"{len(numbers)} fields"
    if len(numbers) == 1:
        return f"field {numbers[0]}"
    return f"fields {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
