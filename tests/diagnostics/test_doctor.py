"""Checks of the installation: each finding on an imaginary machine, and the command on this one."""

import importlib.metadata
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from kinet_trt.cuda.driver import Gpu
from kinet_trt.diagnostics import installation
from kinet_trt.diagnostics.checks import findings
from kinet_trt.diagnostics.doctor import rows, to_json, verdict
from kinet_trt.diagnostics.installation import Installation, Requirement, cupys, examine, requirements, tensorrts
from kinet_trt.diagnostics.machine import Machine
from kinet_trt.diagnostics.probes import DriverProbe, EngineProbe

SERVER = Machine(
    system="Linux x86_64",
    python="3.12.1",
    executable="/venv/bin/python",
    cpu="A CPU",
    features=("avx2",),
    cores=8,
    usable_cores=8,
    memory=32_000_000_000,
    free_memory=20_000_000_000,
    home="/home/lab",
    home_problem="",
    disks={"/home/lab": 50_000_000_000},
    nvidia_cards=0,
    jetpack="",
    driver_version="",
    cuda_visible=None,
)
NO_DRIVER = DriverProbe(False, None, (), "no NVIDIA driver is installed")
TURING = DriverProbe(True, (12, 8), (Gpu("RTX 2080", (7, 5), 8_000_000_000),), "")
COUNTED = EngineProbe("openvino", "2026.4.1", ("CPU", "FP32"), "fp32", 100, 94, 0.4, (), "")
FAILED = EngineProbe(
    "openvino", "2026.4.1", ("CPU",), "", None, None, None, (), "it cannot be loaded: crashed with SIGILL"
)
PACKAGES = {"kinet-trt": "0.1.0", "numpy": "2.4.6", "opencv-python-headless": "5.0.0.93", "openvino": "2026.4.1"}
NEEDS = (
    Requirement("numpy", "1.26", ""),
    Requirement("opencv-python-headless", "4.9", ""),
    Requirement("openvino", "2025.0", ""),
    Requirement("onnxruntime", "1.20", "onnxruntime"),
    Requirement("lapx", "0.5.10", "eval"),
)
GPU = {"tensorrt-rtx-cu12": "1.7", "cupy-cuda12x": "14.0"}
HEALTHY = Installation(SERVER, NO_DRIVER, PACKAGES, NEEDS, (COUNTED,), {})


def seen(packages=None, without=(), tried=(COUNTED,), driver=NO_DRIVER, libraries=None, needs=NEEDS, **machine):
    """Return a healthy installation with some changes."""
    here = {name: version for name, version in {**PACKAGES, **(packages or {})}.items() if name not in without}
    return Installation(replace(SERVER, **machine), driver, here, needs, tuple(tried), libraries or {})


def test_findings_of_a_healthy_machine_are_empty():
    assert findings(HEALTHY) == []
    assert {row.level for row in rows(HEALTHY)} == {"fine", "absent"}
    assert verdict(HEALTHY) == "kinet-trt works on this machine: kinet-edge on OpenVINO in FP32."
    assert findings(seen(GPU, driver=TURING, libraries={"cupy": "", "tensorrt_rtx": ""})) == []


CASES = {
    "missing package": (
        seen(without=["numpy", "opencv-python-headless"]),
        ("problem", "kinet-trt", "not installed: numpy", 'pip install "numpy>=1.26" "opencv-python-headless>=4.9"'),
    ),
    "no openvino": (
        seen(without=["openvino"], tried=[replace(FAILED, version="", problem="no module")]),
        ("problem", "OpenVINO", "openvino is not installed", 'pip install "openvino>=2025.0"'),
    ),
    "old openvino": (
        seen({"openvino": "2024.6.0"}),
        ("problem", "OpenVINO", "needs 2025.0 or newer", 'pip install "openvino>=2025.0"'),
    ),
    "old extra": (
        seen({"lapx": "0.5.9.post1"}),
        ("warning", "extras", "lapx 0.5.9.post1 is installed", 'pip install "lapx>=0.5.10"'),
    ),
    "from a folder": (seen(without=["kinet-trt"]), ("warning", "kinet-trt", "not installed", "pip install .")),
    "two opencvs": (
        seen({"opencv-python": "4.10"}),
        ("warning", "kinet-trt", "overwrite each other", "pip uninstall -y opencv-python opencv-python-headless"),
    ),
    "the other opencv": (
        seen({"opencv-python": "4.10"}, without=["opencv-python-headless"]),
        ("warning", "kinet-trt", "libGL", "pip uninstall -y opencv-python"),
    ),
    "two onnxruntimes": (
        seen({"onnxruntime": "1.32", "onnxruntime-gpu": "1.31"}),
        ("warning", "ONNX Runtime", "overwrite each other", 'pip install "kinet-trt[onnxruntime]"'),
    ),
    "engine crashes": (
        seen(tried=[FAILED]),
        ("problem", "OpenVINO", "SIGILL", 'pip install "kinet-trt[onnxruntime]"'),
    ),
    "one engine crashes": (
        seen({"onnxruntime": "1.32"}, tried=[FAILED, replace(COUNTED, runtime="onnxruntime")]),
        ("problem", "OpenVINO", "SIGILL", "pip uninstall -y openvino"),
    ),
    "second engine is torn": (
        seen({"onnxruntime-gpu": "1"}, tried=[COUNTED, replace(FAILED, runtime="onnxruntime", problem="no libcublas")]),
        ("warning", "ONNX Runtime", "libcublas", "pip install --force-reinstall --no-deps onnxruntime-gpu"),
    ),
    "no libGL": (
        seen({"opencv-python": "4.10"}, tried=[replace(FAILED, problem="NumPy or OpenCV ...: libGL.so.1: cannot")]),
        ("problem", "OpenVINO", "libGL", "pip install opencv-python-headless"),
    ),
    "torn numpy": (
        seen(tried=[replace(FAILED, problem="NumPy or OpenCV cannot be loaded: x")]),
        ("problem", "OpenVINO", "NumPy", "pip install --force-reinstall numpy opencv-python-headless"),
    ),
    "wrong count": (
        seen(tried=[replace(COUNTED, nuclei=300)]),
        ("problem", "OpenVINO", "300 nuclei in a simulated field of 94", "--force-reinstall"),
    ),
    "wrong bf16": (
        seen(tried=[replace(COUNTED, warnings=("BF16 is wrong on this CPU",))]),
        ("warning", "OpenVINO", "BF16 is wrong", ""),
    ),
    "old cpu": (seen(features=()), ("warning", "CPU", "lacks AVX2", "")),
    "little memory": (seen(free_memory=500_000_000), ("warning", "memory", "only 0.5 GB free", "")),
    "little disk": (seen(disks={"/tmp": 20_000_000}), ("warning", "disk", "only 0.0 GB free in /tmp", "")),
    "no home": (
        seen(home="", home_problem="there is none"),
        ("warning", "disk", "home folder: there is none", "HOME="),
    ),
    "card without driver": (seen(nvidia_cards=1), ("warning", "GPU", "no driver", "sudo ubuntu-drivers install")),
    "container without driver": (
        seen(driver=replace(NO_DRIVER, second=("H100",))),
        ("warning", "GPU", "nvidia-smi reports H100", ""),
    ),
    "driver without GPU": (
        seen(driver=DriverProbe(True, (12, 8), (), "cuInit says 100")),
        ("warning", "GPU", "cuInit says 100", ""),
    ),
    "driver after an update": (
        seen(driver=DriverProbe(True, (12, 8), (), "cuInit says 803"), nvidia_cards=1),
        ("warning", "GPU", "restart", ""),
    ),
    "hidden GPU": (
        seen(driver=DriverProbe(True, (12, 8), (), "cuInit says 100"), cuda_visible="-1"),
        ("warning", "GPU", "CUDA_VISIBLE_DEVICES=-1", "unset CUDA_VISIBLE_DEVICES"),
    ),
    "old GPU": (
        seen(GPU, driver=replace(TURING, gpus=(Gpu("P100", (6, 0), 1),))),
        ("warning", "GPU", "compute capability 6.0", ""),
    ),
    "GPU without CuPy": (
        seen({"tensorrt-rtx-cu12": "1.7"}, driver=TURING),
        ("warning", "CuPy", "CuPy", 'pip install "cupy-cuda12x[ctk]"'),
    ),
    "GPU without CuPy, extra": (
        seen({"tensorrt-rtx-cu12": "1"}, driver=TURING, needs=(*NEEDS, Requirement("cupy-cuda12x", "13", "gpu"))),
        ("warning", "CuPy", "CuPy", 'pip install "kinet-trt[gpu]"'),
    ),
    "GPU without TensorRT": (
        seen({"cupy-cuda12x": "14.0"}, driver=TURING),
        ("warning", "TensorRT", "TensorRT is not", "pip install tensorrt-rtx-cu12"),
    ),
    "server GPU without TensorRT": (
        seen({"cupy-cuda12x": "14.0"}, driver=replace(TURING, gpus=(Gpu("H100", (9, 0), 80_000_000_000),))),
        ("warning", "TensorRT", "TensorRT is not", "pip install tensorrt-cu12"),
    ),
    "two CuPys": (
        seen({"cupy-cuda12x": "14", "cupy-cuda13x": "14"}),
        ("problem", "CuPy", "overwrite each other", "pip uninstall -y cupy-cuda12x cupy-cuda13x"),
    ),
    "CuPy too new": (
        seen({"cupy-cuda12x": "14"}, driver=DriverProbe(True, (11, 4), (), "none")),
        ("problem", "CuPy", "supports only up to CUDA 11", "pip install cupy-cuda11x"),
    ),
    "CuPy too new for the GPU": (
        seen(
            {"cupy-cuda13x": "14", "tensorrt": "10"},
            driver=DriverProbe(True, (13, 0), (Gpu("V100", (7, 0), 1),), ""),
        ),
        ("problem", "CuPy", "does not support this GPU", 'pip install "cupy-cuda12x[ctk]"'),
    ),
    "TensorRT without driver": (
        seen({"tensorrt-cu12": "10.3", "tensorrt-cu12-bindings": "10.3"}),
        ("warning", "TensorRT", "it cannot be used here", ""),
    ),
    "RTX without driver": (
        seen({"tensorrt-rtx-cu13": "1.7"}),
        ("warning", "TensorRT", "can be built here but not run", ""),
    ),
    "TensorRT too new": (
        seen({"tensorrt-cu13": "10.13", "tensorrt-cu13-libs": "10.13", "cupy-cuda12x": "14"}, driver=TURING),
        ("problem", "TensorRT", "needs CUDA 13", "pip uninstall -y tensorrt-cu13 tensorrt-cu13-libs"),
    ),
    "CuPy without NVRTC": (
        seen(GPU, driver=TURING, libraries={"cupy": "failed to load libnvrtc.so.12", "tensorrt_rtx": ""}),
        ("problem", "CuPy", "libnvrtc", 'pip install "cupy-cuda12x[ctk]"'),
    ),
    "TensorRT that does not run": (
        seen(GPU, driver=TURING, libraries={"cupy": "", "tensorrt_rtx": "cannot create a runtime"}),
        ("problem", "TensorRT", "cannot create a runtime", ""),
    ),
    "PyCUDA": (
        seen({"pycuda": "2026.1", **GPU}, driver=TURING),
        ("warning", "PyCUDA", "pycuda.autoprimaryctx", ""),
    ),
    "JetPack 5": (
        seen({"tensorrt": "8.5"}, jetpack="5 (R35.4)"),
        ("warning", "TensorRT", "part of JetPack 6", ""),
    ),
    "JetPack unseen": (
        seen(jetpack="6 (R36.3)"),
        ("warning", "TensorRT", "cannot import JetPack's TensorRT", "python3 -m venv --system-site-packages .venv"),
    ),
    "JetPack and wheels": (
        seen({"tensorrt-cu12": "10.3"}, jetpack="6 (R36.3)"),
        ("warning", "TensorRT", "not from pip", "pip uninstall -y tensorrt-cu12"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_findings_name_the_problem_and_its_fix(name):
    one, (level, component, message, fix) = CASES[name]
    found = findings(one)
    hits = [f for f in found if f.component == component and message in f.message]
    [hit] = [f for f in hits if any(fix in command for command in (*f.fixes, ""))]
    assert hit.level == level
    assert bool(hit.fixes) == bool(fix)
    # A row has the level of its most severe finding, and every finding has a row.
    marks = {row.component: row.level for row in rows(one)}
    assert all(marks[f.component] in (f.level, "problem") for f in found)
    assert [f.level for f in found] == sorted((f.level for f in found), key=lambda level: level != "problem")
    document = to_json(one)
    json.dumps(document, allow_nan=False)
    assert document["schema"] == 1
    assert document["counts"] == (not name.startswith(("engine", "no openvino", "no libGL", "torn")))


def test_findings_are_unique():
    for name, (one, _) in CASES.items():
        texts = [(f.component, f.message) for f in findings(one)]
        assert len(set(texts)) == len(texts), name


def test_engine_without_metadata_that_counts_is_not_a_finding():
    odd = seen(without=["openvino"])
    assert findings(odd) == []
    assert "counts in FP32" in next(row.message for row in rows(odd) if row.component == "OpenVINO")


def test_verdict_names_the_option_if_the_first_engine_fails():
    assert "--runtime" not in verdict(HEALTHY)
    assert "works on this machine with --runtime onnxruntime:" in verdict(CASES["one engine crashes"][0])
    assert "cannot count" in verdict(CASES["engine crashes"][0])


def test_requirements_are_read_from_the_metadata_for_this_system(monkeypatch):
    lines = [
        "numpy>=1.26",
        "Lap_X[a]>=0.5.10,<2; extra == 'eval'",
        f'cupy-cuda13x>=14; sys_platform == "{sys.platform}" and extra == "gpu"',
        'cupy-cuda12x>=14; sys_platform == "none" and extra == "gpu"',
        'kinet-trt[eval]; extra == "dev"',
        'torch==2.13.0; extra == "train"',
        "??",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert requirements() == (
        Requirement("numpy", "1.26", ""),
        Requirement("lap-x", "0.5.10", "eval"),
        Requirement("cupy-cuda13x", "14", "gpu"),
        Requirement("torch", "", "train"),
    )


def test_cupy_and_tensorrt_packages_are_distinguished():
    assert cupys({"cupy-cuda12x": "1", "cupy": "1", "cupy-rocm-5-0": "1", "cupyx": "1"}) == {
        "cupy-cuda12x": 12,
        "cupy": None,
    }
    found = tensorrts({"tensorrt-rtx-cu13-bindings": "1.7", "tensorrt-lean": "9", "tensorrt": "10.3"})
    assert found == {"tensorrt": ("10.3", None), "tensorrt_rtx": ("1.7", 13)}


def test_gpu_libraries_are_tried_only_if_the_driver_reports_a_gpu(monkeypatch):
    tried = []
    monkeypatch.setattr(installation, "installed", lambda: {**PACKAGES, **GPU, "tensorrt": "10"})
    monkeypatch.setattr(installation, "try_counting", lambda runtime: replace(COUNTED, runtime=runtime))
    monkeypatch.setattr(installation, "try_library", lambda module: tried.append(module) or "")
    monkeypatch.setattr(installation, "probe_driver", lambda: NO_DRIVER)
    assert examine().libraries == {}
    monkeypatch.setattr(installation, "probe_driver", lambda: replace(TURING, gpus=(), problem="cuInit says 999"))
    assert examine().libraries == {}
    assert tried == []
    monkeypatch.setattr(installation, "probe_driver", lambda: TURING)
    assert set(examine().libraries) == {"cupy", "tensorrt", "tensorrt_rtx"} == set(tried)


# --- the command ------------------------------------------------------------------------------------------------------


def test_doctor_counts_on_this_machine(run, tmp_path):
    code, out, err = run("doctor", "--json", tmp_path / "d.json")
    assert (code, err) == (0, "")
    assert "kinet-trt works on this machine: kinet-edge on OpenVINO in" in out
    document = json.loads((tmp_path / "d.json").read_text(encoding="utf-8"))
    assert document["counts"] is True
    assert document["packages"]["numpy"]
    assert document["machine"]["cores"] >= 1
    assert {row["about"] for row in document["rows"]} >= {"CPU", "OpenVINO", "ONNX Runtime", "GPU", "TensorRT", "CuPy"}
    assert "eval" in document["extras"]


def test_doctor_prints_only_json_if_asked(run, monkeypatch):
    monkeypatch.setattr(installation, "examine", lambda report: HEALTHY)
    code, out, _ = run("doctor", "--json", "-")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(to_json(HEALTHY)))


def test_doctor_exits_with_1_and_shows_the_fix_if_no_engine_counts(run, monkeypatch):
    broken = seen(tried=[FAILED], packages={"opencv-python": "4.1 [x]"})
    monkeypatch.setattr(installation, "examine", lambda report: broken)
    code, out, err = run("doctor")
    assert (code, err) == (1, "")
    assert "PROBLEM" in out
    assert '    pip install "kinet-trt[onnxruntime]"\n' in out
    assert "kinet-trt cannot count on this machine yet." in out


def test_doctor_loads_no_native_library_in_its_process(tmp_path):
    program = (
        "import sys\n"
        "for name in ('numpy', 'cv2', 'openvino', 'onnxruntime', 'torch', 'cupy', 'tensorrt'):\n"
        "    sys.modules[name] = None\n"
        "sys.argv = ['kinet-trt', 'doctor']\n"
        "from kinet_trt.cli.main import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "kinet-trt works on this machine" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_doctor_reports_that_numpy_crashes(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = [sys.executable, "-m", "kinet_trt", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "NumPy or OpenCV cannot be loaded: crashed with SIGILL" in done.stdout
