"""Engines: one protocol, and `open_engine`, which opens a model with the engine for its suffix."""

from kinet_trt.engines.base import DeviceEngine as DeviceEngine
from kinet_trt.engines.base import Engine as Engine
from kinet_trt.engines.base import Pending as Pending
from kinet_trt.engines.base import check_frames as check_frames
from kinet_trt.engines.base import check_has_tumor_map as check_has_tumor_map
from kinet_trt.engines.base import check_maps as check_maps
from kinet_trt.engines.base import check_outputs as check_outputs
from kinet_trt.engines.base import check_tumor_maps as check_tumor_maps
from kinet_trt.engines.base import open_engine as open_engine
from kinet_trt.engines.base import open_model as open_model
from kinet_trt.engines.base import read_detections as read_detections
