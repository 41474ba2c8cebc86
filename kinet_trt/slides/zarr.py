"""What zarr reads: OME-Zarr, metadata 0.4 (zarr v2) and 0.5 (zarr v3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from kinet_trt.errors import ImageError, shown
from kinet_trt.images import square_mpp

_UM: Mapping[str, float] = {"micrometer": 1, "nanometer": 1e-3, "millimeter": 1e3, "meter": 1e6}


class ZarrPixels:
    """An OME-Zarr image; of a collection (``bioformats2raw.layout``) the first one: labels and macros follow it."""

    def __init__(self, path: Path) -> None:
        try:
            group: Any = zarr.open_group(str(path), mode="r")
            speaks = _multiscales(group)
            if speaks is None and "0" in group:
                group = group["0"]
                speaks = _multiscales(group)
        except Exception as error:  # zarr raises many kinds on damaged folders
            raise ImageError(f"not an OME-Zarr, or a damaged one ({error}): copy or export it again") from None
        if speaks is None:
            raise ImageError("a zarr without OME metadata: expected 'multiscales' (OME-Zarr 0.4 or 0.5)")
        try:
            self._read_head(group, speaks)
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(f"the OME-Zarr's metadata are damaged ({error}): copy or export it again") from None

    def _read_head(self, group: Any, speaks: Mapping[str, Any]) -> None:
        names = [axis["name"] if isinstance(axis, dict) else axis for axis in speaks["axes"]]
        if not {"c", "y", "x"} <= set(names):
            raise ImageError(f"expected axes c, y and x, found {', '.join(map(str, names))}: export the slide as RGB")
        self.format = f"OME-Zarr, zarr {zarr.__version__}"
        self._axes = names
        self._levels: list[Any] = []
        for dataset in speaks["datasets"]:
            try:
                self._levels.append(group[dataset["path"]])
            except KeyError:
                raise ImageError(
                    f"level {dataset['path']!r}, of which the metadata speak, is missing: copy or export the slide "
                    "again"
                ) from None
        sizes = []
        for array in self._levels:
            shape = dict(zip(names, array.shape, strict=True))
            others = {name: n for name, n in shape.items() if name not in "cyx" and n != 1}
            if array.dtype != np.uint8 or shape["c"] not in (3, 4) or others:
                raise ImageError(
                    f"expected one RGB picture of 8 bits, found {array.dtype} "
                    f"{', '.join(f'{name} {n}' for name, n in shape.items())}: export it as 8-bit RGB"
                )
            sizes.append((shape["x"], shape["y"]))
        self.sizes: Sequence[tuple[int, int]] = sizes
        self.mpp = _mpp(speaks, names)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """See :class:`kinet_trt.slides.Pixels`."""
        spans = {"c": slice(0, 3), "y": slice(y, y + height), "x": slice(x, x + width)}
        found = np.asarray(self._levels[level][tuple(spans.get(name, 0) for name in self._axes)])
        kept = [name for name in self._axes if name in spans]
        return np.ascontiguousarray(found.transpose([kept.index(name) for name in "yxc"]))

    def close(self) -> None:
        """Nothing is held open."""


def _multiscales(group: Any) -> Mapping[str, Any] | None:
    attributes = dict(group.attrs)
    found = (attributes.get("ome") or attributes).get("multiscales")
    if not found:
        return None
    first = found[0]
    if not isinstance(first, dict) or not first.get("axes") or not first.get("datasets"):
        raise ImageError(f"expected OME-Zarr 0.4 or 0.5 with axes and datasets, found {shown(first)}")
    return first


def _mpp(speaks: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """Return um/px of the first level: its scale, times the whole image's, where the axes have a unit of length."""
    size = []
    for axis in "xy":
        place = names.index(axis)
        about = speaks["axes"][place]
        unit = _UM.get(about.get("unit", "")) if isinstance(about, dict) else None
        if unit is None:
            return None
        for part in (speaks, speaks["datasets"][0]):
            for one in part.get("coordinateTransformations") or []:
                if one.get("type") == "scale":
                    unit *= float(one["scale"][place])
        size.append(unit)
    return square_mpp(*size)
