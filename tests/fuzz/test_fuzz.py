"""Damaged files, by the hundred here and by the ten thousand in `make test-slow`: one message each, no crash.

The head of the run prints the seeds (conftest.py); KINET_FUZZ_SEED=7 sets them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnx")
sys.path.insert(0, str(Path(__file__).parent))

from cases import TARGETS, run
from mutate import mutated

from kinet_trt import KinetError

CASES = Path(__file__).with_name("cases.py")


def _fuzz(target: str, seed: int, cases: int, folder: Path) -> list[str]:
    """Run cases in a process of their own and return what each said."""
    command = [sys.executable, "-W", "ignore", str(CASES), target, str(seed), "0", str(cases), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert done.returncode == 0, (
        f"{target}, seed {seed}, case {said[-1:]}: exit {done.returncode}\n{done.stderr[-3000:]}"
    )
    messages = [text for _, text in said if text != "begins"]
    assert len(messages) == cases
    assert not list(folder.iterdir()), "files left behind"
    return messages


@pytest.mark.parametrize("target", TARGETS)
def test_a_hundred_damaged_files_give_one_message_each(target, fuzz_seeds, tmp_path):
    messages = _fuzz(target, fuzz_seeds[0], 100, tmp_path)
    if target != "geojson":  # there the names are odd and the files whole
        assert sum(text != "fine" for text in messages) > 20, "hardly anything was damaged"


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_ten_thousand_damaged_files_give_one_message_each(target, fuzz_seeds, tmp_path):
    _fuzz(target, fuzz_seeds[1], 10_000, tmp_path)


def test_a_failure_is_noticed(tmp_path, monkeypatch):
    """A case that raises something else, leaves half a file or says nothing readable ends the run."""

    def fails_with(error: Exception):
        def case(rng, folder):
            raise error

        return lambda: case

    def litters():
        return lambda rng, folder: (folder / ".kinet-0.part").touch()

    for make in (fails_with(ValueError("x")), fails_with(KinetError("")), fails_with(KinetError("Traceback")), litters):
        monkeypatch.setitem(TARGETS, "bad", make)
        (place := tmp_path / str(id(make))).mkdir()
        with pytest.raises((ValueError, AssertionError)):
            list(run("bad", 0, range(1), place))


@given(st.binary(max_size=600), st.randoms(use_true_random=False))
def test_damage_is_bounded_and_the_same_for_the_same_seed(data, rng):
    state = rng.getstate()
    first = mutated(data, rng)
    rng.setstate(state)
    assert mutated(data, rng) == first
    assert len(first) < len(data) + 200_000
