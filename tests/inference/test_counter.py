"""The counter: whole frames, tiles, scales, threads."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinet_trt import CountCancelledError, EngineError, Frame, ImageError, KinetError, NucleusCounter, Threshold
from kinet_trt.datasets.labelled import read_fields
from kinet_trt.engines.base import check_has_tumor_map
from kinet_trt.evaluation.evaluate import Evaluation, evaluate_field
from kinet_trt.evaluation.metrics import match
from kinet_trt.simulation import simulate


@pytest.fixture(scope="module")
def counter():
    return NucleusCounter(precision="fp32", threads=2)


def tiled(counter, tile):
    """Return a counter over the same engine that cuts images into small tiles."""
    return NucleusCounter(counter.engine, threshold=counter.threshold, tile=tile)


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("x", "y", "cls"))


def test_counter_is_accurate_on_a_simulated_field(counter):
    pixels, truth = simulate.field(1_011)  # training used seeds below 200
    found = counter(pixels)
    pairs = len(match(found.x, found.y, truth.x, truth.y)[0])
    assert 2 * pairs / (len(found) + len(truth)) > 0.9
    assert found.counts() == {name: int((found.cls == i).sum()) for i, name in enumerate(found.classes)}


@pytest.mark.parametrize("size", [(400, 320), (335, 253)])
def test_tiled_detections_equal_whole_ones(counter, size):
    pixels, _ = simulate.field(2, *size)
    whole = counter(pixels)
    assert len(whole) > 50
    for tile in (64, 160):
        assert same(tiled(counter, tile)(pixels), whole), tile


def test_frames_of_the_built_size_are_not_tiled(counter, monkeypatch):
    pixels, _ = simulate.field(2, 500, 340)
    small, seen, expected = tiled(counter, 128), [], counter(pixels)
    run = small.engine.run
    monkeypatch.setattr(small.engine, "run", lambda frames: seen.append(frames.shape) or run(frames))
    small(pixels)
    assert len(seen) > 1
    for profile, whole in (
        ([(1, 64, 64), (1, 256, 256), (1, 352, 512)], True),
        ([(1, 352, 512)] * 3, True),
        ([(1, 64, 64), (1, 256, 256), (1, 352, 496)], False),
        ([(1, 368, 64), (1, 368, 256), (1, 512, 512)], False),
        ([(2, 352, 512)] * 3, False),
    ):
        monkeypatch.setattr(small.engine, "card", replace(small.engine.card, profile=tuple(profile)))
        seen.clear()
        assert same(small(pixels), expected)
        assert (seen == [(1, 352, 512, 3)]) is whole


def test_tiled_detections_equal_whole_ones_on_real_fields(counter, shared_data):
    fields = read_fields(shared_data)
    for name in ("pnet_train_1", "gl_C_05", "nz_1"):
        pixels = next(f for f in fields if f.name == name).pixels()[:448, :448]
        whole = counter(pixels)
        assert len(whole) > 50
        assert same(tiled(counter, 160)(pixels), whole), name


def test_tiles_follow_a_relative_threshold_too(counter):
    pixels, _ = simulate.field(4, 400, 300)
    pixels[:, :160] = 240
    whole = counter.with_threshold(Threshold(0.5, relative=True))
    assert same(tiled(whole, 128)(pixels), whole(pixels))


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_fused_model_counts_the_same_whole_and_in_tiles(counter, fused_model, runtime):
    pytest.importorskip(runtime)
    fused = NucleusCounter(fused_model, precision="fp32", runtime=runtime)
    pixels, _ = simulate.field(2, 460, 330)
    whole = counter(pixels)
    assert len(whole) > 100
    for other in (fused, tiled(fused, 128)):
        found = other(pixels)
        assert same(found, whole)
        assert np.allclose(found.score, whole.score, atol=1e-4)
    stricter = fused.with_threshold(Threshold(0.6))(pixels)
    assert same(stricter, counter.with_threshold(Threshold(0.6))(pixels))
    assert 0 < len(stricter) < len(whole)


def test_fused_model_counts_real_fields_like_its_maps(counter, fused_model, shared_data):
    fused = NucleusCounter(fused_model, precision="fp32")
    fields = read_fields(shared_data)
    for name in ("pnet_train_1", "gl_C_05"):
        pixels = next(f for f in fields if f.name == name).pixels()[:300, :330]
        found = fused(pixels, mpp=0.4)  # not the model's scale: padding, and coordinates to rescale
        assert len(found) > 50
        assert same(found, counter(pixels, mpp=0.4)), name


def test_relative_threshold_needs_maps(fused_model):
    relative = Threshold(0.5, relative=True)
    with pytest.raises(KinetError, match=r"relative:0\.5: kinet-edge is fused"):
        NucleusCounter(fused_model, threshold=relative, precision="fp32")
    with pytest.raises(KinetError, match="Give a number, or use the model"):
        NucleusCounter(fused_model, precision="fp32").with_threshold(relative)


def test_tiles_at_another_scale_agree_within_a_thousandth(counter):
    pixels, _ = simulate.SimulatedSlide(8, mpp=0.25).region(0, 0, 1400, 1000)
    whole, cut = counter(pixels, mpp=0.25), tiled(counter, 256)(pixels, mpp=0.25)
    assert abs(len(whole) - len(cut)) <= 0.001 * len(whole)


def test_coordinates_are_px_of_the_input_frame(counter):
    for mpp in (0.2, 0.5):
        pixels, truth = simulate.SimulatedSlide(6, mpp=mpp).region(0, 0, 500, 400)
        found = counter(Frame(pixels, mpp))
        detected, true, _ = match(found.x, found.y, truth.x, truth.y, radius=4 * 0.34 / mpp)
        assert len(detected) > 0.8 * len(truth)
        # A shift of half a px would be a coordinate error; the network itself has no direction.
        assert abs(np.median(found.x[detected] - truth.x[true])) < 0.3 * 0.34 / mpp
        assert abs(np.median(found.y[detected] - truth.y[true])) < 0.3 * 0.34 / mpp


def test_threads_share_a_counter(counter):
    frames = [simulate.field(seed, 200 + 16 * seed, 200)[0] for seed in range(4)]
    alone = [counter(frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert all(same(a, b) for a, b in zip(alone, pool.map(counter, frames), strict=True))


def test_threshold_defaults_to_the_card(counter):
    pixels, _ = simulate.field(1, 256, 256)
    assert counter.threshold.value == counter.engine.card.threshold
    strict = NucleusCounter(threshold=0.7, precision="fp32")(pixels)
    usual = counter(pixels)
    assert 0 < len(strict) < len(usual)
    assert strict.score.min() >= 0.7


def test_counter_rejects_invalid_frames(counter):
    for wrong in (np.zeros((64, 64)), np.zeros((64, 64, 4), np.uint8), np.zeros((0, 0, 3), np.uint8)):
        with pytest.raises(ImageError):
            counter(wrong)
    with pytest.raises(KinetError):
        counter(np.zeros((100, 100, 3), np.uint8), mpp=float("nan"))


FULL = Path(__file__).resolve().parents[2] / "weights" / "kinet.onnx"


@pytest.mark.parametrize(
    ("model", "bars"),
    [(None, ((0.86, 0.83), (0.87, 0.78))), (FULL, ((0.86, 0.84), (0.88, 0.81)))],
    ids=["kinet-edge", "kinet"],
)
def test_shipped_models_meet_their_limits_on_held_out_fields(model, bars, shared_data):
    """Evaluate at the card's threshold: breast, glioma, and the held-out part of the pancreatic NET field."""
    counter = NucleusCounter(model, precision="fp32", threads=2)
    fields = read_fields(shared_data)
    breast = [f for f in fields if f.split == "val" and f.source in ("bcdata", "glioma")]
    if model == FULL:
        breast = breast[::2]  # since it takes nearly three times as long
    pnet = next(f for f in fields if f.source == "pnet-figure")
    width = pnet.pixels().shape[1]
    held_out = (breast, [pnet.part(width - width // 5, width)])
    for chosen, (detection, classification) in zip(held_out, bars, strict=True):
        pooled = Evaluation(tuple(evaluate_field(counter, f) for f in chosen)).at_threshold
        assert pooled.detection.f1 > detection
        assert pooled.weighted[2] > classification


def test_full_model_matches_its_documentation():
    card = NucleusCounter(FULL, precision="fp32").card
    assert FULL.stat().st_size < 25e6
    assert (card.name, card.weights_precision, card.roi) == ("kinet", "fp16", False)
    assert "Research Use Only" in card.notice
    page = (FULL.parents[1] / "docs" / "kinet.md").read_text(encoding="utf-8")
    assert f"| threshold, NMS radius | {card.threshold:g}, {card.nms_radius} px;" in page
    assert f"{FULL.stat().st_size / 1e6:.1f} MB" in page


# --- the tumour map ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_branch(tmp_path_factory) -> Path:
    """Return a network with the tumour-region branch and random weights."""
    for module in ("torch", "onnxscript"):
        pytest.importorskip(module)
    from random_networks import export_with_region

    path = tmp_path_factory.mktemp("roi") / "roi.onnx"
    path.write_bytes(export_with_region("release", 4, tmp_path_factory).data)
    return path


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_tumor_map_is_in_px_of_the_frame(with_branch, runtime):
    pytest.importorskip(runtime)
    counter = NucleusCounter(with_branch, precision="fp32", runtime=runtime)
    frame = Frame(simulate.field(5, 200, 150)[0], 0.17)
    found = counter.tumor_map(frame)
    assert (found.dtype, found.shape) == (np.float32, (150, 200))
    assert 0 <= found.min() < found.max() <= 1
    # At the model's scale, without padding, it equals the network's output.
    exact = Frame(simulate.field(5, 96, 64)[0], counter.engine.card.mpp)
    np.testing.assert_array_equal(counter.tumor_map(exact), counter.engine.tumor_map(exact.pixels[None])[0])
    np.testing.assert_array_equal(counter.tumor_map(frame.pixels, 0.17), found)
    np.testing.assert_array_equal(counter.tumor_map(frame.pixels[..., ::-1], 0.17, order="BGR"), found)
    counter(frame)  # counting still works


def test_tumor_map_is_the_same_on_both_engines(with_branch):
    pytest.importorskip("onnxruntime")
    frame = Frame(simulate.field(6, 160, 128)[0], 0.34)
    maps = [
        NucleusCounter(with_branch, precision="fp32", runtime=one).tumor_map(frame)
        for one in ("openvino", "onnxruntime")
    ]
    np.testing.assert_allclose(*maps, atol=1e-4)


def test_tumor_map_of_tiles_equals_the_whole(with_branch):
    counter = NucleusCounter(with_branch, precision="fp32")
    frame = Frame(simulate.field(7, 900, 96)[0], counter.engine.card.mpp)
    whole, cut = counter.tumor_map(frame), tiled(counter, 128).tumor_map(frame)
    assert cut.shape == whole.shape
    # The branch's receptive field exceeds the halo, so values at seams may differ.
    assert np.median(np.abs(cut - whole)) < 0.02


def test_tumor_map_without_the_branch_explains_what_is_needed(fused_model):
    frame = Frame(simulate.field(5, 64, 64)[0], 0.34)
    with pytest.raises(KinetError, match=r"has no tumour-region branch.*export --roi"):
        NucleusCounter().tumor_map(frame)
    with pytest.raises(KinetError, match=r"has no tumour-region branch.*export --roi"):
        NucleusCounter(fused_model).tumor_map(frame)
    with pytest.raises(KinetError, match=r"is fused.*use the model that it was fused from"):
        check_has_tumor_map(replace(NucleusCounter(fused_model).card, roi=True))


def test_counter_accepts_other_libraries_and_orders(counter):
    torch = pytest.importorskip("torch")
    pixels, _ = simulate.field(5, 200, 160)
    expected = counter(pixels)
    assert len(expected) > 5
    assert same(counter(torch.from_numpy(pixels)), expected)
    assert same(counter(np.ascontiguousarray(pixels[..., ::-1]), order="BGR"), expected)
    four = np.dstack([pixels[..., ::-1], np.full((160, 200), 255, np.uint8)])
    assert same(counter(four, order="BGRA"), expected)
    assert same(counter(torch.from_numpy(four), order="BGRA"), expected)
    turned = np.ascontiguousarray(pixels[::-1, ::-1])[::-1, ::-1]
    assert same(counter(turned), expected)
    with pytest.raises(KinetError, match="BGRA: expected 4 channels"):
        counter(pixels, order="BGRA")


def test_frames_on_a_gpu_need_a_gpu_engine(counter):
    class OnGpu:
        @property
        def __cuda_array_interface__(self):
            return {"shape": (64, 64, 3), "typestr": "|u1", "data": (4096, False), "version": 3}

    with pytest.raises(KinetError, match=r"because kinet-edge runs on OpenVINO.*. Copy them to the host"):
        counter(OnGpu())


def test_stream_yields_one_count_per_frame_in_order(counter):
    frames = [Frame(simulate.field(seed, 200 + 16 * seed, 200)[0], 0.4) for seed in range(4)]
    alone = [counter(frame) for frame in frames]
    assert all(same(a, b) for a, b in zip(alone, counter.stream(iter(frames)), strict=True))
    scaled = counter(frames[0], 0.5)
    assert all(same(scaled, found) for found in counter.stream(frames[:1] * 3, 0.5))

    async def gathered():
        found = [one async for one in counter.stream_async(frames)]
        return found, await counter.count_async(frames[0], 0.5)

    streamed, one = asyncio.run(gathered())
    assert all(same(a, b) for a, b in zip(alone, streamed, strict=True))
    assert same(one, scaled)


def test_cancelled_count_stops_before_the_next_tile(counter, monkeypatch):
    pixels, _ = simulate.field(2, 1000, 700)
    small, cancel, tiles = tiled(counter, 64), threading.Event(), []
    run = small.engine.run

    def counted(frames):
        tiles.append(frames)
        cancel.set()
        return run(frames)

    monkeypatch.setattr(small.engine, "run", counted)
    with pytest.raises(CountCancelledError):
        small(pixels, cancel=cancel)
    assert len(tiles) == 1
    with pytest.raises(CountCancelledError):
        small(pixels, cancel=cancel)


def test_counters_coexist_in_one_process(counter, fused_model):
    pixels, _ = simulate.field(4, 300, 200)
    expected = counter(pixels)
    with ExitStack() as stack:
        others = [stack.enter_context(NucleusCounter(precision="fp32", threads=1)) for _ in range(2)]
        others.append(stack.enter_context(NucleusCounter(fused_model, precision="fp32", threads=1)))
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda one: one(pixels), [*others, counter] * 3))
    assert all(same(one, expected) for one in found)


def test_closed_counter_rejects_frames():
    with NucleusCounter(precision="fp32") as counter:
        pixels, _ = simulate.field(4, 100, 100)
        other = counter.with_threshold(Threshold(0.5))
        assert len(list(counter.stream([pixels]))) == 1
    for closed in (counter, other):
        with pytest.raises(EngineError, match="create another"):
            closed(pixels)
        with pytest.raises(EngineError, match="create another"):
            next(closed.stream([pixels]))
