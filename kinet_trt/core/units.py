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

_SI = (
    "yotta:Y:24 zetta:Z:21 exa:E:18 peta:P:15 tera:T:12 giga:G:9 mega:M:6 kilo:k:3 hecto:h:2 deca:da:1 ::0 "
    "deci:d:-1 centi:c:-2 milli:m:-3 micro:μ:-6 nano:n:-9 pico:p:-12 femto:f:-15 atto:a:-18 zepto:z:-21 yocto:y:-24"
)
_PREFIXES: Mapping[str, tuple[str, float]] = {
    name: (symbol, float(f"1e{power}")) for name, symbol, power in (prefix.split(":") for prefix in _SI.split())
}
# Case-sensitive symbols: Mm is not mm.
_SYMBOLS: Mapping[str, float] = {
    **{f"{symbol}m": factor * 1e6 for symbol, factor in _PREFIXES.values()},
    **{"um": 1.0, "μ": 1.0, "Å": 1e-4},
}
_NAMES: Mapping[str, float] = {
    **{f"{name}met{end}": factor * 1e6 for name, (_, factor) in _PREFIXES.items() for end in ("er", "re")},
    "dekameter": 1e7,
    **dict.fromkeys(("mikrometer", "micron", "mikron", "micra", "mc"), 1.0),
    **dict.fromkeys(("angstrom", "ångström", "ångstrom"), 1e-4),
    **dict.fromkeys(("thou", "mil"), 25.4),
    **dict.fromkeys(("li", "line"), 25_400 / 12),
    **dict.fromkeys(("pt", "point"), 25_400 / 72),
    **dict.fromkeys(("in", "inch", "inche", '"'), 25_400.0),
    **dict.fromkeys(("ft", "foot", "feet"), 304_800.0),
    **dict.fromkeys(("yd", "yard"), 914_400.0),
    **dict.fromkeys(("mi", "mile"), 1_609_344_000.0),
    **{"ua": 149_597_870_700e6, "ly": 9_460_730_472_580_800e6},
    **dict.fromkeys(("pc", "parsec"), 3.085_677_581e22),
}
_LOWER_SYMBOLS = {symbol: um for symbol, um in _SYMBOLS.items() if symbol == symbol.lower()}
_UNCALIBRATED = ("", "pixel", "pixels", "px", "reference frame", "unknown", "none", "null")


def is_mpp(value: object) -> bool:
    """Return True for a number from :data:`MIN_MPP` to :data:`MAX_MPP`."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and bool(MIN_MPP <= value <= MAX_MPP)  # type: ignore[operator]  # Real has an order


def check_mpp(value: object) -> None:
    """Raise an ImageError unless a value is a pixel size, µm/px: see :func:`is_mpp`."""
    if not is_mpp(value):
        raise ImageError(f"µm/px: expected a number from {MIN_MPP:g} to {MAX_MPP:g}, found {shown(value)}")


def um_in(unit: str) -> float | None:
    r"""Return one unit of length in µm, by its symbol or its name in singular or plural; None if it is not known.

    The micro sign may be U+00B5, the Greek letter U+03BC, ``u``, or the escape ``\u00B5`` that ImageJ writes. Case
    matters only where it distinguishes units (``Mm``, ``mm``).
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
