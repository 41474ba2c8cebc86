"""How large a network's tensors get on calibration images, and the step of int8 that follows from it."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from kinet_trt.core.errors import KinetError
from kinet_trt.core.files import write_atomic
from kinet_trt.onnx_graph.qdq import LARGEST

log = logging.getLogger(__name__)

BINS = 2048
CLIPS = np.linspace(0.2, 1.0, 81)
"""Largest codes that are tried, as shares of the largest magnitude seen."""
_VERSION = b"kinet-trt ranges 1"


@dataclass(frozen=True, eq=False)
class Histogram:
    """Magnitudes of one tensor.

    Attributes
    ----------
    largest
        The largest one.
    counts
        How many values lie in each of :data:`BINS` equal bins from 0 to ``largest``, float64 [BINS].
    scale
        Pixels of the tensor per pixel of the image.
    """

    largest: float
    counts: NDArray[np.float64]
    scale: float = 1.0


def observe(
    graph: onnx.ModelProto,
    tensors: Sequence[str],
    frames: Sequence[NDArray[np.uint8]],
    report: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Histogram]:
    """Run images through a network in FP32 and note the magnitudes of its tensors.

    Two passes: the largest magnitudes, then the histograms up to them, of every second row and column.

    Parameters
    ----------
    graph
        The network.
    tensors
        Names of what to look at.
    frames
        RGB, uint8 [H, W, 3], H and W multiples of the model's alignment.
    report
        Called with the images done and to do.

    Raises
    ------
    KinetError
        If a tensor is not finite: such a network cannot be quantised.
    """
    from kinet_trt.engines.openvino import core  # slow to import, and a cached range needs none of it

    probed = onnx.ModelProto()
    probed.CopyFrom(graph)
    probed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    network = core().read_model(io.BytesIO(probed.SerializeToString()))
    request = core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    largest = dict.fromkeys(tensors, 0.0)
    counts = {name: np.zeros(BINS) for name in tensors}
    scales = dict.fromkeys(tensors, 1.0)
    for number, frame in enumerate(frames):
        found = request.infer({0: frame[None]}, share_outputs=True)
        for name in tensors:
            largest[name] = float(np.maximum(largest[name], np.abs(found[name]).max()))  # a NaN stays one
        report(number + 1, 2 * len(frames))
    if bad := [name for name, value in largest.items() if not np.isfinite(value)]:
        raise KinetError(f"int8: the network's {bad[0]} is not finite on the calibration images: export it again")
    for number, frame in enumerate(frames):
        found = request.infer({0: frame[None]}, share_outputs=True)
        for name in tensors:
            magnitudes = np.abs(np.asarray(found[name])[..., ::2, ::2]).ravel()
            bins = (magnitudes * np.float32(BINS / max(largest[name], 1e-30))).astype(np.int32)
            scales[name] = found[name].shape[-2] * found[name].shape[-1] / (frame.shape[0] * frame.shape[1])
            counts[name] += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)
        report(len(frames) + number + 1, 2 * len(frames))
    return {name: Histogram(largest[name], counts[name], scales[name]) for name in tensors}


def step(histograms: Sequence[Histogram]) -> float:
    """Return the step that tensors which share it lose least by.

    Least mean squared error, each tensor's in units of its own mean square: what is cut off at the largest code weighs
    against what rounding costs everything else. A ReLU's few large values would otherwise waste most of the codes.

    Parameters
    ----------
    histograms
        Of the tensors, at least one.
    """
    top = max(histogram.largest for histogram in histograms)
    if top == 0:
        return 1.0 / LARGEST
    steps = CLIPS * top / LARGEST
    errors = np.zeros(len(steps))
    for histogram in histograms:
        values = (np.arange(BINS) + 0.5) * histogram.largest / BINS
        # The first bin holds a ReLU's exact zeros, which cost nothing.
        values, counts = values[1:], histogram.counts[1:]
        power = float(counts @ values**2)
        if power == 0:
            continue
        for i, size in enumerate(steps):
            codes = np.minimum(np.rint(values / size), LARGEST)
            errors[i] += float(counts @ (codes * size - values) ** 2) / power
    return float(steps[int(errors.argmin())])


def key(graph: onnx.ModelProto, tensors: Sequence[str], frames: Sequence[NDArray[np.uint8]]) -> str:
    """Return a sha256 of everything that ranges follow from: the network, its weights, the tensors and the images."""
    digest = hashlib.sha256(_VERSION)
    digest.update(hashlib.sha256(graph.SerializeToString(deterministic=True)).digest())
    for text in tensors:
        digest.update(hashlib.sha256(text.encode()).digest())
    for frame in frames:
        digest.update(str(frame.shape).encode())
        digest.update(hashlib.sha256(frame.tobytes()).digest())
    return digest.hexdigest()


def cached(
    folder: Path | None,
    graph: onnx.ModelProto,
    tensors: Sequence[str],
    frames: Sequence[NDArray[np.uint8]],
    report: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Histogram]:
    """Return :func:`observe`'s histograms, from a folder where they are kept under the hash of what made them.

    A file of another model, other images or another version has another name, and one that is damaged is made again.

    Raises
    ------
    KinetError
        As :func:`observe`, or if the file cannot be written.
    """
    if folder is None:
        return observe(graph, tensors, frames, report)
    name = key(graph, tensors, frames)
    place = folder / f"ranges-{name[:32]}.npz"
    if place.is_file() and (found := _read(place, name, tensors)):
        return found
    found = observe(graph, tensors, frames, report)
    write_atomic(place, _packed(found, name, tensors))
    return found


def _packed(found: Mapping[str, Histogram], name: str, tensors: Sequence[str]) -> bytes:
    largest = np.array([found[tensor].largest for tensor in tensors])
    counts = np.array([found[tensor].counts for tensor in tensors])
    buffer = io.BytesIO()
    scales = np.array([found[tensor].scale for tensor in tensors])
    np.savez_compressed(buffer, key=np.array(name), largest=largest, counts=counts, scales=scales)
    return buffer.getvalue()


def _read(place: Path, name: str, tensors: Sequence[str]) -> dict[str, Histogram]:
    """Return what a file holds; nothing if it is not whole or was made of something else."""
    try:
        with np.load(io.BytesIO(place.read_bytes()), allow_pickle=False) as file:
            stored, largest, counts, scales = str(file["key"]), file["largest"], file["counts"], file["scales"]
    # A damaged archive raises errors of zipfile, zlib and NumPy; all of them mean the same.
    except Exception as error:
        log.warning("%s: damaged (%s): the ranges are measured again", place, error)
        return {}
    shapes = [array.shape for array in (largest, counts, scales)]
    if stored != name or shapes != [(len(tensors),), (len(tensors), BINS), (len(tensors),)]:
        log.warning("%s: made of something else: the ranges are measured again", place)
        return {}
    return {tensor: Histogram(float(largest[i]), counts[i], float(scales[i])) for i, tensor in enumerate(tensors)}
