"""The summary of a session: counts, index, hot spot, average, area, and what may be wrong with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.hot_spot import HOT_SPOT as HOT_SPOT
from kinet_trt.core.hot_spot import MAX_CENTRES, Disc, find_disc
from kinet_trt.core.ki67 import NET, Bands, Ki67, Statement
from kinet_trt.live.session.merge import FieldNuclei, Merged, area_mm2, merge
from kinet_trt.live.session.records import Field
from kinet_trt.live.session.registration import Layout

GOALS = (500, 2_000)
"""Tumour nuclei that WHO and ENETS ask for, at least and at best."""


@dataclass(frozen=True, eq=False)
class SessionCount:
    """A session counted once, in one reading.

    Attributes
    ----------
    fields
        In the order of capture.
    field_nuclei
        The same fields as they were merged.
    layout
        Where they lie.
    merged
        The nuclei, each once.
    unlike
        Of fields that look unlike the training data, by id: in which way, a sentence.
    """

    fields: tuple[Field, ...]
    field_nuclei: tuple[FieldNuclei, ...]
    layout: Layout
    merged: Merged
    domain_warnings: Mapping[int, str]


@dataclass(frozen=True)
class SessionHotSpot:
    """The disc of n tumour nuclei with the highest index.

    Attributes
    ----------
    place, x, y
        Its centre, um in a place.
    radius
        um.
    ki67
        Index of the nuclei in it. As the highest of many it is slightly too high by chance alone.
    fields
        The fields that show nuclei of it.
    """

    place: int
    x: float
    y: float
    radius: float
    ki67: Ki67
    fields: tuple[int, ...]


@dataclass(frozen=True)
class Summary:
    """The summary of a session.

    Attributes
    ----------
    fields, places
        How many; fields of one place were aligned to one another.
    counts
        Nuclei by class, each once.
    ki67
        Index of all of them: the average over everything that was captured.
    statement
        What the average and the hot spot say about the grade.
    more_nuclei
        How many more tumour nuclei, at this rate, bring the whole interval of the average into one range; 0: it lies in
        one; None: counting more is unlikely to help.
    mean_of_fields
        Mean of the fields' own indices, each field counting the same; None without tumour nuclei.
    hot_spot
        None where no place has enough tumour nuclei.
    area_mm2
        Area that was counted, overlaps once.
    repeats
        Sightings that were not counted because another field shows the same nucleus.
    corrected
        Counted nuclei that a person added, confirmed or reclassified.
    cautions
        Sentences on what may make the count wrong.
    """

    fields: int
    places: int
    counts: dict[str, int]
    ki67: Ki67
    statement: Statement
    more_nuclei: int | None
    mean_of_fields: float | None
    hot_spot: SessionHotSpot | None
    area_mm2: float
    repeats: int
    corrected: int
    cautions: tuple[str, ...]

    @property
    def progress(self) -> tuple[float, ...]:
        """Share of each of :data:`GOALS` that is reached, up to 1."""
        return tuple(min(1.0, self.ki67.tumor / goal) for goal in GOALS)


def count(
    fields: Sequence[Field],
    field_nuclei: Sequence[FieldNuclei],
    layout: Layout,
    unlike: Mapping[int, str] | None = None,
) -> SessionCount:
    """Count fields with their answers where they lie."""
    return SessionCount(tuple(fields), tuple(field_nuclei), layout, merge(field_nuclei, layout), unlike or {})


def summarise(counted: SessionCount, *, hot_spot: int = HOT_SPOT, bands: Bands | None = NET) -> Summary:
    """Sum a session up.

    Parameters
    ----------
    counted
        The session.
    hot_spot
        Tumour nuclei of a hot spot.
    bands
        Grade ranges; None: none are stated.
    """
    merged = counted.merged
    counts = merged.counts()
    ki67, spot = Ki67.from_counts(counts), find_session_hot_spot(merged, hot_spot)
    own = [index for piece in counted.field_nuclei if (index := field_ki67(piece).index) is not None]
    return Summary(
        fields=len(counted.fields),
        places=counted.layout.places,
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
    )


def field_counts(piece: FieldNuclei) -> dict[str, int]:
    """Return the nuclei of one field by class: in its region, whether or not another field shows them too."""
    answer = piece.answer
    kept = piece.inside() & ~answer.removed
    numbers = np.bincount(answer.cls[kept], minlength=len(answer.classes))
    return {name: int(n) for name, n in zip(answer.classes, numbers, strict=True)}


def field_ki67(piece: FieldNuclei) -> Ki67:
    """Return the index of one field."""
    return Ki67.from_counts(field_counts(piece))


def find_session_hot_spot(merged: Merged, n: int = HOT_SPOT) -> SessionHotSpot | None:
    """Find the disc of n tumour nuclei with the highest index.

    About tumour nuclei (all of them, or up to 800 spread evenly) the n nearest tumour nuclei of the same place are
    taken, the centre included; the highest index wins, and of equal ones the smallest disc.

    Parameters
    ----------
    merged
        Nuclei, each once.
    n
        Tumour nuclei of a disc, at least 1.

    Returns
    -------
    SessionHotSpot or None
        None where no place has n tumour nuclei.
    """
    names = [name for name in ("positive", "negative") if name in merged.classes]
    tumor = np.isin(merged.cls, [merged.classes.index(name) for name in names])
    positive = merged.cls == merged.classes.index("positive") if "positive" in names else np.zeros_like(tumor)
    places = [place for place in np.unique(merged.place[tumor]) if int((tumor & (merged.place == place)).sum()) >= n]
    total = sum(int((tumor & (merged.place == place)).sum()) for place in places)
    step = max(1, -(-total // MAX_CENTRES))
    best: tuple[int, NDArray[np.intp], Disc] | None = None
    for place in places:
        here = np.flatnonzero(tumor & (merged.place == place))
        spot = find_disc(merged.x[here], merged.y[here], positive[here], n, step)
        if spot is not None and (best is None or spot.rank > best[2].rank):
            best = int(place), here, spot
    if best is None:
        return None
    place, here, spot = best
    centre = here[spot.centre]
    shown = tuple(sorted({int(f) for f in merged.field[here[spot.nuclei]]}))
    return SessionHotSpot(
        place, float(merged.x[centre]), float(merged.y[centre]), spot.radius, Ki67(spot.positive, n), shown
    )


def _no_range(counted: SessionCount) -> str:
    """Say why no grade range is given; empty where one is."""
    numbers = _unlike_numbers(counted)
    if not numbers:
        return ""
    look = "looks" if len(numbers) == 1 else "look"
    return f"No grade range is given, because {_listed(numbers)} {look} unlike the model's training data."


def _unlike_numbers(counted: SessionCount) -> list[int]:
    return [field.number for field in counted.fields if counted.domain_warnings.get(field.id)]


def _cautions(counted: SessionCount) -> list[str]:
    """Return what may make a count wrong."""
    fields = counted.fields
    said = [
        f"Field {field.number}: {warning}" for field in fields if (warning := counted.domain_warnings.get(field.id))
    ]
    if assumed := [f.number for f in fields if f.mpp_source == "model"]:
        said.append(
            f"The pixel size of {_listed(assumed)} is only assumed. If it is wrong, so are the count, the area and the "
            "index."
        )
    if len({round(f.mpp, 4) for f in fields}) > 1:
        said.append("The fields differ in pixel size.")
    if len({(f.model.card.model_sha256, f.model.precision) for f in fields}) > 1:
        said.append("The fields were counted with different models or precisions.")
    if len({str(f.threshold) for f in fields}) > 1:
        said.append("The fields were counted at different thresholds.")
    if counted.layout.places > 1:
        said.append(
            f"The fields form {counted.layout.places} groups that could not be aligned. Where fields of different "
            "groups show the same tissue, its nuclei are counted more than once."
        )
    if doubtful := _overlap_by_stage(counted):
        said.append(
            f"According to the stage position, {_listed(sorted(doubtful))} overlap other fields, but their pictures "
            "could not be aligned: their nuclei may be counted twice."
        )
    return said


def _overlap_by_stage(counted: SessionCount) -> set[int]:
    """Return the numbers of fields that by stage position overlap a field of another place by half and more."""
    placed, found = counted.layout.placed, set[int]()
    for k, a in enumerate(counted.fields):
        for b in counted.fields[:k]:
            if a.stage is None or b.stage is None or placed[a.id].place == placed[b.id].place:
                continue
            apart = math.hypot(a.stage[0] - b.stage[0], a.stage[1] - b.stage[1])
            if apart < 0.5 * min(one.mpp * min(one.width, one.height) for one in (a, b)):
                found |= {a.number, b.number}
    return found


def _listed(numbers: Sequence[int]) -> str:
    """Return "field 3", "fields 1, 2 and 3" or "12 fields"."""
    if len(numbers) > 6:
        return f"{len(numbers)} fields"
    if len(numbers) == 1:
        return f"field {numbers[0]}"
    return f"fields {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
