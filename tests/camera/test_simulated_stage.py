"""The simulated stage."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet_trt.camera.simulated.stage import Place, Route, snake


def test_route_loops() -> None:
    route = Route(((0.0, 0.0), (30.0, 40.0)), speed=50.0, rest=2.0)
    assert route.at(0.0) == Place(0, 0, 0, 0)
    assert route.at(1.99) == Place(0, 0, 0, 0)
    assert route.at(2.5) == pytest.approx(Place(15, 20, 30, 40))
    assert route.at(3.5) == pytest.approx(Place(30, 40, 0, 0))
    assert route.at(5.5) == pytest.approx(Place(15, 20, -30, -40))
    assert route.at(6.5) == pytest.approx(Place(0, 0, 0, 0))


def test_route_without_loop_stays_at_its_end() -> None:
    route = Route(((0.0, 0.0), (30.0, 40.0)), speed=50.0, rest=0.0, loop=False)
    assert route.at(0.5) == pytest.approx(Place(15, 20, 30, 40))
    assert route.at(1e6) == Place(30, 40, 0, 0)


def test_route_rests_at_its_points() -> None:
    assert Route(((3.0, 4.0),), 50.0, 0.0).at(7.0) == Place(3, 4, 0, 0)
    assert Route(((3.0, 4.0), (3.0, 4.0)), 50.0, 1.0).at(7.5) == Place(3, 4, 0, 0)


@given(
    points=st.lists(st.tuples(st.floats(-500, 500), st.floats(-500, 500)), min_size=1, max_size=6),
    speed=st.floats(1, 1000),
    rest=st.floats(0, 3),
    loop=st.booleans(),
    time=st.floats(0, 100),
)
def test_route_is_continuous(
    points: list[tuple[float, float]], speed: float, rest: float, loop: bool, time: float
) -> None:
    route = Route(tuple(points), speed, rest, loop)
    here, later = route.at(time), route.at(time + 0.01)
    assert math.dist(here[:2], later[:2]) <= speed * 0.01 + 1e-6
    assert math.hypot(here.vx, here.vy) <= speed * (1 + 1e-6)
    assert min(x for x, _ in points) - 1e-6 <= here.x <= max(x for x, _ in points) + 1e-6


def test_snake_visits_rows_alternately() -> None:
    assert snake((0, 0), (10, 8), 0.5, columns=3, rows=2) == ((0, 0), (5, 0), (10, 0), (10, 4), (5, 4), (0, 4))
