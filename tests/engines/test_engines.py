"""What holds for every engine."""

from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from kinet_trt.core.errors import EngineError
from kinet_trt.engines.base import RUNTIMES, open_engine
from kinet_trt.inference.counter import DEFAULT_MODEL
from kinet_trt.models.card import read_card, with_card
from kinet_trt.simulation import simulate

MODEL = Path(str(resources.files("kinet_trt.models") / DEFAULT_MODEL))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_card_that_promises_other_maps_than_the_model_gives_is_said(runtime, tmp_path):
    pytest.importorskip(runtime)
    card, model = read_card(MODEL)
    path = tmp_path / "two.onnx"
    path.write_bytes(with_card(model, replace(card, classes=("positive", "negative"))))
    engine = open_engine(path, "fp32", runtime=runtime)
    with pytest.raises(EngineError, match=r"expects maps \[1, 2, 64, 64\], found \[1, 3, 64, 64\]: export it again"):
        engine.run(simulate.field(1, 64, 64)[0][None])
