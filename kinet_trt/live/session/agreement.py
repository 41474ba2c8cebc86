"""Agreement of two readers on nuclei, classes and index.

Classes are compared by Cohen's kappa (1960) over the nuclei that both readers marked, unweighted, since the classes
have no order, with the large-sample interval of Fleiss, Cohen & Everitt (1969). Nuclei that only one reader marked and
the difference of the indices are reported separately. An intraclass correlation is not reported: it compares cases, and
a session is one case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kinet_trt.core.ki67 import Ki67
from kinet_trt.evaluation.statistics import cohen_kappa
from kinet_trt.live.session.merge import Merged
from kinet_trt.live.session.pairing import pair

SAME_UM = 4.0
"""Maximum distance of two readers' marks on one nucleus, um: people click on a nucleus, not on its centre."""


@dataclass(frozen=True)
class ReaderAgreement:
    """Agreement of two readers of the same fields."""

    first: Ki67
    second: Ki67
    classes: tuple[str, ...]
    # nuclei that both marked, by class of the first (rows) and of the second reader (columns)
    table: tuple[tuple[int, ...], ...]
    only_first: int  # number of nuclei that only the first marked
    only_second: int

    @property
    def both(self) -> int:
        """Nuclei that both marked."""
        return sum(map(sum, self.table))

    @property
    def same_class(self) -> float | None:
        """Share of these with the same class; None without such nuclei."""
        return sum(row[k] for k, row in enumerate(self.table)) / self.both if self.both else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa; None without nuclei, or if a reader gave all of them one class."""
        kappa = cohen_kappa(self.table)
        return kappa.value if kappa else None

    @property
    def kappa_interval(self) -> tuple[float, float] | None:
        """95% interval of kappa."""
        kappa = cohen_kappa(self.table)
        return (kappa.low, kappa.high) if kappa else None

    @property
    def difference(self) -> float | None:
        """Index of the second minus that of the first, a fraction; None without tumour nuclei."""
        if self.first.index is None or self.second.index is None:
            return None
        return self.second.index - self.first.index


def compare_readings(first: Merged, second: Merged) -> ReaderAgreement:
    """Compare two readings, with the same layout, of the same fields."""
    n = len(first.classes)
    table, both = np.zeros((n, n), np.int64), 0
    for group in np.union1d(first.group, second.group):
        a, b = np.flatnonzero(first.group == group), np.flatnonzero(second.group == group)
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
