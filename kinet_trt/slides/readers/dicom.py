"""DICOM files: whole slides and the files of a series.

A DICOM slide is a series of files, one for each level of its pyramid, its label and its overview. OpenSlide opens the
slide by any of them.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

SUFFIX = ".dcm"
_MAGIC_AT, _MAGIC = 128, b"DICM"
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_DIRECTORY = "1.2.840.10008.1.3.10"
_ASIDE = ("LABEL", "OVERVIEW", "THUMBNAIL")
_LAST_TAG = 0x0020000E  # SeriesInstanceUID: the tags after it are long, and not needed


@dataclass(frozen=True)
class Header:
    """Header of a DICOM file; text is empty if the file does not state it.

    ``kind`` is the kind of file, like ``"CT Image"``; ``series`` and ``instance`` are unique identifiers;
    ``compression`` is the name of the transfer syntax. A directory (``DICOMDIR``) lists other files and contains no
    image. An aside is the label, overview or thumbnail of a slide.
    """

    kind: str
    series: str
    instance: str
    is_slide: bool
    is_directory: bool
    is_aside: bool
    compression: str


def is_dicom(path: Path) -> bool:
    """Return whether a file has the signature of DICOM; archives export files without a suffix."""
    try:
        if not path.is_file():  # reading a pipe would block
            return False
        with path.open("rb") as file:
            return file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC
    except OSError:
        return False


def read_header(path: Path) -> Header | None:
    """Return the header of a DICOM file; None if it cannot be read, or pydicom is not installed."""
    if not find_spec("pydicom") or not is_dicom(path):
        return None
    from pydicom.filereader import read_partial

    try:
        # pydicom warns of values that violate the standard; here they only have to be readable.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = read_partial(file, stop_when=lambda tag, _vr, _length: tag > _LAST_TAG)
        meta = found.file_meta
        kind = found.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
        syntax = meta.get("TransferSyntaxUID")
        return Header(
            kind=_named(kind).removesuffix(" Storage"),
            series=str(found.get("SeriesInstanceUID") or ""),
            instance=str(found.get("SOPInstanceUID") or ""),
            is_slide=kind == _WHOLE_SLIDE,
            is_directory=kind == _DIRECTORY,
            is_aside=any(word in _ASIDE for word in map(str, found.get("ImageType") or ())),
            compression=_named(syntax),
        )
    except Exception:  # pydicom raises many kinds on damaged files
        return None


def series_files(path: Path) -> dict[Path, Header]:
    """Return the files in the same folder that are of the same series as a DICOM file, itself included."""
    own = read_header(path)
    if own is None or not own.series:
        return {}
    headers = {file: read_header(file) for file in sorted(path.parent.iterdir()) if file.is_file()}
    return {file: header for file, header in headers.items() if header and header.series == own.series}


def is_listed(path: Path) -> bool:
    """Return whether a file is a DICOM image other than a label, an overview or a directory."""
    if not is_dicom(path):
        return False
    header = read_header(path)
    return header is None or not (header.is_aside or header.is_directory)


def why_no_slide(path: Path) -> str | None:
    """Return why a DICOM file cannot be counted as a slide; None if it can, or is not a DICOM file."""
    if not is_dicom(path):
        return None
    header = read_header(path)
    if header is None or not header.kind:
        return "DICOM, but not a whole slide: it does not state what it contains"
    if not header.is_slide:
        article = "an" if header.kind[0] in "AEIOU" else "a"
        return f"DICOM, but {article} {header.kind.replace(' Image', ' image')}: not a whole slide"
    if header.is_aside and all(other.is_aside for other in series_files(path).values()):
        return "DICOM, but only the label or overview of a slide: put the files of the whole series into one folder"
    return None


def with_names(text: str) -> str:
    """Return a text with DICOM identifiers, such as transfer syntaxes, replaced by their names."""
    if not find_spec("pydicom"):
        return text
    from pydicom.uid import UID

    return re.sub(r"1\.2\.840\.10008(\.\d+)+", lambda found: str(UID(found[0]).name), text)


def _named(identifier: object) -> str:
    """Return the name of a DICOM identifier in the standard; the identifier itself if it has none."""
    return str(getattr(identifier, "name", identifier) or "")
