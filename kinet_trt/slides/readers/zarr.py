"""Reader for OME-Zarr with zarr: metadata 0.4 (zarr v2) and 0.5 (zarr v3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from kinet_trt.core.errors import ImageError, shown
from kinet_trt.core.units import is_uncalibrated, um_in
from kinet_trt.io.pixel_size import pixel_size
from kinet_trt.slides.readers.main_image import is_aside, others_remark

_MAX_IMAGES = 1000  # of a collection


class ZarrPixels:
    """An OME-Zarr image, or the largest of a collection (``bioformats2raw.layout``) that is not a label or macro."""

    def __init__(self, path: Path) -> None:
        try:
            group: Any = zarr.open_group(str(path), mode="r")
        except Exception as error:  # zarr raises many kinds on damaged folders
            raise ImageError(f"not an OME-Zarr, or a damaged one ({error}): copy or export it again") from None
        try:
            images = _images(group, path)
            wanted = [one for one in images if not is_aside(one.name)] or images
            image = max(wanted, key=lambda one: math.prod(one.size))
            self._read_header(image.group, image.about)
            others = [(one.size, one.name) for one in images if one is not image]
            self.remarks: Sequence[str] = others_remark(self.sizes[0], others)
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(f"the OME-Zarr's metadata are damaged ({error}): copy or export it again") from None

    def _read_header(self, group: Any, about: Mapping[str, Any]) -> None:
        names = _axes(about)
        if not {"c", "y", "x"} <= set(names):
            raise ImageError(f"expected axes c, y and x, found {', '.join(map(str, names))}: export the slide as RGB")
        self.format = f"OME-Zarr, zarr {zarr.__version__}"
        self._axes = names
        self._levels: list[Any] = []
        for dataset in about["datasets"]:
            try:
                self._levels.append(group[dataset["path"]])
            except KeyError:
                raise ImageError(
                    f"level {dataset['path']!r}, which the metadata name, is missing: copy or export the slide again"
                ) from None
        sizes = []
        for array in self._levels:
            shape = dict(zip(names, array.shape, strict=True))
            others = {name: n for name, n in shape.items() if name not in "cyx" and n != 1}
            if array.dtype != np.uint8 or shape["c"] not in (3, 4) or others:
                raise ImageError(
                    f"expected one 8-bit RGB image, found {array.dtype} "
                    f"{', '.join(f'{name} {n}' for name, n in shape.items())}: export it as 8-bit RGB"
                )
            sizes.append((shape["x"], shape["y"]))
        self.sizes: Sequence[tuple[int, int]] = sizes
        self.mpp, self.unused_size = _mpp(about, names)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """See :class:`kinet_trt.slides.Pixels`."""
        spans = {"c": slice(0, 3), "y": slice(y, y + height), "x": slice(x, x + width)}
        found = np.asarray(self._levels[level][tuple(spans.get(name, 0) for name in self._axes)])
        kept = [name for name in self._axes if name in spans]
        return np.ascontiguousarray(found.transpose([kept.index(name) for name in "yxc"]))

    def close(self) -> None:
        """Do nothing: no file is open."""


@dataclass(frozen=True, eq=False)
class _Image:
    """An image of a folder, and its metadata (the first entry of ``multiscales``)."""

    group: Any
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.about.get("name") or "")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the first level, px; 0 if it is missing."""
        try:
            lengths = dict(zip(_axes(self.about), self.group[self.about["datasets"][0]["path"]].shape, strict=False))
            return int(lengths["x"]), int(lengths["y"])
        except KeyError:
            return 0, 0


def _images(group: Any, path: Path) -> list[_Image]:
    """Return the image of a folder, or the images of a collection; raise if the user must choose one."""
    attributes = _attributes(group)
    if about := _multiscales(attributes):
        return [_Image(group, about)]
    if plate := attributes.get("plate"):
        wells = [well["path"] for well in plate.get("wells") or []]
        example = path / (wells[0] if wells else "A/1") / "0"
        raise ImageError(f"a plate of {_n(len(wells), 'well')}: name one of its images, e.g. {example}")
    if well := attributes.get("well"):
        names = [image["path"] for image in well.get("images") or []]
        raise ImageError(f"a well of a plate: name one of its images, e.g. {path / (names[0] if names else '0')}")
    names = sorted(group.group_keys(), key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    inside = [(name, group[name]) for name in names[:_MAX_IMAGES]]
    images = {name: _Image(one, about) for name, one in inside if (about := _multiscales(_attributes(one)))}
    if wells := [name for name, one in inside if "well" in _attributes(one)]:
        raise ImageError(f"a row of a plate: name one of its images, e.g. {path / wells[0] / '0'}")
    if not images:
        raise ImageError(
            "a zarr without the metadata of OME-Zarr 0.4 or 0.5: expected 'multiscales'; export the slide as OME-Zarr"
        )
    if len(images) > 1 and "bioformats2raw.layout" not in attributes:
        raise ImageError(f"a folder of {len(images)} images: name one of them, e.g. {path / next(iter(images))}")
    return list(images.values())


def _attributes(group: Any) -> Mapping[str, Any]:
    attributes = dict(group.attrs)
    return attributes.get("ome") or attributes


def _multiscales(attributes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = attributes.get("multiscales")
    if not found:
        return None
    first = found[0]
    if not isinstance(first, dict) or not first.get("axes") or not first.get("datasets"):
        raise ImageError(f"expected OME-Zarr 0.4 or 0.5 with axes and datasets, found {shown(first)}")
    return first


def _axes(about: Mapping[str, Any]) -> list[str]:
    return [axis["name"] if isinstance(axis, dict) else axis for axis in about["axes"]]


def _n(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _mpp(about: Mapping[str, Any], names: Sequence[str]) -> tuple[float | None, str | None]:
    """Return um/px of the first level (its scale times that of the image), and why a stated size is not used."""
    size: list[float] = []
    for axis in "xy":
        index = names.index(axis)
        value = 1.0
        for part in (about, about["datasets"][0]):
            for one in part.get("coordinateTransformations") or []:
                if one.get("type") == "scale":
                    value *= float(one["scale"][index])
        described = about["axes"][index]
        unit = str(described.get("unit") or "") if isinstance(described, dict) else ""
        if is_uncalibrated(unit):
            return None, None if value == 1 else f"states a scale of {value:g} in {axis} without a unit of length"
        um = um_in(unit)
        if um is None:
            return None, f"states a pixel size of {value:g} {unit}, a unit that is not known"
        size.append(value * um)
    return pixel_size(*size)
