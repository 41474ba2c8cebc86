"""Videos with numbered frames, and counts of open files."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def numbered(n: int, width: int = 160, height: int = 120) -> np.ndarray:
    """Draw frame n: its 8 bits as dark and light columns, red above and blue below; BGR as OpenCV writes it."""
    picture = np.full((height, width, 3), 40, np.uint8)
    for bit in range(8):
        if n >> bit & 1:
            picture[:, bit * width // 8 : (bit + 1) * width // 8] = 200
    picture[: height // 8] = (20, 20, 220)
    picture[-height // 8 :] = (220, 20, 20)
    return picture


def number_of(pixels: np.ndarray) -> int:
    """Return the number of a frame that `numbered` drew, RGB; fails if red and blue are swapped."""
    height, width = pixels.shape[:2]
    top, bottom = pixels[2, width // 2].astype(int), pixels[-3, width // 2].astype(int)
    assert top[0] > top[2] + 100
    assert bottom[2] > bottom[0] + 100
    row = pixels[height // 2].mean(axis=1)
    return sum(1 << bit for bit in range(8) if row[(2 * bit + 1) * width // 16] > 120)


def open_files() -> int:
    """Count this process's file descriptors; 0 if unknown."""
    folder = Path("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
