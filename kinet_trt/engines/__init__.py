"""One file for each accelerator behind one small protocol: a compiled model that turns frames into proximity maps."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kinet_trt.errors import EngineError, MissingExtraError
from kinet_trt.model_card import ModelCard, read_card

RUNTIMES = ("openvino", "onnxruntime")
"""What runs a ``.onnx`` file."""


class Engine(Protocol):
    """An open model.

    Attributes
    ----------
    card
        What the model says of itself.
    precision
        What it computes in here: ``"fp32"``, ``"bf16"``, ``"fp16"`` or ``"int8"``.
    runtime
        Name, version and device of what runs it, in words.
    """

    card: ModelCard
    precision: str
    runtime: str

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the proximity maps of a batch, float32 [N, classes, H, W].

        The array is the engine's own buffer where that saves a copy: it holds until the same thread's next run.
        Several threads may run one engine at a time.

        Parameters
        ----------
        frames
            RGB, uint8 [N, H, W, 3] at the model's um/px; H and W multiples of ``card.multiple``.

        Raises
        ------
        EngineError
            If the frames do not fit, before anything runs.
        """


def check_frames(frames: NDArray[np.uint8], card: ModelCard) -> None:
    """Raise an EngineError unless the frames are uint8 [N, H, W, 3] with H and W multiples of the model's alignment."""
    m = card.multiple
    fits = frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3 and min(frames.shape) > 0
    if not fits or frames.shape[1] % m or frames.shape[2] % m:
        raise EngineError(
            f"frames: expected RGB, uint8 [N, H, W, 3] with H and W multiples of {m} px, found {frames.dtype} "
            f"{list(frames.shape)}: kinet_trt.frame.fit pads a frame"
        )


def check_maps(maps: NDArray[np.floating], frames: NDArray[np.uint8], card: ModelCard) -> NDArray[np.float32]:
    """Return a batch's maps as float32, or raise an EngineError where they are not what the model's card promises."""
    expected = (frames.shape[0], len(card.classes), *frames.shape[1:3])
    if maps.shape != expected:
        raise EngineError(
            f"the model gives maps {list(maps.shape)}, its card ({', '.join(card.classes)}) promises {list(expected)}: "
            "export it again"
        )
    return maps.astype(np.float32, copy=False)


def open_engine(
    path: Path,
    precision: str = "auto",
    threads: int | None = None,
    cache: Path | None = None,
    runtime: str = "auto",
) -> Engine:
    """Open a model with the engine that its suffix asks for.

    Parameters
    ----------
    path
        A ``.onnx`` file.
    precision
        ``"auto"``, or what to compute in.
    threads
        CPU threads; None: as many as there are cores.
    cache
        Folder in which OpenVINO keeps compiled models for the next time; None: nowhere.
    runtime
        ``"openvino"``, ``"onnxruntime"``, or ``"auto"``: OpenVINO where it is installed, else ONNX Runtime.

    Raises
    ------
    KinetError
        If the file is no model of ours, is damaged, or cannot run here.
    """
    if path.suffix.lower() != ".onnx":
        raise EngineError(f"{path}: expected a model file ending in .onnx, found {path.suffix or 'no suffix'}")
    if runtime not in ("auto", *RUNTIMES):
        raise EngineError(f"runtime: expected auto, {' or '.join(RUNTIMES)}, found {runtime!r}")
    card, model = read_card(path)
    # Imported here: either takes its time, and only one is needed.
    if runtime == "openvino" or (runtime == "auto" and find_spec("openvino")):
        from kinet_trt.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(card, model, precision, threads, cache)
    if not find_spec("onnxruntime"):
        raise MissingExtraError("This engine", "onnxruntime", "onnxruntime")
    from kinet_trt.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(card, model, precision, threads)
