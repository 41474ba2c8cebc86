"""The domain check on simulated, damaged and real fields, and on other pictures."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from damages import another_laboratory
from no_tissue import DRAWN

from kinet_trt.camera.simulated import SimulatedMicroscope
from kinet_trt.core.detections import Detections
from kinet_trt.core.frame import Frame
from kinet_trt.datasets.labelled import read_fields
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.io.images import read_image
from kinet_trt.quality.appearance import NAMES, appearance
from kinet_trt.quality.domain_check import (
    OCTAVES,
    SIZE_FEATURES,
    DeviationScore,
    DomainCheck,
    LinearScore,
    describe,
    find_causes,
    measure_field,
)
from kinet_trt.simulation import simulate

MPP = 0.34
NO_TISSUE = "This does not look like H-DAB stained tissue: the counts mean nothing."
SEEDS = range(300, 306)


@pytest.fixture(scope="module")
def counter() -> NucleusCounter:
    return NucleusCounter()


@pytest.fixture(scope="module")
def fields() -> list[np.ndarray]:
    return [simulate.field(seed, 480, 400)[0] for seed in SEEDS]


@pytest.fixture(scope="module")
def counted(counter, fields) -> list[tuple[np.ndarray, Detections]]:
    """Return the fields with their nuclei."""
    return [(pixels, counter(Frame(pixels, MPP))) for pixels in fields]


def causes_of(pixels, found, mpp=MPP):
    signs = measure_field(Frame(np.ascontiguousarray(pixels), mpp), found, MPP)
    assert signs is not None
    return find_causes(signs)


def count_and_check(counter, pixels, mpp=MPP):
    return causes_of(pixels, counter(Frame(np.ascontiguousarray(pixels), mpp)), mpp)


def with_eosin(pixels):
    """Return an H&E-like picture: all nuclei blue, pink between them."""
    density = -np.log10((pixels + 1.0) / 256).sum(axis=2)
    nuclei = np.clip(density - 0.35, 0, 1.2)
    pink = 0.5 * np.exp(-2 * nuclei)
    shown = nuclei[..., None] * np.array([0.65, 0.70, 0.29]) + pink[..., None] * np.array([0.07, 0.99, 0.11])
    return np.clip(240 * 10**-shown, 0, 255).astype(np.uint8)


def test_simulated_fields_get_no_warning(counted):
    for pixels, found in counted:
        assert causes_of(pixels, found) == ()


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
def test_damaged_fields_get_the_right_warning(counted, damage, cause):
    for pixels, found in counted:
        assert cause in causes_of(damage(pixels).astype(np.uint8), found)


@pytest.mark.parametrize(("factor", "side", "cause"), [(0.5, 400, "small"), (2.0, 200, "large")])
def test_wrong_mpp_by_a_factor_of_two_is_detected(counter, fields, factor, side, cause):
    asked = sum(cause in count_and_check(counter, pixels[:side, : side * 6 // 5], MPP * factor) for pixels in fields)
    assert asked >= len(fields) - 1


def test_features_do_not_depend_on_a_correct_mpp(counter):
    for seed in (300, 304):
        fine, _ = simulate.field(seed, 500, 500, mpp=0.2)
        assert not {"small", "large", "blurred"} & set(count_and_check(counter, fine, 0.2))


def test_stain_check_tolerates_white_balance_and_exposure(counted):
    for red, green, blue in ((1, 0.95, 0.88), (0.9, 0.96, 1), (0.7, 0.7, 0.7)):
        for pixels, found in counted:
            assert "stain" not in causes_of((pixels * np.array([red, green, blue])).astype(np.uint8), found)


def test_mixture_of_both_stains_is_not_eosin():
    # Fields in which many px have both stains, and few are brown.
    for seed in (20, 36, 45):
        assert seen(simulate.field(seed)[0]) == ()


@settings(max_examples=10)
@given(turn=st.integers(0, 3), mirror=st.booleans(), which=st.integers(0, len(SEEDS) - 1))
def test_rotation_changes_features_little(counted, turn, mirror, which):
    pixels, found = counted[which]
    pixels, mask = pixels[:400, :400], (found.x < 399) & (found.y < 399)
    x, y = found.x[mask], found.y[mask]
    turned = np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirror else pixels, turn))
    across, down = 399 - x if mirror else x, y
    for _ in range(turn):
        across, down = down, 399 - across
    one, other = (
        measure_field(Frame(np.ascontiguousarray(p), MPP), Detections(*at, found.cls[mask], found.score[mask]), MPP)
        for p, at in ((pixels, (x, y)), (turned, (across, down)))
    )
    assert one is not None
    assert other is not None
    assert math.isclose(one.magenta, other.magenta, abs_tol=0.1)
    assert math.isclose(one.sharpness, other.sharpness, rel_tol=0.03)
    assert np.allclose(one.size, other.size, atol=0.35)


@settings(max_examples=30)
@given(
    block=arrays(np.uint8, (8, 8, 3)),
    side=st.sampled_from([128, 131, 1000]),
    mpp=st.sampled_from([None, 0.34, 0.5, 2.0]),
    centres=st.lists(st.tuples(st.floats(0, 127, width=32), st.floats(0, 127, width=32)), max_size=12),
)
def test_features_of_any_picture_are_finite_or_none(block, side, mpp, centres):
    pixels = np.ascontiguousarray(np.tile(block, (side // 8 + 1, 16, 1))[:side, :128])
    x, y = (np.array([c[k] for c in centres], np.float32) for k in range(2))
    found = Detections(x, y, np.zeros(len(centres), np.uint8), np.ones(len(centres), np.float32))
    frame = Frame(pixels, mpp)
    signs = measure_field(frame, found, MPP)
    assert (signs is None) == frame.is_grey
    if signs is not None:
        assert np.isfinite([signs.magenta, signs.foreign, signs.darkness, signs.contrast, signs.sharpness]).all()
        assert (len(signs.size), len(signs.spectrum)) == (SIZE_FEATURES, OCTAVES)
        assert np.isfinite(signs.spectrum).all()
        assert np.isfinite(signs.size[:4]).all()
        profile = np.array(signs.size[4:])  # NaN for too few nuclei inside
        assert np.isfinite(profile).all() or np.isnan(profile).all()
        assert len(signs.appearance) == len(NAMES)
        assert np.isfinite(signs.tissue).all()
        assert DomainCheck(MPP)(frame, found) == describe(find_causes(signs), mpp or MPP)


def seen(pixels, mpp=MPP):
    """Return the causes for a picture without nuclei; None if it cannot be checked."""
    signs = measure_field(Frame(np.ascontiguousarray(pixels), mpp), Detections.empty(), MPP)
    return None if signs is None else find_causes(signs)


PICTURES = ("astronaut", "cat", "coffee", "colorwheel", "hubble_deep_field", "retina", "rocket", "stereo_motorcycle")


@pytest.mark.parametrize("name", PICTURES)
def test_photograph_is_not_tissue_at_any_size(name):
    data = pytest.importorskip("skimage.data")
    picture = getattr(data, name)()
    pixels = picture[0] if name == "stereo_motorcycle" else picture
    height, width = pixels.shape[:2]
    middle = pixels[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4]
    for mpp in (0.2, 0.25, MPP, 0.5, 0.55):
        assert seen(pixels, mpp), (name, mpp)
    assert seen(middle, 0.5)
    assert seen(cv2.resize(middle[:200, :250], None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC), 0.25)
    assert seen(cv2.imdecode(cv2.imencode(".jpg", pixels[:720, :720], [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 1))


def test_transparent_logo_is_not_tissue():
    logo = pytest.importorskip("skimage.data").logo()
    for mpp in (0.25, MPP, 0.5):
        assert seen(logo[..., :3], mpp)


def test_real_field_of_another_antibody_is_tissue():
    pixels = pytest.importorskip("skimage.data").immunohistochemistry()
    for mpp in (MPP, 0.4, 0.45, 0.5, 0.55):
        assert seen(pixels, mpp) == ()
    for part in (pixels[:300, :300], pixels[212:, 212:], pixels[:300, 212:], pixels[212:, :300]):
        assert "other" not in seen(part, 0.5)


@pytest.mark.parametrize("kind", DRAWN)
def test_drawings_are_not_tissue(kind):
    for seed in range(2):
        pixels = DRAWN[kind](np.random.default_rng([77, seed]), *((640, 480), (1000, 760))[seed % 2])
        for mpp in (0.25, MPP, 0.5):
            assert seen(pixels, mpp), (seed, mpp)


def test_tissue_score_does_not_depend_on_one_nucleus():
    pixels = pytest.importorskip("skimage.data").astronaut()
    one = Detections(*(np.array([v], np.float32) for v in (200, 130)), np.zeros(1, np.uint8), np.ones(1, np.float32))
    signs = measure_field(Frame(pixels, MPP), one, MPP)
    assert signs is not None
    assert "other" in find_causes(signs)


def test_simulator_frames_are_tissue(counter):
    assert count_and_check(counter, simulate.field(40)[0]) == ()
    microscope = SimulatedMicroscope.parse("fps=2")
    microscope.open()
    try:
        frame = microscope.newest(60.0).frame
    finally:
        microscope.close()
    assert DomainCheck(MPP)(frame, counter(frame)) == ""


def test_small_piece_of_tissue_on_glass_is_tissue(fields):
    for pixels in fields[:3]:
        slide = np.full((720, 720, 3), (240, 240, 243), np.uint8)
        slide[80:320, 300:620] = pixels[:240, :320]
        assert "other" not in seen(slide)


def test_both_stains_on_a_bright_background_raise_the_limit(fields):
    thick = appearance(np.ascontiguousarray(fields[0]))
    y, x = np.mgrid[:256, :256]
    amounts = np.stack([np.maximum(0, np.sin(x / 9) * np.sin(y / 9)), np.maximum(0, -np.sin(x / 9) * np.sin(y / 9))])
    stains = np.array([[0.65, 0.70, 0.29], [0.27, 0.57, 0.78]])

    def shown(vectors, white):
        return (white * 10 ** -np.tensordot(amounts, np.array(vectors), (0, 0))).astype(np.uint8)

    assert len(thick.numbers) == len(NAMES)
    assert appearance(shown(stains, 240)).both_stains
    assert not appearance(shown(stains, 200)).both_stains  # dim
    assert not appearance(shown(stains[[0, 0]], 240)).both_stains  # one stain
    assert not appearance(shown([stains[0], [0.07, 0.99, 0.11]], 240)).both_stains  # eosin
    assert not appearance(shown([stains[0], [0.1, 0.3, 1.0]], 240)).both_stains  # yellow paint


def test_differences_between_laboratories_are_tissue(fields):
    rng = np.random.default_rng(5)
    alarmed = sum("other" in seen(another_laboratory(pixels, rng)) for pixels in fields * 2)
    assert alarmed <= 1


def test_deviation_score_never_cancels():
    score = DeviationScore((1.0, 5.0), (2.0, 1.0), (3.0, 0.0), (0.0, 2.0), -4.0)
    assert score.value((1.0, 5.0)) == -4.0
    assert score.value((-1.0, 4.0)) == -1.0
    assert score.value((3.0, 6.0)) == -2.0
    assert score.value((1.0, 1e9)) == -4.0 + 2 * 6


@settings(max_examples=20)
@given(arrays(np.uint8, (8, 8, 3)), st.sampled_from([(128, 131), (400, 200)]))
def test_appearance_is_finite(block, size):
    numbers = appearance(np.ascontiguousarray(np.tile(block, (50, 50, 1))[: size[0], : size[1]])).numbers
    assert len(numbers) == len(NAMES)
    assert np.isfinite(numbers).all()


def test_grey_and_tiny_pictures_are_not_checked(fields):
    none = Detections.empty()
    grey = np.repeat(fields[0][..., 1:2], 3, axis=2)
    assert measure_field(Frame(grey, MPP), none, MPP) is None
    assert measure_field(Frame(fields[0][:127], MPP), none, MPP) is None
    assert measure_field(Frame(fields[0][:255], MPP / 2), none, MPP) is None
    assert DomainCheck(MPP)(Frame(fields[0][:127], MPP), none) == ""


def test_linear_score_ignores_nan():
    line = LinearScore((1.0, 2.0), (2.0, 1.0), (3.0, 5.0), -1.0)
    assert line.value((3.0, 4.0)) == -1.0 + 3.0 + 10.0
    assert line.value((3.0, math.nan)) == -1.0 + 3.0


def test_describe_names_the_mpp():
    assert describe((), 0.5) == ""
    assert describe(("small",), 0.5).endswith("nuclei look about half as large as expected: is 0.5 µm/px right?")
    assert describe(("stain", "blurred"), 0.5).endswith(
        "the stain does not look like haematoxylin and DAB; it is blurred."
    )
    assert describe(("blurred",), 0.5) == "This field is unlike the training data: it is blurred."
    assert describe(("other", "stain"), 0.5) == "This does not look like H-DAB stained tissue: the counts mean nothing."
    assert describe(("other", "blurred"), 0.5).endswith("the counts mean nothing. If it is tissue: it is blurred.")
    assert describe(("blurred",), 0.5, slide=True).startswith("Most of the tissue is unlike the training data: ")
    assert describe(("other",), 0.5, slide=True).startswith("Most of this slide does not look like H-DAB stained")


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
    assert field["unlike"] == field["remarks"][-1]
    assert field["unlike"].startswith(NO_TISSUE)
    assert NO_TISSUE in err


def test_live_logs_the_warning_once_and_writes_it_on_every_line(monkeypatch, capsysbinary, tmp_path, fields):
    from kinet_trt.cli import main as cli

    for n in range(3):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.roll(with_eosin(fields[0]), n, axis=1)[..., ::-1])
    monkeypatch.setattr("sys.argv", ["kinet-trt", "live", str(tmp_path), "--headless", "--mpp", str(MPP)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsysbinary.readouterr()
    assert not stop.value.code
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 3
    assert all(line["unlike"] == line["remarks"][-1] == NO_TISSUE for line in lines)
    assert err.count(NO_TISSUE.encode()) == 1


@pytest.fixture(scope="module")
def real(shared_data, counter):
    """Return source and pixels of at most 18 labelled fields per source."""
    chosen: dict[str, int] = {}
    taken = []
    for field in read_fields(shared_data):
        chosen[field.source] = chosen.get(field.source, 0) + 1
        if chosen[field.source] <= 18:
            taken.append((field.source, field.pixels()))
    return taken


@pytest.mark.slow
def test_real_fields_get_no_warning(shared_data, counter):
    fields = [(field.source, field.pixels(), MPP) for field in read_fields(shared_data)]
    for folder, mpp in (("unlabelled", MPP), ("more/endonet", 0.32), ("more/marrow", MPP), ("more/scanners", 0.346)):
        paths = [p for p in sorted((shared_data / folder).iterdir()) if p.suffix in (".jpg", ".png")]
        fields += [(folder, read_image(p).pixels, mpp) for p in paths if not p.stem.endswith("_counted")]
    warned, seen_of = Counter(), Counter(source for source, _, _ in fields)
    for source, pixels, mpp in fields:
        warned[source] += bool(count_and_check(counter, pixels, mpp))
    assert warned.total() < 0.05 * len(fields), warned
    assert all(warned[source] < 0.05 * number for source, number in seen_of.items() if number > 40), warned


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
def test_damaged_real_fields_get_a_warning(real, counter, damage, factor, least):
    some = real[::2]
    warned = sum(bool(count_and_check(counter, damage(pixels[:384, :384]), MPP * factor)) for _, pixels in some)
    assert warned >= least * len(some)
