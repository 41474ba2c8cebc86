"""DICOM whole slides for the tests: a file for each level, and a label, in one series."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
CT = "1.2.840.10008.5.1.4.1.1.2"
_JPEG = "1.2.840.10008.1.2.4.50"


def write_series(folder: Path, pixels: np.ndarray, *, suffix: str = ".dcm", mpp: float = 0.25) -> list[Path]:
    """Write a pyramid of two levels and a label; the label comes first by name. Return the files."""
    from pydicom.uid import generate_uid

    folder.mkdir(exist_ok=True)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    small = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    label = np.zeros((64, 64, 3), np.uint8)
    paths = [folder / f"{name}{suffix}" for name in ("0", "1", "2")]
    for number, (path, kind, image, size) in enumerate(
        zip(
            paths,
            (["ORIGINAL", "PRIMARY", "LABEL", "NONE"], ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
             ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]),
            (label, pixels, small),
            (10.0, mpp, 2 * mpp),
            strict=True,
        )
    ):  # fmt: skip
        _write(path, image, size, kind, (str(series), str(study), str(frame)), number + 1)
    return paths


def write_other(path: Path, kind: str = CT, series: str = "1.2.3") -> Path:
    """Write a DICOM file that is no whole slide."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID = series
    data.save_as(path, enforce_file_format=True)
    return path


def _write(path, pixels, mpp, kind, uids, number, tile=256):
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, generate_uid

    height, width = pixels.shape[:2]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = WHOLE_SLIDE, generate_uid()
    meta.TransferSyntaxUID = UID(_JPEG)
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.SOPInstanceUID = WHOLE_SLIDE, meta.MediaStorageSOPInstanceUID
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = uids
    ds.Modality, ds.InstanceNumber, ds.ImageType = "SM", number, kind
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "YBR_FULL_422", 0
    ds.Rows = ds.Columns = tile
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.TotalPixelMatrixColumns, ds.TotalPixelMatrixRows = width, height
    ds.TotalPixelMatrixFocalPlanes = ds.NumberOfOpticalPaths = 1
    ds.ImagedVolumeWidth, ds.ImagedVolumeHeight, ds.ImagedVolumeDepth = width * mpp / 1e3, height * mpp / 1e3, 0.001
    ds.DimensionOrganizationType, ds.LossyImageCompression = "TILED_FULL", "01"
    measures, shared, optics = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1e3, mpp / 1e3], 0.001
    shared.PixelMeasuresSequence = [measures]
    optics.OpticalPathIdentifier, optics.ObjectiveLensPower = "0", 20
    ds.SharedFunctionalGroupsSequence, ds.OpticalPathSequence = [shared], [optics]
    frames = []
    for y in range(0, height, tile):
        for x in range(0, width, tile):
            whole = np.full((tile, tile, 3), 255, np.uint8)
            part = pixels[y : y + tile, x : x + tile]
            whole[: part.shape[0], : part.shape[1]] = part
            data = cv2.imencode(".jpg", whole[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            frames.append(data + bytes(len(data) % 2))
    ds.NumberOfFrames, ds.PixelData = len(frames), encapsulate(frames)
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path, enforce_file_format=True)
