"""Options of sim: and their text."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet_trt.camera.simulated import Fault, Options
from kinet_trt.camera.simulated.options import _INTEGERS, _NUMBERS, FAULTS
from kinet_trt.camera.source import SourceTextError

numbers = {name: st.floats(low, high) for name, (low, high) in _NUMBERS.items()}
integers = {name: st.integers(low, high) for name, (low, high) in _INTEGERS.items()}
sides = st.integers(16, 8192).map(lambda half: 2 * half)
um = st.floats(-1e6, 1e6)
paths = st.sampled_from(["snake", "still"]) | st.lists(st.tuples(um, um), min_size=1, max_size=5).map(tuple)
seconds = st.floats(0, 1e6)
faults = st.lists(st.builds(Fault, st.sampled_from(FAULTS), seconds, seconds), max_size=4).map(tuple)


def text_of(options: Options) -> str:
    """Return the text of the options that differ from their defaults."""
    texts = {field.name: str(getattr(options, field.name)) for field in fields(options)}
    texts["size"] = "{}x{}".format(*options.size)
    texts["faults"] = "/".join(f"{fault.kind}@{fault.start!r}+{fault.seconds!r}" for fault in options.faults)
    if not isinstance(options.path, str):
        texts["path"] = "/".join(f"{x!r}:{y!r}" for x, y in options.path)
    changed = [field.name for field in fields(options) if getattr(options, field.name) != field.default]
    return ",".join(f"{name}={texts[name]}" for name in changed)


@given(st.builds(Options, **numbers, **integers, size=st.tuples(sides, sides), path=paths, faults=faults))
def test_options_round_trip_through_text(options: Options) -> None:
    assert Options.parse(text_of(options)) == options


def test_every_option_has_a_range() -> None:
    assert set(Options.__dataclass_fields__) == set(_NUMBERS) | set(_INTEGERS) | {"size", "path", "faults"}
    default = Options()
    for name, (low, high) in {**_NUMBERS, **_INTEGERS}.items():
        assert low <= getattr(default, name) <= high


def test_documented_example_is_parsed() -> None:
    text = "seed=7,mpp=0.25,size=640x480,fps=15,path=0:0/100:-50.5,faults=stall@5+1.5/never@9"
    options = Options.parse(text)
    assert (options.seed, options.mpp, options.size, options.fps) == (7, 0.25, (640, 480), 15.0)
    assert options.path == ((0.0, 0.0), (100.0, -50.5))
    assert options.faults == (Fault("stall", 5.0, 1.5), Fault("never", 9.0, 2.0))
    assert options.faults[1].is_active(1e9)
    assert not options.faults[0].is_active(6.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magnification=40", "option 'magnification=40': expected NAME=VALUE with one of seed, mpp"),
        ("mpp=0", "option mpp: expected a number from 0.05 to 4, found '0'"),
        ("mpp=nan", "option mpp: expected a number"),
        ("seed=-1", "option seed: expected a whole number from 0 to"),
        ("size=1280", "option size: expected WIDTHxHEIGHT"),
        ("size=641x480", "option size: expected even numbers, found 641x480"),
        ("path=spiral", "option path: expected snake, still or X:Y/X:Y/... in um, found 'spiral'"),
        ("path=1:x", "option path: expected a number"),
        ("faults=fire@1", "option faults: expected KIND@START+SECONDS with KIND one of stall, disconnect"),
        ("faults=stall@soon", "option faults: expected a number from 0 to 1e+06, found 'soon'"),
        ("faults=", "option faults: expected KIND"),
        ("seed=" + "9" * 400, "option seed: expected a whole number"),
    ],
)
def test_wrong_option_is_one_message(text: str, message: str) -> None:
    with pytest.raises(SourceTextError, match=re.escape(message)):
        Options.parse(text)


@given(st.text(max_size=60) | st.from_regex(r"([a-z]{1,6}=[ -~]{0,8},?){0,4}", fullmatch=True))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        options = Options.parse(text)
    except SourceTextError:
        return
    assert Options.parse(text_of(options)) == options
