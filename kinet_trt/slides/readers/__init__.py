"""Read whole slides: OpenSlide, TIFF pyramids, OME-Zarr, DICOM.

Which reader opens a file is decided in `kinet_trt.slides.slide` (``_open``): a new format needs a module here and a
branch there.
"""
