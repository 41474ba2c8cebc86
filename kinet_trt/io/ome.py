"""OME-XML: the pictures that an OME-TIFF describes, their pixel sizes, and the files that hold them.

Element names are compared without namespace and prefix: https://www.openmicroscopy.org/Schemas/OME/2016-06.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree as Xml

from kinet_trt.core.units import is_uncalibrated, um_in

_DEFAULT_UNIT = "µm"  # of PhysicalSizeX, by the schema


@dataclass(frozen=True)
class OmeImage:
    """One picture of an OME-XML.

    Attributes
    ----------
    name
        Its name; may be empty.
    width, height
        px.
    channels
        Names of its channels; empty where a channel has none. A channel may hold three samples (RGB).
    channel_colours
        Colours of its channels as OME writes them, RGBA in a signed 32-bit integer; None where a channel has none.
    significant_bits
        Bits of a value that are used, where that is stated; else None.
    planes
        Number of focal planes times time points.
    mpp
        um/px in x and in y; None where the file does not state both in a known unit.
    unused
        Why a stated size is not used, in words; None where there is no stated size, or it is used.
    files
        Names of the files that hold its planes, in order; empty: the file with the XML.
    """

    name: str
    width: int
    height: int
    channels: tuple[str, ...]
    channel_colours: tuple[int | None, ...]
    significant_bits: int | None
    planes: int
    mpp: tuple[float, float] | None
    unused: str | None
    files: tuple[str, ...]


@dataclass(frozen=True)
class Ome:
    """What an OME-XML states.

    Attributes
    ----------
    images
        The pictures, in order.
    companion
        Name of the file that holds the metadata in place of this one; None: this one holds them.
    """

    images: tuple[OmeImage, ...]
    companion: str | None = None


def is_ome(text: str) -> bool:
    """Return whether a TIFF's description is OME-XML, with or without a namespace prefix."""
    return re.search(r"<(\w+:)?OME[\s>]", text[:10_000]) is not None


def read_ome(text: str) -> Ome:
    """Return what an OME-XML states.

    Parameters
    ----------
    text
        The description of a TIFF's first page, or the content of a companion file.

    Raises
    ------
    ValueError
        If it is not well-formed, or a size is not a number.
    """
    # Entities can expand to gigabytes, and OME-XML declares none.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("OME-XML with a document type declaration")
    try:
        # The declared encoding is that of the file; the text is decoded already.
        body = re.sub(r"^\s*<\?xml.*?\?>", "", text.strip("\0 \r\n\t\ufeff"), count=1, flags=re.DOTALL)
        root = Xml.fromstring(body)  # noqa: S314 - declarations of entities are refused above
    except Xml.ParseError as error:
        raise ValueError(f"OME-XML that is not well-formed ({error})") from None
    companions = [one.get("MetadataFile") for one in root if _tag(one) == "BinaryOnly"]
    images = [_image(one, pixels) for one in root if _tag(one) == "Image" for pixels in one if _tag(pixels) == "Pixels"]
    return Ome(tuple(images), next(filter(None, companions), None))


def _image(image: Xml.Element, pixels: Xml.Element) -> OmeImage:
    sizes, problems = zip(*(_size(pixels, axis) for axis in "XY"), strict=True)
    across, down = sizes
    channels = [one for one in pixels if _tag(one) == "Channel"]
    files = [
        uuid.get("FileName") for data in pixels if _tag(data) == "TiffData" for uuid in data if _tag(uuid) == "UUID"
    ]
    return OmeImage(
        name=image.get("Name") or "",
        width=int(pixels.get("SizeX") or 0),
        height=int(pixels.get("SizeY") or 0),
        channels=tuple(one.get("Name") or "" for one in channels),
        channel_colours=tuple(_integer(one.get("Color")) for one in channels),
        significant_bits=_integer(pixels.get("SignificantBits")),
        planes=int(pixels.get("SizeZ") or 1) * int(pixels.get("SizeT") or 1),
        mpp=(across, down) if across and down else None,
        unused=next(filter(None, problems), "states a pixel size for one axis only" if across or down else None)
        if not (across and down)
        else None,
        files=tuple(dict.fromkeys(name for name in files if name)),
    )


def _size(pixels: Xml.Element, axis: str) -> tuple[float | None, str | None]:
    """Return um/px along an axis, and why a stated size is not used; None, None where none is stated."""
    stated, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", _DEFAULT_UNIT)
    if stated is None or is_uncalibrated(unit):
        return None, None
    try:
        value = float(stated)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        return None, f"states a pixel size of {stated!r}, which is not a positive number"
    um = um_in(unit)
    if um is None:
        return None, f"states a pixel size of {stated} {unit}, a unit that is not known"
    return value * um, None


def _integer(text: str | None) -> int | None:
    try:
        return int(text) if text else None
    except ValueError:
        return None


def _tag(element: Xml.Element) -> str:
    return element.tag.rpartition("}")[2]
