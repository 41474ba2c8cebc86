"""What tells one slide from another, and from what it was before: size and samples of its content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

_SAMPLE = 1 << 16  # bytes
_SAMPLES = 32


def fingerprint(path: Path) -> str:
    """Return a sha256 over a slide's size and samples of its content, in hexadecimal.

    Of a file its first and last 64 KiB are taken and 30 such samples between, evenly spread: a slide on a network drive
    is not read twice. Of a folder (OME-Zarr, or what stands beside a ``.mrxs``) the name and size of every file, all
    files of metadata, and samples of 32 others. Names of the slide itself and times do not matter: a copy is the same.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    digest = hashlib.sha256()
    companion = path.with_suffix("")
    if path.is_dir():
        _add_folder(digest, path)
    else:
        _add_file(digest, path, _SAMPLES)
        if path.suffix.lower() == ".mrxs" and companion.is_dir():
            _add_folder(digest, companion)
    return digest.hexdigest()


def _add_file(digest: hashlib._Hash, path: Path, samples: int) -> None:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest.update(f"{size}\n".encode())
        last = max(0, size - _SAMPLE)
        for place in sorted({last * n // max(1, samples - 1) for n in range(samples)}):
            file.seek(place)
            digest.update(file.read(_SAMPLE))


def _add_folder(digest: hashlib._Hash, folder: Path) -> None:
    files = sorted(_files(folder))
    chunks = [path for path, _ in files if not _is_metadata(path)]
    sampled = {chunks[(len(chunks) - 1) * n // (_SAMPLES - 1)] for n in range(_SAMPLES)} if chunks else set()
    for path, size in files:
        digest.update(f"{path}\0{size}\n".encode("utf-8", "surrogateescape"))
        if _is_metadata(path):
            _add_file(digest, folder / path, 2)
        elif path in sampled:
            _add_file(digest, folder / path, 1)


def _is_metadata(path: str) -> bool:
    return path.endswith((".json", ".zattrs", ".zarray", ".zgroup", ".ini", ".xml"))


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield the relative path and the size of every file in a folder and its subfolders."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)  # noqa: PTH118 - a zarr holds hundreds of thousands
            yield os.path.relpath(path, folder).replace(os.sep, "/"), os.stat(path).st_size  # noqa: PTH116
