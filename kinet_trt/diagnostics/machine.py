"""Facts about this machine, from system files and package metadata; loads no native library.

Not from psutil or py-cpuinfo: psutil does not know the memory limit of a container and is a native module, and
py-cpuinfo takes over a second, since it starts subprocesses.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8")
"""CPU features that determine the speed of counting, as Linux names them."""
_JETPACKS = {"35": "5", "36": "6", "38": "7"}


@dataclass(frozen=True)
class Machine:
    """A machine."""

    system: str  # operating system and processor family
    python: str
    executable: str  # path of Python
    cpu: str  # empty if unknown
    features: tuple[str, ...]  # those of `CPU_FEATURES` that it has; Linux only
    cores: int
    usable_cores: int  # by this process
    memory: int | None  # bytes, of the container if it has a limit; None if unknown
    free_memory: int | None  # bytes, as `memory`
    home: str
    home_problem: str  # why it cannot be used; empty if it can
    disks: dict[str, int]  # free bytes of the home folder and the temporary folder, by path
    nvidia_cards: int  # on the PCI bus, with or without a driver; Linux only
    jetpack: str  # like "6 (R36.3)"; empty if it is not a Jetson
    driver_version: str  # of NVIDIA's kernel driver, like "580.65.06"; empty if unknown
    cuda_visible: str | None  # CUDA_VISIBLE_DEVICES; None if it is not set


def read_machine(root: Path = Path("/")) -> Machine:
    """Collect the facts about this machine; ``root`` contains ``proc``, ``sys`` and ``etc``."""
    name, features = cpu(root)
    memory, free = _memory(root)
    home, problem = _home()
    disks = {}
    for folder in (home, _temporary()):
        if folder and (space := _free(folder)) is not None:
            disks[folder] = space
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else cores
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        executable=sys.executable or "",
        cpu=name,
        features=features,
        cores=cores,
        usable_cores=usable,
        memory=memory,
        free_memory=free,
        home=home,
        home_problem=problem,
        disks=disks,
        nvidia_cards=_nvidia_cards(root),
        jetpack=_jetpack(root),
        driver_version=_found(r"Kernel Module.*?\s(\d+(?:\.\d+)+)", _read(root / "proc/driver/nvidia/version")),
        cuda_visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def cpu(root: Path = Path("/")) -> tuple[str, tuple[str, ...]]:
    """Return the name of the CPU and those of :data:`CPU_FEATURES` that it has."""
    lines = _read(root / "proc/cpuinfo").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    return name or platform.processor(), tuple(feature for feature in CPU_FEATURES if feature in flags)


def installed() -> dict[str, str]:
    """Return the version of each installed package by normalised name."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        try:
            name, version = distribution.metadata["Name"], distribution.version
        except Exception:  # noqa: S112  a half-removed package must not hide the others
            continue
        if name and version:
            found.setdefault(canonicalize_name(name), version)
    return found


def _memory(root: Path) -> tuple[int | None, int | None]:
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE))
    total, free = (int(found[key]) * 1024 if key in found else None for key in ("MemTotal", "MemAvailable"))
    limit, used = (_read(root / f"sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and total is not None and int(limit) < total:
        total = int(limit)
        if used.isdigit() and free is not None:
            free = min(free, max(0, total - int(used)))
    return total, free


def _home() -> tuple[str, str]:
    try:
        home = Path.home()
    except RuntimeError:
        return "", "there is none"
    if not home.is_dir():
        return str(home), "it does not exist"
    try:
        with tempfile.TemporaryFile(dir=home):
            return str(home), ""
    except OSError as error:
        return str(home), f"it cannot be written to: {error.strerror or error}"


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:
        return ""


def _free(folder: str) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _nvidia_cards(root: Path) -> int:
    devices = (root / "sys/bus/pci/devices").glob("*")
    graphics = (device for device in devices if _read(device / "class").startswith("0x03"))
    return sum(_read(device / "vendor").strip() == "0x10de" for device in graphics)


def _jetpack(root: Path) -> str:
    text = _read(root / "etc/nv_tegra_release")
    release, revision = _found(r"R(\d+)", text), _found(r"REVISION:\s*([\d.]+)", text)
    return f"{_JETPACKS.get(release, '?')} (R{release}.{revision})" if release else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""
