"""The C++ library, built and run: C++, C and Python find the same nuclei, to the last digit of the score."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import resources
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from kinet_abi import BAD_ARGUMENT, BAD_MODEL, BGR, FAILED, KinetError, Library, Model

from conftest import find_program, skip
from kinet_trt import NucleusCounter, read_image
from kinet_trt.core.frame import Frame, fit
from kinet_trt.engines import openvino
from kinet_trt.engines.open import open_engine
from kinet_trt.engines.tensorrt.engine_file import write_plan
from kinet_trt.inference.tiling import spans
from kinet_trt.models.card import CARD_KEY, read_card, with_card
from kinet_trt.models.model import Model as OnnxModel
from kinet_trt.onnx_graph.fuse_peaks import fuse
from kinet_trt.peaks.reference import find_peaks
from kinet_trt.simulation import simulate

ROOT = Path(__file__).resolve().parents[2]
SOURCE, INCLUDE, STAND_IN = ROOT / "cpp", ROOT / "cpp" / "include", Path(__file__).parent / "tensorrt_stand_in"
PAGE = (ROOT / "docs" / "embed-cpp.md").read_text(encoding="utf-8")
EDGE = Path(str(resources.files("kinet_trt.models") / "kinet-edge.onnx"))
FIELDS = 20
UNOPTIMISED = "-DCMAKE_CXX_FLAGS_RELEASE=-O0"  # compiles in half the time; the network's speed is OpenVINO's

pytest.importorskip("onnx")


def sh(*command, cwd=None, env=None, code=0):
    """Run a command and return what it printed, standard output and error."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == code, (
        f"{command}: exit status {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-5000:]}"
    )
    return done.stdout, done.stderr


def block(language, number):
    """Return a block of the page that is marked as run here."""
    found = re.findall(rf"<!-- not run: built and run by tests/cpp -->\n```{language}\n(.*?)^```$", PAGE, re.M | re.S)
    return found[number]


@pytest.fixture(scope="session")
def openvino_dir():
    find_program("cmake", package="cmake")
    find_program("g++", package="g++")
    if not Path("/usr/include/nlohmann/json.hpp").exists():
        skip("no nlohmann/json.hpp: apt-get install nlohmann-json3-dev")
    (package,) = find_spec("openvino").submodule_search_locations
    return f"-DOpenVINO_DIR={package}/cmake"


@pytest.fixture(scope="session")
def built(tmp_path_factory, openvino_dir):
    """Run the commands of the page, with warnings as errors, and return the folder."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "cpp").symlink_to(ROOT / "cpp")
    shutil.copy(EDGE, folder / "kinet.onnx")
    pixels = simulate.field(3, 640, 480)[0]
    (folder / "field.rgb").write_bytes(pixels.tobytes())
    write_ppm(folder / "field.ppm", pixels)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {
        **os.environ,
        "PATH": path,
        "CMAKE_BUILD_PARALLEL_LEVEL": "2",
        "CXXFLAGS": "-Werror -Wpedantic -Wconversion -Wshadow",
    }
    sh("bash", "-euo", "pipefail", "-c", block("sh", 0), cwd=folder, env=env)
    return folder


@pytest.fixture(scope="session")
def model(built):
    return built / "kinet-fused.onnx"


@pytest.fixture(scope="session")
def library(built):
    return Library(built / "build" / "libkinet.so")


@pytest.fixture(scope="session")
def opened(library, model):
    opened = Model(library, model)
    yield opened
    opened.close()


def write_ppm(path, pixels):
    height, width = pixels.shape[:2]
    path.write_bytes(b"P6\n# a comment\n%d %d\n255\n" % (width, height) + pixels.tobytes())


def rows(text):
    """Return (x, y, class, score) of each row of a CSV of printed float32."""
    found = list(csv.reader(text.splitlines()))
    assert found[0] == ["x", "y", "class", "score"]
    return [(np.float32(x), np.float32(y), name, np.float32(score)) for x, y, name, score in found[1:]]


def named(found, names):
    return [(np.float32(x), np.float32(y), names[c], np.float32(score)) for x, y, c, score in found]


def from_python(detections):
    """Return (x, y, class, score) of each nucleus found by Python."""
    columns = zip(detections.x, detections.y, detections.cls, detections.score, strict=True)
    return named(columns, detections.classes)


def program(folder, model, pixels, tmp_path, *more, code=0):
    write_ppm(tmp_path / "field.ppm", pixels)
    return sh(folder / "build" / "count_field", model, tmp_path / "field.ppm", *more, code=code)


@pytest.fixture(scope="session")
def counters(model):
    """Python counters with the model and with the fused one."""
    return NucleusCounter(precision="fp32"), NucleusCounter(model, precision="fp32")


@pytest.fixture(scope="session")
def fields(shared_data):
    """Twenty real fields at the model's um/px, none wider than 144 px, and with the remainders of 16 px."""
    with (shared_data / "index.csv").open() as file:
        index = list(csv.DictReader(file))
    chosen = list({(row["width"], row["height"]): row for row in index}.values())  # one of each size
    chosen += [row for row in index if row not in chosen and int(row["width"]) < 640][: FIELDS - len(chosen)]
    pictures = [read_image(shared_data / row["image"]).pixels for row in chosen]
    return [p[: min(p.shape[0], 128 + p.shape[0] % 16), : min(p.shape[1], 128 + p.shape[1] % 16)] for p in pictures]


# --- the same nuclei --------------------------------------------------------------------------------------------------


def test_cpp_c_and_python_find_the_same_nuclei_in_20_real_fields(built, opened, model, counters, fields, tmp_path):
    unfused, fused = counters
    names, sizes, total = opened.info()[1], set(), 0
    for number, pixels in enumerate(fields):
        sizes.add(pixels.shape[:2])
        expected = from_python(unfused(pixels))
        assert from_python(fused(pixels)) == expected
        n, found = opened.count(pixels)
        assert (n, named(found, names)) == (len(expected), expected)
        if number % 4 == 0:  # the program opens the model each time
            assert rows(program(built, model, pixels, tmp_path)[0]) == expected
        total += len(expected)
    assert len(fields) == FIELDS
    assert total > 10 * FIELDS
    assert sum(h % 16 > 0 or w % 16 > 0 for h, w in sizes) >= 3  # some were padded


def test_count_of_a_fitted_field_equals_python(opened, counters, fields):
    pixels, names = fields[0], opened.info()[1]
    fitted = fit(Frame(pixels, 0.25), opened.info()[0].mpp, 1)
    assert fitted.pixels.shape != pixels.shape
    found = named(opened.count(fitted.pixels)[1], names)
    expected = counters[0](Frame(pixels, 0.25))
    x, y = fitted.to_frame(np.array([f[0] for f in found]), np.array([f[1] for f in found]))
    assert np.array_equal(x, expected.x)
    assert np.array_equal(y, expected.y)
    assert [f[2] for f in found] == [expected.classes[c] for c in expected.cls]


@pytest.mark.parametrize("mpp", [0.2, 0.17, 0.5, 0.34])
def test_count_at_finds_the_nuclei_of_python(built, model, opened, counters, mpp, tmp_path):
    pixels = simulate.field(21, 400, 360)[0]
    side = 0.34 / mpp
    pixels = cv2.resize(pixels, None, fx=side, fy=side, interpolation=cv2.INTER_CUBIC)[:-1, :-1]
    expected = counters[0](pixels, mpp=mpp)
    n, found = opened.count(pixels, mpp=mpp)
    assert n == len(found)
    # Not identical: rounding of scaled pixels differs from OpenCV's by up to one grey level.
    x, y = (np.array([nucleus[axis] for nucleus in found]) for axis in (0, 1))
    near = np.hypot(x[:, None] - expected.x, y[:, None] - expected.y) < 1.5 * side
    same = near & (np.array([nucleus[2] for nucleus in found])[:, None] == expected.cls)
    assert same.any(axis=1).mean() > 0.99
    assert same.any(axis=0).mean() > 0.99
    assert opened.count(np.ascontiguousarray(pixels[..., ::-1]), BGR, mpp=mpp) == (n, found)
    printed = rows(program(built, model, pixels, tmp_path, "nan", mpp)[0])
    assert printed == named(found, expected.classes)


def test_count_at_refuses_invalid_mpp(opened):
    pixels = simulate.field(5, 64, 64)[0]
    for mpp, words in (
        (0.0, "positive"),
        (-1.0, "positive"),
        (float("nan"), "positive"),
        (0.1, "too small"),
        (1e5, "too large"),
    ):
        with pytest.raises(KinetError, match=words) as raised:
            opened.count(pixels, mpp=mpp)
        assert raised.value.code == BAD_ARGUMENT


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (100, 31 + 16), (479, 641), (480, 640)])
def test_count_pads_frames_of_any_size(opened, counters, size):
    pixels = simulate.field(5, size[1], size[0])[0]
    n, found = opened.count(pixels)
    assert n == len(found)
    assert named(found, opened.info()[1]) == from_python(counters[0](pixels))


def test_tiles_of_a_large_frame_count_each_nucleus_once(library, opened, tmp_path):
    card, edge = read_card(EDGE)
    small_tiles = tmp_path / "tiles.onnx"
    small_tiles.write_bytes(fuse(OnnxModel(replace(card, tile=304), edge)).data)
    tiled, python = Model(library, small_tiles), NucleusCounter(small_tiles, precision="fp32")
    for width, height, columns, rows in ((606, 597, 2, 2), (640, 70, 3, 1)):
        pixels = simulate.field(12, width, height)[0]
        padded = (-(-side // card.multiple) * card.multiple for side in (width, height))
        assert [len(spans(side, 304, card.halo, card.multiple)) for side in padded] == [columns, rows]
        n, found = tiled.count(pixels)
        assert n == len(found) > 25 * rows * columns
        assert named(found, card.classes) == from_python(python(pixels))
        # The whole frame at once: the same nuclei, except for the last digit of a score.
        whole = np.array(opened.count(pixels)[1])
        assert np.array_equal(np.array(found)[:, :3], whole[:, :3])
        assert np.allclose(np.array(found)[:, 3], whole[:, 3], rtol=0, atol=1e-5)
    tiled.close()


def test_stride_and_channel_order_do_not_change_the_nuclei(opened):
    whole = simulate.field(6, 300, 200)[0]
    pixels = whole[11:190, 7:280]
    expected = opened.count(np.ascontiguousarray(pixels))
    assert expected[0] > 50
    assert opened.count(pixels) == expected
    assert opened.count(np.ascontiguousarray(pixels[::-1])[::-1]) == expected
    assert opened.count(np.ascontiguousarray(pixels[..., ::-1]), BGR) == expected
    padded = np.zeros((208, 320, 3), np.uint8)[:179, :273]
    padded[:] = pixels[..., ::-1]
    assert opened.count(padded, BGR) == expected
    assert opened.count(np.ascontiguousarray(pixels[..., ::-1])) != expected  # the channel order matters


def test_threshold_defaults_to_that_of_the_model(built, opened, model, counters, tmp_path):
    pixels = simulate.field(7, 320, 320)[0]
    card = counters[0].engine.card
    assert opened.count(pixels) == opened.count(pixels, threshold=card.threshold)
    for threshold in (0.05, 0.9):
        expected = from_python(NucleusCounter(precision="fp32", threshold=threshold)(pixels))
        assert named(opened.count(pixels, threshold=threshold)[1], card.classes) == expected
        assert rows(program(built, model, pixels, tmp_path, threshold)[0]) == expected
    with pytest.raises(KinetError, match="finite"):
        opened.count(pixels, threshold=float("inf"))


def test_image_without_colour_has_no_nuclei(opened, counters):
    grey = np.repeat(simulate.field(8, 200, 200)[0][..., 1:2], 3, axis=2)
    assert opened.count(grey) == (0, [])
    assert len(counters[0](grey)) == 0
    for spread in (8, 9):  # just below and just above the limit of grey
        pixels = grey.copy()
        pixels[57, 3, 0] = 255
        pixels[57, 3, 1:] = 255 - spread
        n, _ = opened.count(pixels)
        assert n == len(counters[0](pixels))
        assert (n > 0) == (spread == 9)


def test_info_equals_the_model_card(opened, counters, library):
    about, names = opened.info()
    card = counters[1].engine.card
    assert (about.mpp, about.capacity, about.multiple) == (card.mpp, 8192, card.multiple)
    assert (about.tile, about.halo) == (card.tile, card.halo)
    assert about.threshold == np.float32(card.threshold)
    assert tuple(names) == card.classes
    assert library.c.kinet_abi() == int(re.search(r"#define KINET_ABI (\d+)", (INCLUDE / "kinet.h").read_text())[1])
    runtime = counters[0].engine.runtime.removesuffix(" on CPU")
    assert library.c.kinet_version().decode() == f"kinet {version('kinet-trt')}, {runtime}"


def test_count_exceeds_written_when_the_buffer_or_the_model_is_full(built, library, opened, tmp_path):
    pixels = simulate.field(9, 331, 300)[0]
    expected = opened.count(pixels)[1]
    assert len(expected) > 100
    assert opened.count(pixels, room=60) == (len(expected), expected[:60])
    assert opened.count(pixels, room=0) == (len(expected), [])
    edge = OnnxModel.read(EDGE)
    card = edge.card
    small = tmp_path / "small.onnx"
    small.write_bytes(fuse(edge, capacity=100).data)
    one = Model(library, small)
    n, found = one.count(pixels)
    padded = fit(Frame(pixels, card.mpp), card.mpp, card.multiple).pixels
    maps = open_engine(EDGE, "fp32").run(padded[None])[0]
    # The padding's share of the 100 nuclei is dropped; that of the others is unknown.
    assert n == len(find_peaks(maps, card.threshold, card.nms_radius)) - (100 - len(found))
    assert n >= len(expected) > len(found)
    assert found == [nucleus for nucleus in expected if nucleus in found]
    assert 90 <= len(found) <= 100
    one.close()
    out, err = program(built, small, pixels, tmp_path, code=3)
    assert len(rows(out)) == len(found)
    assert f"{n} nuclei, above the model's capacity of 100 in a tile; {len(found)} printed" in err


def test_bf16_count_is_close_to_fp32(library, model, opened):
    pixels = simulate.field(9, 320, 320)[0]
    fp32 = opened.count(pixels)[0]
    half = Model(library, model, precision="bf16", threads=1)
    assert abs(half.count(pixels)[0] - fp32) <= max(2, 0.05 * fp32)
    half.close()


def test_int8_model_finds_the_nuclei_of_python(library, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from kinet_trt.calibration import ranges

    from kinet_trt.onnx_graph import qdq
    from kinet_trt.onnx_graph.pointwise import as_pointwise
    from kinet_trt.onnx_graph.precision import weights_to_fp32

    # Joined quantisation, which C++ always uses and Python only without AMX.
    monkeypatch.setattr(openvino, "_has_amx", lambda: False)
    edge = OnnxModel.read()
    graph = as_pointwise(weights_to_fp32(edge.graph))
    groups = qdq.groups(graph, ())
    seen = ranges.observe(graph, [name for group in groups for name in group], [simulate.field(3, 96, 64)[0]])
    steps = {name: ranges.choose_step([seen[n] for n in group]) for group in groups for name in group}
    body = qdq.insert(graph, steps, ("network.out.1",)).SerializeToString()
    path = tmp_path / "int8.onnx"
    path.write_bytes(fuse(OnnxModel(replace(edge.card, precision="int8"), body)).data)
    model, counter = Model(library, path), NucleusCounter(path, precision="int8")
    for side in (40, 64, 320):  # small ones are padded, as in Python
        pixels = simulate.field(9, side, side)[0]
        n, found = model.count(pixels)
        assert n == len(found) > 0
        assert named(found, edge.card.classes) == from_python(counter(pixels))
    model.close()
    assert n > 100
    assert abs(n - len(NucleusCounter(precision="fp32")(pixels))) < 0.1 * n


# --- what goes wrong --------------------------------------------------------------------------------------------------


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_unusable_models_are_refused(built, library, model, tmp_path):
    whole = model.read_bytes()
    threshold = whole.index(b'"threshold"')
    card, _ = read_card(model)
    newer = with_card(whole, card).replace(b'"version": 1', b'"version": 2')
    text = next(iter(re.findall(rb'\{"calibration_sha256.*"version": 2[^}]*\}', newer)))
    old, new = (hashlib.sha256(t).hexdigest().encode() for t in (text.replace(b": 2}", b": 1}"), text))
    cases = {
        "truncated": (whole[:-100], "damaged"),
        "half": (whole[: len(whole) // 2], "damaged"),
        "a weight": (flipped(whole, len(whole) // 2), "damaged"),
        "the threshold": (flipped(whole, threshold + 15), "damaged"),
        "empty": (b"", "empty"),
        "noise": (np.random.default_rng(0).bytes(4096), "damaged"),
        "text": (b"not a model" * 20, "damaged"),
        "no card": (whole.replace(CARD_KEY.encode(), b"another.program"[: len(CARD_KEY)].ljust(len(CARD_KEY))), "card"),
        "not fused": (EDGE.read_bytes(), "--fused"),
        "newer": (newer.replace(old, new), "newer"),
    }
    for name, (data, words) in cases.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        with pytest.raises(KinetError, match=words) as raised:
            Model(library, path)
        assert raised.value.code == BAD_MODEL, name
        assert str(raised.value).startswith(str(path)), name
        assert str(raised.value) in sh(built / "build" / "count_field", path, path, code=1)[1]
    with pytest.raises(KinetError, match="expected a readable file"):
        Model(library, tmp_path / "none.onnx")
    plan = tmp_path / "it.engine"
    write_plan(plan, whole, plan_card(model))
    with pytest.raises(KinetError, match="built for OpenVINO"):
        Model(library, plan)


def test_damage_to_the_card_is_detected(library, model, tmp_path):
    whole = model.read_bytes()
    start = whole.index(CARD_KEY.encode()) - 8
    path = tmp_path / "it.onnx"
    random = np.random.default_rng(1)
    for at in (start, len(whole) - 1, *random.integers(start, len(whole), 12)):
        for data in (flipped(whole, int(at)), whole[: int(at)]):
            path.write_bytes(data)
            with pytest.raises(KinetError) as raised:
                Model(library, path)
            assert raised.value.code == BAD_MODEL


def test_invalid_arguments_are_refused(opened, library, model):
    with pytest.raises(KinetError, match="31 x 40 px") as raised:
        opened.count(np.zeros((40, 31, 3), np.uint8))
    assert raised.value.code == BAD_ARGUMENT
    with pytest.raises(KinetError, match="expected fp32, bf16 or fp16, found int4") as raised:
        Model(library, model, precision="int4")
    assert raised.value.code == BAD_ARGUMENT


def test_count_field_reports_errors(built, model, tmp_path):
    count_field, field = built / "build" / "count_field", built / "field.ppm"
    more = [("abc",), ("",), ("1", "2x"), ("1", "2", "3")]
    for arguments in [(), (model,), *((model, field, *one) for one in more)]:
        assert sh(count_field, *arguments, code=2)[1].startswith("usage: count_field")
    bad = tmp_path / "bad.ppm"
    for data, words in [
        (b"", "binary PPM"),
        (b"P5\n40 40\n255\n" + bytes(1600), "binary PPM"),
        (b"P6\n40 40\n65535\n" + bytes(9600), "binary PPM"),
        (b"P6\n-40 40\n255\n", "binary PPM"),
        (b"P6\n99999999999999999999 40\n255\n", "binary PPM"),
        (b"P6\n40 40\n255\n" + bytes(4799), "truncated"),
        (b"P6\n20 40\n255\n" + bytes(2400), "too small"),
    ]:
        bad.write_bytes(data)
        out, err = sh(count_field, model, bad, code=1)
        assert words in err
        assert out == ""
        assert err.count("\n") == 1


# --- threads ----------------------------------------------------------------------------------------------------------


def test_threads_can_share_a_model(library, opened):
    frames = [simulate.field(seed, 128 + 17 * seed, 100 + 9 * seed)[0] for seed in range(6)]
    expected = [opened.count(frame) for frame in frames]

    def work(i):
        with pytest.raises(KinetError, match=f"thread-{i}.onnx"):
            Model(library, Path(f"thread-{i}.onnx"))
        return opened.count(frames[i % 6]) == expected[i % 6]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(18)))


# --- as a host in C ---------------------------------------------------------------------------------------------------


def test_example_in_the_docs_runs_in_c_and_cpp(built, opened):
    pixels, names = simulate.field(3, 640, 480)[0], opened.info()[1]
    found = opened.count(pixels, mpp=0.25)[1]
    flags = ["-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{INCLUDE}", f"-L{built / 'build'}"]
    for compiler, suffix in (("gcc", "c"), ("g++", "cpp")):
        source, binary = built / f"host.{suffix}", built / f"host_{suffix}"
        source.write_text(block("cpp", 0))
        std = "-std=c11" if suffix == "c" else "-std=c++17"
        sh(compiler, std, source, "-o", binary, *flags, "-lkinet", f"-Wl,-rpath,{built / 'build'}")
        out, err = sh(binary, cwd=built)
        assert err == ""
        assert out.splitlines() == [f"{x:g} {y:g} {names[c]} {score:g}" for x, y, c, score in found]
    printed = rows((built / "nuclei.csv").read_text())
    assert printed == named(opened.count(pixels)[1], names)


def test_library_exports_only_its_functions(built):
    declared = set(re.findall(r"^KINET_API .*?(kinet_\w+)\(", (INCLUDE / "kinet.h").read_text(), re.M))
    out, _ = sh("nm", "-D", "--defined-only", built / "build" / "libkinet.so")
    assert {line.split()[-1] for line in out.splitlines()} == declared
    assert len(declared) == 9


def test_sanitizers_find_no_error(built, model, opened, openvino_dir, tmp_path):
    sanitize = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
    out = tmp_path / "asan"
    sh("cmake", "-S", SOURCE, "-B", out, openvino_dir, UNOPTIMISED, f"-DCMAKE_CXX_FLAGS={sanitize} -g1")
    sh("cmake", "--build", out, "--target", "kinet", "-j2")
    flags = [
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-g1",
        *sanitize.split(),
        f"-I{INCLUDE}",
        f"-L{out}",
        "-pthread",
    ]
    stress = tmp_path / "stress"
    sh("gcc", Path(__file__).parent / "stress.c", "-o", stress, *flags, "-lkinet", "-lm", f"-Wl,-rpath,{out}")
    pixels = simulate.field(10, 133, 122)[0]
    (tmp_path / "field.rgb").write_bytes(pixels.tobytes())
    n, _ = opened.count(pixels)
    # TBB loads libraries in a way that sanitizers refuse without this; OpenVINO keeps some memory until the end.
    (tmp_path / "suppressions").write_text("leak:libopenvino\n")
    leaks = f"suppressions={tmp_path / 'suppressions'}:print_suppressions=0"
    env = {**os.environ, "TBB_ENABLE_SANITIZERS": "1", "LSAN_OPTIONS": leaks}
    printed, _ = sh(stress, model, 133, 122, tmp_path / "field.rgb", env=env)
    assert int(printed) == n


# --- TensorRT, behind a stand-in --------------------------------------------------------------------------------------


def plan_card(model, **more):
    """Return the card of a plan; for the stand-in a plan is an ONNX file."""
    card, whole = read_card(model)
    profile = ((1, 64, 64), (1, 640, 640), (1, 1024, 1600))
    of_plan = replace(card, runtime="TensorRT", runtime_version="10.13.3.9", gpu="a GPU", profile=profile)
    return replace(of_plan, **{"model_sha256": hashlib.sha256(whole).hexdigest(), **more})


@pytest.fixture(scope="session")
def tensorrt(tmp_path_factory, openvino_dir):
    """Build the library against the stand-in for TensorRT, classic and RTX, and return the folder."""
    folder = tmp_path_factory.mktemp("tensorrt")
    sh("cmake", "-S", STAND_IN, "-B", folder / "stand_in", openvino_dir)
    sh("cmake", "--build", folder / "stand_in")
    sh("cmake", "--install", folder / "stand_in", "--prefix", folder / "sdk")
    lib = folder / "sdk" / "lib"
    (lib / "libtensorrt_rtx.so").symlink_to("libnvinfer.so")
    header, build = folder / "sdk" / "include" / "NvInfer.h", folder / "build"
    where = [f"-DTENSORRT_ROOT={folder / 'sdk'}", f"-DCMAKE_MODULE_PATH={STAND_IN}", UNOPTIMISED]
    for runtime in ("TENSORRT", "TENSORRT_RTX"):
        if runtime == "TENSORRT_RTX":  # compiles only again what depends on the header
            header.write_text("#define STAND_IN_RTX\n" + header.read_text())
        chosen = [f"-DKINET_RUNTIME={runtime}", "-UTENSORRT_LIBRARY", "-DCMAKE_CXX_FLAGS=-Werror -Wshadow"]
        sh("cmake", "-S", SOURCE, "-B", build, *chosen, *where)
        sh("cmake", "--build", build, "-j2")
        (folder / runtime).mkdir()
        for made in ("libkinet.so", "count_field"):
            shutil.copy(build / made, folder / runtime)
    return folder


@pytest.fixture(scope="session")
def plan(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "fused.engine"
    write_plan(path, model.read_bytes(), plan_card(model))
    return path


def test_tensorrt_finds_the_same_nuclei(tensorrt, plan, opened):
    library = Library(tensorrt / "TENSORRT" / "libkinet.so")
    assert library.c.kinet_version().decode().endswith(", TensorRT 10.13.3.9")
    one = Model(library, plan)
    assert one.info()[1] == opened.info()[1]
    frames = [simulate.field(seed, 320 - 47 * seed, 133 + 50 * seed)[0] for seed in range(4)]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(one.count, frames)) == [opened.count(frame) for frame in frames]
    wide = simulate.field(1, 1610, 70)[0]  # more than the plan takes: in tiles
    assert one.count(wide) == opened.count(wide)
    # The plan takes it whole, OpenVINO in tiles: the same nuclei, except for the last digit of a score.
    wide = wide[:, :1590]
    whole, tiled = (np.array(model.count(wide)[1]) for model in (one, opened))
    assert np.array_equal(whole[:, :3], tiled[:, :3])
    assert np.allclose(whole[:, 3], tiled[:, 3], rtol=0, atol=1e-5)
    with pytest.raises(KinetError, match=r"304 x 48 px.*outside the profile") as raised:
        one.count(simulate.field(1, 300, 40)[0])
    assert raised.value.code == FAILED
    assert one.count(frames[0]) == opened.count(frames[0])  # usable after an error
    one.close()


def test_tensorrt_refuses_unusable_plans(tensorrt, plan, model, tmp_path):
    library = Library(tensorrt / "TENSORRT" / "libkinet.so")
    with pytest.raises(KinetError, match="built for TensorRT: kinet-trt build"):
        Model(library, model)
    with pytest.raises(KinetError, match="expected none, since the plan defines it"):
        Model(library, plan, precision="fp32")
    rtx = tmp_path / "rtx.engine"
    write_plan(rtx, model.read_bytes(), plan_card(model, runtime="TensorRT for RTX"))
    with pytest.raises(KinetError, match=r"built by TensorRT for RTX 10\.13\.3\.9, but this is TensorRT 10\.13\.3\.9"):
        Model(library, rtx)
    alone = tmp_path / "alone.engine"
    shutil.copy(plan, alone)
    with pytest.raises(KinetError, match=r"alone\.engine\.json"):
        Model(library, alone)
    noise = tmp_path / "noise.engine"
    write_plan(noise, b"noise", plan_card(model, model_sha256=hashlib.sha256(b"noise").hexdigest()))
    with pytest.raises(KinetError, match=r"cannot load it: the plan cannot be parsed$") as raised:
        Model(library, noise)
    assert raised.value.code == BAD_MODEL
    noise.write_bytes(b"other")
    with pytest.raises(KinetError, match="damaged"):
        Model(library, noise)


@pytest.mark.parametrize(
    ("version", "accepted"),
    [
        ("10.13.3", True),  # TensorRT 10.3 to 10.7 state three parts in Python, as JetPack 6.2 does
        ("10.13.3.9.post1", True),
        ("10.13.3.post1", True),
        ("10.13.3.90", False),
        ("10.13.30", False),
        ("10.13.2", False),
        ("", False),
    ],
)
def test_tensorrt_compares_the_version_parts_of_the_card(tensorrt, model, tmp_path, version, accepted):
    library, path = Library(tensorrt / "TENSORRT" / "libkinet.so"), tmp_path / "fused.engine"
    write_plan(path, model.read_bytes(), plan_card(model, runtime_version=version))
    if accepted:
        Model(library, path).close()
        return
    with pytest.raises(KinetError, match=rf"built by TensorRT {version}, but this is TensorRT 10\.13\.3\.9"):
        Model(library, path)


def test_tensorrt_for_rtx_builds_and_counts(tensorrt, model, opened, tmp_path):
    path = tmp_path / "rtx.engine"
    write_plan(path, model.read_bytes(), plan_card(model, runtime="TensorRT for RTX"))
    pixels = simulate.field(2, 320, 300)[0]
    write_ppm(tmp_path / "field.ppm", pixels)
    out, _ = sh(tensorrt / "TENSORRT_RTX" / "count_field", path, tmp_path / "field.ppm")
    assert rows(out) == named(opened.count(pixels)[1], opened.info()[1])


def symbols(library, kind):
    return {line.split()[-1] for line in sh("nm", "-D", f"--{kind}-only", library)[0].splitlines()}


def test_used_tensorrt_functions_exist_in_its_library(tensorrt):
    """Functions outside classes, since those of classes are virtual and have no symbols."""
    libs = pytest.importorskip("tensorrt_rtx_libs")
    (real,) = Path(libs.__file__).parent.glob("libtensorrt_rtx.so*")
    stand_in = symbols(tensorrt / "sdk" / "lib" / "libnvinfer.so", "defined")
    used = symbols(tensorrt / "TENSORRT_RTX" / "libkinet.so", "undefined") & stand_in
    used = {name for name in used if not name.startswith("cuda")}
    # In NVIDIA's header createInferRuntime is an inline function that calls the one with _INTERNAL.
    inline = {name for name in used if "createInferRuntime" in name}
    assert len(inline) == 1
    assert len(used - inline) == 4
    assert used - inline | {"createInferRuntime_INTERNAL"} <= symbols(real, "defined")
