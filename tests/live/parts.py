"""Parts of session tests: models, frames and nuclei without a network."""

from __future__ import annotations

import numpy as np

from kinet_trt import Detections, Frame
from kinet_trt.core.detections import CLASSES
from kinet_trt.inference.counter import Threshold
from kinet_trt.live.session.records import Model
from kinet_trt.models.card import ModelCard

CARD = ModelCard("test", 0.34, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 0.3, model_sha256="ab" * 32, network="none at all")
MODEL = Model(CARD, "a runtime", "fp32")
THRESHOLD = Threshold(0.3)


def detections(x, y, cls=None, score=None) -> Detections:
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    cls = np.zeros(len(x), np.uint8) if cls is None else np.asarray(cls, np.uint8)
    score = np.ones(len(x), np.float32) if score is None else np.asarray(score, np.float32)
    return Detections(x, y, cls, score, CLASSES)


def some_nuclei(n: int, width: int = 64, height: int = 48, seed: int = 0) -> Detections:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, width - 1, n), rng.uniform(0, height - 1, n)
    return detections(x, y, rng.integers(0, 3, n), rng.uniform(0.3, 1, n))


def some_frame(width: int = 64, height: int = 48, seed: int = 0, **options) -> Frame:
    return Frame(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8), **options)


def keep(store, session: int, frame: Frame | None = None, nuclei: Detections | None = None, **options):
    """Capture a field with defaults for everything that a test does not set."""
    options = {"model": MODEL, "threshold": THRESHOLD, "mpp": 0.5, "mpp_source": "option"} | options
    return store.fields.capture(session, frame or some_frame(), some_nuclei(9) if nuclei is None else nuclei, **options)
