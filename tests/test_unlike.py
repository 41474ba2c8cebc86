"""What is said of fields unlike the training data: simulated ones, damaged in known ways, real ones, and no tissue."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter as Tally
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from damages import another_laboratory
from no_tissue import DRAWN

from kinet_trt import simulate
from kinet_trt.appearance import NAMES, appearance
from kinet_trt.camera.simulated import SimulatedMicroscope
from kinet_trt.counter import Counter
from kinet_trt.detections import Detections
from kinet_trt.fields import read_fields
from kinet_trt.frame import Frame
from kinet_trt.images import read_image
from kinet_trt.unlike import OCTAVES, SIZE_SIGNS, Deviation, Line, Unlike, causes, look, sentence

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
        assert len(signs.appearance) == len(NAMES)
        assert np.isfinite(signs.tissue).all()
        assert Unlike(MPP)(frame, found) == sentence(causes(signs), mpp or MPP)


def seen(pixels, mpp=MPP):
    """Return the causes for a picture in which nothing was found; None where it cannot be judged."""
    signs = look(Frame(np.ascontiguousarray(pixels), mpp), Detections.empty(), MPP)
    return None if signs is None else causes(signs)


PICTURES = ("astronaut", "cat", "coffee", "colorwheel", "hubble_deep_field", "retina", "rocket", "stereo_motorcycle")


@pytest.mark.parametrize("name", PICTURES)
def test_a_photograph_is_no_tissue_at_any_size(name):
    data = pytest.importorskip("skimage.data")
    picture = getattr(data, name)()
    pixels = picture[0] if name == "stereo_motorcycle" else picture
    height, width = pixels.shape[:2]
    for mpp in (0.25, MPP, 0.5):
        assert seen(pixels, mpp), (name, mpp)
    assert seen(pixels[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4], 0.5)
    assert seen(cv2.resize(pixels, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC), 0.25)
    assert seen(cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 1))


def test_a_transparent_logo_is_no_tissue():
    logo = pytest.importorskip("skimage.data").logo()
    assert seen(logo[..., :3])


def test_a_real_field_of_another_antibody_is_tissue():
    pixels = pytest.importorskip("skimage.data").immunohistochemistry()
    for mpp in (MPP, 0.4):
        assert "other" not in seen(pixels, mpp)


@pytest.mark.parametrize("kind", DRAWN)
def test_what_is_drawn_is_no_tissue(kind):
    for seed in range(4):
        pixels = DRAWN[kind](np.random.default_rng([77, seed]), *((640, 480), (1000, 760))[seed % 2])
        for mpp in (0.25, MPP, 0.5):
            assert seen(pixels, mpp), (seed, mpp)


def test_one_nucleus_found_or_none_changes_nothing():
    pixels = pytest.importorskip("skimage.data").astronaut()
    one = Detections(*(np.array([v], np.float32) for v in (200, 130)), np.zeros(1, np.uint8), np.ones(1, np.float32))
    signs = look(Frame(pixels, MPP), one, MPP)
    assert signs is not None
    assert "other" in causes(signs)


def test_the_simulators_frames_are_tissue(counter):
    for seed in range(40, 44):
        assert said(counter, simulate.field(seed)[0]) == ()
    microscope = SimulatedMicroscope.of("hurry=40,fps=2")
    microscope.open()
    try:
        for _ in range(4):
            frame = microscope.newest(10.0).frame
            assert Unlike(MPP)(frame, counter(frame)) == ""
    finally:
        microscope.close()


def test_what_differs_between_laboratories_is_still_tissue(fields):
    rng = np.random.default_rng(5)
    alarmed = sum("other" in seen(another_laboratory(pixels, rng)) for pixels in fields * 2)
    assert alarmed <= 1


def test_an_unusual_number_never_makes_up_for_another():
    score = Deviation((1.0, 5.0), (2.0, 1.0), (3.0, 0.0), (0.0, 2.0), -4.0)
    assert score.of((1.0, 5.0)) == -4.0
    assert score.of((-1.0, 4.0)) == -1.0
    assert score.of((3.0, 6.0)) == -2.0
    assert score.of((1.0, 1e9)) == -4.0 + 2 * 6


@settings(max_examples=20)
@given(arrays(np.uint8, (8, 8, 3)), st.sampled_from([(128, 131), (400, 200)]))
def test_any_appearance_is_finite(block, size):
    numbers = appearance(np.ascontiguousarray(np.tile(block, (50, 50, 1))[: size[0], : size[1]]))
    assert len(numbers) == len(NAMES)
    assert np.isfinite(numbers).all()


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
    assert sentence(("blurred",), 0.5) == "This field is unlike the training data: it is blurred."
    assert sentence(("other", "stain"), 0.5) == "This does not look like H-DAB stained tissue: the counts mean nothing."
    assert sentence(("other", "blurred"), 0.5).endswith("the counts mean nothing. If it is tissue: it is blurred.")
    assert sentence(("blurred",), 0.5, slide=True).startswith("Most of the tissue is unlike the training data: ")
    assert sentence(("other",), 0.5, slide=True).startswith("Most of this slide does not look like H-DAB stained")


def test_count_warns_and_writes_it(run, tmp_path, fields):
    for name, pixels in (("good", fields[0]), ("soft", cv2.GaussianBlur(fields[0], (0, 0), 5))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels[..., ::-1])
    code, _, err = run("count", tmp_path, "--mpp", MPP, "--json", tmp_path / "o.json")
    assert code == 0
    good, soft = json.loads((tmp_path / "o.json").read_text())["fields"]
    assert good["remarks"] == []
    assert "blurred" in soft["remarks"][0]
    assert err == f"Warning: {tmp_path / 'soft.png'}: {soft['remarks'][0]}\n"


def test_count_warns_of_a_photograph(run, tmp_path):
    data = pytest.importorskip("skimage.data")
    cv2.imwrite(str(tmp_path / "a.png"), data.astronaut()[..., ::-1])
    code, _, err = run("count", tmp_path, "--mpp", MPP, "--json", tmp_path / "o.json")
    assert code == 0
    (field,) = json.loads((tmp_path / "o.json").read_text())["fields"]
    assert any("does not look like H-DAB stained tissue: the counts mean nothing." in r for r in field["remarks"])
    assert "the counts mean nothing." in err


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
def test_real_fields_get_no_word(shared_data, counter):
    fields = [(field.source, field.pixels(), MPP) for field in read_fields(shared_data)]
    for folder, mpp in (("unlabelled", MPP), ("more/endonet", 0.32), ("more/marrow", MPP), ("more/scanners", 0.346)):
        paths = [p for p in sorted((shared_data / folder).iterdir()) if p.suffix in (".jpg", ".png")]
        fields += [(folder, read_image(p).pixels, mpp) for p in paths if not p.stem.endswith("_counted")]
    warned, seen_of = Tally(), Tally(source for source, _, _ in fields)
    for source, pixels, mpp in fields:
        warned[source] += bool(said(counter, pixels, mpp))
    assert warned.total() < 0.05 * len(fields), warned
    assert all(warned[source] < 0.08 * number for source, number in seen_of.items() if number > 40), warned


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
