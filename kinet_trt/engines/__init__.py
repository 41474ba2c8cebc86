"""Engines run a model: one protocol, and `open_engine`, which opens a model with the engine for its suffix."""

from kinet_trt.engines.base import DeviceEngine as DeviceEngine
from kinet_trt.engines.base import Engine as Engine
from kinet_trt.engines.base import Pending as Pending
from kinet_trt.engines.open import open_engine as open_engine
from kinet_trt.engines.open import open_model as open_model
