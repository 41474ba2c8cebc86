"""Pixel sizes in image files, µm/px, and the reasons why one is not used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from kinet_trt.core.units import is_uncalibrated, um_in
from kinet_trt.io.ome import is_ome, read_ome

PLAUSIBLE_MPP = (0.05, 5.0)
"""Range of a microscope, µm/px. 72 or 300 dpi (353 and 85 µm/px) are the resolution of a printer."""

HOW_KNOWN = {
    "option": "entered by hand",
    "calibrated": "measured with a stage micrometer",
    "objective": "from an objective preset",
    "camera": "reported by the camera or the microscope",
    "file": "from the file's resolution tag",
    "model": "assumed: the model's own value",
}
"""Sources of µm/px, as people read them."""

Stated = tuple[float, float] | str
"""µm/px in x and y; or the reason why a size is not used, such as "states 2 furlong, a unit that is not known"."""

_UM_OF_TIFF_UNIT = {2: 25_400.0, 3: 10_000.0}


def pixel_size(x: object, y: object) -> tuple[float | None, str | None]:
    """Check the pixel size of a file, µm/px in x and y as numbers or text; None if not stated.

    Returns µm/px or None, and the reason why a stated size is not used or None.
    """
    if x is None or y is None:
        return None, None
    across, down = positive(x), positive(y)
    low, high = PLAUSIBLE_MPP
    if across is None or down is None:
        return None, f"states a pixel size of {x} x {y} µm, expected positive numbers"
    if not (low <= across <= high and low <= down <= high):
        dpi = 25_400 / across
        as_dpi = f" ({dpi:.0f} dpi)" if 1 <= dpi <= 10_000 else ""
        return None, (
            f"states {across:.4g} x {down:.4g} µm/px{as_dpi}, expected {low:g} to {high:g} µm/px of a microscope"
        )
    if abs(across / down - 1) > 0.01:
        return None, f"states pixels of {across:.4g} x {down:.4g} µm, expected square ones"
    return (across + down) / 2, None


def first_usable(statements: Iterable[Stated | None]) -> tuple[float | None, str | None]:
    """Return the first usable pixel size, or the reason why the first stated size is not used; see `pixel_size`.

    The statements are from several places of a file, the most reliable first; None for a place without one.
    """
    used: float | None = None
    unused: str | None = None
    for stated in statements:
        if stated is None:
            continue
        mpp, why = (None, stated) if isinstance(stated, str) else pixel_size(*stated)
        if used is None:
            used, unused = mpp, (None if mpp else unused or why)
        elif mpp and abs(mpp / used - 1) > 0.01:
            return used, f"states both {used:.4g} and {mpp:.4g} µm/px: the first one is used"
    return used, unused


def described(text: str, density: Sequence[float | None], size: tuple[int, int] | None = None) -> Stated | None:
    """Return the pixel size in the ImageDescription of a TIFF by ImageJ, OME-TIFF or Aperio.

    ``density`` is the resolution in the tags, in x and y, px per unit. ``size`` is width and height of the picture that
    is read, px: a description may cover several pictures.
    """
    if text.startswith("ImageJ="):
        return _imagej(text, density)
    if found := re.search(r"\|\s*MPP\s*=\s*([^|\s]+)", text):
        mpp = positive(found[1])
        return (mpp, mpp) if mpp else f"states a pixel size of {found[1]!r}, expected a positive number"
    return _ome(text, size) if is_ome(text) else None


def resolution(density: Sequence[float | None], unit: int) -> Stated | None:
    """Convert a resolution of TIFF or EXIF, px per inch (``unit`` 2) or cm (3), to µm/px."""
    um = _UM_OF_TIFF_UNIT.get(unit)
    x, y = density
    return (um / x, um / y) if um and x and y else None


def positive(value: object) -> float | None:
    """Return a value as a float; None unless it is a positive finite number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if 0 < number < float("inf") else None


def _imagej(text: str, density: Sequence[float | None]) -> Stated | None:
    lines = dict(re.findall(r"^(unit|yunit)=(.*?)\s*$", text, re.MULTILINE))
    units = [lines.get("unit", ""), lines.get("yunit", lines.get("unit", ""))]
    if any(is_uncalibrated(unit) for unit in units):
        return None
    sizes: list[float] = []
    for unit, per_unit in zip(units, density, strict=True):
        um = um_in(unit)
        if per_unit is None:
            return None
        if um is None:
            return f"states a pixel size of {1 / per_unit:.4g} {unit}, a unit that is not known"
        sizes.append(um / per_unit)
    return sizes[0], sizes[1]


def _ome(text: str, size: tuple[int, int] | None) -> Stated | None:
    try:
        images = read_ome(text).images
    except ValueError as error:
        return f"has metadata that cannot be read: {error}"
    fitting = [one for one in images if size in (None, (one.width, one.height)) or 0 in (one.width, one.height)]
    if not fitting and len(images) > 1:
        return "states pixel sizes, but of pictures with another width and height"
    image = next(iter(fitting or images), None)
    return (image.unused or image.mpp) if image else None
