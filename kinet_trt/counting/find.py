"""Image and slide files that paths, folders and patterns name."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kinet_trt.core.errors import KinetError
from kinet_trt.datasets.labelled import MASK_SUFFIX
from kinet_trt.io.image_kinds import suffix_kind
from kinet_trt.io.images import SUFFIXES
from kinet_trt.slides.readers import dicom
from kinet_trt.slides.readers.files import TIFF_SUFFIXES, one_for_each_slide, slide_of_folder
from kinet_trt.slides.slide import OPENSLIDE_SUFFIXES, is_slide, is_zarr

OVERLAY_SUFFIX = "_overlay.png"


def find_images(paths: Sequence[Path], *, slides: bool = False) -> list[Path]:
    """Return the images that paths, folders (without their subfolders) and patterns name, each once, in order.

    Masks (``*_counted.png``) and overlays (``*_overlay.png``) in folders and patterns are left out. A slide of several
    files is returned once, and so is a file with several links to it. A folder or a pattern without images is an error.
    """
    found: list[Path] = []
    for path in paths:
        if slides and (slide := slide_of_folder(path)):
            found.append(slide)
            continue
        # os.path, because pathlib raises without permission; a file that cannot be read is reported when it is read.
        if os.path.isdir(path) and not (slides and is_slide(path)):
            try:
                inside = [p for p in sorted(path.iterdir()) if _is_field(p, slides)]
            except OSError as error:
                raise KinetError(f"{path}: the folder cannot be read: {error.strerror}") from error
            if not inside:
                others = "".join(f"; {line}" for line in skipped_files([path], []))
                raise KinetError(f"{path}: no images in this folder: expected {', '.join(SUFFIXES)}{others}")
            found += inside
        elif not os.path.lexists(path) and glob.has_magic(str(path)):
            inside = [p for p in sorted(map(Path, glob.glob(str(path), recursive=True))) if _is_field(p, slides)]
            inside = [p for p in inside if not (slides and any(map(is_zarr, p.parents)))]
            if not inside:
                raise KinetError(f"{path}: no image fits this pattern")
            found += inside
        else:
            found.append(path)
    if slides:
        found = one_for_each_slide(found)
    return list({_identity(path): path for path in reversed(found)}.values())[::-1]


def skipped_files(paths: Sequence[Path], found: Sequence[Path]) -> list[str]:
    """Return one sentence for each kind of image in folders and patterns that is not read, such as GIF.

    ``found`` is the result of :func:`find_images` for the same paths.
    """
    lines, counted = [], set(found)
    for path in paths:
        is_folder = os.path.isdir(path)
        if path in counted or not (is_folder or glob.has_magic(str(path))):
            continue
        try:
            inside = list(path.iterdir()) if is_folder else list(map(Path, glob.glob(str(path), recursive=True)))
        except OSError:
            continue
        left = [p for p in inside if p not in counted and not p.name.startswith(".") and p.is_file()]
        kinds = Counter(kind for p in left if (kind := suffix_kind(p.suffix)))
        lines += [
            f"{path}: {number} {kind} file{'s' if number > 1 else ''} skipped: not read; save as PNG or TIFF to count"
            for kind, number in sorted(kinds.items())
        ]
    return lines


def _identity(path: Path) -> tuple[int, int] | str:
    """Return a value that is the same for all links to a file and all spellings of its path."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return os.path.abspath(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _is_field(path: Path, slides: bool) -> bool:
    if path.name.startswith(".") or path.name.endswith((MASK_SUFFIX, OVERLAY_SUFFIX)):
        return False
    if os.path.isdir(path):
        return slides and is_slide(path)
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    if not slides:
        return False
    if suffix in (*OPENSLIDE_SUFFIXES, *TIFF_SUFFIXES) and suffix != dicom.SUFFIX:
        return True
    return dicom.is_listed(path) or (suffix == dicom.SUFFIX and not dicom.is_dicom(path))
