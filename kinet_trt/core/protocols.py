"""Counting protocols: which tumour nuclei a Ki67 index is of, and what its range is called.

``net``: the hot spot (WHO 2019, ENETS: 500 to 2,000 tumour nuclei where labelling is highest).
``breast-hot-spot``: one field of 500 tumour nuclei where labelling is highest.
``breast-global``: fields of 100 tumour nuclei at each level of positivity that is present.

The two for breast are those of the International Ki67 in Breast Cancer Working Group (IKWG): Leung et al. 2016, npj
Breast Cancer 2:16014; Nielsen et al. 2021, J Natl Cancer Inst 113:808. The number of fields at each level is that of
IKWG's counting tool, https://github.com/GPEC/Ki67Counter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.hot_spot import HotSpot, measure_discs, separate_discs, tumor_nuclei
from kinet_trt.core.ki67 import NET, Bands, Ki67

NAMES = ("net", "breast-global", "breast-hot-spot")
"""Names of the protocols."""
BREAST = Bands(("5% or less", "above 5% and below 30%", "30% or more"), (0.05, 0.30), (False, True))
"""Breast: IKWG's cut-offs of prognosis, 5% or less and 30% or more (Nielsen et al. 2021)."""
DRUG_LABEL_CUT = 0.20
"""Cut-off in the labels of some drugs, 20% or more (abemaciclib in the first approvals for early breast cancer)."""
BREAST_HOT_SPOT = 500
"""Tumour nuclei in the hot spot of ``breast-hot-spot``."""
LEVELS = ("negative", "low", "medium", "high")
"""Levels of positivity of ``breast-global``."""
LEVEL_STARTS = (2, 10, 30)
"""Fewest positive nuclei of the 100 in a low, a medium and a high field. IKWG leaves the levels to the reader's eye."""
FIELD_NUCLEI = 100
"""Tumour nuclei in a field of ``breast-global``."""
FIELDS = 4
"""Fields of ``breast-global``."""
MIN_SHARE = 0.05
"""Smallest share of the area at which a level counts as present; IKWG's readers estimate in steps of about 5 to 10%."""
SIMILAR_SHARES = 0.25
"""Two levels whose shares differ by less than this have two fields each (IKWG's tool)."""
_CELL = 25.0  # µm: side of the cells that measure the area
_MAX_CELLS = 10_000


@dataclass(frozen=True, eq=False)
class TumorPoints:
    """Tumour nuclei of one picture, slide, or group of aligned fields.

    Attributes
    ----------
    x, y
        Centres, float32 [n], px, or µm with an ``mpp`` of 1.
    positive
        Mask of the positive ones, bool [n].
    mpp
        µm/px.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    positive: NDArray[np.bool_]
    mpp: float

    @classmethod
    def of(cls, nuclei: Detections, mpp: float) -> TumorPoints:
        """Return the tumour nuclei among detected nuclei."""
        tumor, positive = tumor_nuclei(nuclei)
        return cls(tumor.x, tumor.y, positive, mpp)

    @classmethod
    def gather(cls, parts: Iterable[Detections], mpp: float) -> TumorPoints:
        """Return the tumour nuclei of detected nuclei in several parts, with 9 bytes of memory per tumour nucleus."""
        found = [cls.of(Detections.empty(), mpp), *(cls.of(part, mpp) for part in parts)]
        x, y, positive = (np.concatenate([getattr(one, name) for one in found]) for name in ("x", "y", "positive"))
        return cls(x, y, positive, mpp)


@dataclass(frozen=True)
class ProtocolField:
    """A field that a protocol counts: a disc about a tumour nucleus.

    Attributes
    ----------
    level
        One of :data:`LEVELS`; ``"hot spot"`` for the other protocols.
    x, y
        Centre, px of the picture, or of the slide's full resolution; µm if the points are in µm.
    radius
        Radius, µm.
    ki67
        Index of its nuclei.
    group
        Number of the picture, or of the group of aligned fields, from 0.
    """

    level: str
    x: float
    y: float
    radius: float
    ki67: Ki67
    group: int = 0

    def record(self) -> dict[str, Any]:
        """Return a dictionary for JSON: the level, then the keys of a hot spot, without the group."""
        return {"level": self.level, **HotSpot(self.x, self.y, self.radius, self.ki67).record()}


@dataclass(frozen=True)
class ProtocolCount:
    """Result of a protocol.

    Attributes
    ----------
    name
        One of :data:`NAMES`.
    fields
        The fields that were counted.
    shares
        Share of the tumour's area at each level that is present; empty for hot spots.
    needed
        Number of fields that could not be found, by level. The index is provisional while there are any.
    """

    name: str
    fields: tuple[ProtocolField, ...]
    shares: Mapping[str, float]
    needed: Mapping[str, int]

    @property
    def unweighted(self) -> float | None:
        """Mean index of the fields, which have the same number of nuclei; None without fields."""
        return _pooled(self.fields).index

    @property
    def weighted(self) -> float | None:
        """Mean of the indices of the levels, weighted by their shares; None without fields, or for hot spots."""
        indices = {
            level: _pooled([field for field in self.fields if field.level == level]).index for level in self.shares
        }
        found = [(self.shares[level], index) for level, index in indices.items() if index is not None]
        total = sum(share for share, _ in found)
        return sum(share * index for share, index in found) / total if found else None

    @property
    def index(self) -> float | None:
        """The index of the protocol: of ``breast-global`` the weighted one, else that of the hot spot."""
        return self.weighted if self.name == "breast-global" else self.unweighted

    @property
    def provisional(self) -> bool:
        """True if fields are still needed."""
        return bool(self.needed)

    @property
    def bands(self) -> Bands:
        """Ranges of the protocol's index."""
        return NET if self.name == "net" else BREAST

    def record(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        hot_spot = self.name != "breast-global"
        return {
            "name": self.name,
            "ki67_index": self.index,
            "unweighted": None if hot_spot else self.unweighted,
            "weighted": None if hot_spot else self.weighted,
            "shares": dict(self.shares),
            "fields": [field.record() for field in self.fields],
            "needed": dict(self.needed),
        }

    def sentences(self, *, ranges: bool = True) -> list[str]:
        """Return sentences on the index, its range, and the fields that are still needed."""
        said = []
        if self.name == "breast-global" and self.weighted is not None:
            levels = ", ".join(f"{level} {_percent(share)}" for level, share in self.shares.items())
            number = f"{len(self.fields)} field{'s' if len(self.fields) > 1 else ''} of {FIELD_NUCLEI} tumour nuclei"
            said.append(
                f"Breast, global: weighted {_percent(self.weighted)}, unweighted {_percent(self.unweighted)}, from "
                f"{number} (share of the area: {levels})."
            )
        elif self.index is not None:
            organ = "Breast" if self.name == "breast-hot-spot" else "NET"
            n = self.fields[0].ki67.tumor
            said.append(f"{organ}, hot spot: {_percent(self.index)} of {n:,} tumour nuclei.")
        if ranges and self.index is not None:
            said.append(self._range())
        return [*said, *self.needed_sentences()]

    def needed_sentences(self) -> list[str]:
        """Return a sentence on the fields that are still needed; none if the protocol is complete."""
        if not self.needed:
            return []
        if self.name != "breast-global":
            return ["No hot spot: too few tumour nuclei."]
        if not self.fields:
            return [f"Breast, global: no field, because each needs {FIELD_NUCLEI} tumour nuclei."]
        needed = " and ".join(f"{number} at the {level} level" for level, number in self.needed.items())
        return [f"Still needed: fields of {FIELD_NUCLEI} tumour nuclei, {needed}. The index is provisional."]

    def _range(self) -> str:
        assert self.index is not None
        name = self.bands.range_of(self.index)
        if self.name == "net":
            return f"In the {name} range."
        label = "20% or more" if self.index >= DRUG_LABEL_CUT else "below 20%"
        return f"In the range of {name} (cut-offs of IKWG), {label} (cut-off in the labels of some drugs)."


def check_protocol(name: str | None, hot_spot: int) -> None:
    """Raise a KinetError if there is no such protocol, or it has a hot spot of another number of tumour nuclei."""
    if name is not None and name not in NAMES:
        raise KinetError(f"protocol: expected {', '.join(NAMES)}, found {name!r}")
    if name == "breast-hot-spot" and hot_spot != BREAST_HOT_SPOT:
        raise KinetError(
            f"breast-hot-spot: expected a hot spot of {BREAST_HOT_SPOT} tumour nuclei, found {hot_spot}. Leave out the "
            "size of the hot spot"
        )


def statement_bands(name: str | None, bands: Bands | None) -> Bands | None:
    """Return the bands for the index: None for breast protocols, because the wording only fits NET."""
    return bands if name in (None, "net") else None


def count_protocol(name: str, spot: HotSpot | None, points: TumorPoints) -> ProtocolCount:
    """Return the result of a protocol for one picture or slide with its hot spot and its tumour nuclei."""
    return count_breast_global([points]) if name == "breast-global" else count_hot_spot(name, spot)


def count_hot_spot(name: str, spot: HotSpot | None) -> ProtocolCount:
    """Return the result of a protocol that counts one hot spot; without one, ``needed`` has it."""
    if spot is None:
        return ProtocolCount(name, (), {}, {"hot spot": 1})
    return ProtocolCount(name, (ProtocolField("hot spot", spot.x, spot.y, spot.radius, spot.ki67),), {}, {})


def count_breast_global(groups: Sequence[TumorPoints]) -> ProtocolCount:
    """Count fields of 100 tumour nuclei at each level of positivity that is present, as IKWG's global method.

    The level at a point is that of the 100 tumour nuclei nearest to it. Points are spread evenly over the tumour: one
    in each cell of a grid with tumour nuclei, so that the share of the points is the share of the area. The fields of a
    level are those whose index is nearest to the median of the level, ties go to the smaller radius; no two overlap.
    """
    usable = [(group, points) for group, points in enumerate(groups) if len(points.x) >= FIELD_NUCLEI]
    if not usable:
        return ProtocolCount("breast-global", (), {}, {"any": FIELDS})
    side = _CELL
    while sum(len(_spread(points, side)) for _, points in usable) > _MAX_CELLS:
        side *= 1.5
    columns: list[tuple[NDArray[Any], ...]] = []
    for group, points in usable:
        centres, mpp = _spread(points, side), np.float32(points.mpp)
        hits, radius = measure_discs(points.x * mpp, points.y * mpp, points.positive, FIELD_NUCLEI, centres)
        columns.append((np.full(len(centres), group), points.x[centres], points.y[centres], hits, radius))
    group_of, x, y, hits, radius = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    mpps = np.asarray([points.mpp for points in groups])[group_of]
    # Shift groups far apart in x, so that only fields of the same group can overlap.
    extent = 4 * float(radius.max()) + float((np.abs(x) * mpps).max())
    apart = x * mpps + group_of * 2 * extent
    level_of = np.searchsorted(LEVEL_STARTS, hits, side="right")
    shares = _present(np.bincount(level_of, minlength=len(LEVELS)) / len(level_of))
    wanted = allocate_fields(shares)
    fields, needed = list[ProtocolField](), dict[str, int]()
    free = np.ones(len(hits), bool)
    for level in sorted(shares, key=lambda level: shares[level]):  # a rare level has the least space for a field
        own = np.flatnonzero(level_of == LEVELS.index(level))
        order = own[np.lexsort((radius[own], np.abs(hits[own] - np.median(hits[own]))))]
        chosen = separate_discs(apart, y * mpps, radius, order[free[order]], wanted[level])
        for k in chosen:
            free &= np.hypot(apart - apart[k], (y - y[k]) * mpps) > radius + radius[k]
            ki67 = Ki67(int(hits[k]), FIELD_NUCLEI)
            fields.append(ProtocolField(level, float(x[k]), float(y[k]), float(radius[k]), ki67, int(group_of[k])))
        if len(chosen) < wanted[level]:
            needed[level] = wanted[level] - len(chosen)
    fields.sort(key=lambda field: LEVELS.index(field.level))
    return ProtocolCount("breast-global", tuple(fields), shares, needed)


def allocate_fields(shares: Mapping[str, float]) -> dict[str, int]:
    """Return the number of fields at each level by IKWG's rule, from the shares of the levels that are present.

    One field at each level. With three levels the fourth field goes to the one with the largest share, or to none if
    any two shares are equal; with two levels both have two, or the larger has three if the shares differ by
    :data:`SIMILAR_SHARES` or more; one level has all four.
    """
    fields = dict.fromkeys(shares, 1)
    largest = max(shares, key=lambda level: shares[level])
    if len(shares) == 1:
        fields[largest] = FIELDS
    elif len(shares) == 2:
        # Rounded, because a difference of decimal shares is not exact.
        if round(max(shares.values()) - min(shares.values()), 9) < SIMILAR_SHARES:
            return dict.fromkeys(shares, 2)
        fields[largest] = 3
    elif len(shares) == 3 and len({*shares.values()}) == 3:
        fields[largest] = 2
    return fields


def _present(shares: NDArray[np.float64]) -> dict[str, float]:
    """Return the shares of the levels that are present, adding up to 1."""
    present = {level: float(share) for level, share in zip(LEVELS, shares, strict=True) if share >= MIN_SHARE}
    total = sum(present.values())
    return {level: share / total for level, share in present.items()}


def _spread(points: TumorPoints, side: float) -> NDArray[np.intp]:
    """Return the nucleus nearest to the centre of each cell of a grid that has any; ``side`` of a cell, µm."""
    column, row = (np.asarray(values, np.float64) * points.mpp / side for values in (points.x, points.y))
    cell = np.stack([np.floor(row), np.floor(column)])
    distance = (row - cell[0] - 0.5) ** 2 + (column - cell[1] - 0.5) ** 2
    order = np.lexsort((distance, cell[1], cell[0]))
    new_cell = np.ones(len(order), bool)
    new_cell[1:] = (cell[:, order[1:]] != cell[:, order[:-1]]).any(axis=0)
    return order[new_cell]


def _pooled(fields: Sequence[ProtocolField]) -> Ki67:
    return Ki67(sum(field.ki67.positive for field in fields), sum(field.ki67.tumor for field in fields))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"
