"""How far two readers agree: on which nuclei there are, on their classes, and on the index.

Classes are held together by Cohen's kappa (1960) over the nuclei that both readers have, unweighted, since the classes
have no order, with the large-sample interval of Fleiss, Cohen & Everitt (1969). Nuclei that only one reader has are
reported beside it, and so is the difference of the two indices, which is what a treatment would hang on. An intraclass
correlation is not given: it compares cases, and a session is one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.ki67 import Ki67, Z
from kinet_trt.live.session.merge import Merged
from kinet_trt.live.session.pairing import pair

SAME_UM = 4.0
"""Largest distance of two readers' marks on one nucleus, um: a person clicks on a nucleus, not on its centre."""


@dataclass(frozen=True)
class ReaderAgreement:
    """Two readers of the same fields.

    Attributes
    ----------
    first, second
        Index by each reader.
    classes
        Class names.
    table
        Nuclei that both have, by class of the first (rows) and of the second.
    only_first, only_second
        Nuclei that one of them has.
    """

    first: Ki67
    second: Ki67
    classes: tuple[str, ...]
    table: tuple[tuple[int, ...], ...]
    only_first: int
    only_second: int

    @property
    def both(self) -> int:
        """Nuclei that both have."""
        return sum(map(sum, self.table))

    @property
    def same_class(self) -> float | None:
        """Share of those that both give the same class; None without such nuclei."""
        return sum(row[k] for k, row in enumerate(self.table)) / self.both if self.both else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa; None where chance alone agrees fully, or there are no nuclei."""
        return cohen(np.array(self.table))[0]

    @property
    def kappa_interval(self) -> tuple[float, float] | None:
        """Its 95% interval."""
        return cohen(np.array(self.table))[1]

    @property
    def difference(self) -> float | None:
        """Index of the second less that of the first, a fraction; None where one has no tumour nuclei."""
        if self.first.index is None or self.second.index is None:
            return None
        return self.second.index - self.first.index


def compare(first: Merged, second: Merged) -> ReaderAgreement:
    """Hold two readers' nuclei of the same fields together.

    Parameters
    ----------
    first, second
        Merged over the same layout.
    """
    n = len(first.classes)
    table, both = np.zeros((n, n), np.int64), 0
    for place in np.union1d(first.place, second.place):
        a, b = np.flatnonzero(first.place == place), np.flatnonzero(second.place == place)
        i, j, _ = pair(first.x[a], first.y[a], second.x[b], second.y[b], SAME_UM)
        np.add.at(table, (first.cls[a][i], second.cls[b][j]), 1)
        both += len(i)
    return ReaderAgreement(
        Ki67.from_counts(first.counts()),
        Ki67.from_counts(second.counts()),
        first.classes,
        tuple(tuple(int(v) for v in row) for row in table),
        len(first) - both,
        len(second) - both,
    )


def cohen(table: NDArray[np.integer] | Sequence[Sequence[int]]) -> tuple[float | None, tuple[float, float] | None]:
    """Return Cohen's kappa of a table of counts [k, k] and its 95% interval, or None for both."""
    counts = np.asarray(table, np.float64)
    n = float(counts.sum())
    if n == 0:
        return None, None
    p = counts / n
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    observed, chance = float(np.trace(p)), float(rows @ columns)
    if chance >= 1:
        return None, None
    kappa = (observed - chance) / (1 - chance)
    own = float((np.diag(p) * (1 - (rows + columns) * (1 - kappa)) ** 2).sum())
    crossed = p * (columns[:, None] + rows[None, :]) ** 2
    other = (1 - kappa) ** 2 * float(crossed.sum() - np.trace(crossed))
    variance = (own + other - (kappa - chance * (1 - kappa)) ** 2) / (n * (1 - chance) ** 2)
    spread = Z * math.sqrt(max(0.0, variance))
    return kappa, (max(-1.0, kappa - spread), min(1.0, kappa + spread))
