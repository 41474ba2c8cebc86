"""Whole slides: `open_slide` finds the reader for a file and returns a `Slide`."""

from kinet_trt.slides.slide import Level as Level
from kinet_trt.slides.slide import Pixels as Pixels
from kinet_trt.slides.slide import Slide as Slide
from kinet_trt.slides.slide import is_slide as is_slide
from kinet_trt.slides.slide import is_zarr as is_zarr
from kinet_trt.slides.slide import open_slide as open_slide
