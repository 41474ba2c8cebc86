"""Tables on terminals of any width, and progress where there is no terminal."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinet_trt.cli.commands.bench import show_bench
from kinet_trt.cli.commands.count import show_run
from kinet_trt.cli.progress import Bars
from kinet_trt.cli.terminal import note, tab_separated
from kinet_trt.core.detections import Detections
from kinet_trt.core.logs import be_quiet, to_terminal
from kinet_trt.counting.image import CountedImage
from kinet_trt.counting.run import CountRun
from kinet_trt.inference.counter import NucleusCounter

NAMES = ("case 12, block B, field 3 of 40.png", "a\nline\tbreak.png", "x.png")


@pytest.fixture(scope="module")
def counter():
    return NucleusCounter(precision="fp32")


@pytest.fixture
def terminal(monkeypatch):
    """Give a function that makes standard output a terminal of so many columns."""

    def columns(number):
        for name, value in {"FORCE_COLOR": 1, "TERM": "dumb", "COLUMNS": number, "LINES": 25}.items():
            monkeypatch.setenv(name, str(value))

    return columns


def counted(name, positive=120, negative=1_380):
    n = positive + negative
    cls = np.repeat(np.array([0, 1], np.uint8), [positive, negative])
    x, y = np.arange(n) % 50 * 20, np.arange(n) // 50 * 20
    found = Detections(x.astype(np.float32), y.astype(np.float32), cls, np.ones(n, np.float32))
    return CountedImage(
        image=Path(name),
        width=1_000,
        height=1_000,
        mpp=0.25,
        mpp_source="option",
        counts=found.counts(),
        detections=found,
    )


@pytest.mark.parametrize("width", [30, 60, 200])
def test_a_table_loses_no_cell_in_a_terminal_of_any_width(terminal, capsys, counter, width):
    terminal(width)
    show_run(CountRun(counter, tuple(counted(name) for name in NAMES)), None)
    out = capsys.readouterr().out
    for cell in (NAMES[0], r"a\nline\tbreak.png", "120", "1380", "8.0 (6.7 - 9.5)"):
        assert cell in out
    assert out.count("8.0 (6.7 - 9.5)") == len(NAMES)
    table = out[: out.index("Each image")].splitlines()
    if width == 60:
        assert max(map(len, table)) <= width
    if width == 200:
        assert len(table) == 1 + len(NAMES)


def test_a_pipe_gets_every_row_on_one_line(capsys, counter, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    long = "n" * 150 + ".png"
    show_run(CountRun(counter, (counted(long), replace(counted("b.png"), mpp=0.5))), None)
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].split() == [long, "0.25", "(option)", "120", "1380", "0", "8.0", "(6.7", "-", "9.5)"]
    assert all("..." not in row and "…" not in row for row in rows)
    assert [row.rstrip() for row in rows] == rows


def test_the_benchmark_fits_a_narrow_terminal(terminal, capsys):
    times = {name: {"p50": 12.34, "p99": 56.7} for name in ("prepare_ms", "network_ms", "peaks_ms", "whole_ms")}
    row = {
        "model": "kinet-edge",
        "runtime": "OpenVINO 2026.4",
        "precision": "fp32",
        "speedup_over_eager": 3.21,
        **times,
    }
    for width in (60, 300):
        terminal(width)
        show_bench([row])
        out = capsys.readouterr().out
        assert "times faster" in out
        for cell in ("kinet-edge", "OpenVINO", "fp32", "12.3", "57", "3.2"):
            assert cell in out
        assert max(map(len, out.splitlines())) <= width


def test_tab_separated_text_has_one_line_per_row():
    text = tab_separated(["a\nb", "c"], [["x\ty", "1"], ["line\u2028break", ""]])
    assert text == "a b\tc\nx\\ty\t1\nline\\u2028break\t\n"


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_without_a_terminal_progress_is_a_line_every_ten_seconds():
    clock, out = Clock(), io.StringIO()
    with Bars(file=out, clock=clock) as bars:
        task = bars.add_task("Counting", total=40, note="")
        for number in range(40):
            bars.update(task, note=f"field {number}.png")
            clock.now += 1
            bars.advance(task)
    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0] == "Counting: 10 of 40 done, about 30 s left (field 9.png)"
    assert lines[3].startswith("Counting: 40 of 40 done")


def test_short_or_quiet_work_prints_no_progress():
    for quiet, seconds in ((False, 0.1), (True, 100.0)):
        clock, out = Clock(), io.StringIO()
        with Bars(quiet=quiet, file=out, clock=clock) as bars:
            task = bars.add_task("Tiles", total=None, note="")
            for number in range(20):
                clock.now += seconds
                bars.update(task, completed=number)
        assert out.getvalue() == ""


def test_notes_are_left_out_when_quiet(capsys):
    note("written: a\nb.png")
    note("to standard error", err=True)
    assert capsys.readouterr() == ("written: a\\nb.png\n", "to standard error\n")
    be_quiet()
    note("written: c.png")
    assert capsys.readouterr() == ("", "")
    to_terminal()
    note("written: d.png")
    assert capsys.readouterr().out == "written: d.png\n"
