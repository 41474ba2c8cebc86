"""Objective presets: round trips and validation."""

from __future__ import annotations

import pytest

from kinet_trt import KinetError
from kinet_trt.live.acquisition.presets import Preset, load, save

TWO = (Preset("20x", 0.34), Preset("40x, oil", 0.17))


def test_presets_round_trip_through_a_file(tmp_path):
    path = tmp_path / "new folder" / "objectives.json"
    assert load(path) == ()
    save(path, TWO)
    assert load(path) == TWO


@pytest.mark.parametrize(
    ("name", "mpp"),
    [("", 0.3), ("  ", 0.3), ("x" * 61, 0.3), ("20x", 0.0), ("20x", float("nan")), ("20x", "a"), (5, 1)],
)
def test_invalid_preset_is_refused(name, mpp):
    with pytest.raises(KinetError, match="expected"):
        Preset(name, mpp)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"presets": [{"name": "a"}]}', '{"presets": [{"name": "a", "mpp": -1}]}']
)
def test_damaged_file_is_one_message(tmp_path, text):
    path = tmp_path / "objectives.json"
    path.write_text(text)
    with pytest.raises(KinetError, match=r"objectives\.json.*delete the file"):
        load(path)


def test_duplicate_names_are_refused_and_nothing_is_written(tmp_path):
    path = tmp_path / "objectives.json"
    save(path, TWO)
    with pytest.raises(KinetError, match="its own name"):
        save(path, (Preset("20x", 1.0), Preset("20x", 2.0)))
    assert load(path) == TWO
