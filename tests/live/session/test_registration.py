"""Registration: fields are linked if and only if they show the same tissue."""

from __future__ import annotations

import math
import time

import cv2
import numpy as np
import pytest
from parts import detections

from kinet_trt import Detections
from kinet_trt.live.session.layout import lay_out
from kinet_trt.live.session.records import Link
from kinet_trt.live.session.registration import FieldFeatures, Registration, join
from kinet_trt.simulation.simulate import SimulatedSlide

MPP, WIDTH, HEIGHT = 0.5, 320, 240  # 160 x 120 um


class Stage:
    """A part of a slide with its nuclei, and an imperfect camera."""

    def __init__(self, x: int, y: int, width: int, height: int, mpp: float = MPP, seed: int = 3) -> None:
        self.mpp = mpp
        self.pixels, self.truth = SimulatedSlide(seed, mpp=mpp).region(x, y, width, height)
        self.rng = np.random.default_rng(seed)

    def shot(self, x: float, y: float, *, turn: float = 0.0, noise: float = 3.0, blur: float = 0.6, mpp: float = 0.0):
        """Photograph from x, y, px of the slide: subpixel offset, vignetting, defocus, noise, other exposure."""
        rng, zoom = self.rng, (mpp or self.mpp) / self.mpp
        width, height = round(WIDTH / zoom), round(HEIGHT / zoom)
        angle = math.radians(turn)
        cos, sin = math.cos(angle) * zoom, math.sin(angle) * zoom
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        linear = np.array([[cos, -sin], [sin, cos]])
        start = np.array([x, y]) + (np.array([WIDTH, HEIGHT]) - 1) / 2 - linear @ centre
        move = np.hstack([linear, start[:, None]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        light = cv2.warpAffine(self.pixels, move, (width, height), flags=flags, borderValue=(241, 240, 243))
        light = cv2.GaussianBlur(light.astype(np.float32), (0, 0), blur * rng.uniform(0.5, 1.5))
        rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        light *= (1 - 0.15 * (rows**2 + columns**2))[..., None] * rng.uniform(0.9, 1.05)
        pixels = np.clip(light + rng.normal(0, noise, light.shape), 0, 255).astype(np.uint8)
        # A detector: nearly all true nuclei, some inventions, each a little off.
        place = np.linalg.inv(linear) @ (np.stack([self.truth.x, self.truth.y]) - start[:, None])
        place = place + rng.normal(0, 0.3 / (mpp or self.mpp), place.shape)
        inside = (place[0] >= 0) & (place[0] < width - 1) & (place[1] >= 0) & (place[1] < height - 1)
        inside &= rng.random(len(inside)) > 0.05
        invented = rng.uniform(0, [[width - 1], [height - 1]], (2, int(inside.sum()) // 25))
        found = np.hstack([place[:, inside], invented])
        return pixels, detections(*found)

    def view(self, name: int, x: float, y: float, *, stage=None, **options) -> FieldFeatures:
        pixels, nuclei = self.shot(x, y, **options)
        return FieldFeatures.extract(name, pixels, nuclei, options.get("mpp") or self.mpp, stage)


@pytest.fixture(scope="module")
def near() -> Stage:
    return Stage(4000, 3000, 780, 500)


@pytest.fixture(scope="module")
def far() -> Stage:
    return Stage(90_000, -20_000, WIDTH + 200, HEIGHT + 100)


def off(link: Link, places: dict[int, tuple[float, float]], mpp: float = MPP) -> float:
    """Return the error of a link, um."""
    (ax, ay), (bx, by) = places[link.first], places[link.second]
    return math.hypot(link.dx - (bx - ax) * mpp, link.dy - (by - ay) * mpp)


@pytest.mark.parametrize("share", [0.8, 0.6, 0.4, 0.25])
def test_overlapping_fields_are_joined_to_a_fraction_of_a_pixel(near, share):
    places = {0: (20.3, 30.8), 1: (20.3 + (1 - share) * WIDTH + 0.37, 41.45), 2: (33.7, 30.8 + (1 - share) * HEIGHT)}
    views = {name: near.view(name, *place) for name, place in places.items()}
    for other in (1, 2):
        link = join(views[0], views[other])
        assert link is not None
        assert off(link, places) < 0.35 * MPP
        back = join(views[other], views[0])
        assert back is not None
        assert math.hypot(back.dx + link.dx, back.dy + link.dy) < 0.1


@pytest.mark.parametrize("trouble", [{"noise": 15.0}, {"blur": 2.0}, {"noise": 8.0, "blur": 1.5}])
def test_fields_of_poor_quality_are_joined(near, trouble):
    places = {0: (20.0, 30.0), 1: (150.5, 90.25)}
    a, b = (near.view(name, *place, **trouble) for name, place in places.items())
    link = join(a, b)
    assert link is not None
    assert off(link, places) < MPP


def test_repeated_field_has_no_offset(near):
    link = join(near.view(0, 50, 60), near.view(1, 50, 60))
    assert link is not None
    assert math.hypot(link.dx, link.dy) < 0.1


def test_field_of_another_objective_is_joined(near):
    coarse, fine = near.view(0, 100, 80), near.view(1, 130, 100, mpp=0.4)
    link = join(coarse, fine)
    assert link is not None
    # The smaller field shares its centre with the larger one at 130, 100.
    assert abs(link.dx - 30 * MPP) < 0.5
    assert abs(link.dy - 20 * MPP) < 0.5


def test_distant_fields_stay_apart(near, far):
    here = [near.view(k, 150 * k, 60 * k) for k in range(3)]
    there = [far.view(9 + k, 90 * k, 40 * k) for k in range(3)]
    assert [join(a, b) for a in here for b in there] == [None] * 9


@pytest.mark.parametrize("turn", [2.0, 3.0, 8.0, 90.0, 180.0])
def test_rotated_camera_is_refused(near, turn):
    assert join(near.view(0, 100, 80), near.view(1, 130, 100, turn=turn)) is None


def test_mirrored_field_is_refused(near):
    pixels, nuclei = near.shot(100, 80)
    turned = Detections(WIDTH - 1 - nuclei.x, nuclei.y, nuclei.cls, nuclei.score)
    mirrored = FieldFeatures.extract(1, np.ascontiguousarray(pixels[:, ::-1]), turned, MPP)
    assert join(FieldFeatures.extract(0, pixels, nuclei, MPP), mirrored) is None


def test_blank_glass_is_refused(near):
    rng = np.random.default_rng(0)
    glass = [np.clip(rng.normal(238, 3, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8) for _ in range(2)]
    nothing = detections([], [])
    dirt = detections(*rng.uniform(0, 200, (2, 12)))  # the same twelve specks of the sensor in every frame
    tissue = near.view(7, 100, 80)
    blank = [
        FieldFeatures.extract(k, picture, found, MPP) for k, picture in enumerate(glass) for found in (nothing, dirt)
    ]
    even = FieldFeatures.extract(5, np.full((HEIGHT, WIDTH, 3), 240, np.uint8), nothing, MPP)
    for view in [*blank, even]:
        assert join(tissue, view) is None
        assert join(view, tissue) is None
    assert join(blank[0], blank[2]) is None
    assert join(blank[1], blank[3]) is None


def test_dirt_on_the_sensor_joins_nothing(near, far):
    """Dirt stays at the same pixels: the strongest feature, but unrelated to the tissue."""
    rng = np.random.default_rng(1)
    dirt = np.ones((HEIGHT, WIDTH), np.float32)
    specks = rng.uniform(0, [WIDTH, HEIGHT], (25, 2))
    for x, y in specks:
        cv2.circle(dirt, (round(x), round(y)), int(rng.integers(3, 9)), 0.35, -1, cv2.LINE_AA)

    def dirty(stage: Stage, name: int, x: float, y: float) -> FieldFeatures:
        pixels, nuclei = stage.shot(x, y)
        found = detections(np.append(nuclei.x, specks[:, 0]), np.append(nuclei.y, specks[:, 1]))
        return FieldFeatures.extract(name, (pixels * dirt[..., None]).astype(np.uint8), found, MPP)

    assert join(dirty(near, 0, 60, 60), dirty(far, 1, 60, 60)) is None
    places = {0: (60.0, 60.0), 1: (170.0, 90.0)}
    link = join(*(dirty(near, name, *place) for name, place in places.items()))
    assert link is None or off(link, places) < 1  # seen or left apart, but never joined at the dirt


def test_ambiguous_pattern_is_refused(near):
    patch = near.pixels[100:180, 100:180]
    inside = (near.truth.x > 99.5) & (near.truth.x < 179.5) & (near.truth.y > 99.5) & (near.truth.y < 179.5)
    x, y = near.truth.x[inside] - 100, near.truth.y[inside] - 100
    pixels = np.tile(patch, (8, 8, 1))
    columns, rows = np.meshgrid(np.arange(8) * 80, np.arange(8) * 80)
    all_x, all_y = (x[:, None] + columns.ravel()).ravel(), (y[:, None] + rows.ravel()).ravel()

    def cut(name: int, left: int, top: int) -> FieldFeatures:
        own = (all_x >= left) & (all_x < left + WIDTH) & (all_y >= top) & (all_y < top + HEIGHT)
        picture = pixels[top : top + HEIGHT, left : left + WIDTH]
        return FieldFeatures.extract(name, picture, detections(all_x[own] - left, all_y[own] - top), MPP)

    assert join(cut(0, 0, 0), cut(1, 100, 60)) is None


def wander(stage: Stage, steps, registration: Registration, start: int = 0, told: bool = False):
    places, spent = {}, []
    for k, (x, y) in enumerate(steps, start):
        places[k] = (x, y)
        view = stage.view(k, x, y, stage=(-y * 3.0, x * 3.0) if told else None)
        began = time.perf_counter()
        registration.add(view)
        spent.append(time.perf_counter() - began)
    return places, spent


def grid(columns: int, rows: int, share: float = 0.6, rng=None):
    rng = rng or np.random.default_rng(5)
    step = (1 - share) * np.array([WIDTH, HEIGHT])
    order = [(i, j) for j in range(rows) for i in (range(columns) if j % 2 == 0 else reversed(range(columns)))]
    return [tuple(float(v) for v in step * ij + rng.uniform(0, 20, 2)) for ij in order]


@pytest.mark.parametrize("told", [False, True])
def test_path_becomes_one_group(near, told):
    registration = Registration()
    # A stage that is turned by 90 degrees and in other units than it says: it may only propose.
    places, _ = wander(near, grid(4, 3), registration, told=told)
    layout = lay_out(list(registration.fields), registration.links)
    assert layout.group_count == 1
    assert layout.contradictions == ()
    (x0, y0), worst = places[0], 0.0
    for k, (x, y) in places.items():
        at = layout.placed[k]
        worst = max(worst, math.hypot(at.x - (x - x0) * MPP, at.y - (y - y0) * MPP))
    assert worst < MPP


def test_path_that_returns_is_closed(near, far):
    registration = Registration()
    wander(near, [(0, 0), (120, 20), (240, 10)], registration)
    wander(far, [(0, 0), (100, 40)], registration, start=10)
    assert lay_out(list(registration.fields), registration.links).group_count == 2
    # Back by another way: at first beside nothing that is known, then onto the first fields.
    wander(near, [(440, 250)], registration, start=20)
    assert lay_out(list(registration.fields), registration.links).group_count == 3
    wander(near, [(330, 150), (5, 3)], registration, start=21)
    layout = lay_out(list(registration.fields), registration.links)
    assert layout.group_count == 2
    assert [layout.placed[k].group for k in (0, 1, 2, 20, 21, 22)] == [0] * 6
    assert [layout.placed[k].group for k in (10, 11)] == [1, 1]


def test_forgotten_field_is_not_joined(near):
    registration = Registration()
    wander(near, [(0, 0), (200, 0), (400, 0)], registration)
    assert lay_out(list(registration.fields), registration.links).group_count == 1
    registration.forget(1)
    assert lay_out(list(registration.fields), registration.links).group_count == 2


def test_links_are_balanced_and_contradicting_ones_ignored():
    rng = np.random.default_rng(0)
    true = rng.uniform(0, 500, (12, 2))
    links = []
    for a in range(12):
        for b in range(a + 1, min(a + 4, 12)):
            dx, dy = true[b] - true[a] + rng.normal(0, 0.2, 2)
            links.append(Link(a, b, float(dx), float(dy), 50, 0.9))
    wrong = Link(0, 11, 5.0, 5.0, 9, 0.9)
    layout = lay_out(range(12), [wrong, *links, Link(3, 99, 0.0, 0.0, 500, 1.0)])
    assert layout.contradictions == (wrong,)
    assert layout.group_count == 1
    at = np.array([(layout.placed[k].x, layout.placed[k].y) for k in range(12)])
    assert np.abs(at - (true - true[0])).max() < 0.6
    apart = lay_out([5, 3, 8], [Link(3, 8, 1.0, 2.0, 9, 0.9)])
    assert {k: one.group for k, one in apart.placed.items()} == {5: 0, 3: 1, 8: 1}
    assert lay_out([], []).group_count == 0


@pytest.mark.slow
def test_two_hundred_fields_are_registered_in_time():
    """200 fields along a path in two places: about 100 ms each on a shared machine."""
    stages = [Stage(4000, 3000, 1_700, 1_300), Stage(90_000, 3000, 1_700, 1_300, seed=4)]
    registration, spent = Registration(), []
    for k, stage in enumerate(stages):
        _, took = wander(stage, grid(10, 10), registration, start=100 * k)
        spent += took
    layout = lay_out(list(registration.fields), registration.links)
    assert layout.group_count == 2
    assert sorted(spent)[100] < 0.15


@pytest.mark.slow
def test_two_thousand_unrelated_pairs_stay_apart():
    stages = [Stage(5_000 * k, 7_000 * k, WIDTH + 20, HEIGHT + 20, seed=k % 5) for k in range(64)]
    views = [stage.view(k, 10, 10) for k, stage in enumerate(stages)]
    joined = [(a.id, b.id) for k, a in enumerate(views) for b in views[:k] if join(a, b)]
    assert joined == []
