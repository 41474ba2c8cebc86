"""Read OME-XML: the images of an OME-TIFF, their pixel sizes and files.

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
    """One image of an OME-XML document."""

    name: str  # may be empty
    width: int
    height: int
    channels: tuple[str, ...]  # names; empty for a channel without one. A channel may have three samples (RGB)
    significant_bits: int | None
    planes: int  # number of focal planes times time points
    mpp: tuple[float, float] | None  # µm/px in x and y; None unless both are stated in a known unit
    unused: str | None  # reason why a stated size is not used
    files: tuple[str, ...]  # with its planes, in order; empty if they are in the file with the XML


@dataclass(frozen=True)
class Ome:
    """Images of an OME-XML document, and the name of the file with the metadata if they are not in this one."""

    images: tuple[OmeImage, ...]
    companion: str | None = None


def is_ome(text: str) -> bool:
    """Return True if the description of a TIFF is OME-XML, with or without a namespace prefix."""
    return re.search(r"<(\w+:)?OME[\s>]", text[:10_000]) is not None


def read_ome(text: str) -> Ome:
    """Parse an OME-XML document: the description of a TIFF's first page, or the content of a companion file.

    A document that is not well-formed, or with a size in px that is not a number, is a ValueError.
    """
    # Entities can expand to gigabytes, and OME-XML declares none.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("OME-XML with a document type declaration")
    try:
        # The text is decoded already, whatever encoding it declares.
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
        significant_bits=_integer(pixels.get("SignificantBits")),
        planes=int(pixels.get("SizeZ") or 1) * int(pixels.get("SizeT") or 1),
        mpp=(across, down) if across and down else None,
        unused=next(filter(None, problems), "states a pixel size for one axis only" if across or down else None)
        if not (across and down)
        else None,
        files=tuple(dict.fromkeys(name for name in files if name)),
    )


def _size(pixels: Xml.Element, axis: str) -> tuple[float | None, str | None]:
    """Return µm/px along an axis, and the reason why a stated size is not used."""
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
