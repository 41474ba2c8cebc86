"""Counting one slide, by whoever counts its tiles."""

from __future__ import annotations

import pytest
from slide_parts import CANVAS, WHOLE, Blobs, counter_of, joined, same

from kinet_trt import NucleusCounter
from kinet_trt.core.errors import ImageError, KinetError
from kinet_trt.slides.count import cache_folder, count_slide
from kinet_trt.slides.tiles import count_tiles
from simulated_slides import write_tiff


@pytest.fixture
def slide(tmp_path):
    return write_tiff(tmp_path / "a.ome.tif", CANVAS)


def test_others_may_count_the_tiles_in_any_order_and_more_than_once(tmp_path, slide):
    counter, seen = counter_of(Blobs()), []

    def backwards_and_twice(open_slide, plan, numbers):
        for number in reversed(numbers):
            for _ in range(2):
                seen.append(number)
                yield from count_tiles(open_slide, plan, [number], counter_of(Blobs()))

    told = []
    counted, _ = count_slide(
        counter, slide, folder=tmp_path, tile_counter=backwards_and_twice, report=lambda *n: told.append(n), hot_spot=20
    )
    whole = counter(WHOLE)
    assert same(joined(list(counted.iter_detections())), whole)
    assert counted.counts == whole.counts()
    total = len(counted.plan.tiles)
    assert len(seen) == 2 * total
    assert told[0] == (0, total)
    assert told[-1] == (total, total)
    # The hot spot is in px of level 0 and lies on a nucleus.
    assert any(abs(x - counted.hot_spot.x) < 1e-3 for x in whole.x)
    again, _ = count_slide(counter, slide, folder=tmp_path, hot_spot=20)
    assert again.resumed == total
    assert again.hot_spot == counted.hot_spot


def test_the_counters_tile_applies_up_to_the_cards_and_its_tiles_are_not_mixed_with_others(tmp_path, slide):
    whole = counter_of(Blobs())(WHOLE)
    assert len(whole) > 80
    by_tile = {}
    for tile in (None, 64, 512):
        counter = NucleusCounter(Blobs(), tile=tile)
        counted, _ = count_slide(counter, slide, folder=tmp_path, hot_spot=20)
        assert same(joined(list(counted.iter_detections())), whole)
        by_tile[tile] = counted
    assert {tile: counted.plan.tile for tile, counted in by_tile.items()} == {None: 128, 64: 64, 512: 128}
    assert by_tile[64].plan.identity != by_tile[None].plan.identity
    assert by_tile[64].resumed == 0
    assert by_tile[512].resumed == len(by_tile[None].plan.tiles)


def test_work_that_ends_early_is_told_and_goes_on(tmp_path, slide):
    def lazy(open_slide, plan, numbers):
        yield from count_tiles(open_slide, plan, numbers[:2], counter_of(Blobs()))

    with pytest.raises(KinetError, match=r"tiles were not counted\. Run the command again"):
        count_slide(counter_of(Blobs()), slide, folder=tmp_path, tile_counter=lazy)
    counted, _ = count_slide(counter_of(Blobs()), slide, folder=tmp_path)
    assert counted.resumed == 2


def test_what_cannot_be_read_ends_it_without_a_thread_left(tmp_path, slide):
    import threading

    import tifffile

    with tifffile.TiffFile(slide) as file:
        page = file.pages[0]
        offset = page.dataoffsets[4 * 2 + 2]
    data = bytearray(slide.read_bytes())
    data[offset : offset + 200] = b"\x11" * 200
    slide.write_bytes(data)
    with pytest.raises(ImageError, match="cannot be decoded"):
        count_slide(counter_of(Blobs()), slide, folder=tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]


def test_tiles_are_kept_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "kinet-trt" / "slides"
