"""Units of length, and the range of pixel sizes.

Covers OME-XML (https://www.openmicroscopy.org/Schemas/OME/2016-06), OME-Zarr (UDUNITS-2), and the units that people
type into "Set Scale" of ImageJ.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from numbers import Real

from kinet_trt.core.errors import ImageError, shown

MIN_MPP, MAX_MPP = 0.01, 100.0
"""Range of pixel sizes, µm/px; values outside of it are in another unit."""

_PREFIXES: Mapping[str, tuple[str, float]] = {
    "yotta": ("Y", 1e24),
    "zetta": ("Z", 1e21),
    "exa": ("E", 1e18),
    "peta": ("P", 1e15),
    "tera": ("T", 1e12),
    "giga": ("G", 1e9),
    "mega": ("M", 1e6),
    "kilo": ("k", 1e3),
    "hecto": ("h", 1e2),
    "deca": ("da", 1e1),
    "": ("", 1.0),
    "deci": ("d", 1e-1),
    "centi": ("c", 1e-2),
    "milli": ("m", 1e-3),
    "micro": ("μ", 1e-6),
    "nano": ("n", 1e-9),
    "pico": ("p", 1e-12),
    "femto": ("f", 1e-15),
    "atto": ("a", 1e-18),
    "zepto": ("z", 1e-21),
    "yocto": ("y", 1e-24),
}
# Case-sensitive symbols: Mm is not mm.
_SYMBOLS: Mapping[str, float] = {
    **{f"{symbol}m": factor * 1e6 for symbol, factor in _PREFIXES.values()},
    "um": 1.0,
    "μ": 1.0,
    "Å": 1e-4,
}
_NAMES: Mapping[str, float] = {
    **{f"{name}met{end}": factor * 1e6 for name, (_, factor) in _PREFIXES.items() for end in ("er", "re")},
    "dekameter": 1e7,
    "mikrometer": 1.0,
    "micron": 1.0,
    "mikron": 1.0,
    "micra": 1.0,
    "mc": 1.0,
    "angstrom": 1e-4,
    "ångström": 1e-4,
    "ångstrom": 1e-4,
    "thou": 25.4,
    "mil": 25.4,
    "li": 25_400 / 12,
    "line": 25_400 / 12,
    "pt": 25_400 / 72,
    "point": 25_400 / 72,
    "in": 25_400.0,
    "inch": 25_400.0,
    "inche": 25_400.0,
    '"': 25_400.0,
    "ft": 304_800.0,
    "foot": 304_800.0,
    "feet": 304_800.0,
    "yd": 914_400.0,
    "yard": 914_400.0,
    "mi": 1_609_344_000.0,
    "mile": 1_609_344_000.0,
    "ua": 149_597_870_700e6,
    "ly": 9_460_730_472_580_800e6,
    "pc": 3.085_677_581e22,
    "parsec": 3.085_677_581e22,
}
_LOWER_SYMBOLS = {symbol: um for symbol, um in _SYMBOLS.items() if symbol == symbol.lower()}
_UNCALIBRATED = ("", "pixel", "pixels", "px", "reference frame", "unknown", "none", "null")


def is_mpp(value: object) -> bool:
    """Return whether a value is a number from :data:`MIN_MPP` to :data:`MAX_MPP`."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and bool(MIN_MPP <= value <= MAX_MPP)  # type: ignore[operator]  # Real has an order


def check_mpp(value: object) -> None:
    """Raise unless :func:`is_mpp`.

    Raises
    ------
    ImageError
        If it is no number, or outside the range.
    """
    if not is_mpp(value):
        raise ImageError(f"µm/px: expected a number from {MIN_MPP:g} to {MAX_MPP:g}, found {shown(value)}")


def um_in(unit: str) -> float | None:
    r"""Return one unit of length in µm; None if it is not a known unit of length.

    The micro sign may be U+00B5, the Greek letter U+03BC, ``u``, or the escape ``\u00B5`` that ImageJ writes. Case
    matters only where it distinguishes units (``Mm``, ``mm``).

    Parameters
    ----------
    unit
        A symbol or a name, singular or plural, such as ``um``, ``Å``, ``nanometer``, ``inches``.
    """
    text = _normal(unit)
    if text in _SYMBOLS:
        return _SYMBOLS[text]
    lower = text.lower()
    singular = lower.removesuffix("s")
    return _LOWER_SYMBOLS.get(lower, _NAMES.get(lower, _NAMES.get(singular) if len(singular) > 2 else None))


def is_uncalibrated(unit: str) -> bool:
    """Return True for a unit such as "pixel", which means that the picture has no physical size."""
    return _normal(unit).lower() in _UNCALIBRATED


def _normal(unit: str) -> str:
    """Return a unit with normalised micro and angstrom signs, without escapes and brackets."""
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), unit)
    # A micro sign in UTF-8 that was decoded as Latin-1, or the reverse.
    text = text.replace("\u00c2\u00b5", "\u00b5").replace("\u00ce\u00bc", "\u00b5").replace("\ufffdm", "\u00b5m")
    text = unicodedata.normalize("NFKC", text).strip("\0 \t\r\n.()[]")
    return re.sub(r"\s*(/|per)\s*(px|pixel)s?$", "", text, flags=re.IGNORECASE)
