"""Evaluation, on fields whose right answer is known."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from kinet_trt import Detections, Frame, NucleusCounter, Threshold
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.evaluation.evaluate import XI, Evaluation, comparable_nuclei, curve_plot, evaluate_field, marked, to_json
from kinet_trt.evaluation.metrics import compare
from kinet_trt.simulation import simulate


@pytest.fixture(scope="module")
def counter():
    return NucleusCounter(precision="fp32", threads=2)


@pytest.fixture(scope="module")
def field():
    pixels, truth = simulate.field(1_021, 400, 300)
    return LabelledField.simulated(pixels, truth.x, truth.y, truth.cls)


def detections(x, y, cls):
    return Detections(
        np.asarray(x, np.float32), np.asarray(y, np.float32), np.asarray(cls, np.uint8), np.ones(len(x), np.float32)
    )


def test_what_a_source_does_not_label_does_not_count():
    whole = LabelledField(
        Path("x.png"),
        np.array([10, 50, 90], np.float32),
        np.array([10, 10, 10], np.float32),
        np.array([0, 1, 2], np.uint8),
        _frames=[Frame(np.zeros((64, 128, 3), np.uint8))],
    )
    found = detections([10, 50, 90], [10, 10, 10], [0, 1, 2])
    assert [len(n[0]) for n in comparable_nuclei(found, whole)] == [3, 3]
    tumor_only = replace(whole, labelled=("positive", "negative"))
    assert [n[2].tolist() for n in comparable_nuclei(found, tumor_only)] == [[0, 1], [0, 1]]
    mask = np.zeros((64, 128), bool)
    mask[:, :70] = True
    bounded = replace(whole, counted=Path("m.png"), _masks=[mask])
    assert [n[0].tolist() for n in comparable_nuclei(found, bounded)] == [[10, 50], [10, 50]]


def test_classes_are_matched_by_name_whatever_their_order():
    field = LabelledField(
        Path("x.png"), *(np.array([v], np.float32) for v in (5, 5)), np.array([2], np.uint8),
        _frames=[Frame(np.zeros((64, 64, 3), np.uint8))],
    )  # fmt: skip
    found = replace(detections([5, 6], [5, 6], [0, 1]), classes=("non_tumor", "mitosis", "positive"))
    ours, _ = comparable_nuclei(found, field)
    assert ours[2].tolist() == [2]


def test_one_pass_gives_what_a_count_at_each_threshold_gives(counter, field):
    result = evaluate_field(counter, field)
    frame = Frame(field.pixels())
    for xi, quick in list(zip(XI, result.curve, strict=True))[::4]:
        slow = compare(*comparable_nuclei(counter.with_threshold(Threshold(xi, relative=True))(frame), field), 3)
        assert (quick.detection, quick.per_class) == (slow.detection, slow.per_class), xi
    slow = compare(*comparable_nuclei(counter(frame), field), 3)
    assert result.at_threshold.detection == slow.detection


def test_a_fused_model_is_evaluated_like_its_maps(counter, field, fused_model):
    fused = NucleusCounter(fused_model, precision="fp32", threads=2)
    ours, theirs = evaluate_field(fused, field), evaluate_field(counter, field)
    for a, b in zip((ours.at_threshold, *ours.curve), (theirs.at_threshold, *theirs.curve), strict=True):
        assert (a.detection, a.per_class) == (b.detection, b.per_class)


def test_the_radius_is_in_model_px_at_any_scale(counter):
    pixels, truth = simulate.SimulatedSlide(3, mpp=0.17).region(0, 0, 600, 500)
    field = LabelledField.simulated(pixels, truth.x, truth.y, truth.cls)
    result = evaluate_field(counter, field, mpp=0.17)
    assert result.mpp == 0.17
    assert result.at_threshold.detection.f1 > 0.85
    shifted = replace(field, x=field.x + 20)  # 10 model px: still within 16
    moved = evaluate_field(counter, shifted, mpp=0.17).at_threshold
    assert moved.detection.f1 > 0.7
    assert moved.distance.max() <= 16


def test_the_json_holds_what_it_promises(counter, field):
    evaluation = Evaluation((evaluate_field(counter, field),))
    document = json.loads(to_json(counter, evaluation))
    assert document["schema"] == 1
    assert {"precision", "recall", "f1", "distance_mean_px", "distance_std_px"} <= set(document["detection"])
    classification = document["classification"]
    assert set(classification["weighted"]) == {"precision", "recall", "f1"}
    assert set(classification["per_class"]) == {"positive", "negative", "non_tumor"}
    assert 0.5 < classification["auc"] <= 1
    assert len(classification["curve"]) == 21
    assert document["index"]["fields"] == len(document["fields"]) == 1
    assert document["detection"]["f1"] > 0.9


def test_no_fields_and_empty_fields_give_no_figures_but_no_crash(counter):
    nothing = np.zeros(0, np.float32)
    empty = LabelledField.simulated(np.full((64, 64, 3), 240, np.uint8), nothing, nothing, np.zeros(0, np.uint8))
    document = json.loads(to_json(counter, Evaluation((evaluate_field(counter, empty),))))
    assert document["detection"]["f1"] == 0
    assert document["detection"]["distance_mean_px"] is None
    assert document["index"]["mean_absolute_error"] is None
    assert document["classification"]["auc"] == 0


def test_the_pictures_can_be_looked_at(counter, field):
    result = evaluate_field(counter, field)
    drawn = marked(field.pixels(), result.found, result.true, 1.0)
    assert drawn.shape == field.pixels().shape
    assert not np.array_equal(drawn, field.pixels())
    pytest.importorskip("matplotlib")
    png = curve_plot(Evaluation((result,)), "kinet-edge")
    assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).shape[2] == 3
