"""Facts about a machine, read from imaginary system files."""

import importlib.metadata
import os
import tempfile
from pathlib import Path

import pytest

from kinet_trt.diagnostics import machine
from kinet_trt.diagnostics.machine import cpu, installed, read_machine


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


CPUINFO = "processor : 0\nmodel name\t: A CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512f amx_tile amx_bf16\n\nprocessor : 1\n"


def test_cpu_has_a_name_and_known_features():
    name, features = cpu()
    assert isinstance(name, str)
    assert set(features) <= set(machine.CPU_FEATURES)


def test_read_machine_reads_an_imaginary_server(tmp_path):
    root = write(
        tmp_path,
        proc__cpuinfo=CPUINFO,
        proc__meminfo="MemTotal:       8000000 kB\nMemFree: 5 kB\nMemAvailable:   3000000 kB\n",
        proc__driver__nvidia__version="NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release\n",
        sys__bus__pci__devices__a__vendor="0x10de\n",
        sys__bus__pci__devices__a__class="0x030200\n",
        sys__bus__pci__devices__b__vendor="0x10de\n",
        sys__bus__pci__devices__b__class="0x040300\n",
    )
    seen = read_machine(root)
    assert (seen.cpu, seen.features) == ("A CPU @ 2 GHz", ("avx2", "avx512f", "amx_bf16"))
    assert (seen.memory, seen.free_memory) == (8_192_000_000, 3_072_000_000)
    assert seen.nvidia_cards == 1  # the other is the card's sound
    assert seen.driver_version == "580.65.06"
    assert seen.jetpack == ""
    write(root, sys__fs__cgroup__memory__max="x")  # a folder called memory is no limit
    assert read_machine(root).memory == 8_192_000_000


def test_memory_is_limited_by_the_container(tmp_path):
    root = write(tmp_path, proc__meminfo="MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n")
    folder = root / "sys/fs/cgroup"
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text("2000000000\n")
    (folder / "memory.current").write_text("1500000000\n")
    seen = read_machine(root)
    assert (seen.memory, seen.free_memory) == (2_000_000_000, 500_000_000)
    (folder / "memory.max").write_text("max\n")
    assert read_machine(root).memory == 8_192_000_000


@pytest.mark.parametrize(("release", "jetpack"), [("36", "6 (R36.4.3)"), ("35", "5 (R35.4.3)"), ("99", "? (R99.4.3)")])
def test_jetpack_follows_from_the_release(tmp_path, release, jetpack):
    write(tmp_path, etc__nv_tegra_release=f"# R{release} (release), REVISION: 4.3, GCID: 1, BOARD: generic\n")
    assert read_machine(tmp_path).jetpack == jetpack


def test_read_machine_without_system_files_is_not_an_error(tmp_path):
    seen = read_machine(tmp_path)
    assert (seen.memory, seen.free_memory, seen.nvidia_cards, seen.jetpack) == (None, None, 0, "")
    assert seen.cores >= seen.usable_cores >= 1


def test_home_problem_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert read_machine().home_problem == ""
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "nowhere"))
    seen = read_machine()
    assert seen.home_problem == "it does not exist"
    assert str(tmp_path / "nowhere") not in seen.disks

    def refuse(*, dir):  # noqa: A002
        raise OSError(30, os.strerror(30))

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert "cannot be written to" in read_machine().home_problem

    def no_home():
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", no_home)
    assert read_machine().home_problem == "there is none"


def test_installed_skips_partly_removed_packages(tmp_path, monkeypatch):
    for name, text in {"whole-1": "Name: Whole_Thing\nVersion: 1.5\n", "torn-1": "", "bad-1": "Version: 1\n"}.items():
        folder = tmp_path / f"{name}.dist-info"
        folder.mkdir()
        if text:
            (folder / "METADATA").write_text(text)
    monkeypatch.setattr(
        importlib.metadata, "distributions", lambda: importlib.metadata.Distribution.discover(path=[str(tmp_path)])
    )
    assert installed() == {"whole-thing": "1.5"}
