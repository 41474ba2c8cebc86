"""Check the installation: packages, engines, machine, GPU driver and libraries, with a suggested fix for each problem.

This process loads no native library: versions come from package metadata, and
:mod:`kinet_trt.diagnostics.probes` loads libraries in subprocesses. GPU libraries are tried only if the driver
reports a GPU.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from kinet_trt.core.runtimes import CPU_RUNTIMES
from kinet_trt.diagnostics.machine import Machine, installed, read_machine
from kinet_trt.diagnostics.probes import DriverReport, EngineProbe, probe_driver, try_counting, try_library

SCHEMA = 1
MIN_FREE_MEMORY = 1_500_000_000
"""Bytes that should be free: kinet-edge on a large image takes about 1 GB."""
MIN_FREE_DISK = 1_000_000_000
MIN_CAPABILITY = (7, 5)
"""Of a GPU (Turing): older ones are served neither by CUDA 13 nor by TensorRT since 10.5."""
RTX_CAPABILITIES = ((7, 5), (8, 6), (8, 9))
"""Of the GPUs that NVIDIA lists for TensorRT for RTX, with 12.0 and newer; others take the classic one."""
MAX_ERROR = 0.2
"""Share by which a count of the simulated field may be off; kinet-edge is off by about 0.05."""

_OPENCVS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_bf16": "AMX BF16",
    "amx_int8": "AMX INT8",
}

Level = Literal["fine", "warning", "problem", "absent"]


@dataclass(frozen=True)
class Finding:
    """A problem or warning.

    Attributes
    ----------
    level
        ``"problem"``: something does not work. ``"warning"``: it works, with limitations.
    about
        Row of the table that it belongs to.
    says
        Description.
    mend
        Suggested commands, one per line; empty if ``says`` describes the fix.
    """

    level: Level
    about: str
    says: str
    mend: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    about: str
    level: Level
    says: str


@dataclass(frozen=True)
class Requirement:
    """A requirement of kinet-trt: package, lower bound (empty: any version), and extra (empty: always required)."""

    name: str
    bound: str
    extra: str


@dataclass(frozen=True)
class Seen:
    """Facts that the checks are based on.

    Attributes
    ----------
    machine, driver
        The machine and NVIDIA's driver.
    packages
        Version of each installed package by normalised name.
    requirements
        Requirements of kinet-trt.
    tried
        Installed CPU engines, and whether they can count.
    libraries
        Error of each GPU library that was tried, by module; empty if it works.
    """

    machine: Machine
    driver: DriverReport
    packages: Mapping[str, str]
    requirements: tuple[Requirement, ...]
    tried: tuple[EngineProbe, ...]
    libraries: Mapping[str, str]

    @property
    def counts(self) -> bool:
        """Whether at least one engine can count on this machine."""
        return any(one.nuclei is not None and not one.problem for one in self.tried)


def look(report: Callable[[int, int], None] = lambda *_: None) -> Seen:
    """Collect the facts; takes a few seconds and does not raise on problems that it finds.

    Parameters
    ----------
    report
        Called after each step with the number of finished steps and of all steps.
    """
    packages = installed()
    runtimes = [name for name in CPU_RUNTIMES if any(p in packages for p in _packages_of(name))] or ["openvino"]
    total = 3 + len(runtimes)
    machine = read_machine()
    report(1, total)
    driver = probe_driver()
    report(2, total)
    tried = []
    for number, runtime in enumerate(runtimes, 3):
        tried.append(try_counting(runtime))
        report(number, total)
    seen = Seen(machine, driver, packages, requirements(), tuple(tried), {})
    if driver.devices:
        modules = [*(["cupy"] if cupys(packages) else []), *tensorrts(packages)]
        seen = replace(seen, libraries={module: try_library(module) for module in modules})
    report(total, total)
    return seen


def requirements() -> tuple[Requirement, ...]:
    """Return the requirements of kinet-trt, without those for certain systems only."""
    try:
        lines = importlib.metadata.requires("kinet-trt") or []
    except importlib.metadata.PackageNotFoundError:
        return ()
    found = []
    for line in lines:
        wanted, _, marker = line.partition(";")
        name = re.match(r"[\w.-]+", wanted.strip())
        extra = re.fullmatch(r"\s*extra\s*==\s*[\"']([\w.-]+)[\"']\s*", marker)
        if name is None or (marker.strip() and extra is None) or _normal(name[0]) == "kinet-trt":
            continue
        bound = re.search(r">=\s*([\w.]+)", wanted)
        found.append(Requirement(_normal(name[0]), bound[1] if bound else "", extra[1] if extra else ""))
    return tuple(found)


def cupys(packages: Mapping[str, str]) -> dict[str, int | None]:
    """Return the CuPy packages with the major CUDA version that each was built for; None: built on this machine."""
    found: dict[str, int | None] = {}
    for name in packages:
        if match := re.fullmatch(r"cupy(?:-cuda(\d\d)\w*)?", name):
            found[name] = int(match[1]) if match[1] else None
    return found


def tensorrts(packages: Mapping[str, str]) -> dict[str, tuple[str, int | None]]:
    """Return version and CUDA of the TensorRT flavours by module, ``tensorrt`` (classic) and ``tensorrt_rtx``."""
    found = {}
    for module, name in (("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt-rtx")):
        own = [p for p in packages if re.fullmatch(rf"{name}(-cu\d\d(-bindings)?)?", p)]
        if own:
            digits = next((match[1] for p in own if (match := re.search(r"-cu(\d\d)", p))), None)
            found[module] = (packages[own[0]], int(digits) if digits else None)
    return found


# --- findings ---------------------------------------------------------------------------------------------------------


def findings(seen: Seen) -> list[Finding]:
    """Return problems and warnings, problems first."""
    parts = (_of_packages(seen), _of_counting(seen), _of_machine(seen), _of_driver(seen), _of_gpu_packages(seen))
    found = [finding for part in parts for finding in part]
    return sorted(found, key=lambda finding: finding.level != "problem")


def _of_packages(seen: Seen) -> Iterator[Finding]:
    packages = seen.packages
    if "kinet-trt" not in packages:
        yield Finding("warning", "kinet-trt", "it runs from a folder and is not installed", ("pip install .",))
    opencvs = [name for name in _OPENCVS if name in packages]
    headless = "opencv-python-headless"
    missing: list[Requirement] = []
    for wanted in seen.requirements:
        version = packages.get(wanted.name)
        if version is None and not wanted.extra:
            if wanted.name == headless and opencvs:
                says = f"{opencvs[0]} is installed instead of {headless}: it needs desktop libraries (libGL)"
                commands = (f"pip uninstall -y {' '.join(opencvs)}", f"pip install {_quoted(wanted)}")
                yield Finding("warning", "kinet-trt", says, commands)
            elif wanted.name not in CPU_RUNTIMES:
                missing.append(wanted)
            elif not seen.counts:
                says = f"{wanted.name} is not installed"
                yield Finding("problem", CPU_RUNTIMES[wanted.name], says, (f"pip install {_quoted(wanted)}",))
        elif version is not None and wanted.bound and _order(version) < _order(wanted.bound):
            about = CPU_RUNTIMES.get(wanted.name, "extras" if wanted.extra else "kinet-trt")
            level: Level = "warning" if wanted.extra else "problem"
            says = f"{wanted.name} {version} is installed, kinet-trt needs {wanted.bound} or newer"
            yield Finding(level, about, says, (f"pip install {_quoted(wanted)}",))
    if missing:
        says = f"not installed: {', '.join(wanted.name for wanted in missing)}"
        yield Finding("problem", "kinet-trt", says, (f"pip install {' '.join(map(_quoted, missing))}",))
    if len(opencvs) > 1:
        says = f"{' and '.join(opencvs)} are both installed and overwrite each other's files"
        commands = (f"pip uninstall -y {' '.join(opencvs)}", f"pip install {headless}")
        yield Finding("warning", "kinet-trt", says, commands)
    runtimes = [name for name in _packages_of("onnxruntime") if name in packages]
    if len(runtimes) > 1:
        says = f"{' and '.join(runtimes)} are both installed and overwrite each other's files"
        commands = (f"pip uninstall -y {' '.join(runtimes)}", _install(seen, "onnxruntime"))
        yield Finding("warning", "ONNX Runtime", says, commands)


def _of_counting(seen: Seen) -> Iterator[Finding]:
    for one in seen.tried:
        name = CPU_RUNTIMES[one.runtime]
        here = _is_here(seen, one.runtime)
        if one.problem and not here and seen.requirements:
            continue  # _of_packages has reported that it is not installed
        if one.problem:
            # If another engine has priority and works, this is only a warning.
            level: Level = "problem" if one is seen.tried[0] or not seen.counts else "warning"
            yield Finding(level, name, one.problem, _mend_engine(seen, one))
        elif one.nuclei is not None and one.true and abs(one.nuclei - one.true) > MAX_ERROR * one.true:
            says = f"it finds {one.nuclei} nuclei in a simulated field of {one.true}: do not trust its counts"
            yield Finding("problem", name, says, _reinstall(seen, one.runtime))
        for warning in one.warnings:
            yield Finding("warning", name, warning)


def _mend_engine(seen: Seen, one: EngineProbe) -> tuple[str, ...]:
    if "libGL" in one.problem or "libgthread" in one.problem:
        opencvs = " ".join(name for name in _OPENCVS if name in seen.packages)
        return (f"pip uninstall -y {opencvs}", "pip install opencv-python-headless")
    if one.problem.startswith("NumPy"):
        return ("pip install --force-reinstall numpy opencv-python-headless",)
    if not _is_here(seen, one.runtime):
        return (_install(seen, one.runtime),)
    if "SIGILL" in one.problem:
        # Reinstalling does not help if the CPU lacks the instruction: suggest another engine.
        if seen.counts:
            return (f"pip uninstall -y {one.runtime}",)
        return (_install(seen, "onnxruntime" if one.runtime == "openvino" else "openvino"),)
    return _reinstall(seen, one.runtime)


def _reinstall(seen: Seen, runtime: str) -> tuple[str, ...]:
    name = next((name for name in _packages_of(runtime) if name in seen.packages), runtime)
    return (f"pip install --force-reinstall --no-deps {name}",)


def _of_machine(seen: Seen) -> Iterator[Finding]:
    machine = seen.machine
    if machine.system.endswith(("x86_64", "AMD64")) and machine.features == () and machine.system.startswith("Linux"):
        yield Finding("warning", "CPU", "it lacks AVX2: counting is several times slower than on a newer CPU")
    if machine.free_memory is not None and machine.free_memory < MIN_FREE_MEMORY:
        says = f"only {_gigabytes(machine.free_memory)} free: large images may not fit; close other programs"
        yield Finding("warning", "memory", says)
    for folder, free in machine.disks.items():
        if free < MIN_FREE_DISK:
            yield Finding("warning", "disk", f"only {_gigabytes(free)} free in {folder}: free some space")
    if machine.home_problem:
        says = (
            f"the home folder {machine.home}: {machine.home_problem}. kinet-trt does not need it, but Matplotlib, CuPy "
            "and TensorRT cache files there and start slowly without it"
        )
        yield Finding("warning", "disk", says.replace("folder : ", "folder: "), ("export HOME=/a/folder/of/yours",))


def _of_driver(seen: Seen) -> Iterator[Finding]:
    driver, machine = seen.driver, seen.machine
    if not driver.library:
        if machine.nvidia_cards:
            says = "this machine has an NVIDIA card but no driver: install NVIDIA's driver and restart"
            command = ("sudo ubuntu-drivers install",) if machine.system.startswith("Linux") else ()
            yield Finding("warning", "GPU", says, command)
        elif driver.second:
            says = f"nvidia-smi reports {driver.second[0]}, but the driver's library is missing: {_CONTAINER}"
            yield Finding("warning", "GPU", says)
    elif not driver.devices:
        says = f"the driver is installed but reports no GPU ({driver.problem})"
        if machine.cuda_visible is not None:
            says += f"; CUDA_VISIBLE_DEVICES={machine.cuda_visible} may hide it"
            yield Finding("warning", "GPU", says, ("unset CUDA_VISIBLE_DEVICES",))
        elif driver.second or machine.nvidia_cards:
            yield Finding("warning", "GPU", f"{says}: restart after a driver update; {_CONTAINER}")
        else:
            yield Finding("warning", "GPU", f"{says}; {_CONTAINER}")
    for device in driver.devices:
        if device.capability < MIN_CAPABILITY:
            says = f"{device.name} has compute capability {_dotted(device.capability)}: TensorRT needs 7.5 or newer"
            yield Finding("warning", "GPU", says)


_CONTAINER = "in a container, start it with --gpus all and NVIDIA_DRIVER_CAPABILITIES=compute,utility"


def _of_gpu_packages(seen: Seen) -> Iterator[Finding]:
    driver, jetpack = seen.driver, seen.machine.jetpack
    found, flavours = cupys(seen.packages), tensorrts(seen.packages)
    newest = driver.cuda[0] if driver.cuda else None
    # CUDA 13 does not support GPUs before Turing.
    old = any(device.capability < MIN_CAPABILITY for device in driver.devices)
    fitting = min(newest or 13, 12 if old else 13)
    right = f"cupy-cuda{fitting}x"
    if len(found) > 1:
        says = f"{' and '.join(found)} are both installed and overwrite each other's files"
        commands = (f"pip uninstall -y {' '.join(found)}", _install(seen, right))
        yield Finding("problem", "CuPy", says, commands)
    elif driver.devices and not found:
        says = "this machine has a GPU, but CuPy, which the GPU engine needs, is not installed"
        yield Finding("warning", "CuPy", says, (_install(seen, right),))
    for name, built in found.items():
        if built and newest and built > newest and len(found) == 1:
            says = f"{name} needs CUDA {built}, but the driver supports only up to CUDA {newest}: update it, or"
            yield Finding("problem", "CuPy", says, (f"pip uninstall -y {name}", _install(seen, right)))
        elif built and built >= 13 and old and len(found) == 1:
            says = f"{name} is built for CUDA {built}, which does not support this GPU"
            yield Finding("problem", "CuPy", says, (f"pip uninstall -y {name}", _install(seen, right)))
    if flavours and not driver.devices:
        use = "engines can be built here but not run" if "tensorrt_rtx" in flavours else "it cannot be used here"
        says = f"{' and '.join(flavours)} is installed, but no GPU with a driver: {use}"
        yield Finding("warning", "TensorRT", says)
    for module, (version, built) in flavours.items():
        if built and newest and built > newest:
            package = f"{module.replace('_', '-')}-cu"
            wrong = [name for name in seen.packages if name.startswith(f"{package}{built}")]
            says = f"{module} {version} needs CUDA {built}, but the driver supports only up to {newest}: update it, or"
            commands = (f"pip uninstall -y {' '.join(wrong)}", _install(seen, f"{package}{newest}"))
            yield Finding("problem", "TensorRT", says, commands)
    for module, problem in seen.libraries.items():
        about = "CuPy" if module == "cupy" else "TensorRT"
        if problem:
            # CuPy nearly always lacks CUDA's compiler and headers, which are not in its wheel.
            command = (_install(seen, right),) if module == "cupy" else ()
            yield Finding("problem", about, f"{module} does not work here: {problem}", command)
    if jetpack:
        yield from _of_jetpack(seen, flavours)
    elif driver.devices and not flavours:
        says = "this machine has a GPU, but TensorRT is not installed"
        listed = all(d.capability in RTX_CAPABILITIES or d.capability >= (12, 0) for d in driver.devices)
        flavour = "tensorrt-rtx" if listed else "tensorrt"
        yield Finding("warning", "TensorRT", says, (_install(seen, f"{flavour}-cu{fitting}"),))
    if "pycuda" in seen.packages and (found or flavours):
        says = (
            "`import pycuda.autoinit` creates a second CUDA context that conflicts with CuPy and TensorRT: use the "
            "primary context, pycuda.driver.Device(0).retain_primary_context()"
        )
        yield Finding("warning", "PyCUDA", says)


def _of_jetpack(seen: Seen, flavours: Mapping[str, tuple[str, int | None]]) -> Iterator[Finding]:
    jetpack = seen.machine.jetpack
    if jetpack.startswith("5"):
        says = f"JetPack {jetpack} has TensorRT 8: kinet-trt needs TensorRT 10, which is part of JetPack 6"
        yield Finding("warning", "TensorRT", says)
    wheels = [name for name in seen.packages if re.fullmatch(r"tensorrt(-rtx)?-cu\d\d(-\w+)?", name)]
    if wheels:
        says = "on a Jetson, TensorRT comes with JetPack, not from pip"
        yield Finding("warning", "TensorRT", says, (f"pip uninstall -y {' '.join(wheels)}",))
    if "tensorrt" not in flavours:
        says = "this Python cannot import JetPack's TensorRT: install it, and let the environment see system packages"
        commands = ("sudo apt install python3-libnvinfer", "python3 -m venv --system-site-packages .venv")
        yield Finding("warning", "TensorRT", says, commands)


# --- output -----------------------------------------------------------------------------------------------------------


def rows(seen: Seen) -> list[Row]:
    """Return the rows of the table, each with the level of its most severe finding."""
    levels: dict[str, Level] = {}
    for finding in reversed(findings(seen)):
        levels[finding.about] = finding.level
    described = {**_machine_rows(seen), **_engine_rows(seen), **_gpu_rows(seen), "extras": _extras_row(seen)}
    return [
        Row(
            about,
            levels.get(about, "fine" if says else "absent"),
            says or ("none" if about == "GPU" else "not installed"),
        )
        for about, says in described.items()
    ]


def verdict(seen: Seen) -> str:
    """Return a sentence on whether this machine can count nuclei, and with which engine."""
    for one in seen.tried:
        if one.nuclei is not None and not one.problem:
            # The engine that was tried first is the default of `--runtime auto`.
            option = "" if one is seen.tried[0] else f" with --runtime {one.runtime}"
            engine = f"kinet-edge on {CPU_RUNTIMES[one.runtime]} in {one.precision.upper()}"
            return f"kinet-trt works on this machine{option}: {engine}."
    return "kinet-trt cannot count on this machine yet."


def to_json(seen: Seen) -> dict[str, Any]:
    """Return everything for JSON, schema 1: keys are only added."""
    extras = sorted({wanted.extra for wanted in seen.requirements if wanted.extra})
    return {
        "schema": SCHEMA,
        "counts": seen.counts,
        "verdict": verdict(seen),
        "machine": asdict(seen.machine),
        "engines": [asdict(one) for one in seen.tried],
        "driver": asdict(seen.driver),
        "cupy": cupys(seen.packages),
        "tensorrt": {name: {"version": v, "cuda": cuda} for name, (v, cuda) in tensorrts(seen.packages).items()},
        "gpu_libraries": {name: problem or "fine" for name, problem in seen.libraries.items()},
        "extras": {extra: {"missing": _missing(seen, extra)} for extra in extras},
        "packages": dict(sorted(seen.packages.items())),
        "rows": [asdict(row) for row in rows(seen)],
        "findings": [asdict(finding) for finding in findings(seen)],
    }


def _machine_rows(seen: Seen) -> dict[str, str]:
    machine = seen.machine
    features = ", ".join(_FEATURES[feature] for feature in machine.features)
    cores = f"{machine.usable_cores} of {machine.cores} cores" if machine.usable_cores < machine.cores else ""
    memory = "unknown"
    if machine.memory is not None:
        memory = _gigabytes(machine.memory)
        memory += "" if machine.free_memory is None else f", {_gigabytes(machine.free_memory)} free"
    own = [wanted.name for wanted in seen.requirements if not wanted.extra and wanted.name not in CPU_RUNTIMES]
    versions = [f"{name} {seen.packages[name]}" for name in own if name in seen.packages]
    jetpack = f", JetPack {machine.jetpack}" if machine.jetpack else ""
    return {
        "system": f"{machine.system}{jetpack}, Python {machine.python} ({machine.executable})",
        "CPU": "; ".join(filter(None, [machine.cpu, cores or f"{machine.cores} cores", features])),
        "memory": memory,
        "disk": ", ".join(f"{_gigabytes(free)} free in {folder}" for folder, free in machine.disks.items())
        or "unknown",
        "kinet-trt": ", ".join([seen.packages.get("kinet-trt", "not installed"), *versions]),
    }


def _engine_rows(seen: Seen) -> dict[str, str]:
    found = dict.fromkeys(CPU_RUNTIMES.values(), "")
    for one in seen.tried:
        if not one.version and not _is_here(seen, one.runtime):
            continue
        says = f"{one.version} ({', '.join(one.offers)})" if one.version else "installed"
        if one.nuclei is None:
            says += "; not working"
        else:
            checked = ", checked against FP32" if one.precision not in ("", "fp32") else ""
            says += (
                f"; counts in {one.precision.upper()}{checked}: {one.nuclei} nuclei in a simulated field of {one.true}"
                f", {one.seconds or 0:.1f} s"
            )
        found[CPU_RUNTIMES[one.runtime]] = says
    return found


def _gpu_rows(seen: Seen) -> dict[str, str]:
    driver, packages = seen.driver, seen.packages
    gpus = [f"{d.name}, compute {_dotted(d.capability)}, {_gigabytes(d.memory)}" for d in driver.devices]
    version = f"driver {seen.machine.driver_version}" if seen.machine.driver_version else "driver"
    runs = f"{version} supports CUDA up to {_dotted(driver.cuda)}" if driver.cuda else ""
    nothing = f"none ({driver.problem})" if driver.library or seen.machine.nvidia_cards else ""
    flavours = [
        f"{'classic' if module == 'tensorrt' else 'for RTX'} {release}" + (f" (CUDA {cuda})" if cuda else "")
        for module, (release, cuda) in tensorrts(packages).items()
    ]
    built = [f"{name} {packages[name]}" for name in cupys(packages)]
    return {
        "GPU": "; ".join(filter(None, [*gpus, "" if gpus else nothing, runs])),
        "TensorRT": ", ".join(flavours),
        "CuPy": ", ".join(built),
        "PyCUDA": packages.get("pycuda", ""),
        "PyTorch": packages.get("torch", ""),
    }


def _extras_row(seen: Seen) -> str:
    extras = list(dict.fromkeys(wanted.extra for wanted in seen.requirements if wanted.extra))
    whole = [extra for extra in extras if not _missing(seen, extra)]
    parts = [_absent(seen, extra) for extra in extras if extra not in whole]
    says = [f"installed: {', '.join(whole) or 'none'}"] if extras else ["unknown"]
    return "; ".join([*says, f"not installed: {', '.join(parts)}"] if parts else says)


def _absent(seen: Seen, extra: str) -> str:
    """Return the name of an extra, with the missing packages if it is installed in part."""
    missing = _missing(seen, extra)
    partly = len(missing) < sum(requirement.extra == extra for requirement in seen.requirements)
    return f"{extra} (lacks {', '.join(missing)})" if partly else extra


def _missing(seen: Seen, extra: str) -> list[str]:
    wanted = [requirement.name for requirement in seen.requirements if requirement.extra == extra]
    return [name for name in wanted if not _is_here(seen, name)]


def _packages_of(name: str) -> tuple[str, ...]:
    """Return the packages that provide a module."""
    flavours = ("", "-gpu", "-openvino", "-directml") if name == "onnxruntime" else ("",)
    return tuple(f"{name}{flavour}" for flavour in flavours)


def _is_here(seen: Seen, module: str) -> bool:
    return any(name in seen.packages for name in _packages_of(module))


def _install(seen: Seen, package: str) -> str:
    """Return the command that installs a package: its extra if there is one."""
    extra = next((w.extra for w in seen.requirements if w.name == package and w.extra), None)
    if extra:
        return f'pip install "kinet-trt[{extra}]"'
    # CuPy's wheels need CUDA's compiler and headers, which the extra ctk installs.
    with_toolkit = re.fullmatch(r"cupy-cuda1[2-9]x", package)
    return f'pip install "{package}[ctk]"' if with_toolkit else f"pip install {package}"


def _quoted(wanted: Requirement) -> str:
    return f'"{wanted.name}>={wanted.bound}"' if wanted.bound else wanted.name


def _order(version: str) -> tuple[int, ...]:
    """Return the numbers of a version for comparison: 2025.0 is 2025."""
    numbers = [int(part) for part in re.findall(r"\d+", re.split(r"[+a-z-]", version)[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"
