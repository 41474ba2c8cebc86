"""Tiles of a `kinet_trt.simulation.simulate.SimulatedSlide`, cached, and drawn ahead of the stage by a thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from kinet_trt.simulation.simulate import TILE, Box, SimulatedSlide, Tile, draw_box, tiles_of

_KEPT = 600  # tiles: 72 MB, some 17 fields of 1280 x 960 px
_IDLE = 0.1  # s


class DrawnSlide:
    """Crops of a slide, with a cache of drawn tiles.

    ``ahead`` returns the boxes that will be needed soon, the most urgent first; it is called repeatedly from the
    drawing thread. ``field`` is the width and height of the crops, px: the cache has room for at least four.
    """

    def __init__(self, slide: SimulatedSlide, ahead: Callable[[], Iterator[Box]], field: tuple[int, int]) -> None:
        self._slide, self._ahead = slide, ahead
        self._kept = max(_KEPT, 4 * len(tiles_of((0, 0, field[0] + TILE, field[1] + TILE))))
        self._tiles: OrderedDict[Tile, NDArray[np.uint8]] = OrderedDict()
        self._drawing: set[Tile] = set()
        self._lock = threading.Condition()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Start drawing ahead."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._draw_ahead, name="slide", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread; the cache is kept."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def crop(self, box: Box) -> NDArray[np.uint8]:
        """Return a crop of the slide, RGB uint8 [height, width, 3], a new array; draws missing tiles."""
        return draw_box(box, self._tile)

    def _tile(self, tile: Tile) -> NDArray[np.uint8]:
        with self._lock:
            self._lock.wait_for(lambda: tile not in self._drawing)  # another thread draws it
            if tile in self._tiles:
                self._tiles.move_to_end(tile)
                return self._tiles[tile]
            self._drawing.add(tile)
        pixels = None
        try:
            pixels, _ = self._slide.region(tile[0] * TILE, tile[1] * TILE, TILE, TILE)
        finally:
            with self._lock:
                self._drawing.discard(tile)
                if pixels is not None:
                    self._tiles[tile] = pixels
                while len(self._tiles) > self._kept:
                    self._tiles.popitem(last=False)
                self._lock.notify_all()
        return pixels

    def _next_missing(self) -> Tile | None:
        for box in self._ahead():
            with self._lock:
                for tile in tiles_of(box):
                    if tile not in self._tiles and tile not in self._drawing:
                        return tile
        return None

    def _draw_ahead(self) -> None:
        while not self._stop.is_set():
            missing = self._next_missing()
            if missing is None:
                self._stop.wait(_IDLE)
            else:
                self._tile(missing)
