"""Positions of many fields from the links between pairs of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kinet_trt.live.session.records import Link

_MAX_CONTRADICTION_UM = 4.0  # between a link and the positions that other links give


@dataclass(frozen=True)
class Placed:
    """Position of a field in its group of aligned fields. Offsets between groups are unknown."""

    group: int  # numbered from 0 in the order of the first fields of the groups
    x: float  # um from the upper left corner of the first field of the group to that of this one
    y: float


@dataclass(frozen=True)
class Layout:
    """Positions of all fields, in the order of capture."""

    placed: Mapping[int, Placed]
    contradictions: tuple[Link, ...] = ()  # unused links that contradict links with more nuclei

    @property
    def group_count(self) -> int:
        """Number of groups of aligned fields."""
        return len({one.group for one in self.placed.values()})


def lay_out(fields: Sequence[int], links: Sequence[Link], *, balanced: bool = True) -> Layout:
    """Compute the position of every field, by ids in the order of capture, from links between pairs.

    The links with most nuclei form a tree; other links that agree with it are used too. Positions are the least-squares
    solution, weighted by nuclei, so that small errors do not accumulate along a path. Without ``balanced``, they are
    those of the tree alone, which is fast and slightly less exact. Links with other fields are ignored.
    """
    root = {f: f for f in fields}
    at = dict.fromkeys(fields, (0.0, 0.0))
    members = {f: [f] for f in fields}
    used: list[Link] = []
    against: list[Link] = []
    known = [one for one in links if one.first in root and one.second in root and one.first != one.second]
    for link in sorted(known, key=lambda one: (-one.pairs, one.first, one.second)):
        a, b = root[link.first], root[link.second]
        x = at[link.first][0] + link.dx - at[link.second][0]
        y = at[link.first][1] + link.dy - at[link.second][1]
        if a == b:
            (used if math.hypot(x, y) <= _MAX_CONTRADICTION_UM else against).append(link)
            continue
        if len(members[a]) < len(members[b]):
            a, b, x, y = b, a, -x, -y
        for f in members.pop(b):
            root[f], at[f] = a, (at[f][0] + x, at[f][1] + y)
            members[a].append(f)
        used.append(link)
    placed: dict[int, Placed] = {}
    order = {f: n for n, f in enumerate(fields)}
    groups = sorted((sorted(group, key=order.__getitem__) for group in members.values()), key=lambda g: order[g[0]])
    for number, group in enumerate(groups):
        x0, y0 = at[group[0]]
        solved = [(at[f][0] - x0, at[f][1] - y0) for f in group]
        if balanced:
            solved = _balance(group, [link for link in used if root[link.first] == root[group[0]]])
        for f, (x, y) in zip(group, solved, strict=True):
            placed[f] = Placed(number, x, y)
    return Layout({f: placed[f] for f in fields}, tuple(against))


def _balance(group: Sequence[int], links: Sequence[Link]) -> list[tuple[float, float]]:
    """Return the positions of the fields of a group by weighted least squares; the first one is at 0, 0."""
    n = len(group)
    if n == 1:
        return [(0.0, 0.0)]
    index = {f: k for k, f in enumerate(group)}
    matrix, wanted = np.zeros((n, n)), np.zeros((n, 2))
    for link in links:
        a, b, weight = index[link.first], index[link.second], float(link.pairs)
        offset = weight * np.array([link.dx, link.dy])
        matrix[a, a] += weight
        matrix[b, b] += weight
        matrix[a, b] -= weight
        matrix[b, a] -= weight
        wanted[b] += offset
        wanted[a] -= offset
    solved = np.linalg.solve(matrix[1:, 1:], wanted[1:])
    return [(0.0, 0.0), *((float(x), float(y)) for x, y in solved)]
