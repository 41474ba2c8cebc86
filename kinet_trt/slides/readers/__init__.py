"""Read whole slides: OpenSlide, TIFF pyramids, OME-Zarr, DICOM."""
