"""Tiles of a `kinet_trt.simulation.simulate.SimulatedSlide`, cached, and drawn ahead of the stage by a thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from kinet_trt.simulation.simulate import TILE, SimulatedSlide

Box = tuple[int, int, int, int]
"""Left, top, width and height, px of the slide."""
_Key = tuple[int, int]  # column and row of a tile

_KEPT = 600  # tiles: 72 MB, some 17 fields of 1280 x 960 px
_IDLE = 0.1  # s


class DrawnSlide:
    """Crops of a slide, with a cache of drawn tiles.

    Parameters
    ----------
    slide
        The slide.
    ahead
        Returns the boxes that will be needed soon, the most urgent first; called repeatedly from the drawing thread.
    field
        Width and height of the crops, px: the cache has room for at least four.
    """

    def __init__(self, slide: SimulatedSlide, ahead: Callable[[], Iterator[Box]], field: tuple[int, int]) -> None:
        self._slide, self._ahead = slide, ahead
        self._kept = max(_KEPT, 4 * len(_keys((0, 0, field[0] + TILE, field[1] + TILE))))
        self._tiles: OrderedDict[_Key, NDArray[np.uint8]] = OrderedDict()
        self._drawing: set[_Key] = set()
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
        left, top, width, height = box
        picture = np.empty((height, width, 3), np.uint8)
        for key in _keys(box):
            tile = self._tile(key)
            x, y = key[0] * TILE, key[1] * TILE
            x0, x1 = max(x, left), min(x + TILE, left + width)
            y0, y1 = max(y, top), min(y + TILE, top + height)
            picture[y0 - top : y1 - top, x0 - left : x1 - left] = tile[y0 - y : y1 - y, x0 - x : x1 - x]
        return picture

    def _tile(self, key: _Key) -> NDArray[np.uint8]:
        with self._lock:
            self._lock.wait_for(lambda: key not in self._drawing)  # another thread draws it
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
            self._drawing.add(key)
        tile = None
        try:
            tile, _ = self._slide.region(key[0] * TILE, key[1] * TILE, TILE, TILE)
        finally:
            with self._lock:
                self._drawing.discard(key)
                if tile is not None:
                    self._tiles[key] = tile
                while len(self._tiles) > self._kept:
                    self._tiles.popitem(last=False)
                self._lock.notify_all()
        return tile

    def _next_missing(self) -> _Key | None:
        for box in self._ahead():
            with self._lock:
                for key in _keys(box):
                    if key not in self._tiles and key not in self._drawing:
                        return key
        return None

    def _draw_ahead(self) -> None:
        while not self._stop.is_set():
            missing = self._next_missing()
            if missing is None:
                self._stop.wait(_IDLE)
            else:
                self._tile(missing)


def _keys(box: Box) -> list[_Key]:
    left, top, width, height = box
    return [
        (x, y)
        for y in range(top // TILE, (top + height - 1) // TILE + 1)
        for x in range(left // TILE, (left + width - 1) // TILE + 1)
    ]
