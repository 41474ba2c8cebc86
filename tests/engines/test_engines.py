"""Checks that all CPU engines share."""

from dataclasses import replace

import pytest

from kinet_trt.core.errors import EngineError
from kinet_trt.core.runtimes import CPU_RUNTIMES
from kinet_trt.engines.open import open_engine
from kinet_trt.models.card import read_card, with_card
from kinet_trt.models.model import DEFAULT_MODEL
from kinet_trt.simulation import simulate


@pytest.mark.parametrize("runtime", CPU_RUNTIMES)
def test_run_rejects_maps_that_do_not_match_the_card(runtime, tmp_path):
    pytest.importorskip(runtime)
    card, model = read_card(DEFAULT_MODEL)
    path = tmp_path / "two.onnx"
    path.write_bytes(with_card(model, replace(card, classes=("positive", "negative"))))
    engine = open_engine(path, "fp32", runtime=runtime)
    with pytest.raises(EngineError, match=r"expected maps \[1, 2, 64, 64\], .*found \[1, 3, 64, 64\]\. Export"):
        engine.run(simulate.field(1, 64, 64)[0][None])
