"""Check the installation: packages, engines, machine, GPU driver and libraries, with a suggested fix for each problem.

This process loads no native library: versions come from package metadata, and
:mod:`kinet_trt.diagnostics.probes` loads libraries in subprocesses. GPU libraries are tried only if the driver
reports a GPU.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kinet_trt.core.runtimes import CPU_RUNTIMES
from kinet_trt.diagnostics.checks import Level, dotted, findings, gigabytes
from kinet_trt.diagnostics.installation import Installation, cupys, has, missing, tensorrts

SCHEMA = 1

_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_bf16": "AMX BF16",
    "amx_int8": "AMX INT8",
}


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    component: str
    level: Level
    message: str


def rows(installation: Installation) -> list[Row]:
    """Return the rows of the table, each with the level of its most severe finding."""
    levels: dict[str, Level] = {}
    for finding in reversed(findings(installation)):
        levels[finding.component] = finding.level
    described = {
        **_machine_rows(installation),
        **_engine_rows(installation),
        **_gpu_rows(installation),
        "extras": _extras_row(installation),
    }
    return [
        Row(
            component,
            levels.get(component, "fine" if message else "absent"),
            message or ("none" if component == "GPU" else "not installed"),
        )
        for component, message in described.items()
    ]


def verdict(installation: Installation) -> str:
    """Return a sentence on whether this machine can count nuclei, and with which engine."""
    for one in installation.engines:
        if one.nuclei is not None and not one.problem:
            # The first engine is the default of `--runtime auto`.
            option = "" if one is installation.engines[0] else f" with --runtime {one.runtime}"
            engine = f"kinet-edge on {CPU_RUNTIMES[one.runtime]} in {one.precision.upper()}"
            return f"kinet-trt works on this machine{option}: {engine}."
    return "kinet-trt cannot count on this machine yet."


def to_json(installation: Installation) -> dict[str, Any]:
    """Return everything for JSON, schema 1: keys are only added."""
    extras = sorted({wanted.extra for wanted in installation.requirements if wanted.extra})
    return {
        "schema": SCHEMA,
        "counts": installation.counts,
        "verdict": verdict(installation),
        "machine": asdict(installation.machine),
        "engines": [asdict(one) for one in installation.engines],
        "driver": asdict(installation.driver),
        "cupy": cupys(installation.packages),
        "tensorrt": {
            name: {"version": v, "cuda": cuda} for name, (v, cuda) in tensorrts(installation.packages).items()
        },
        "gpu_libraries": {name: problem or "fine" for name, problem in installation.libraries.items()},
        "extras": {extra: {"missing": missing(installation, extra)} for extra in extras},
        "packages": dict(sorted(installation.packages.items())),
        "rows": [{"about": row.component, "level": row.level, "says": row.message} for row in rows(installation)],
        "findings": [
            {"level": one.level, "about": one.component, "says": one.message, "mend": one.fixes}
            for one in findings(installation)
        ],
    }


def _machine_rows(installation: Installation) -> dict[str, str]:
    machine = installation.machine
    features = ", ".join(_FEATURES[feature] for feature in machine.features)
    cores = f"{machine.usable_cores} of {machine.cores} cores" if machine.usable_cores < machine.cores else ""
    memory = "unknown"
    if machine.memory is not None:
        memory = gigabytes(machine.memory)
        memory += "" if machine.free_memory is None else f", {gigabytes(machine.free_memory)} free"
    own = [wanted.name for wanted in installation.requirements if not wanted.extra and wanted.name not in CPU_RUNTIMES]
    versions = [f"{name} {installation.packages[name]}" for name in own if name in installation.packages]
    jetpack = f", JetPack {machine.jetpack}" if machine.jetpack else ""
    return {
        "system": f"{machine.system}{jetpack}, Python {machine.python} ({machine.executable})",
        "CPU": "; ".join(filter(None, [machine.cpu, cores or f"{machine.cores} cores", features])),
        "memory": memory,
        "disk": ", ".join(f"{gigabytes(free)} free in {folder}" for folder, free in machine.disks.items()) or "unknown",
        "kinet-trt": ", ".join([installation.packages.get("kinet-trt", "not installed"), *versions]),
    }


def _engine_rows(installation: Installation) -> dict[str, str]:
    found = dict.fromkeys(CPU_RUNTIMES.values(), "")
    for one in installation.engines:
        if not one.version and not has(installation, one.runtime):
            continue
        message = f"{one.version} ({', '.join(one.offers)})" if one.version else "installed"
        if one.nuclei is None:
            message += "; not working"
        else:
            checked = ", checked against FP32" if one.precision not in ("", "fp32") else ""
            message += (
                f"; counts in {one.precision.upper()}{checked}: {one.nuclei} nuclei in a simulated field of {one.true}"
                f", {one.seconds or 0:.1f} s"
            )
        found[CPU_RUNTIMES[one.runtime]] = message
    return found


def _gpu_rows(installation: Installation) -> dict[str, str]:
    driver, packages = installation.driver, installation.packages
    gpus = [f"{d.name}, compute {dotted(d.capability)}, {gigabytes(d.memory)}" for d in driver.gpus]
    version = f"driver {installation.machine.driver_version}" if installation.machine.driver_version else "driver"
    runs = f"{version} supports CUDA up to {dotted(driver.cuda)}" if driver.cuda else ""
    no_gpu = f"none ({driver.problem})" if driver.library or installation.machine.nvidia_cards else ""
    flavours = [
        f"{'classic' if module == 'tensorrt' else 'for RTX'} {release}" + (f" (CUDA {cuda})" if cuda else "")
        for module, (release, cuda) in tensorrts(packages).items()
    ]
    built = [f"{name} {packages[name]}" for name in cupys(packages)]
    return {
        "GPU": "; ".join(filter(None, [*gpus, "" if gpus else no_gpu, runs])),
        "TensorRT": ", ".join(flavours),
        "CuPy": ", ".join(built),
        "PyCUDA": packages.get("pycuda", ""),
        "PyTorch": packages.get("torch", ""),
    }


def _extras_row(installation: Installation) -> str:
    extras = list(dict.fromkeys(wanted.extra for wanted in installation.requirements if wanted.extra))
    complete = [extra for extra in extras if not missing(installation, extra)]
    parts = [_absent(installation, extra) for extra in extras if extra not in complete]
    message = [f"installed: {', '.join(complete) or 'none'}"] if extras else ["unknown"]
    return "; ".join([*message, f"not installed: {', '.join(parts)}"] if parts else message)


def _absent(installation: Installation, extra: str) -> str:
    """Return the name of an extra, with the missing packages if it is installed in part."""
    lacks = missing(installation, extra)
    partly = len(lacks) < sum(requirement.extra == extra for requirement in installation.requirements)
    return f"{extra} (lacks {', '.join(lacks)})" if partly else extra
