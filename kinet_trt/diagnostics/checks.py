"""Checks of an installation: each returns problems and warnings with suggested fixes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from packaging.version import InvalidVersion, Version

from kinet_trt.core.runtimes import CPU_RUNTIMES
from kinet_trt.diagnostics.installation import Installation, Requirement, cupys, has, packages_of, tensorrts
from kinet_trt.diagnostics.probes import DriverProbe, EngineProbe

MIN_FREE_MEMORY = 1_500_000_000
"""Memory that should be free, bytes: kinet-edge on a large image takes about 1 GB."""

MIN_FREE_DISK = 1_000_000_000
"""Disk space that should be free, bytes."""

MIN_CAPABILITY = (7, 5)
"""Oldest supported compute capability (Turing): CUDA 13, and TensorRT since 10.5, do not support older GPUs."""

RTX_CAPABILITIES = ((7, 5), (8, 6), (8, 9))
"""Compute capabilities that TensorRT for RTX supports, besides 12.0 and newer; others need classic TensorRT."""

MAX_ERROR = 0.2
"""Largest relative error of a count of the simulated field; that of kinet-edge is about 0.05."""

_OPENCVS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)

_CONTAINER = "in a container, start it with --gpus all and NVIDIA_DRIVER_CAPABILITIES=compute,utility"

Level = Literal["fine", "warning", "problem", "absent"]


@dataclass(frozen=True)
class Finding:
    """A problem (something does not work) or a warning (it works, with limitations)."""

    level: Level
    component: str  # row of the table that it belongs to
    message: str
    fixes: tuple[str, ...] = ()  # suggested commands, one a line; empty if the message describes the fix


def findings(installation: Installation) -> list[Finding]:
    """Return problems and warnings, problems first."""
    checks = [_check_packages, _check_engines, _check_machine, _check_driver]
    checks += [_check_cupy, _check_tensorrt, _check_gpu_use]
    found = [finding for check in checks for finding in check(installation)]
    return sorted(found, key=lambda finding: finding.level != "problem")


def _check_packages(installation: Installation) -> Iterator[Finding]:
    packages = installation.packages
    if "kinet-trt" not in packages:
        yield Finding("warning", "kinet-trt", "it runs from a folder and is not installed", ("pip install .",))
    opencvs = [name for name in _OPENCVS if name in packages]
    headless = "opencv-python-headless"
    missing: list[Requirement] = []
    for wanted in installation.requirements:
        version = packages.get(wanted.name)
        if version is None and not wanted.extra:
            if wanted.name == headless and opencvs:
                message = f"{opencvs[0]} is installed instead of {headless}: it needs desktop libraries (libGL)"
                commands = (f"pip uninstall -y {' '.join(opencvs)}", f"pip install {_quoted(wanted)}")
                yield Finding("warning", "kinet-trt", message, commands)
            elif wanted.name not in CPU_RUNTIMES:
                missing.append(wanted)
            elif not installation.counts:
                message = f"{wanted.name} is not installed"
                yield Finding("problem", CPU_RUNTIMES[wanted.name], message, (f"pip install {_quoted(wanted)}",))
        elif version is not None and wanted.bound and _is_older(version, wanted.bound):
            component = CPU_RUNTIMES.get(wanted.name, "extras" if wanted.extra else "kinet-trt")
            level: Level = "warning" if wanted.extra else "problem"
            message = f"{wanted.name} {version} is installed, kinet-trt needs {wanted.bound} or newer"
            yield Finding(level, component, message, (f"pip install {_quoted(wanted)}",))
    if missing:
        message = f"not installed: {', '.join(wanted.name for wanted in missing)}"
        yield Finding("problem", "kinet-trt", message, (f"pip install {' '.join(map(_quoted, missing))}",))
    if len(opencvs) > 1:
        yield _conflict("warning", "kinet-trt", opencvs, f"pip install {headless}")
    runtimes = [name for name in packages_of("onnxruntime") if name in packages]
    if len(runtimes) > 1:
        yield _conflict("warning", "ONNX Runtime", runtimes, _install_command(installation, "onnxruntime"))


def _check_engines(installation: Installation) -> Iterator[Finding]:
    for one in installation.engines:
        name = CPU_RUNTIMES[one.runtime]
        is_installed = has(installation, one.runtime)
        if one.problem and not is_installed and installation.requirements:
            continue  # _check_packages has reported that it is not installed
        if one.problem:
            # If another engine has priority and works, this is only a warning.
            level: Level = "problem" if one is installation.engines[0] or not installation.counts else "warning"
            yield Finding(level, name, one.problem, _fix_engine(installation, one))
        elif one.nuclei is not None and one.true and abs(one.nuclei - one.true) > MAX_ERROR * one.true:
            message = f"it finds {one.nuclei} nuclei in a simulated field of {one.true}: do not trust its counts"
            yield Finding("problem", name, message, _reinstall_command(installation, one.runtime))
        for warning in one.warnings:
            yield Finding("warning", name, warning)


def _fix_engine(installation: Installation, one: EngineProbe) -> tuple[str, ...]:
    if "libGL" in one.problem or "libgthread" in one.problem:
        opencvs = " ".join(name for name in _OPENCVS if name in installation.packages)
        return (f"pip uninstall -y {opencvs}", "pip install opencv-python-headless")
    if one.problem.startswith("NumPy"):
        return ("pip install --force-reinstall numpy opencv-python-headless",)
    if not has(installation, one.runtime):
        return (_install_command(installation, one.runtime),)
    if "SIGILL" in one.problem:
        # Reinstalling does not help if the CPU lacks the instruction: suggest another engine.
        if installation.counts:
            return (f"pip uninstall -y {one.runtime}",)
        return (_install_command(installation, "onnxruntime" if one.runtime == "openvino" else "openvino"),)
    return _reinstall_command(installation, one.runtime)


def _reinstall_command(installation: Installation, runtime: str) -> tuple[str, ...]:
    name = next((name for name in packages_of(runtime) if name in installation.packages), runtime)
    return (f"pip install --force-reinstall --no-deps {name}",)


def _check_machine(installation: Installation) -> Iterator[Finding]:
    machine = installation.machine
    if machine.system.endswith(("x86_64", "AMD64")) and machine.features == () and machine.system.startswith("Linux"):
        yield Finding("warning", "CPU", "it lacks AVX2: counting is several times slower than on a newer CPU")
    if machine.free_memory is not None and machine.free_memory < MIN_FREE_MEMORY:
        message = f"only {gigabytes(machine.free_memory)} free: large images may not fit; close other programs"
        yield Finding("warning", "memory", message)
    for folder, free in machine.disks.items():
        if free < MIN_FREE_DISK:
            yield Finding("warning", "disk", f"only {gigabytes(free)} free in {folder}: free some space")
    if machine.home_problem:
        message = (
            f"the home folder {machine.home}: {machine.home_problem}. kinet-trt does not need it, but Matplotlib, CuPy "
            "and TensorRT cache files there and start slowly without it"
        )
        yield Finding("warning", "disk", message.replace("folder : ", "folder: "), ("export HOME=/a/folder/of/yours",))


def _check_driver(installation: Installation) -> Iterator[Finding]:
    driver, machine = installation.driver, installation.machine
    if not driver.library:
        if machine.nvidia_cards:
            message = "this machine has an NVIDIA card but no driver: install NVIDIA's driver and restart"
            command = ("sudo ubuntu-drivers install",) if machine.system.startswith("Linux") else ()
            yield Finding("warning", "GPU", message, command)
        elif driver.second:
            message = f"nvidia-smi reports {driver.second[0]}, but the driver's library is missing: {_CONTAINER}"
            yield Finding("warning", "GPU", message)
    elif not driver.gpus:
        message = f"the driver is installed but reports no GPU ({driver.problem})"
        if machine.cuda_visible is not None:
            message += f"; CUDA_VISIBLE_DEVICES={machine.cuda_visible} may hide it"
            yield Finding("warning", "GPU", message, ("unset CUDA_VISIBLE_DEVICES",))
        elif driver.second or machine.nvidia_cards:
            yield Finding("warning", "GPU", f"{message}: restart after a driver update; {_CONTAINER}")
        else:
            yield Finding("warning", "GPU", f"{message}; {_CONTAINER}")
    for gpu in driver.gpus:
        if gpu.capability < MIN_CAPABILITY:
            message = f"{gpu.name} has compute capability {dotted(gpu.capability)}: TensorRT needs 7.5 or newer"
            yield Finding("warning", "GPU", message)


def _has_old_gpu(driver: DriverProbe) -> bool:
    """Return whether a GPU is older than Turing, which CUDA 13 does not support."""
    return any(gpu.capability < MIN_CAPABILITY for gpu in driver.gpus)


def _fitting_cuda(driver: DriverProbe) -> int:
    """Return the major CUDA version of the packages to install."""
    return min(driver.cuda[0] if driver.cuda else 13, 12 if _has_old_gpu(driver) else 13)


def _install_cupy(installation: Installation) -> str:
    return _install_command(installation, f"cupy-cuda{_fitting_cuda(installation.driver)}x")


def _check_cupy(installation: Installation) -> Iterator[Finding]:
    driver, found, install = installation.driver, cupys(installation.packages), _install_cupy(installation)
    newest = driver.cuda[0] if driver.cuda else None
    if len(found) > 1:
        yield _conflict("problem", "CuPy", found, install)
    elif driver.gpus and not found:
        message = "this machine has a GPU, but CuPy, which the GPU engine needs, is not installed"
        yield Finding("warning", "CuPy", message, (install,))
    for name, built in found.items():
        replacement = (f"pip uninstall -y {name}", install)
        if built and newest and built > newest and len(found) == 1:
            message = f"{name} needs CUDA {built}, but the driver supports only up to CUDA {newest}: update it, or"
            yield Finding("problem", "CuPy", message, replacement)
        elif built and built >= 13 and _has_old_gpu(driver) and len(found) == 1:
            message = f"{name} is built for CUDA {built}, which does not support this GPU"
            yield Finding("problem", "CuPy", message, replacement)


def _check_tensorrt(installation: Installation) -> Iterator[Finding]:
    driver, flavours = installation.driver, tensorrts(installation.packages)
    newest = driver.cuda[0] if driver.cuda else None
    if flavours and not driver.gpus:
        use = "engines can be built here but not run" if "tensorrt_rtx" in flavours else "it cannot be used here"
        message = f"{' and '.join(flavours)} is installed, but no GPU with a driver: {use}"
        yield Finding("warning", "TensorRT", message)
    for module, (version, built) in flavours.items():
        if built and newest and built > newest:
            package = f"{module.replace('_', '-')}-cu"
            wrong = [name for name in installation.packages if name.startswith(f"{package}{built}")]
            message = f"{module} {version} needs CUDA {built}, but the driver supports up to {newest}: update it, or"
            commands = (f"pip uninstall -y {' '.join(wrong)}", _install_command(installation, f"{package}{newest}"))
            yield Finding("problem", "TensorRT", message, commands)
    if installation.machine.jetpack:
        yield from _check_jetpack(installation, flavours)
    elif driver.gpus and not flavours:
        message = "this machine has a GPU, but TensorRT is not installed"
        listed = all(d.capability in RTX_CAPABILITIES or d.capability >= (12, 0) for d in driver.gpus)
        package = f"{'tensorrt-rtx' if listed else 'tensorrt'}-cu{_fitting_cuda(driver)}"
        yield Finding("warning", "TensorRT", message, (_install_command(installation, package),))


def _check_gpu_use(installation: Installation) -> Iterator[Finding]:
    for module, problem in installation.libraries.items():
        component = "CuPy" if module == "cupy" else "TensorRT"
        if problem:
            # CuPy nearly always lacks CUDA's compiler and headers, which are not in its wheel.
            command = (_install_cupy(installation),) if module == "cupy" else ()
            yield Finding("problem", component, f"{module} does not work here: {problem}", command)
    if "pycuda" in installation.packages and (cupys(installation.packages) or tensorrts(installation.packages)):
        message = (
            "`import pycuda.autoinit` creates a second CUDA context that conflicts with CuPy and TensorRT. Use "
            "`import pycuda.autoprimaryctx`, which shares the primary context"
        )
        yield Finding("warning", "PyCUDA", message)


def _check_jetpack(installation: Installation, flavours: Mapping[str, tuple[str, int | None]]) -> Iterator[Finding]:
    jetpack = installation.machine.jetpack
    if jetpack.startswith("5"):
        message = f"JetPack {jetpack} has TensorRT 8: kinet-trt needs TensorRT 10, which is part of JetPack 6"
        yield Finding("warning", "TensorRT", message)
    wheels = [name for name in installation.packages if re.fullmatch(r"tensorrt(-rtx)?-cu\d\d(-\w+)?", name)]
    if wheels:
        message = "on a Jetson, TensorRT comes with JetPack, not from pip"
        yield Finding("warning", "TensorRT", message, (f"pip uninstall -y {' '.join(wheels)}",))
    if "tensorrt" not in flavours:
        message = (
            "this Python cannot import JetPack's TensorRT: install it, and use an environment with system packages"
        )
        commands = ("sudo apt install python3-libnvinfer", "python3 -m venv --system-site-packages .venv")
        yield Finding("warning", "TensorRT", message, commands)


def _conflict(level: Level, component: str, packages: Collection[str], install: str) -> Finding:
    message = f"{' and '.join(packages)} are both installed and overwrite each other's files"
    return Finding(level, component, message, (f"pip uninstall -y {' '.join(packages)}", install))


def _install_command(installation: Installation, package: str) -> str:
    """Return the command that installs a package: its extra if there is one."""
    extra = next((w.extra for w in installation.requirements if w.name == package and w.extra), None)
    if extra:
        return f'pip install "kinet-trt[{extra}]"'
    # CuPy's wheels need CUDA's compiler and headers, which the extra ctk installs.
    with_toolkit = re.fullmatch(r"cupy-cuda1[2-9]x", package)
    return f'pip install "{package}[ctk]"' if with_toolkit else f"pip install {package}"


def _quoted(wanted: Requirement) -> str:
    return f'"{wanted.name}>={wanted.bound}"' if wanted.bound else wanted.name


def _is_older(version: str, bound: str) -> bool:
    """Return whether a version is older than a lower bound; False if it is not a valid version."""
    try:
        return Version(version) < Version(bound)
    except InvalidVersion:
        return False


def dotted(version: tuple[int, int]) -> str:
    """Return a version like ``"12.8"``."""
    return f"{version[0]}.{version[1]}"


def gigabytes(count: int) -> str:
    """Return a number of bytes as gigabytes."""
    return f"{count / 1e9:.1f} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"
