"""What is said of fields unlike those of training: on simulated fields, damaged in known ways, and on real ones."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kinet_trt import simulate
from kinet_trt.counter import Counter
from kinet_trt.detections import Detections
from kinet_trt.fields import read_fields
from kinet_trt.frame import Frame
from kinet_trt.unlike import OCTAVES, SIZE_SIGNS, Line, Unlike, causes, look, sentence

MPP = 0.34
SEEDS = range(300, 308)


@pytest.fixture(scope="module")
def counter() -> Counter:
    return Counter()


@pytest.fixture(scope="module")
def fields() -> list[np.ndarray]:
    return [simulate.field(seed, 480, 400)[0] for seed in SEEDS]


def said(counter, pixels, mpp=MPP):
    frame = Frame(np.ascontiguousarray(pixels), mpp)
    signs = look(frame, counter(frame), MPP)
    assert signs is not None
    return causes(signs)


def with_eosin(pixels):
    """Return an H&E-like picture: all nuclei blue, pink between them."""
    density = -np.log10((pixels + 1.0) / 256).sum(axis=2)
    nuclei = np.clip(density - 0.35, 0, 1.2)
    pink = 0.5 * np.exp(-2 * nuclei)
    shown = nuclei[..., None] * np.array([0.65, 0.70, 0.29]) + pink[..., None] * np.array([0.07, 0.99, 0.11])
    return np.clip(240 * 10**-shown, 0, 255).astype(np.uint8)


def test_simulated_fields_as_they_are_get_no_word(counter, fields):
    assert sum(bool(said(counter, pixels)) for pixels in fields) <= 1


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (with_eosin, "stain"),
        (lambda pixels: cv2.GaussianBlur(pixels, (0, 0), 4), "blurred"),
        (lambda pixels: 255 - pixels, "dark"),
        (lambda pixels: np.random.default_rng(1).normal((232, 235, 240), 3, pixels.shape), "empty"),
    ],
    ids=["eosin", "blur", "fluorescence", "glass"],
)
def test_each_damage_is_named(counter, fields, damage, cause):
    for pixels in fields:
        assert cause in said(counter, damage(pixels).astype(np.uint8))


@pytest.mark.parametrize(("factor", "cause"), [(0.5, "small"), (2.0, "large")])
def test_um_per_px_wrong_by_two_is_asked_about(counter, fields, factor, cause):
    assert sum(cause in said(counter, pixels, MPP * factor) for pixels in fields) >= len(fields) - 2


def test_the_same_nuclei_at_another_true_um_per_px_look_the_same(counter):
    for seed in SEEDS[::2]:
        fine, _ = simulate.field(seed, 700, 700, mpp=0.2)
        assert not {"small", "large", "blurred"} & set(said(counter, fine, 0.2))


def test_white_balance_and_exposure_are_no_other_stain(counter, fields):
    for red, green, blue in ((1, 0.95, 0.88), (0.9, 0.96, 1), (0.7, 0.7, 0.7)):
        for pixels in fields:
            assert "stain" not in said(counter, (pixels * np.array([red, green, blue])).astype(np.uint8))


@settings(max_examples=10)
@given(turn=st.integers(0, 3), mirror=st.booleans(), seed=st.sampled_from(SEEDS))
def test_turning_the_slide_changes_little(counter, turn, mirror, seed):
    pixels = simulate.field(seed, 400, 400)[0]
    turned = np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirror else pixels, turn))
    one, other = (look(Frame(p, MPP), counter(Frame(p, MPP)), MPP) for p in (pixels, turned))
    assert one is not None
    assert other is not None
    assert math.isclose(one.magenta, other.magenta, abs_tol=0.1)
    assert math.isclose(one.sharpness, other.sharpness, rel_tol=0.03)
    assert np.allclose(one.size, other.size, atol=0.35)


@given(
    block=arrays(np.uint8, (8, 8, 3)),
    side=st.sampled_from([128, 131, 1000]),
    mpp=st.sampled_from([None, 0.34, 0.5, 2.0]),
    centres=st.lists(st.tuples(st.floats(0, 127, width=32), st.floats(0, 127, width=32)), max_size=12),
)
def test_any_picture_is_measured_in_finite_numbers_or_not_at_all(block, side, mpp, centres):
    pixels = np.ascontiguousarray(np.tile(block, (side // 8 + 1, 16, 1))[:side, :128])
    x, y = (np.array([c[k] for c in centres], np.float32) for k in range(2))
    found = Detections(x, y, np.zeros(len(centres), np.uint8), np.ones(len(centres), np.float32))
    frame = Frame(pixels, mpp)
    signs = look(frame, found, MPP)
    assert (signs is None) == frame.is_grey
    if signs is not None:
        assert np.isfinite([signs.magenta, signs.foreign, signs.darkness, signs.contrast, signs.sharpness]).all()
        assert (len(signs.size), len(signs.spectrum)) == (SIZE_SIGNS, OCTAVES)
        assert np.isfinite(signs.spectrum).all()
        assert np.isfinite(signs.size[:4]).all()
        profile = np.array(signs.size[4:])  # of nuclei that lie inside: too few have none
        assert np.isfinite(profile).all() or np.isnan(profile).all()
        assert Unlike(MPP)(frame, found) == sentence(causes(signs), mpp or MPP)


def test_of_grey_and_of_tiny_pictures_nothing_is_said(fields):
    none = Detections.empty()
    grey = np.repeat(fields[0][..., 1:2], 3, axis=2)
    assert look(Frame(grey, MPP), none, MPP) is None
    assert look(Frame(fields[0][:127], MPP), none, MPP) is None
    assert look(Frame(fields[0][:255], MPP / 2), none, MPP) is None
    assert Unlike(MPP)(Frame(fields[0][:127], MPP), none) == ""


def test_what_is_not_known_adds_nothing_to_a_score():
    line = Line((1.0, 2.0), (2.0, 1.0), (3.0, 5.0), -1.0)
    assert line.of((3.0, 4.0)) == -1.0 + 3.0 + 10.0
    assert line.of((3.0, math.nan)) == -1.0 + 3.0


def test_the_sentence_names_the_um_per_px_that_was_counted_at():
    assert sentence((), 0.5) == ""
    assert sentence(("small",), 0.5).endswith("nuclei look about half as large as expected: is 0.5 um/px right?")
    assert sentence(("stain", "blurred"), 0.5).endswith(
        "the stain does not look like haematoxylin and DAB; it is blurred."
    )


def test_count_warns_and_writes_it(run, tmp_path, fields):
    for name, pixels in (("good", fields[0]), ("soft", cv2.GaussianBlur(fields[0], (0, 0), 5))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels[..., ::-1])
    code, _, err = run("count", tmp_path, "--mpp", MPP, "--json", tmp_path / "o.json")
    assert code == 0
    good, soft = json.loads((tmp_path / "o.json").read_text())["fields"]
    assert good["remarks"] == []
    assert "blurred" in soft["remarks"][0]
    assert err == f"Warning: {tmp_path / 'soft.png'}: {soft['remarks'][0]}\n"


def test_live_says_it_once_and_writes_it_on_every_line(monkeypatch, capsysbinary, tmp_path, fields):
    from kinet_trt import cli

    for n in range(3):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.roll(with_eosin(fields[0]), n, axis=1)[..., ::-1])
    monkeypatch.setattr("sys.argv", ["kinet-trt", "live", str(tmp_path), "--headless", "--mpp", str(MPP)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsysbinary.readouterr()
    assert not stop.value.code
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 3
    assert all("haematoxylin and DAB" in line["remarks"][-1] for line in lines)
    assert err.count(b"haematoxylin and DAB") == 1


@pytest.fixture(scope="module")
def real(shared_data, counter):
    """Give source and pixels of at most 18 labelled fields of each source."""
    chosen: dict[str, int] = {}
    taken = []
    for field in read_fields(shared_data):
        chosen[field.source] = chosen.get(field.source, 0) + 1
        if chosen[field.source] <= 18:
            taken.append((field.source, field.pixels()))
    return taken


@pytest.mark.slow
def test_real_fields_get_no_word(real, counter):
    warned = [source for source, pixels in real if said(counter, pixels)]
    assert len(warned) < 0.05 * len(real), warned


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "factor", "least"),
    [
        (lambda pixels: pixels, 2.0, 0.8),
        (lambda pixels: pixels, 0.5, 0.8),
        (lambda pixels: cv2.GaussianBlur(pixels, (0, 0), 4), 1.0, 1.0),
        (with_eosin, 1.0, 0.95),
        (lambda pixels: 255 - pixels, 1.0, 0.95),
    ],
    ids=["doubled", "halved", "blur", "eosin", "negative"],
)
def test_damaged_real_fields_are_warned_of(real, counter, damage, factor, least):
    some = real[::2]
    warned = sum(bool(said(counter, damage(pixels[:384, :384]), MPP * factor)) for _, pixels in some)
    assert warned >= least * len(some)
