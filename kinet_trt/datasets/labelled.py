"""Read labelled fields for training and evaluation."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from kinet_trt.core.detections import CLASSES
from kinet_trt.core.errors import ImageError, KinetError, shown
from kinet_trt.datasets import kinet_layout
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.io import geojson, points
from kinet_trt.io.geojson import Annotations
from kinet_trt.io.images import SUFFIXES, read_image
from kinet_trt.io.points import Table

log = logging.getLogger(__name__)

MASK_SUFFIX = "_counted.png"
REGIONS = ".regions"
"""Suffix of the GeoJSON file of regions, after the name of the image."""


def read_fields(folder: Path, mpp: float | None = None, *, unlabelled: bool = False) -> list[LabelledField]:
    """Read a folder of labelled fields.

    Supported layouts:

    * an ``index.csv`` in the folder or its parent with the columns ``image, points`` and optionally
      ``counted_mask, source, split, classes`` (paths relative to the index);
    * the KiNet layout (:mod:`kinet_trt.datasets.kinet_layout`); a class without a map is not labelled;
    * images with tables (:mod:`kinet_trt.io.points`) or GeoJSON files (:mod:`kinet_trt.io.geojson`) of the same name;
    * images and one measurement table of QuPath with their names.

    Regions can have a separate file, ``NAME.regions.geojson`` beside the image; an image with only this file has no
    labelled nuclei. Without a class list for a source, the classes that occur in its fields are assumed to be labelled
    (``guessed``). ``*_counted.png`` are masks. Fields with only unknown classes are excluded with a warning.

    ``mpp`` is the µm/px of the images, for positions in µm and the size of outlined nuclei; it defaults to that of each
    file. ``unlabelled`` adds images without labels, in folders of images and label files.
    """
    indices = [path / "index.csv" for path in (folder, folder.parent) if (path / "index.csv").is_file()]
    indexed = [f for index in indices[:1] for f in _from_index(index, folder, mpp)]
    found = indexed or list(
        _from_maps(folder) if kinet_layout.is_layout(folder) else _from_pairs(folder, mpp, unlabelled)
    )
    fields = [_add_regions(f, _regions_beside(f.image)) for f in _assume_classes([f for f in found if f])]
    if found and not fields:
        raise KinetError(
            f"{folder}: expected labelled nuclei, found none of a known class in the labels of {len(found)} "
            f"image{'s' if len(found) > 1 else ''}. See the warnings"
        )
    if not fields:
        raise KinetError(
            f"{folder}: no fields found, expected an index.csv; or images ({', '.join(SUFFIXES)}) with tables of the "
            "same name (.csv, .tsv or .txt, columns x,y,class) or GeoJSON files from QuPath; or the folders images and "
            f"labels_postm, labels_negtm, labels_other of KiNet{_listing(folder)}"
        )
    return fields


def with_regions(fields: Sequence[LabelledField], folder: Path) -> list[LabelledField]:
    """Add regions from a folder of GeoJSON files to fields; log the number of fields with regions.

    The folder has ``NAME.geojson`` or ``NAME.regions.geojson`` for the image ``NAME.*``, and is searched recursively.
    Several files for a name, or none for all fields, are an error.
    """
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.geojson")):
        files.setdefault(path.name.removesuffix(".geojson").removesuffix(REGIONS), []).append(path)
    drawn = {f.name: files[f.name] for f in fields if f.name in files}
    for name, paths in drawn.items():
        if len(paths) > 1 or sum(f.name == name for f in fields) > 1:
            raise KinetError(f"{folder}: expected one file of regions and one field {name}, found more. Rename one")
    if not drawn:
        raise KinetError(
            f"{folder}: no regions found. Expected NAME.geojson for a field, such as {fields[0].name}.geojson"
        )
    log.info("%d of %d fields have regions in %s", len(drawn), len(fields), folder)
    return [_add_regions(f, drawn[f.name][0] if f.name in drawn else None) for f in fields]


def _add_regions(f: LabelledField, path: Path | None) -> LabelledField:
    """Add the regions of a file to a field; annotated tissue replaces a region map."""
    if path is None:
        return f
    drawn = geojson.read_areas(path)
    region_map = None if drawn.has_area_labels else f.region_map
    return replace(f, outlines=f.outlines.merged(drawn), region_map=region_map, _masks=[], _regions=[], _empty=[])


def _regions_beside(image: Path) -> Path | None:
    """Return the file of regions beside an image, if there is one."""
    names = (image.with_name(image.stem + REGIONS + suffix) for suffix in geojson.SUFFIXES)
    return next((path for path in names if path.is_file()), None)


def _without_nuclei(image: Path) -> LabelledField:
    """Return a field without labels."""
    empty = np.empty(0, np.float32)
    return LabelledField(image, empty, empty, np.empty(0, np.uint8), ())


def _listing(folder: Path) -> str:
    """Describe the files in a folder, for the message that it contains no fields."""
    suffixes = Counter("".join(path.suffixes[-2:]).lower() for path in folder.iterdir() if path.is_file())
    found = ", ".join(f"{n} x {suffix or 'no suffix'}" for suffix, n in suffixes.most_common(5))
    return f"; found {found}" if found else "; found no files"


def with_nuclei(fields: Sequence[LabelledField]) -> list[LabelledField]:
    """Return the fields with labelled nuclei; log the number of fields without. Raises as :func:`check_nuclei`."""
    kept = [f for f in fields if f.labelled]
    if len(kept) < len(fields):
        log.warning("excluded %d of %d fields: regions but no nuclei", len(fields) - len(kept), len(fields))
    if kept:
        check_nuclei(kept)
    return kept


def read_split(folder: Path, split: str | None, mpp: float | None = None) -> list[LabelledField]:
    """Read the fields of a folder that have labelled nuclei, only those of a split if it is given."""
    fields = with_nuclei([f for f in read_fields(folder, mpp) if split in (None, f.split)])
    if not fields:
        raise KinetError(f"{folder}: no fields with nuclei" + (f" of the split {split!r}" if split else ""))
    return fields


def check_nuclei(fields: Sequence[LabelledField]) -> None:
    """Raise a KinetError if there is no labelled nucleus in the counted region of any field."""
    folder = fields[0].image.parent
    total = sum(len(f.x) for f in fields)
    if not total:
        raise KinetError(f"{folder}: expected labelled nuclei, found none in {len(fields)} fields")
    if not any(f.is_counted(f.x, f.y).any() for f in fields):
        raise KinetError(
            f"{folder}: expected labelled nuclei, found all {total} in excluded regions. Check the classes of the "
            "annotated regions and the masks"
        )


def with_classes(fields: Sequence[LabelledField], classes: Sequence[str]) -> list[LabelledField]:
    """Return fields with these labelled classes; fields without nuclei are unchanged."""
    if unknown := set(classes) - set(CLASSES):
        raise KinetError(f"unknown class {shown(sorted(unknown))}; known are {', '.join(CLASSES)}")
    named = tuple(name for name in CLASSES if name in classes)
    return [replace(f, labelled=named, guessed=False) if f.labelled else f for f in fields]


def class_list_warning(fields: Sequence[LabelledField]) -> str:
    """Return a warning about fields without a class list; empty if there are none."""
    guessed = [f for f in fields if f.guessed]
    if not guessed:
        return ""
    assumed = sorted({name for f in guessed for name in f.labelled}, key=CLASSES.index)
    return (
        f"No class list for {len(guessed)} of {len(fields)} fields: assuming the classes that occur, "
        f"{', '.join(assumed)}. Other classes are not evaluated; use --classes to name the labelled classes."
    )


def _assume_classes(fields: Sequence[LabelledField]) -> list[LabelledField]:
    """Assume for fields without a class list that the classes in any field of the same source are labelled."""
    occurring: dict[str, set[int]] = {}
    for f in fields:
        occurring.setdefault(f.source, set()).update(f.cls.tolist())
    return [
        replace(f, labelled=tuple(name for i, name in enumerate(CLASSES) if i in occurring[f.source]) or CLASSES)
        if f.guessed
        else f
        for f in fields
    ]


def _from_index(index: Path, folder: Path, mpp: float | None) -> Iterator[LabelledField | None]:
    """Yield the fields of an index; None for an excluded field."""
    columns, rows = points.read_rows(index, _index_columns, "a header with the columns image,points")
    for number, cells in rows:
        row = {name: cells[column] for name, column in columns.items()}
        if not row["image"] or not row["points"]:
            raise KinetError(f"{index}, line {number}: expected an image and its points, found {shown(cells)}")
        image = index.parent / row["image"]
        if folder != index.parent and image.parent != folder:
            continue
        labelled = tuple(name for name in row.get("classes", "").split("+") if name)
        if unknown := set(labelled) - set(CLASSES):
            raise KinetError(
                f"{index}, line {number}: unknown class {shown(sorted(unknown))}; known are {', '.join(CLASSES)}"
            )
        labels = _read_labels(index.parent / row["points"], image, mpp)
        found = _field(image, labels, labelled)
        counted = index.parent / row["counted_mask"] if row.get("counted_mask") else None
        source, split = row.get("source", ""), row.get("split", "")
        yield replace(found, counted=counted, source=source, split=split) if found else None


def _index_columns(header: Sequence[str]) -> dict[str, str] | None:
    """Return the columns of an index by lower-case names; None if a required one is missing."""
    named = {name.casefold(): name for name in header}
    return named if {"image", "points"} <= set(named) else None


def _from_maps(folder: Path) -> Iterator[LabelledField]:
    """Yield the fields of a KiNet folder."""
    unmapped = []
    for entry in kinet_layout.find_images(folder):
        if not entry.maps and entry.regions is None:
            unmapped.append(entry.image)
            continue
        found = replace(
            _without_nuclei(entry.image),
            labelled=tuple(name for name in CLASSES if name in entry.maps),
            source=folder.resolve().name,
            split=entry.split,
            region_map=entry.regions,
        )
        height, width = found.pixels().shape[:2]
        centres = [kinet_layout.read_centres(entry.maps[name], height, width) for name in found.labelled]
        kinds = [np.full(len(x), CLASSES.index(name)) for name, (x, _) in zip(found.labelled, centres, strict=True)]
        yield replace(
            found,
            x=np.concatenate([found.x, *(x for x, _ in centres)]),
            y=np.concatenate([found.y, *(y for _, y in centres)]),
            cls=np.concatenate([found.cls, *kinds]).astype(np.uint8),
        )
    if unmapped:
        log.warning("images without maps are excluded: %d, such as %s", len(unmapped), unmapped[0])


def _from_pairs(folder: Path, mpp: float | None, unlabelled: bool) -> Iterator[LabelledField | None]:
    """Yield the fields of images with label files; None for an excluded field."""
    if not folder.is_dir():
        raise KinetError(f"{folder}: expected a folder of fields, found {'a file' if folder.exists() else 'nothing'}")
    files = sorted(folder.iterdir())
    images = [path for path in files if path.suffix.lower() in SUFFIXES and not path.name.endswith(MASK_SUFFIX)]
    names = {path.name.casefold(): path for path in files}
    labels_of = {image: _find_labels(image, names) for image in images}
    used = {path for found in labels_of.values() for path in found}
    shared = _shared_table(folder, images, [path for path in files if path not in used])
    unlabelled_images = []
    for image, found in labels_of.items():
        if shared and any(points.is_named(name, image) for name in shared.images):
            found = [*found, shared.path]
        if len(found) > 1:
            raise KinetError(f"{found[0]} and {found[1].name} both have labels of {image.name}. Remove one of them")
        if not found:
            if unlabelled or _regions_beside(image):
                yield _without_nuclei(image)
            else:
                unlabelled_images.append(image)
            continue
        if shared and found[0] == shared.path:
            labels = shared.nuclei(image, partial(_mpp_of, image, mpp))
        else:
            labels = _read_labels(found[0], image, mpp)
        labelled = _field(image, labels)
        counted = image.with_name(image.stem + MASK_SUFFIX)
        yield replace(labelled, counted=counted if counted.is_file() else None) if labelled else None
    if 0 < len(unlabelled_images) < len(images):
        log.warning(
            "%d of %d images have no labels, such as %s", len(unlabelled_images), len(images), unlabelled_images[0]
        )


def _find_labels(image: Path, names: Mapping[str, Path]) -> list[Path]:
    """Return the label files with the name of an image.

    ``names`` maps case-folded names to the files of the folder, because suffixes may be in capitals.
    """
    found = []
    for suffix in (*points.SUFFIXES, *geojson.SUFFIXES):
        for name in (image.stem + suffix, image.name + suffix):
            path = image.with_name(name)
            other = names.get(name.casefold(), path)
            path = other if other.name.startswith(image.stem) and not path.exists() else path
            other_content = (suffix == ".txt" and not points.is_table(path)) or (
                suffix in (".json", ".zip") and not geojson.is_geojson(path)
            )
            if path.is_file() and not other_content:
                found.append(path)
    return found


def _shared_table(folder: Path, images: Sequence[Path], others: Sequence[Path]) -> Table | None:
    """Return the measurement table for several images of a folder, if there is one; two are an error."""
    tables = []
    for path in others:
        if path.suffix.lower() in points.SUFFIXES and path.is_file() and points.is_table(path):
            table = points.read_table(path)
            if any(points.is_named(name, image) for name in table.images for image in images):
                tables.append(table)
    if len(tables) > 1:
        raise KinetError(f"{folder}: {tables[0].path.name} and {tables[1].path.name} both name its images. Remove one")
    return next(iter(tables), None)


def _field(image: Path, labels: Annotations, labelled: tuple[str, ...] = ()) -> LabelledField | None:
    """Return an image with its labels; None, with a warning, if all labels have unknown classes.

    Training would treat these nuclei as background.
    """
    has_areas = labels.outlines.has_area_labels
    if labels.unknown_objects and not len(labels.x) and not has_areas:
        log.warning("%s: the field is excluded: no label has a known class", image)
        return None
    # A file without nuclei is a file of tissue regions.
    regions_only = not labelled and not len(labels.x) and has_areas
    return LabelledField(
        image,
        labels.x,
        labels.y,
        labels.cls,
        () if regions_only else labelled or CLASSES,
        guessed=not labelled and not regions_only,
        outlines=labels.outlines,
    )


def _read_labels(path: Path, image: Path, mpp: float | None) -> Annotations:
    """Read a label file by its suffix."""
    if path.name.lower().endswith(geojson.SUFFIXES):
        return geojson.read_geojson(path, partial(_mpp_of, image, mpp))
    return points.read_table(path).nuclei(image, partial(_mpp_of, image, mpp))


def _mpp_of(image: Path, mpp: float | None) -> float | None:
    """Return the given µm/px, else that of an image file; None if it is unknown or the file cannot be read."""
    if mpp is not None:
        return mpp
    try:
        return read_image(image).mpp
    except ImageError:
        return None
