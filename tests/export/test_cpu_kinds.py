"""Training on other kinds of CPU: the tests marked ``training`` again, with oneDNN limited to older instructions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from kinet_trt.export.prediction import has_bfloat16

ROOT = Path(__file__).resolve().parents[2]
FILES = ("tests/export/test_training.py", "tests/export/networks/test_networks.py")
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "instructions",
    [
        "AVX512_CORE",
        pytest.param("AVX512_CORE_VNNI", marks=pytest.mark.slow),
        pytest.param("AVX2", marks=pytest.mark.slow),
    ],
)
def test_training_in_fp32_on_a_cpu_without_bf16(instructions: str) -> None:
    """Uses a process, since oneDNN reads the variable once, and a faulty kernel may crash the process."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "training", *FILES],
        cwd=ROOT,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
    assert " passed" in done.stdout


@pytest.mark.parametrize("instructions", ["AVX2", "avx512_core", "AVX512_CORE_VNNI"])
def test_bf16_is_not_used_where_onednn_emulates_it(instructions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", instructions)
    assert not has_bfloat16(CPU)


def test_isa_limit_above_bf16_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    usual = has_bfloat16(CPU)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX")
    assert has_bfloat16(CPU) == usual
