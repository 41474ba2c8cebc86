"""Building: real engines by TensorRT for RTX, without a GPU, and ONNX models for the CPU."""

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from kinet_trt.cli.commands.build import _speed
from kinet_trt.core.detections import CLASSES
from kinet_trt.core.errors import EngineError, KinetError
from kinet_trt.deploy import build as builder
from kinet_trt.deploy.build import build, make_profile
from kinet_trt.engines.tensorrt import builder as trt
from kinet_trt.engines.tensorrt.engine_file import AMPERE, card_path, read_plan
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.models.card import read_card, read_onnx_card
from kinet_trt.models.model import DEFAULT_MODEL, Model
from kinet_trt.onnx_graph import precision, qdq
from kinet_trt.onnx_graph.pointwise import as_pointwise
from kinet_trt.onnx_graph.precision import weights_to_fp32
from kinet_trt.simulation import simulate

ANY = ((1, 32, 32), (1, 1280, 1280), (1, 1280, 1280))
rtx = pytest.mark.skipif(not builder.trt.find_spec("tensorrt_rtx"), reason="no TensorRT for RTX")
pytestmark = rtx


def in_int8(source):
    """Quantize a model like calibration, with arbitrary ranges, which do not affect a build."""
    model = Model.read(source)
    graph = as_pointwise(weights_to_fp32(model.graph))
    floating = [qdq.layers(graph)[-1].name]
    scales = dict.fromkeys((name for group in qdq.groups(graph, floating) for name in group), 0.05)
    card = replace(model.card, precision="int8", weights_precision="int8", calibration_sha256="ab" * 32)
    return Model.from_graph(qdq.insert(graph, scales, floating), card).data


@pytest.fixture(scope="module")
def int8_edge(tmp_path_factory):
    """Return the path of the built-in model (the paper's architecture) in INT8."""
    path = tmp_path_factory.mktemp("models") / "edge-int8.onnx"
    path.write_bytes(in_int8(DEFAULT_MODEL))
    return path


def random_network(folder, architecture, width, factory):
    """Export a network with random weights and a region branch; return the paths with and without the region."""
    pytest.importorskip("torch")
    from random_networks import export_with_region

    model = export_with_region(architecture, width, factory)
    both, alone = folder / f"{architecture}-{width}-roi.onnx", folder / f"{architecture}-{width}.onnx"
    both.write_bytes(model.data)
    pruned = onnx.utils.Extractor(model.graph_copy()).extract_model(["frame"], ["maps"])
    alone.write_bytes(Model.from_graph(pruned, replace(model.card, roi=False)).data)
    return both, alone


def plan_of(built):
    card, plan = read_plan(built.path)
    assert card == built.card
    assert hashlib.sha256(plan).hexdigest() == card.model_sha256
    assert plan[:4] == b"vtrt"  # a plain plan of TensorRT for RTX: nothing before it
    return card, plan


# --- engines ----------------------------------------------------------------------------------------------------------


SHIPPED = [
    # Each precision with each number of sizes; the other half, fused or not, is slow.
    pytest.param(kind, sizes, fused, marks=[] if fused == ((kind == "int8") != (len(sizes) == 1)) else pytest.mark.slow)
    for kind in ("fp16", "int8")
    for sizes in ((), ((608, 608),), ((608, 960), (480, 640)))
    for fused in (False, True)
]


@pytest.mark.parametrize(("kind", "sizes", "fused"), SHIPPED)
def test_build_makes_engines_of_the_built_in_model(tmp_path, int8_edge, kind, sizes, fused):
    source = int8_edge if kind == "int8" else None
    card, _ = plan_of(build(source, tmp_path / "a.engine", sizes=sizes, fused=fused))
    assert (card.name, card.precision, card.roi, bool(card.capacity)) == ("kinet-edge", kind, False, fused)
    assert (card.runtime, card.gpu) == ("TensorRT for RTX", AMPERE)
    assert card.runtime_version == trt.load_library("tensorrt-rtx").version
    profile = {0: ANY, 1: ((1, 608, 608),) * 3, 2: ((1, 480, 640), (1, 608, 960), (1, 608, 960))}[len(sizes)]
    assert card.profile == profile
    if kind == "int8":
        assert card.calibration_sha256 == "ab" * 32


def test_build_makes_engines_of_the_release_architecture(tmp_path, tmp_path_factory):
    both, alone = random_network(tmp_path, "release", 4, tmp_path_factory)
    quantised = tmp_path / "int8.onnx"
    quantised.write_bytes(in_int8(both))
    for kind, source, sizes, fused in (
        ("fp32", both, [], True),
        ("fp16", alone, [], False),
        ("fp16", both, [(256, 320)], True),
        ("int8", quantised, [], True),
    ):
        card, _ = plan_of(build(source, tmp_path / "a.engine", kind, sizes=sizes, fused=fused, batch=2))
        found = (card.precision, card.weights_precision, card.roi, bool(card.capacity))
        assert found == (kind, kind, source != alone, fused)
        assert (card.profile[0][0], card.profile[2][0]) == (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("width", [4, 32])
@pytest.mark.parametrize("architecture", ["paper", "release"])
def test_build_makes_every_engine_of_both_architectures(tmp_path, architecture, width, tmp_path_factory):
    for source in random_network(tmp_path, architecture, width, tmp_path_factory):
        quantised = tmp_path / "int8.onnx"
        quantised.write_bytes(in_int8(source))
        for kind, begin in (("fp32", source), ("fp16", source), ("int8", quantised)):
            for sizes in ((), [(608, 608)], [(1088, 1920), (608, 608)]):
                for fused in (False, True):
                    plan_of(build(begin, tmp_path / "a.engine", kind, sizes=sizes, fused=fused))


def save_fields(folder, n):
    """Write labelled simulated fields."""
    for seed in range(n):
        pixels, truth = simulate.field(seed, 256, 256)
        save_png(folder / f"{seed}.png", pixels)
        rows = [f"{x},{y},{CLASSES[c]}" for x, y, c in zip(truth.x, truth.y, truth.cls, strict=True)]
        (folder / f"{seed}.csv").write_text("\n".join(["x,y,class", *rows]))


def save_png(path, pixels):
    path.write_bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())


@pytest.mark.slow
def test_build_makes_a_fused_int8_engine_from_fields(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "fields").mkdir()
    save_fields(tmp_path / "fields", 12)
    done = kinet(
        "build", "-o", "a.engine", "--precision", "int8", "--calibration", "fields", "--fused", "--max-loss", "5",
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    card, _ = read_plan(tmp_path / "a.engine")
    assert (card.precision, card.runtime) == ("int8", "TensorRT for RTX")
    assert card.capacity
    assert card.calibration_sha256
    assert card.quantisation["loss_points"] <= 5
    for part in ("INT8     calibrated on 6 images", "labelled nuclei", "points of F1"):
        assert part in done.stdout


def test_half_precision_engine_has_about_half_the_size(tmp_path):
    sizes = [(256, 256)]
    full, half = (
        build(DEFAULT_MODEL, tmp_path / f"{k}.engine", k, sizes=sizes).path.stat().st_size for k in ("fp32", "fp16")
    )
    assert half < 0.65 * full


def test_build_defaults_to_the_built_in_model_in_fp16(tmp_path):
    built = build(None, tmp_path / "a.onnx")
    assert (built.card.name, built.card.precision) == ("kinet-edge", "fp16")


def test_fused_onnx_of_fixed_size_becomes_an_engine_of_that_size(tmp_path):
    one = build(DEFAULT_MODEL, tmp_path / "one.onnx", "fp32", sizes=[(320, 256)], fused=True)
    card, _ = plan_of(build(one.path, tmp_path / "a.engine"))
    assert card.profile == ((1, 320, 256),) * 3
    assert (card.precision, card.capacity) == ("fp32", one.card.capacity)
    with pytest.raises(KinetError, match="accepts only frames of 256 x 320 px"):
        build(one.path, tmp_path / "a.engine", sizes=[(320, 320)])


def test_build_targets_turing_separately(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "_target", lambda library: builder.TURING)
    card, turing = plan_of(build(DEFAULT_MODEL, tmp_path / "a.engine", sizes=[(256, 256)]))
    assert card.gpu == builder.TURING
    monkeypatch.undo()
    assert turing != plan_of(build(DEFAULT_MODEL, tmp_path / "b.engine", sizes=[(256, 256)]))[1]


def test_build_reports_progress(tmp_path):
    told = []
    build(DEFAULT_MODEL, tmp_path / "a.engine", sizes=[(256, 256)], report=lambda *step: told.append(step))
    assert told[-1][1:] == (100, 100)
    assert len(told) > 50


# --- ONNX models for the CPU ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fp32", "fp16"])
@pytest.mark.parametrize("fused", [False, True])
def test_built_onnx_model_counts_like_its_source(tmp_path, kind, fused):
    built = build(DEFAULT_MODEL, tmp_path / "a.onnx", kind, fused=fused)
    assert read_onnx_card(built.path.read_bytes()) == built.card
    assert (built.card.precision, built.card.runtime, built.card.profile) == (kind, "", None)
    pixels, _ = simulate.field(4, 320, 256)
    first = NucleusCounter(DEFAULT_MODEL, precision="fp32", threads=1)(pixels)
    second = NucleusCounter(built.path, precision="fp32", threads=1)(pixels)
    assert len(first) >= 100
    assert abs(len(first) - len(second)) <= (0 if kind == "fp32" else 3)


def test_int8_onnx_keeps_unquantized_layers_in_fp32(tmp_path, int8_edge):
    built = build(int8_edge, tmp_path / "a.onnx")
    made, original = (onnx.load(path).graph for path in (built.path, int8_edge))
    assert built.card.precision == "int8"
    assert {t.name: t.data_type for t in made.initializer} == {t.name: t.data_type for t in original.initializer}


def test_half_precision_is_compared_with_fp32_on_a_field(tmp_path, monkeypatch):
    same = build(DEFAULT_MODEL, tmp_path / "a.onnx", "fp16").fp16_agreement
    assert same.same > 50
    assert same.moved < 0.05
    assert build(DEFAULT_MODEL, tmp_path / "b.onnx", "fp32").fp16_agreement is None
    assert build(tmp_path / "a.onnx", tmp_path / "b.onnx").fp16_agreement is None
    monkeypatch.setattr(builder, "find_spec", lambda name: None)
    assert build(DEFAULT_MODEL, tmp_path / "a.onnx", "fp16").fp16_agreement is None


def test_half_precision_is_not_checked_on_a_field_without_nuclei(tmp_path, caplog):
    source, model = tmp_path / "strict.onnx", Model.read()
    source.write_bytes(model.with_card(replace(model.card, threshold=0.999)).data)
    assert build(source, tmp_path / "a.onnx", "fp16").fp16_agreement is None
    assert "FP16 could not be compared with FP32: kinet-edge finds 0 nuclei" in caplog.text


@pytest.mark.parametrize(("fused", "sizes"), [(False, []), (True, [(64, 96)])])
def test_result_is_timed_against_its_source(tmp_path, monkeypatch, fused, sizes):
    monkeypatch.setattr(builder, "TIMED_SECONDS", 0.0)
    monkeypatch.setattr(builder, "TIMED_SIDE", 128)
    built = build(DEFAULT_MODEL, tmp_path / "a.onnx", "fp32", fused=fused, sizes=sizes, timed=True)
    assert built.speed.size == (sizes[0] if sizes else (128, 128))
    assert built.speed.skipped == ""
    assert built.speed.before_ms > 0
    assert built.speed.after_ms > 0
    assert built.speed.ratio == built.speed.before_ms / built.speed.after_ms
    again = build(built.path, tmp_path / "b.onnx", timed=True).speed
    assert (again.skipped == "") is not fused
    assert build(DEFAULT_MODEL, tmp_path / "c.onnx").speed is None


def test_speed_is_described():
    def words(before, after):
        return _speed(builder.Speed(before, after, (512, 512)))

    assert (
        words(100, 40)
        == "2.5 times faster than FP32 on this machine: 40 ms instead of 100 ms for a field of 512x512 px"
    )
    assert words(100, 99).startswith("as fast as FP32 on this machine")
    assert words(100, 300).startswith("3.0 times slower than FP32 on this machine")
    assert _speed(builder.Speed(skipped="not measured: no GPU that runs it")) == "not measured: no GPU that runs it"


def test_network_that_overflows_half_precision_is_refused(tmp_path):
    full = precision.convert(Model.read(), "fp32")
    graph = full.graph_copy()
    layers = [node.input[1] for node in graph.graph.node if node.op_type == "Conv"][:3]
    for tensor in graph.graph.initializer:
        if tensor.name in layers:
            values = onnx.numpy_helper.to_array(tensor) * 200
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    source, out = tmp_path / "loud.onnx", tmp_path / "a.engine"
    source.write_bytes(Model.from_graph(graph, full.card).data)
    with pytest.raises(KinetError, match=r"overflows half precision.*precision fp32"):
        build(source, out, "fp16", sizes=[(64, 64)])
    assert not out.exists()
    build(source, out, "fp32", sizes=[(64, 64)])


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_default_sizes_include_every_tile_size():
    from kinet_trt.inference.tiling import tiles

    card, _ = read_card(DEFAULT_MODEL)
    (_, *least), _, (_, *largest) = make_profile(card, (), 1)
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(n) * 16 for n in rng.integers(2, 400, 2))
        for t in tiles(height, width, card.tile, card.halo, card.multiple):
            window = (t.window_bottom - t.window_top, t.window_right - t.window_left)
            assert all(a <= side <= b for a, side, b in zip(least, window, largest, strict=True))


def test_sizes_are_rounded_up_with_a_warning(tmp_path, caplog):
    built = build(DEFAULT_MODEL, tmp_path / "a.engine", sizes=[(600, 608)])
    assert built.card.profile == ((1, 608, 608),) * 3
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warned == ["608 x 600 px: built for 608 x 608, multiples of 16"]


# --- what cannot be built ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "options", "says"),
    [
        ("a.plan", {}, r"ending in \.engine .* or \.onnx"),
        ("a", {}, "no suffix"),
        ("a.engine", {"precision": "bf16"}, "expected fp32, fp16, int8, found 'bf16'"),
        ("a.engine", {"precision": "int8"}, "precision int8: expected a calibration folder"),
        ("a.engine", {"calibration": Path()}, "calibration: calibration images are used for"),
        ("a.engine", {"batch": 0}, "positive"),
        ("a.engine", {"sizes": [(0, 32)]}, "positive"),
        ("a.engine", {"sizes": [(1 << 20, 32)]}, "profile"),
        ("a.engine", {"runtime": "cuda"}, "runtime: expected"),
        ("a.onnx", {"sizes": [(64, 64)]}, "apply to an .engine"),
        ("a.onnx", {"batch": 2}, "apply to an .engine"),
        ("a.onnx", {"sizes": [(64, 64), (96, 96)], "fused": True}, "apply to an .engine"),
    ],
)
def test_invalid_options_are_an_error_before_the_build(tmp_path, out, options, says):
    with pytest.raises(KinetError, match=says):
        build(DEFAULT_MODEL, tmp_path / out, **options)
    assert list(tmp_path.iterdir()) == []


def test_build_never_overwrites_its_source(tmp_path):
    source = tmp_path / "a.onnx"
    source.write_bytes(DEFAULT_MODEL.read_bytes())
    with pytest.raises(KinetError, match="must not replace the input model"):
        build(source, tmp_path / "x" / ".." / "a.onnx")
    assert source.read_bytes() == DEFAULT_MODEL.read_bytes()


def test_other_files_are_replaced_only_with_force(tmp_path):
    out = tmp_path / "a.engine"
    card_path(out).write_text('{"notes": "mine"}')
    with pytest.raises(KinetError, match="or use force"):
        build(DEFAULT_MODEL, out, sizes=[(64, 64)])
    assert card_path(out).read_text() == '{"notes": "mine"}'
    build(DEFAULT_MODEL, out, sizes=[(64, 64)], force=True)
    build(DEFAULT_MODEL, out, sizes=[(96, 96)])
    assert plan_of(build(DEFAULT_MODEL, out, sizes=[(96, 96)]))[0].profile == ((1, 96, 96),) * 3


@pytest.mark.parametrize(("found", "asked"), [("fp16", "fp32"), ("fp16", "int8"), ("int8", "fp16")])
def test_converted_model_cannot_be_converted_again(tmp_path, int8_edge, found, asked):
    source = int8_edge if found == "int8" else build(DEFAULT_MODEL, tmp_path / "half.onnx", "fp16").path
    calibration = tmp_path if asked == "int8" else None
    with pytest.raises(KinetError, match=f"an FP32 model to convert to {asked}, found one that computes in {found}"):
        build(source, tmp_path / "a.engine", asked, calibration=calibration)


@pytest.mark.parametrize("asked", ["fp16", "int8"])
def test_fused_model_cannot_be_converted(tmp_path, asked):
    fused = build(DEFAULT_MODEL, tmp_path / "fused.onnx", "fp32", fused=True).path
    with pytest.raises(KinetError, match="the precision of a fused model is fixed"):
        build(fused, tmp_path / "a.engine", asked, calibration=tmp_path if asked == "int8" else None)


def test_classic_tensorrt_needs_the_gpu_to_build(monkeypatch):
    def no_driver():
        raise EngineError("no NVIDIA driver")

    monkeypatch.setattr(builder, "query_driver", no_driver)
    library = replace(trt.load_library("tensorrt-rtx"), name="TensorRT")
    with pytest.raises(EngineError, match=r"needs the GPU .*no NVIDIA driver.*use the runtime tensorrt-rtx"):
        builder._target(library)


# --- crashes ----------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from kinet_trt.core import files
from kinet_trt.deploy import build
from kinet_trt.engines.tensorrt import engine_file as plan

at, out = sys.argv[1], Path(sys.argv[2])
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
report = lambda phase, done, total: kill() if at.isdigit() and done >= int(at) else None
if at == "between":
    written = plan.write_atomic
    plan.write_atomic = lambda path, content: kill() if path.suffix == ".json" else written(path, content)
if at == "rename":
    Path.replace = lambda *_: kill()
build.build(None, out, sizes=[(64, 64)], report=report)
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
@pytest.mark.parametrize(
    "at", ["50", "rename", "between", *(pytest.param(at, marks=pytest.mark.slow) for at in ("0", "100"))]
)
def test_killed_build_leaves_the_old_engine_or_is_detected(tmp_path, at):
    out = tmp_path / "a.engine"
    old = build(DEFAULT_MODEL, out, "fp32", sizes=[(96, 96)])
    before = out.read_bytes(), card_path(out).read_bytes()
    code = subprocess.run([sys.executable, "-c", KILLED, at, str(out)], check=False).returncode
    assert code == -signal.SIGKILL
    if at == "between":
        with pytest.raises(KinetError, match="or the build was"):
            read_plan(out)
    else:
        assert (out.read_bytes(), card_path(out).read_bytes()) == before
        assert plan_of(old)[0].precision == "fp32"
    assert plan_of(build(DEFAULT_MODEL, out, sizes=[(64, 64)]))[0].precision == "fp16"


# --- the timing cache -------------------------------------------------------------------------------------------------


@pytest.fixture
def classic():
    """Return a stand-in for TensorRT with its name and version."""
    return replace(trt.load_library("tensorrt-rtx"), name="TensorRT", version="10.3.0")


def test_timing_cache_is_kept_by_version_and_gpu(monkeypatch, tmp_path, classic):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other = (builder._timing_file(classic, gpu) for gpu in ("Orin (compute capability 8.7)", "RTX 3060"))
    assert one.parent == tmp_path / "kinet-trt"
    assert one.name == "tensorrt-10.3.0-orin-compute-capability-8.7-.timing"
    assert one != other
    assert builder._read_timing(one) == b""
    builder._write_timing(one, b"timings")
    assert builder._read_timing(one) == b"timings"
    for damage in (one.read_bytes()[:-1], b"", b"x" * 50, one.read_bytes() + b"x"):
        one.write_bytes(damage)
        assert builder._read_timing(one) == b""


def test_build_works_without_a_timing_cache(monkeypatch, tmp_path, classic):
    monkeypatch.setattr(builder, "user_cache", lambda: None)
    assert builder._timing_file(classic, "Orin") is None
    assert builder._read_timing(None) == b""
    builder._write_timing(None, b"timings")
    builder._write_timing(tmp_path, b"timings")  # a folder is in the way
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_for_rtx_has_no_timing_cache(tmp_path):
    assert builder._timing_file(trt.load_library("tensorrt-rtx"), AMPERE) is None


# --- the command line -------------------------------------------------------------------------------------------------


def kinet(*words, folder):
    command = [sys.executable, "-m", "kinet_trt", *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


def test_build_command_prints_the_result(tmp_path):
    done = kinet("build", "-o", "a.engine", "--size", "600x600", "--size", "64x64", "--batch", "2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "600 x 600 px: built for 608 x 608, multiples of 16\n"
    for part in (
        "a.engine: kinet-edge in fp16", "64x64 to 608x608, fastest at 608x608 px", "up to 2 at a time",
        "TensorRT for RTX", AMPERE, "a.engine.json", "Research Use Only", "speed    ",
    ):  # fmt: skip
        assert part in done.stdout
    raw = json.loads((tmp_path / "a.engine.json").read_text())
    assert raw["profile"] == [[1, 64, 64], [2, 608, 608], [2, 608, 608]]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["-o", "a.engine", "--size", "600"], 2, "expected WxH (width x height) like 1920x1200"),
        ([], 2, "Missing option '--out'"),
        (["nothing.onnx", "-o", "a.engine"], 1, "nothing.onnx: the model cannot be read"),
        (["-o", "a.trt"], 1, "expected a name ending in .engine"),
    ],
)
def test_build_command_reports_mistakes_in_one_message(tmp_path, words, code, says):
    done = kinet("build", *words, folder=tmp_path)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_engine_cannot_be_opened_without_a_gpu(tmp_path):
    built = build(DEFAULT_MODEL, tmp_path / "a.engine", sizes=[(64, 64)])
    for asked, says in (
        (("fp32", "auto"), "built in fp16, fp32 was requested"),
        (("auto", "openvino"), "openvino was"),
    ):
        with pytest.raises(EngineError, match=says):
            NucleusCounter(built.path, precision=asked[0], runtime=asked[1])
    card_path(built.path).unlink()
    with pytest.raises(KinetError, match="expected its model card"):
        NucleusCounter(built.path)
