"""Fingerprint of a slide: hash of its size and of samples of its content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from kinet_trt.slides.readers.files import files_of

_SAMPLE = 1 << 16  # bytes
_SAMPLES = 32


def fingerprint(path: Path) -> str:
    """Return a sha256 of the size and samples of the content of all files of a slide, hexadecimal.

    A file is sampled at 32 evenly spaced positions, 64 KiB each, so that slides on network drives are not read twice.
    For a folder (OME-Zarr, or the one of a ``.mrxs``), the hash covers the name and size of every file, all metadata
    files and 32 others. Names and times of the slide itself do not matter: a copy has the same fingerprint.
    """
    parts = sorted(_hash(part) for part in files_of(path))
    return parts[0] if len(parts) == 1 else hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    if path.is_dir():
        _add_folder(digest, path)
    else:
        _add_file(digest, path, _SAMPLES)
    return digest.hexdigest()


def _add_file(digest: hashlib._Hash, path: Path, samples: int) -> None:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest.update(f"{size}\n".encode())
        last = max(0, size - _SAMPLE)
        for position in sorted({last * n // max(1, samples - 1) for n in range(samples)}):
            file.seek(position)
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
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)  # noqa: PTH118 - a zarr holds hundreds of thousands
            yield os.path.relpath(path, folder).replace(os.sep, "/"), os.stat(path).st_size  # noqa: PTH116
