"""Simulated stage: a route of straight legs at constant speed, with a pause at each point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

Point = tuple[float, float]


class Place(NamedTuple):
    """Position x, y, um, and velocity vx, vy, um/s."""

    x: float
    y: float
    vx: float
    vy: float


@dataclass(frozen=True)
class Route:
    """Route of the stage over at least one point x, y, um, at ``speed``, um/s, with a pause of ``rest`` s at each."""

    points: tuple[Point, ...]
    speed: float
    rest: float
    loop: bool = True  # back to the first point and again; otherwise it ends at the last

    def at(self, time: float) -> Place:
        """Return position and velocity ``time`` s after the arrival at the first point."""
        legs = list(zip(self.points, self.points[1:] + self.points[:1], strict=True))
        if not self.loop:
            legs = legs[:-1]
        lengths = [math.dist(a, b) / self.speed for a, b in legs]
        whole = sum(lengths) + self.rest * len(legs)
        if self.loop and whole > 0:
            time = time % whole
        for (a, b), seconds in zip(legs, lengths, strict=True):
            if time < self.rest:
                return Place(*a, 0.0, 0.0)
            time -= self.rest
            if time < seconds:
                share = time / seconds
                vx, vy = (b[0] - a[0]) / seconds, (b[1] - a[1]) / seconds
                return Place(a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), vx, vy)
            time -= seconds
        return Place(*self.points[0 if self.loop else -1], 0.0, 0.0)


def snake(start: Point, field: Point, overlap: float, columns: int = 5, rows: int = 4) -> tuple[Point, ...]:
    """Return the points, um, of a serpentine route over fields of a size, um, whose neighbours overlap by a share."""
    step_x, step_y = field[0] * (1 - overlap), field[1] * (1 - overlap)
    return tuple(
        (start[0] + step_x * (column if row % 2 == 0 else columns - 1 - column), start[1] + step_y * row)
        for row in range(rows)
        for column in range(columns)
    )
