"""Measure the magnitudes of a network's tensors on calibration images, and choose int8 quantization steps."""

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
from kinet_trt.onnx_graph.qdq import MAX_CODE

log = logging.getLogger(__name__)

BINS = 2048
"""Number of bins of a histogram."""
CLIPS = np.linspace(0.2, 1.0, 81)
"""Candidates for the clipping value, as fractions of the largest magnitude."""
_VERSION = b"kinet-trt ranges 1"


@dataclass(frozen=True, eq=False)
class Histogram:
    """Histogram of the magnitudes of one tensor."""

    largest: float
    counts: NDArray[np.float64]  # number of values in equal bins from 0 to ``largest``, [BINS]
    scale: float = 1.0  # pixels of the tensor per pixel of the image


def observe(
    graph: onnx.ModelProto,
    tensors: Sequence[str],
    frames: Sequence[NDArray[np.uint8]],
    report: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Histogram]:
    """Run images through a network in FP32 and record the magnitudes of its tensors.

    Two passes: the largest magnitudes, then the histograms up to them, from every second row and column. ``frames`` are
    RGB, uint8 [H, W, 3], H and W multiples of the model's alignment. ``report`` is called with the number of finished
    images and of all images, summed over both passes. Raise a KinetError if a tensor contains a value that is not
    finite.
    """
    from kinet_trt.engines.openvino import core  # slow to import, and not needed for cached ranges

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
            largest[name] = float(np.maximum(largest[name], np.abs(found[name]).max()))  # keeps NaN
        report(number + 1, 2 * len(frames))
    if bad := [name for name, value in largest.items() if not np.isfinite(value)]:
        raise KinetError(f"int8: the tensor {bad[0]} is not finite on the calibration images. Export the model again")
    for number, frame in enumerate(frames):
        found = request.infer({0: frame[None]}, share_outputs=True)
        for name in tensors:
            magnitudes = np.abs(np.asarray(found[name])[..., ::2, ::2]).ravel()
            bins = (magnitudes * np.float32(BINS / max(largest[name], 1e-30))).astype(np.int32)
            scales[name] = found[name].shape[-2] * found[name].shape[-1] / (frame.shape[0] * frame.shape[1])
            counts[name] += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)
        report(len(frames) + number + 1, 2 * len(frames))
    return {name: Histogram(largest[name], counts[name], scales[name]) for name in tensors}


def choose_step(histograms: Sequence[Histogram]) -> float:
    """Return the common quantization step of tensors that minimizes the mean squared error.

    The error of a tensor, from clipping and rounding, is relative to its mean square. Without
    clipping, the few large values of a ReLU would use most of the codes.
    """
    max_magnitude = max(histogram.largest for histogram in histograms)
    if max_magnitude == 0:
        return 1.0 / MAX_CODE
    steps = CLIPS * max_magnitude / MAX_CODE
    errors = np.zeros(len(steps))
    for histogram in histograms:
        values = (np.arange(BINS) + 0.5) * histogram.largest / BINS
        # The first bin contains the exact zeros of a ReLU, which have no error.
        values, counts = values[1:], histogram.counts[1:]
        power = float(counts @ values**2)
        if power == 0:
            continue
        for i, size in enumerate(steps):
            codes = np.minimum(np.rint(values / size), MAX_CODE)
            errors[i] += float(counts @ (codes * size - values) ** 2) / power
    return float(steps[int(errors.argmin())])


def key(graph: onnx.ModelProto, tensors: Sequence[str], frames: Sequence[NDArray[np.uint8]]) -> str:
    """Return the sha256 of everything that determines the ranges: network, weights, tensor names and images."""
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
    """Return the histograms of :func:`observe`, cached in a folder under the hash of their inputs.

    A different model, set of images or version has a different file name; a damaged file is replaced.
    """
    if folder is None:
        return observe(graph, tensors, frames, report)
    name = key(graph, tensors, frames)
    path = folder / f"ranges-{name[:32]}.npz"
    if path.is_file() and (found := _read(path, name, tensors)):
        return found
    found = observe(graph, tensors, frames, report)
    write_atomic(path, _packed(found, name, tensors))
    return found


def _packed(found: Mapping[str, Histogram], name: str, tensors: Sequence[str]) -> bytes:
    largest = np.array([found[tensor].largest for tensor in tensors])
    counts = np.array([found[tensor].counts for tensor in tensors])
    buffer = io.BytesIO()
    scales = np.array([found[tensor].scale for tensor in tensors])
    np.savez_compressed(buffer, key=np.array(name), largest=largest, counts=counts, scales=scales)
    return buffer.getvalue()


def _read(path: Path, name: str, tensors: Sequence[str]) -> dict[str, Histogram]:
    """Return the histograms in a file; empty if it is damaged or belongs to other inputs."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            stored, largest, counts, scales = str(file["key"]), file["largest"], file["counts"], file["scales"]
    # A damaged archive raises various errors of zipfile, zlib and NumPy.
    except Exception as error:
        log.warning("%s: damaged (%s). Measuring the ranges again", path, error)
        return {}
    shapes = [array.shape for array in (largest, counts, scales)]
    if stored != name or shapes != [(len(tensors),), (len(tensors), BINS), (len(tensors),)]:
        log.warning("%s: belongs to other inputs. Measuring the ranges again", path)
        return {}
    return {tensor: Histogram(float(largest[i]), counts[i], float(scales[i])) for i, tensor in enumerate(tensors)}
