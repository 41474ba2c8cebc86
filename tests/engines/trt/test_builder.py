"""TensorRT for RTX itself: logger, progress, errors and interruption of a build. Needs no GPU."""

import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

rtx = pytest.importorskip("tensorrt_rtx")
onnx = pytest.importorskip("onnx")

from tensorrt_api import names_used, versions_with_names

from cupy_on_cpu import current_device, installed
from kinet_trt.core.errors import EngineError, KinetError, MissingExtraError
from kinet_trt.cuda.driver import Driver, Gpu
from kinet_trt.engines.tensorrt import builder as trt
from kinet_trt.engines.tensorrt.engine_file import AMPERE, TURING
from kinet_trt.models.card import ModelCard
from tensorrt_on_cpu import RuntimeConfig

SMALL = (
    '<ir_version: 8, opset_import: ["": 18]> g (uint8[N,H,W,3] frame) => (float[N,H,W,3] maps) '
    "{ pixels = Cast <to = 1> (frame)  half = Add (pixels, pixels)  maps = Relu (half) }"
)
ANY = ((1, 32, 32), (1, 64, 64), (2, 64, 96))


def model(text=SMALL):
    return onnx.parser.parse_model(text).SerializeToString()


@pytest.fixture(scope="module")
def library():
    return trt.load_library("tensorrt-rtx")


def test_load_library_imports_once_with_one_logger(library):
    assert trt.find_runtime("tensorrt-rtx") == "tensorrt-rtx"
    assert trt.load_library("tensorrt-rtx") is library
    assert (library.name, library.version, library.is_rtx) == ("TensorRT for RTX", rtx.__version__, True)


def test_find_runtime_imports_nothing():
    code = (
        "import sys; from kinet_trt.engines.tensorrt import builder; builder.find_runtime('tensorrt-rtx'); "
        "sys.exit(any(name.startswith(('tensorrt', 'onnx', 'torch')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_find_runtime_prefers_tensorrt(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    assert trt.find_runtime() == "tensorrt"
    with pytest.raises(EngineError, match=r"installed but cannot be loaded \(libnvinfer"):
        trt.load_library("tensorrt")


@pytest.mark.parametrize("version", ["8.6.1", "10.2.0.19"])
def test_load_library_rejects_an_old_tensorrt(monkeypatch, tmp_path, version):
    (tmp_path / "tensorrt.py").write_text(f"__version__ = '{version}'")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=f"expected 10.3 or newer, found {version}"):
        trt.load_library("tensorrt")
    del sys.modules["tensorrt"]


def test_find_runtime_rejects_unknown_and_missing_runtimes(monkeypatch):
    monkeypatch.setattr(trt, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="TensorRT is not installed"):
        trt.find_runtime("tensorrt")
    for runtime in ("auto", "tensorrt-rtx"):
        with pytest.raises(MissingExtraError, match=r"kinet-trt\[tensorrt-rtx\]"):
            trt.find_runtime(runtime)
    with pytest.raises(EngineError, match="expected auto, tensorrt or tensorrt-rtx, found 'cuda'"):
        trt.find_runtime("cuda")


def test_build_plan_reports_increasing_percentages_and_phases(library):
    reports = []
    plan, timing = trt.build_plan(library, model(), ANY, tf32=False, report=lambda *step: reports.append(step))
    assert len(plan) > 1000
    assert timing == b""
    percents = [done for _, done, _ in reports]
    assert percents == sorted(percents)
    assert percents[0] == 0
    assert percents[-1] == 100
    assert {total for _, _, total in reports} == {100}
    assert len({phase for phase, _, _ in reports}) > 3


def test_messages_go_to_logging_not_to_the_terminal(library, caplog, capfd):
    with caplog.at_level(logging.INFO, "kinet_trt"), pytest.raises(EngineError):
        trt.build_plan(library, b"no model", ANY, tf32=False)
    assert "kinet_trt.engines.tensorrt.builder" in {record.name for record in caplog.records}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "profile", "reason"),
    [
        (SMALL.replace("Relu (half)", "Nonsense (half)"), ANY, "cannot read the model: .*Nonsense"),
        (SMALL.replace("frame) =>", "frame, float[M] more) =>"), ANY, "cannot build the model: .*more"),
        (SMALL, ((1, 64, 64), (1, 32, 32), (1, 64, 64)), "sizes|cannot build"),
    ],
)
def test_build_plan_raises_tensorrts_reason_in_one_message(library, text, profile, reason):
    if "Nonsense" in text:
        graph = onnx.parser.parse_model(SMALL)
        graph.graph.node[2].op_type = "Nonsense"
        data = graph.SerializeToString()
    else:
        data = model(text)
    with pytest.raises(EngineError, match=reason) as caught:
        trt.build_plan(library, data, profile, tf32=False)
    assert "TensorRT for RTX" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_report_errors_stop_the_build_and_are_raised(library):
    def fail(phase, done, total):
        if done > 20:
            raise ZeroDivisionError(phase)

    with pytest.raises(ZeroDivisionError):
        trt.build_plan(library, model(), ANY, tf32=False, report=fail)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_ctrl_c_stops_a_build_and_restores_the_handler(library):
    before = signal.getsignal(signal.SIGINT)
    reports = []

    def interrupt(phase, done, total):
        reports.append(done)
        if len(reports) == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trt.build_plan(library, model(), ANY, tf32=False, report=interrupt)
    assert reports[-1] < 100
    assert signal.getsignal(signal.SIGINT) is before


def test_names_of_tensorrt_in_a_build_are_in_every_version():
    names = names_used(
        trt,
        {
            "trt": "", "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser",
            "config": "IBuilderConfig", "engine": "ICudaEngine", "options": "IRuntimeConfig",
            "profiles": "IOptimizationProfile", "cache": "ITimingCache",
        },
    )  # fmt: skip
    rows = versions_with_names()
    assert len(names) > 15
    # The table lists enumerations, but not all of their members.
    known = {name if name in rows else name.partition(".")[0] for name in names}
    missing = {name: [version for version, has in rows[name].items() if has != "yes"] for name in known}
    missing = {name: versions for name, versions in missing.items() if versions}
    # Names that only TensorRT for RTX has are used only for it.
    assert set(missing) == {
        "BuilderFlag.REQUIRE_USER_ALLOCATION", "ComputeCapability.SM75",
        "DynamicShapesKernelSpecializationStrategy.EAGER", "EngineInvalidityDiagnostics", "EngineValidity.INVALID",
        "IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability",
        "ICudaEngine.create_runtime_config", "IRuntimeConfig.create_runtime_cache",
        "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
        "IRuntimeConfig.set_execution_context_allocation_strategy", "IRuntimeConfig.set_runtime_cache",
    }  # fmt: skip
    assert not any("rtx" in version for versions in missing.values() for version in versions)


# --- check_machine ------------------------------------------------------------------------------------------

PLAN = b"vtrt" + bytes(200)
DRIVER = Driver((13, 0), (Gpu("NVIDIA GeForce RTX 4090", (8, 9), 24 << 30),))


def a_card(**changes):
    values = {
        "name": "kinet-edge", "mpp": 0.34, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.25), "threshold": 0.325,
        "precision": "fp16", "runtime": "TensorRT for RTX", "runtime_version": rtx.__version__, "gpu": AMPERE,
        "profile": ((1, 608, 608),) * 3,
    }  # fmt: skip
    return ModelCard(**(values | changes))


def refusal_message(card, plan=PLAN):
    with pytest.raises(KinetError) as caught:
        trt.check_machine(card, plan, Path("edge.engine"))
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_check_machine_checks_the_driver_before_tensorrt():
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU here")
    code = (
        "import sys; from pathlib import Path; from test_builder import a_card, trt\n"
        "before = set(sys.modules)\n"
        "try: trt.check_machine(a_card(), b'', Path('edge.engine'))\n"
        "except trt.EngineError as error: assert 'no NVIDIA driver' in str(error)\n"
        "sys.exit(any('cupy' in name for name in set(sys.modules) - before))"
    )
    places = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[2])))
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": places}, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_check_machine_rejects_an_unknown_runtime(monkeypatch):
    monkeypatch.setattr(trt, "query_driver", lambda: DRIVER)
    assert "built by Turbine, expected one of TensorRT, TensorRT for RTX" in refusal_message(a_card(runtime="Turbine"))


@pytest.mark.parametrize(("name", "version"), [("TensorRT for RTX", "1.6.0.9"), ("TensorRT", "10.3.0")])
def test_check_machine_names_both_versions_and_the_command(monkeypatch, name, version):
    monkeypatch.setattr(trt, "query_driver", lambda: DRIVER)
    text = refusal_message(a_card(runtime=name, runtime_version=version))
    for part in (f"built by {name} {version}", f"found TensorRT for RTX {rtx.__version__}", "kinet-trt build kinet-"):
        assert part in text


def test_check_machine_says_how_to_install_tensorrt(monkeypatch):
    monkeypatch.setattr(trt, "query_driver", lambda: DRIVER)
    monkeypatch.setattr(trt, "find_spec", lambda name: None)
    assert "pip install" in refusal_message(a_card())
    assert "TensorRT is not installed" in refusal_message(a_card(runtime="TensorRT"))


def test_check_machine_names_both_gpus_and_the_command(monkeypatch):
    monkeypatch.setattr(trt, "query_driver", lambda: DRIVER)
    text = refusal_message(a_card(gpu=TURING))
    gpu = "NVIDIA GeForce RTX 4090 (compute capability 8.9)"
    for part in ("built for any GPU of compute capability 7.5", f"found {gpu}", "kinet-trt build"):
        assert part in text


def test_check_machine_checks_the_gpu_of_that_number(monkeypatch, tmp_path):
    turing = Gpu("NVIDIA GeForce RTX 2060", (7, 5), 6 << 30)
    monkeypatch.setattr(trt, "query_driver", lambda: Driver((13, 0), (*DRIVER.gpus, turing)))
    path, seen = Path("edge.engine"), []
    monkeypatch.setattr(trt, "find_spec", lambda name: name)
    monkeypatch.setattr(trt, "incompatibility", lambda library, plan: seen.append(current_device()) or "")
    with installed(tmp_path):
        for card, device in ((a_card(), 0), (a_card(gpu=TURING), 1)):
            trt.check_machine(card, PLAN, path, device)
            with pytest.raises(EngineError, match="built for any GPU of compute capability"):
                trt.check_machine(card, PLAN, path, 1 - device)
    assert seen == [0, 1]
    for device in (2, -1):
        with pytest.raises(EngineError, match=f"gpu: expected 0 to 1, found {device}"):
            trt.check_machine(a_card(), PLAN, path, device)


def test_check_machine_says_which_cupy_to_install(monkeypatch):
    find = trt.find_spec
    monkeypatch.setattr(trt, "query_driver", lambda: DRIVER)
    monkeypatch.setattr(trt, "find_spec", lambda name: None if name == "cupy" else find(name))
    assert 'pip install "kinet-trt[gpu]"' in refusal_message(a_card())
    monkeypatch.setattr(trt, "query_driver", lambda: Driver((12, 8), DRIVER.gpus))
    assert "pip install cupy-cuda12x" in refusal_message(a_card())


def test_incompatibility_is_read_from_tensorrt_for_rtx(library):
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU here")
    plan, _ = trt.build_plan(library, model(), ANY, tf32=False)
    reason = trt.incompatibility(library, plan)
    assert reason.startswith("unknown reason; TensorRT: Error reading CUDA GPU properties")
    assert "CUDA driver version is insufficient" in reason
    assert trt.incompatibility(library, plan) == reason  # and not also what it said before
    assert trt.incompatibility(library, plan[:1000])


def test_incompatibility_joins_diagnostics_and_log(library):
    class Runtime:
        def __init__(self, logger):
            logger.log(None, "error")

        def get_engine_validity(self, plan):
            return rtx.EngineValidity.INVALID, int(rtx.EngineInvalidityDiagnostics.UNSUPPORTED_CC)

    messages = ["of an earlier call"]
    module = SimpleNamespace(
        Runtime=Runtime,
        EngineValidity=rtx.EngineValidity,
        EngineInvalidityDiagnostics=rtx.EngineInvalidityDiagnostics,
    )
    logger = SimpleNamespace(log=lambda severity, text: messages.append("SM 9.0 is not\nsupported"))
    assert trt.incompatibility(replace(library, module=module, messages=messages, logger=logger), b"") == (
        "it was not built for this compute capability; TensorRT: SM 9.0 is not supported"
    )


def test_turing_plans_differ(library):
    text, fixed = SMALL.replace("[N,H,W,3]", "[1,64,64,3]"), None
    plan, again, turing = (
        trt.build_plan(library, model(text), fixed, tf32=False, turing=turing)[0] for turing in (False, False, True)
    )
    assert len(plan) == len(again)
    assert turing != plan


# --- execution contexts -----------------------------------------------------------------------------------------------


def test_context_options_use_our_memory_and_compile_kernels_first(library):
    made = []
    engine = SimpleNamespace(create_runtime_config=lambda: made.append(RuntimeConfig()) or made[-1])
    options, cache = trt.context_options(library, engine)
    names = library.module
    assert made == [options]
    assert options.strategy == names.ExecutionContextAllocationStrategy.USER_MANAGED
    assert options.cache is cache.native
    eager = names.DynamicShapesKernelSpecializationStrategy.EAGER
    assert options.dynamic_shapes_kernel_specialization_strategy == eager
    classic = replace(library, name="TensorRT")
    expected = names.ExecutionContextAllocationStrategy.USER_MANAGED, None
    assert trt.context_options(classic, None) == expected
