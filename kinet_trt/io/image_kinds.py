"""Kinds of files that are not read, by their first bytes or suffix."""

from __future__ import annotations

from collections.abc import Mapping

READABLE = "PNG, JPEG, TIFF, BMP, WebP, JPEG 2000, JPEG XL or AVIF"

_STARTS: Mapping[bytes, str] = {
    b"GIF8": "a GIF",
    b"\xff\xd8\xff": "a JPEG of 12 bits, or one with a damaged header",
    b"8BPS": "a Photoshop file (PSD)",
    b"%PDF": "a PDF",
    b"%!PS": "a PostScript file",
    b"\xc5\xd0\xd3\xc6": "a PostScript file",
    b"#?RADIANCE": "a Radiance picture (HDR)",
    b"v/1\x01": "an OpenEXR picture",
    b"\0\0\x01\0": "an icon (ICO)",
    b"II\xbc": "a JPEG XR picture",
    b"IIU\0": "a camera's raw file",
    b"ZISRAWFILE": "a Zeiss CZI",
    b"\x89HDF": "an HDF5 file",
    b"PK\3\4": "a ZIP archive or an Office document",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x1aE\xdf\xa3": "a video (Matroska or WebM)",
    b"<!DOCTYPE html": "a web page",
    b"<html": "a web page",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML file",
    b"version https://git-lfs": "a Git LFS pointer in place of the file",
}
_SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys((".heic", ".heif"), "HEIC"),
    **dict.fromkeys((".ppm", ".pgm", ".pnm"), "PNM"),
    **dict.fromkeys((".jxr", ".wdp"), "JPEG XR"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw"), "raw camera"),
    **dict.fromkeys((".isyntax", ".i2syntax"), "Philips iSyntax"),
    **dict.fromkeys((".mds", ".mdsx"), "Motic"),
    **{".gif": "GIF", ".psd": "Photoshop", ".tga": "Targa", ".exr": "OpenEXR"},
    **{".hdr": "Radiance", ".ico": "ICO", ".lif": "Leica LIF", ".nd2": "Nikon ND2"},
    **{".lsm": "Zeiss LSM", ".zvi": "Zeiss ZVI", ".oir": "Olympus OIR", ".oib": "Olympus OIB"},
    **{".oif": "Olympus OIF", ".vsi": "Olympus VSI", ".ims": "Imaris", ".stk": "MetaMorph STK"},
    **{".qptiff": "QPTIFF", ".kfb": "KFBio", ".sdpc": "Sqray", ".svg": "SVG"},
    **{".xcf": "GIMP"},
}


def content_kind(data: bytes) -> str | None:
    """Return the kind of a file by its first bytes, such as "a GIF"; None if unknown."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \r\n\t")
    for magic, name in _STARTS.items():
        if start[: len(magic)].lower() == magic.lower():
            return name
    if start[:1] == b"P" and start[1:2] in b"1234567" and start[2:3].isspace():
        return "a PNM picture"
    if data[128:132] == b"DICM":
        return "a DICOM file"
    if data[4:8] == b"ftyp":
        return "a HEIC picture" if data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1") else "a video (MP4)"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "a video (AVI)"
    return None


def suffix_kind(suffix: str) -> str | None:
    """Return the kind of picture for a suffix that is not read; None for other suffixes."""
    return _SUFFIXES.get(suffix.lower())
