"""A slide's tiles make one count in every precision of the CPU."""

from __future__ import annotations

import cv2
import pytest
from slide_parts import joined, small_tiles

from kinet_trt import NucleusCounter
from kinet_trt.engines.openvino import core
from kinet_trt.models.model import Model
from kinet_trt.simulation import simulate
from kinet_trt.slides.plan import make_plan
from kinet_trt.slides.slide import open_slide
from kinet_trt.slides.tiles import count_tiles
from simulated_slides import Canvas, Piece, write_tiff

CANVAS = Canvas(1500, 1300, (Piece(90, 70, 1300, 1150, 3),))


def counter_in(precision, folder):
    if precision != "int8":
        if precision.upper() not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            pytest.skip(f"this CPU does not compute in {precision}")
        return NucleusCounter(precision=precision, threads=2)
    pytest.importorskip("lap")
    from kinet_trt.calibration.int8 import to_int8

    for seed in range(6):
        cv2.imwrite(str(folder / f"{seed}.png"), simulate.field(seed, 420, 420)[0][..., ::-1])
    path = folder / "int8.onnx"
    path.write_bytes(to_int8(Model.read(), folder, max_loss=10).model.data)
    return NucleusCounter(path, threads=2)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_tiles_count_as_one_window_does_within_a_thousandth(tmp_path, precision):
    counter = counter_in(precision, tmp_path)
    path = write_tiff(tmp_path / "a.ome.tif", CANVAS)
    numbers = []
    with open_slide(path, 0.34) as slide:
        for tile in (2048, 256):
            small = small_tiles(counter, tile)
            plan = make_plan(slide, small.engine.card, small.threshold, small.engine.precision)
            numbers.append(len(joined([n for _, n in count_tiles(slide, plan, plan.tiles, small)])))
            assert (len(plan.tiles) == 1) == (tile == 2048)
    one, many = numbers
    assert one > 1000
    assert abs(many - one) <= one // 1000
