"""FP32 to INT8 end to end, on the built-in model and simulated fields."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("lap")

from kinet_trt.calibration import cost, int8, sensitivity
from kinet_trt.calibration.cost import Cost
from kinet_trt.calibration.int8 import Quantised, to_int8
from kinet_trt.calibration.sensitivity import FloatLayers, Sensitivity
from samples import write_fields

from kinet_trt.core.errors import EngineError, KinetError, MissingExtraError
from kinet_trt.datasets.labelled import read_fields
from kinet_trt.engines.open import open_engine
from kinet_trt.evaluation.agreement import Agreement
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.models.card import ModelCard, read_onnx_card
from kinet_trt.models.model import DEFAULT_MODEL, Model
from kinet_trt.simulation import simulate

MODEL = Model.read(DEFAULT_MODEL)
CARD = MODEL.card


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fields(tmp_path_factory.mktemp("fields"))


@pytest.fixture(scope="module")
def made(fields: Path) -> tuple[Quantised, list[tuple[str, int, int]]]:
    seen: list[tuple[str, int, int]] = []
    patch = pytest.MonkeyPatch()
    patch.setattr(cost, "MIN_LABELLED", 100)
    patch.setattr(sensitivity, "PROBES", 1)
    try:
        return to_int8(MODEL, fields, max_loss=2.0, report=lambda *what: seen.append(what)), seen
    finally:
        patch.undo()


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the sensitivity analysis, which is tested once."""
    plan = FloatLayers(("network.out.1",), (Sensitivity("network.out.1", 0.5, 648.0),), 0.01)
    monkeypatch.setattr(sensitivity, "choose_floating", lambda *_: plan)


def test_card_describes_the_calibration(made) -> None:
    quantised, _ = made
    card = read_onnx_card(quantised.model.data)
    assert card == quantised.model.card
    assert (card.precision, card.weights_precision) == ("int8", "int8")
    assert card.calibration_sha256 == quantised.choice.sha256
    assert card.weights_sha256 == CARD.weights_sha256
    assert card.threshold == CARD.threshold
    figures = card.quantisation
    assert (figures["calibration_images"], figures["held_back"], figures["loss_from"]) == (4, 4, "labels")
    assert figures["floating"] == list(quantised.layers.floating)
    assert figures["loss_points"] <= 2
    assert figures["labelled_nuclei"] > 100
    assert ModelCard.from_json(card.to_json()) == card


def test_sensitivity_covers_every_layer(made) -> None:
    plan = made[0].layers
    assert len({layer.layer for layer in plan.layers}) == 19
    assert [layer.benefit for layer in plan.layers] == sorted((layer.benefit for layer in plan.layers), reverse=True)
    hurts = {layer.layer: layer.moved for layer in plan.layers}
    # What is computed last is corrected by nothing that follows.
    assert hurts["network.out.1"] > 2 * np.median(list(hurts.values()))
    costs = {layer.layer: layer.cost for layer in plan.layers}
    assert costs["network.stem.0"] == 3 * 16 * 6 * 6 / 2**2
    assert costs["network.block4.block.0.0"] == 48 * 48 * 9 / 4**2 == max(costs.values())


def test_int8_model_is_smaller_and_finds_the_same_nuclei(made, tmp_path: Path) -> None:
    quantised, _ = made
    path = tmp_path / "int8.onnx"
    path.write_bytes(quantised.model.data)
    assert len(quantised.model.data) < 0.7 * len(MODEL.data)
    counters = NucleusCounter(precision="fp32"), NucleusCounter(path)
    # Seeds that neither training nor calibration drew.
    for seed in (1000, 1001):
        pixels, truth = simulate.field(seed, 320, 320)
        a, b = (counter(pixels) for counter in counters)
        assert abs(len(a) - len(b)) <= max(2, 0.05 * len(truth))


def test_progress_is_reported(made) -> None:
    stages = [stage for stage, _, _ in made[1]]
    assert list(dict.fromkeys(stages)) == ["images", "ranges", "layers", "measure"]
    assert all(0 <= done <= total for _, done, total in made[1])


def test_engines_report_int8(made, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    path.write_bytes(made[0].model.data)
    engine = open_engine(path)
    if "INT8" in engine._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert engine.precision == "int8"
        assert "(int8, the rest in " in engine.runtime
        assert open_engine(path, "fp32").runtime.endswith("(int8, the rest in fp32)")
        assert open_engine(path, "int8").runtime == engine.runtime
    with pytest.raises(EngineError, match="kinet-trt build"):
        open_engine(DEFAULT_MODEL, "int8")
    pytest.importorskip("onnxruntime")
    portable = open_engine(path, runtime="onnxruntime")
    assert portable.precision == "fp32"
    assert "an int8 model" in portable.runtime
    frame = simulate.field(7, 192, 192)[0][None]
    first, second = (e.run(frame) for e in (open_engine(path, "fp32"), portable))
    assert np.abs(first - second).mean() < 0.05 * first.std()


def test_engine_does_not_report_int8_on_a_cpu_without_it(made, monkeypatch: pytest.MonkeyPatch) -> None:
    from kinet_trt.engines import openvino

    monkeypatch.setattr(openvino.ov.Core, "get_property", lambda *_: ["FP32"])
    engine = openvino.OpenVinoEngine(made[0].model.card, made[0].model.data, "fp32")
    assert engine.precision == "fp32"
    assert "no int8" in engine.runtime


def test_model_with_too_large_a_loss_is_refused(fields: Path, planned: None, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = sensitivity.steps
    # Ranges measured on other tissue: every step is far too small, and what is larger is cut off.
    monkeypatch.setattr(sensitivity, "steps", lambda *what: {n: s / 20 for n, s in honest(*what).items()})
    with pytest.raises(
        KinetError, match=r"INT8 rejected: expected an F1 loss of at most 0\.5 .*4 images.*fp16.*max-loss"
    ):
        to_int8(MODEL, fields, max_loss=0.5)


def test_held_out_images_without_nuclei_are_an_error(fields: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "choose_floating", lambda *_: pytest.fail("it is refused before the work"))
    message = (
        r"INT8 rejected: expected at least 50 nuclei of kinet-edge .* the 4 held-out images .* found 0.*Add fields"
    )
    with pytest.raises(KinetError, match=message):
        to_int8(replace(MODEL, card=replace(CARD, threshold=0.999)), fields)


def test_cached_ranges_give_the_same_model(fields: Path, tmp_path: Path, planned: None) -> None:
    first = to_int8(MODEL, fields, max_loss=5, images=2, cache=tmp_path)
    seen: list[str] = []
    again = to_int8(MODEL, fields, max_loss=5, images=2, cache=tmp_path, report=lambda s, *_: seen.append(s))
    assert first.model.data == again.model.data
    assert "ranges" not in seen
    assert len(list(tmp_path.iterdir())) == 1


def test_calibration_needs_an_fp32_model(fields: Path) -> None:
    with pytest.raises(KinetError, match="expected an FP32 model, found one that computes in int8"):
        to_int8(replace(MODEL, card=replace(CARD, precision="int8")), fields)
    for wrong in (-1.0, float("nan")):
        with pytest.raises(KinetError, match="max-loss"):
            to_int8(MODEL, fields, max_loss=wrong)


def test_calibration_without_onnx_names_the_extra(fields: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"kinet-trt\[build\]"):
        to_int8(Model.read(), fields)


def test_loss_is_the_larger_one_by_labels_and_an_estimate_without() -> None:
    agreement = Agreement(90, 10, 10)
    with_labels = Cost(4, agreement, (0.98, 0.96), 1000, (0.85, 0.80), (0.851, 0.797))
    assert with_labels.loss == pytest.approx(0.3)
    assert with_labels.record()["classification_f1_after"] == 0.797
    few = replace(with_labels, labelled=10)
    assert not few.from_labels
    without = replace(few, labelled=0, before=None, after=None)
    assert few.loss == without.loss == pytest.approx(100 * cost.F1_PER_CHANGED_NUCLEUS * 0.04)
    assert "labelled_nuclei" not in without.record()


def test_value_of_a_layer_is_noise_per_multiplication() -> None:
    assert (
        Sensitivity("a", 0.4, 100.0).benefit
        > Sensitivity("b", 0.4, 1000.0).benefit
        > Sensitivity("c", 0.1, 1000.0).benefit
    )
    assert Sensitivity("d", 0.4, 0.0).benefit == 0


def test_layers_with_most_noise_are_found() -> None:
    def dominant(*moved: float) -> list[str]:
        return sensitivity._dominant([Sensitivity(str(i), m, 1.0) for i, m in enumerate(moved)])

    assert dominant(0.1, 0.5, 0.1) == ["1"]
    assert dominant(0.04, 0.5, 0.1, 0.02) == ["1", "2"]
    assert dominant(0.1, 0.1, 0.1) == []
    assert dominant(0.03, 0.01) == []
    assert dominant(0.5) == []


def test_agreement_is_full_without_nuclei_and_counts_false_positives() -> None:
    from kinet_trt.core.detections import Detections

    one = np.ones(1, np.float32)
    nucleus = Detections(one, one, np.zeros(1, np.uint8), one)
    nothing = Detections.empty()
    assert cost.disagreement([nothing], [nothing]) == 0
    assert cost.disagreement([nucleus], [nothing]) == 1
    assert cost.disagreement([nucleus], [nucleus]) == 0
    assert cost.moved_share([nucleus], [nothing]) == 1


@pytest.mark.slow
def test_int8_loses_at_most_half_a_point_on_real_fields(shared_data: Path, tmp_path: Path) -> None:
    quantised = to_int8(MODEL, shared_data)
    assert quantised.cost.from_labels
    assert quantised.cost.loss <= int8.MAX_LOSS
    assert quantised.layers.floating == ("network.out.1",)
    calibrated = {p.path for p in quantised.choice.calibration}
    assert calibrated < {f.image for f in read_fields(shared_data)}
    from kinet_trt.datasets.labelled_field import LabelledField
    from kinet_trt.evaluation.evaluate import Evaluation, evaluate_field

    path = tmp_path / "int8.onnx"
    path.write_bytes(quantised.model.data)
    drawn = [simulate.field(seed, 600, 600) for seed in range(1000, 1008)]
    unseen = [LabelledField.simulated(pixels, t.x, t.y, t.cls) for pixels, t in drawn]
    before, after = (
        Evaluation(tuple(evaluate_field(counter, f) for f in unseen)).at_threshold
        for counter in (NucleusCounter(precision="fp32"), NucleusCounter(path))
    )
    assert before.detection.f1 - after.detection.f1 < 0.005
    assert before.weighted[2] - after.weighted[2] < 0.005
