"""Image files to frames: PNG, JPEG and TIFF, 8 or 16 bit, grey, palette or with alpha; and their um/px tag.

Pillow reads headers and 8-bit pixels and notices truncated files; OpenCV reads 16-bit colour, which Pillow cuts to 8.
Pixels are taken as stored: an EXIF rotation is not applied, so coordinates agree with QuPath and ImageJ.
"""

from __future__ import annotations

import io
import logging
import re
import stat
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from kinet_trt.errors import ImageError
from kinet_trt.frame import Frame

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
PLAUSIBLE_MPP = (0.05, 5.0)
"""um/px of a microscope. 72 or 300 dpi (353 and 85 um/px) are a printer's resolution, not a tissue's."""

_ORIENTATION, _PLANAR, _EXTRA_SAMPLES = 274, 284, 338  # TIFF tags
_OME_UNITS = {"µm": 1.0, "um": 1.0, "&#181;m": 1.0, "&#xB5;m": 1.0, "&#xb5;m": 1.0, "nm": 1e-3, "mm": 1e3}
# Both decoders turn a TIFF by its orientation tag; this turns it back to the pixels as stored.
_UNDO: Mapping[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
_MODES_8_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


def read_image(path: Path | str) -> Frame:
    """Read an image file.

    16-bit values are scaled from the smallest of 8, 10, 12, 14 or 16 bits that holds the largest one, because cameras
    store 12 bits in 16. Transparent pixels become white (glass). Of several pages the first counts.

    Parameters
    ----------
    path
        A PNG, JPEG, TIFF or BMP file.

    Returns
    -------
    Frame
        With ``mpp`` from the file's resolution tag where that is a microscope's, else None.

    Raises
    ------
    ImageError
        If the file is missing, empty, truncated, not an image, too large, or of a pixel type that is not read.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError("not a file: expected an image file, found a folder, a pipe or a device")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise ImageError("the file is empty (0 bytes): copy or export it again")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and odd metadata; what matters here is whether the pixels decode.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                mpp = _tag_mpp(image)
                undo = _UNDO.get(_tiff_tag(image, _ORIENTATION, 1), np.asarray)
                deep = _bits(image, data) > 8
                alpha = image.format != "TIFF" or _tiff_tag(image, _EXTRA_SAMPLES, 0) in (1, 2)
                if deep and _tiff_tag(image, _PLANAR, 1) == 2:
                    raise ImageError("16-bit TIFF stored plane by plane: save it with interleaved channels")
                image.load()
                pixels = np.ascontiguousarray(undo(_decode_deep(data, alpha) if deep else _decode(image)))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image: expected PNG, JPEG, TIFF or BMP, found other or damaged content") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large to read as one image ({error}): export a region of it") from None
    except MemoryError:
        raise ImageError("not enough memory to read it: export a region of it") from None
    # Pillow's decoders raise many kinds of errors on damaged files; all of them mean the same to the user.
    except Exception as error:
        raise ImageError(f"the file is damaged or cut short ({error}): copy or export it again") from error
    return Frame(pixels, mpp=mpp)


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    """Return the (first) number of a TIFF tag; other formats have none."""
    if image.format != "TIFF":
        return default
    value = image.tag_v2.get(tag, default)  # type: ignore[attr-defined]
    return int(value[0] if isinstance(value, tuple) else value)


def _bits(image: Image.Image, data: bytes) -> int:
    """Return the bits of one channel value."""
    return data[24] if image.format == "PNG" else _tiff_tag(image, 258, 8)


def _decode(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode not in _MODES_8_BIT:
        raise ImageError(f"pixel type {image.mode!r}: expected 8 or 16 bit grey, RGB or RGBA: convert the file")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        colour = image.convert("RGBA")
        glass = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(glass, colour)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def _decode_deep(data: bytes, has_alpha: bool) -> NDArray[np.uint8]:
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype not in (np.uint8, np.uint16):
        found = "nothing" if raw is None else str(raw.dtype)
        raise ImageError(f"pixel type: expected 8 or 16 bit integers, found {found}: convert the file")
    if raw.ndim == 2:
        raw = raw[..., None]
    colours = 1 if raw.shape[2] < 3 else 3
    values = _unit(np.asarray(raw[..., :colours]))
    if has_alpha and raw.shape[2] > colours:
        alpha = _unit(np.asarray(raw[..., colours:]))
        values = values * alpha + (1 - alpha)
    rgb = np.repeat(values, 3, axis=2) if colours == 1 else values[..., ::-1]
    return np.asarray(np.rint(rgb * 255), np.uint8)


def _unit(values: NDArray[np.integer]) -> NDArray[np.float32]:
    """Scale integers to 0 to 1 by the smallest of 8, 10, 12, 14 or 16 bits that holds the largest."""
    largest = int(values.max())
    bits = next(b for b in (8, 10, 12, 14, 16) if largest < 2**b)
    return values.astype(np.float32) / np.float32(2**bits - 1)


def _tag_mpp(image: Image.Image) -> float | None:
    """Return the um/px that the file states, where it is a microscope's."""
    candidates = _description_mpp(image) or _resolution_mpp(image)
    return square_mpp(*candidates) if candidates else None


def square_mpp(x: object, y: object) -> float | None:
    """Return um/px of what a file states for x and y; None where it is no microscope's, or the pixels not square."""
    across, down = _positive(x), _positive(y)
    if across is None or down is None:
        return None
    low, high = PLAUSIBLE_MPP
    if not (low <= across <= high and low <= down <= high):
        log.info("resolution tag of %.4g um/px ignored: a microscope's lies between %g and %g", across, low, high)
        return None
    if abs(across / down - 1) > 0.01:
        log.warning("resolution tag ignored: pixels of %.4g x %.4g um are not square", across, down)
        return None
    return (across + down) / 2


def _resolution_mpp(image: Image.Image) -> tuple[float, float] | None:
    density = image.info.get("dpi", ())
    if not density and image.info.get("jfif_unit") == 2:  # per cm; Pillow before 12 leaves it there
        density = [2.54 * value for value in image.info["jfif_density"]]
    dpi = [_positive(value) for value in density]
    return (25400 / dpi[0], 25400 / dpi[1]) if len(dpi) == 2 and dpi[0] and dpi[1] else None


def _description_mpp(image: Image.Image) -> tuple[float, float] | None:
    """Read what ImageJ, OME-TIFF and Aperio write into a TIFF's ImageDescription."""
    if image.format != "TIFF":
        return None
    tags = image.tag_v2  # type: ignore[attr-defined]
    # Pillow reads the text as Latin-1; OME's is UTF-8.
    text = str(tags.get(270, "")).encode("latin-1", "replace").decode("utf-8", "replace")
    return described_mpp(text, [_positive(tags.get(tag)) for tag in (282, 283)])


def described_mpp(text: str, density: Sequence[float | None]) -> tuple[float, float] | None:
    """Return um/px in x and y as ImageJ, OME-TIFF and Aperio write them into a TIFF's ImageDescription.

    Parameters
    ----------
    text
        The description.
    density
        The resolution tags of x and y, px per unit; of ImageJ's units only um is a microscope's.
    """
    x = y = None
    if text.startswith("ImageJ="):
        if re.search(r"^unit=(micron|um|µm|\\u00B5m|�m)\s*$", text, re.MULTILINE):
            x, y = (1 / value if value else None for value in density)
    elif found := re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", text):
        x = y = _positive(found[1])
    elif "<OME" in text:
        sizes = []
        for axis in "XY":
            size = _positive(_group(rf'PhysicalSize{axis}="([^"]+)"', text))
            factor = _OME_UNITS.get(_group(rf'PhysicalSize{axis}Unit="([^"]+)"', text) or "µm")
            sizes.append(size * factor if size and factor else None)
        x, y = sizes
    return (x, y) if x and y else None


def _group(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found[1] if found else None


def _positive(value: object) -> float | None:
    """Return a tag's value as a float; None when it is no positive finite number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if 0 < number < float("inf") else None
