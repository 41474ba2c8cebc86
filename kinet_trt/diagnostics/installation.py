"""The installation that the checks examine: machine, driver, packages, and engines."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import packaging.requirements
from packaging.utils import canonicalize_name

from kinet_trt.core.runtimes import CPU_RUNTIMES
from kinet_trt.diagnostics.machine import Machine, installed, read_machine
from kinet_trt.diagnostics.probes import DriverProbe, EngineProbe, probe_driver, try_counting, try_library


@dataclass(frozen=True)
class Requirement:
    """A requirement of kinet-trt: package, lower bound (empty: any version), and extra (empty: always required)."""

    name: str
    bound: str
    extra: str


@dataclass(frozen=True)
class Installation:
    """Facts that the checks are based on."""

    machine: Machine
    driver: DriverProbe
    packages: Mapping[str, str]  # version of each installed package by normalised name
    requirements: tuple[Requirement, ...]  # of kinet-trt
    engines: tuple[EngineProbe, ...]  # installed CPU engines, and whether they can count
    libraries: Mapping[str, str]  # error of each GPU library that was tried, by module; empty if it works

    @property
    def counts(self) -> bool:
        """Whether at least one engine can count on this machine."""
        return any(one.nuclei is not None and not one.problem for one in self.engines)


def examine(report: Callable[[int, int], None] = lambda *_: None) -> Installation:
    """Collect the facts; takes a few seconds and does not raise on problems that it finds.

    ``report`` is called after each step with the number of finished steps and of all steps.
    """
    packages = installed()
    runtimes = [name for name in CPU_RUNTIMES if any(p in packages for p in packages_of(name))] or ["openvino"]
    total = 3 + len(runtimes)
    machine = read_machine()
    report(1, total)
    driver = probe_driver()
    report(2, total)
    engines = []
    for number, runtime in enumerate(runtimes, 3):
        engines.append(try_counting(runtime))
        report(number, total)
    installation = Installation(machine, driver, packages, requirements(), tuple(engines), {})
    if driver.gpus:
        modules = [*(["cupy"] if cupys(packages) else []), *tensorrts(packages)]
        installation = replace(installation, libraries={module: try_library(module) for module in modules})
    report(total, total)
    return installation


def requirements() -> tuple[Requirement, ...]:
    """Return the requirements of kinet-trt that apply on this system, with its extras."""
    try:
        lines = importlib.metadata.requires("kinet-trt") or []
        extras = importlib.metadata.metadata("kinet-trt").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return ()
    found = []
    for line in lines:
        try:
            wanted = packaging.requirements.Requirement(line)
        except packaging.requirements.InvalidRequirement:
            continue
        name, marker = canonicalize_name(wanted.name), wanted.marker
        extra = next((e for e in ("", *extras) if marker is None or marker.evaluate({"extra": e})), None)
        if extra is not None and name != "kinet-trt":
            bound = next((one.version for one in wanted.specifier if one.operator == ">="), "")
            found.append(Requirement(name, bound, extra))
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


def missing(installation: Installation, extra: str) -> list[str]:
    """Return the packages of an extra that are not installed."""
    wanted = [requirement.name for requirement in installation.requirements if requirement.extra == extra]
    return [name for name in wanted if not has(installation, name)]


def packages_of(name: str) -> tuple[str, ...]:
    """Return the packages that provide a module."""
    flavours = ("", "-gpu", "-openvino", "-directml") if name == "onnxruntime" else ("",)
    return tuple(f"{name}{flavour}" for flavour in flavours)


def has(installation: Installation, module: str) -> bool:
    """Return whether a package that provides a module is installed."""
    return any(name in installation.packages for name in packages_of(module))
