"""Files of one slide: it is listed once, and its fingerprint covers all of them.

A slide may be a series of DICOM files, an index that names pictures (Hamamatsu's ``.vms``, ``.vmu``), a file with a
folder beside it (``.mrxs``), or a set of OME-TIFFs whose metadata name each other.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kinet_trt.io.ome import Ome, OmeImage, is_ome, read_ome
from kinet_trt.slides.readers import dicom, tiff_tags

INDEX_SUFFIXES = (".vms", ".vmu")
SET_SUFFIX = ".ndpis"
MRXS_SUFFIX = ".mrxs"
COMPANION_SUFFIX = ".companion.ome"
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")
_MRXS_INDEX = "Slidedat.ini"
_MAX_INDEX_BYTES = 1 << 26  # of an index or a companion file
_MAX_SET_FILES = 1 << 16  # files of one slide


def one_for_each_slide(paths: Iterable[Path]) -> list[Path]:
    """Return paths, in order, with the files of each slide replaced by one of them; duplicate links are dropped.

    A DICOM series is represented by its first file other than a label or overview; an index and the images it names
    by the index; a set of NDPI files by the set, if it is among the paths.
    """
    folders: dict[Path, _Folder] = {}
    chosen: dict[Hashable, Path] = {}
    paths = list(paths)
    in_sets = {part for path in paths if path.suffix.lower() == SET_SUFFIX for part in ndpi_set(path)}
    for path in paths:
        if path in in_sets:
            continue
        folder = folders.setdefault(path.parent, _Folder(path.parent))
        key, representative = folder.slide_of(path)
        chosen.setdefault(key, representative)
    return list(chosen.values())


def slide_of_folder(path: Path) -> Path | None:
    """Return the ``.mrxs`` slide whose pixels a folder contains; None if there is none."""
    if not os.path.isfile(path / _MRXS_INDEX):  # noqa: PTH113 - pathlib raises without permission
        return None
    slide = Path(f"{os.path.abspath(path)}{MRXS_SUFFIX}")
    return slide if slide.is_file() else None


def files_of(path: Path) -> list[Path]:
    """Return the files of a slide, including the named one; folders (OME-Zarr, or of a ``.mrxs``) as such."""
    found = [path]
    suffix = path.suffix.lower()
    if suffix in (*INDEX_SUFFIXES, SET_SUFFIX):
        found += _named_in_index(path)
    elif suffix == MRXS_SUFFIX:
        found += [path.with_suffix("")] if path.with_suffix("").is_dir() else []
    elif suffix in TIFF_SUFFIXES:
        metadata, image = _ome_image(path)
        found += [metadata, *tiffs_of(path, image)] if image else [metadata]
    elif dicom.is_dicom(path):
        found += dicom.series_files(path)
    return list(dict.fromkeys(found))


def ome_of(path: Path) -> tuple[Path, Ome | None]:
    """Return the file that contains the metadata of an OME-TIFF (the TIFF or its companion), and the metadata.

    The metadata are None if there are none, or they cannot be read.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            return path, None
        text = (
            path.read_text("utf-8-sig") if path.name.lower().endswith(COMPANION_SUFFIX) else tiff_tags.description(path)
        )
        ome = read_ome(text) if is_ome(text) else None
    except (OSError, ValueError):
        return path, None
    if ome is None or ome.companion is None or path.name == ome.companion:
        return path, ome
    companion = path.with_name(Path(ome.companion).name)
    found = ome_of(companion)[1] if companion.is_file() and companion != path else None
    return (companion, found) if found and not found.companion else (path, ome)


def tiffs_of(path: Path, image: OmeImage) -> list[Path]:
    """Return the existing files beside a path that contain the planes of an image."""
    names = [name.replace("\\", "/").rpartition("/")[2] for name in image.files[:_MAX_SET_FILES]]
    return [file for name in names if name and (file := path.parent / name).is_file()]


def is_ome_set(path: Path) -> bool:
    """Return whether the image of an OME-TIFF, or its metadata, are in several files."""
    metadata, image = _ome_image(path)
    return image is not None and (len(image.files) > 1 or metadata != path)


def ndpi_set(path: Path) -> list[Path]:
    """Return the existing slides that a set of NDPI files (``.ndpis``) names."""
    return [file for file in _named_in_index(path) if file.suffix.lower() == ".ndpi"]


@dataclass(frozen=True, eq=False)
class _Folder:
    """Groups the files of a folder by slide; reads each file once."""

    path: Path
    _headers: dict[Path, dicom.Header | None] = field(default_factory=dict)

    def slide_of(self, path: Path) -> tuple[Hashable, Path]:
        """Return a key of the slide that a file belongs to, and the path that represents the slide."""
        suffix, name = path.suffix.lower(), path.name.lower()
        if index := self._parts.get(name):
            path = index
        elif name.endswith(COMPANION_SUFFIX) or suffix in TIFF_SUFFIXES:
            path = self._first_of_set(path)
        elif suffix not in PICTURE_SUFFIXES and dicom.is_dicom(path):
            header = self._header(path)
            if header and header.series:
                return (os.path.realpath(self.path), header.series), self._pyramid_file(path, header)
        return os.path.realpath(path), path

    @cached_property
    def _names(self) -> list[Path]:
        try:
            return sorted(self.path.iterdir())
        except OSError:
            return []

    @cached_property
    def _parts(self) -> dict[str, Path]:
        """The index that names a file, by the file's name in lower case."""
        indexes = [path for path in self._names if path.suffix.lower() in INDEX_SUFFIXES]
        return {part.name.lower(): index for index in indexes for part in _named_in_index(index)}

    def _first_of_set(self, path: Path) -> Path:
        """Return the file with the first plane of the image in an OME-TIFF set that a file belongs to."""
        _, image = _ome_image(path)
        return next(iter(tiffs_of(path, image)), path) if image else path

    def _header(self, path: Path) -> dicom.Header | None:
        if path not in self._headers:
            self._headers[path] = dicom.read_header(path)
        return self._headers[path]

    def _pyramid_file(self, path: Path, header: dicom.Header) -> Path:
        """Return a DICOM file; for the label or overview of a slide, the first file of its pyramid."""
        if not header.is_aside:
            return path
        for other in self._names:
            found = self._header(other)
            if found and found.series == header.series and not found.is_aside:
                return other
        return path


def _ome_image(path: Path) -> tuple[Path, OmeImage | None]:
    """Return the file of the metadata, and the largest image with planes in a file; for a companion file, of all.

    None if the metadata do not name the file: it may have been renamed, and the names may be of other files.
    """
    metadata, ome = ome_of(path)
    is_companion = path.name.lower().endswith(COMPANION_SUFFIX)
    own = [image for image in (ome.images if ome else ()) if is_companion or path.name in image.files]
    return metadata, max(own, key=lambda image: image.width * image.height, default=None)


def _named_in_index(path: Path) -> list[Path]:
    """Return the files beside an index (lines of ``key=value``) that it names as values."""
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_INDEX_BYTES).decode("utf-8-sig", "replace").splitlines()
        values = {line.partition("=")[2].strip().lower() for line in lines}
        return sorted(file for file in path.parent.iterdir() if file.name.lower() in values and file != path)
    except OSError:
        return []
