"""The pixel size that a slide states, or why it is not used."""

from __future__ import annotations

from kinet_trt.images import PLAUSIBLE_MPP, square_mpp


def pixel_size(x: object, y: object) -> tuple[float | None, str | None]:
    """Return the um/px that a slide states, and why it is not used.

    Parameters
    ----------
    x, y
        um/px across and down; None where it is not stated.

    Returns
    -------
    mpp, unused
        um/px, None where it is not stated or not used; and why a stated one is not used, None otherwise.
    """
    mpp = square_mpp(x, y)
    if mpp is not None or x is None or y is None:
        return mpp, None
    low, high = PLAUSIBLE_MPP
    return None, f"states {_short(x)} x {_short(y)} um/px; expected square pixels of {low:g} to {high:g} um"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
