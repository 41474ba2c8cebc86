"""The release's network in PyTorch on a GPU, alone and between our kernels, without TensorRT."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from kinet_trt.export.checkpoint import ModelInfo
from kinet_trt.export.networks.base import NetworkConfig
from kinet_trt.export.networks.registry import build
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from kinet_trt.core.detections import Detections
from kinet_trt.cuda.interop import parse_interface
from kinet_trt.engines.tensorrt.preprocess import CudaPrepare
from kinet_trt.peaks.cuda import CudaPeaks

MULTIPLE, RADIUS = 16, 5


class Network(nn.Module):
    """Pixels to maps: uint8 [1, H, W, 3] to [1, 3, H, W] of the type, contiguous. Weights are random."""

    scale: Tensor
    shift: Tensor

    def __init__(self, width: int = 32, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = build(NetworkConfig("release", width, "elu", roi=False)).eval()
        std = torch.tensor(ModelInfo().std)
        self.register_buffer("scale", 1 / (255 * std).view(3, 1, 1))
        self.register_buffer("shift", (-torch.tensor(ModelInfo().mean) / std).view(3, 1, 1))
        self.dtype = dtype
        self.to(dtype)
        if dtype == torch.float16:
            self.to(memory_format=torch.channels_last)

    def forward(self, frame: Tensor) -> Tensor:
        """Return the maps."""
        image = frame.permute(0, 3, 1, 2).to(self.dtype) * self.scale + self.shift
        maps: Tensor = self.network(image)[0]
        return maps.contiguous(memory_format=torch.contiguous_format)


def count(network: nn.Module, frame: NDArray[np.uint8], threshold: float, device: str = "cuda") -> int:
    """Count a frame in plain PyTorch: copy, network, max pool, copy back. Returns the number of peaks.

    Parameters
    ----------
    network
        :class:`Network`, compiled or not, on the device.
    frame
        uint8 [H, W, 3], H and W multiples of 16.
    threshold
        Minimum height of a peak.
    device
        Device of the network.
    """
    with torch.inference_mode():
        maps = network(torch.from_numpy(frame[None]).to(device))
        highest, cls = maps.max(dim=1)
        window = max_pool2d(highest, 2 * RADIUS + 1, stride=1, padding=RADIUS)
        _, y, x = torch.nonzero((highest == window) & (highest >= threshold), as_tuple=True)
        found = torch.stack([x.float(), y.float(), highest[0, y, x].float(), cls[0, y, x].float()])
        return int(found.cpu().shape[1])


class _Lane:
    """Frame in progress."""

    def __init__(self, path: CapturedPath, height: int, width: int) -> None:
        plan, stream = path.plan, path.stream
        self.pinned = torch.empty((height, width, 3), dtype=torch.uint8, pin_memory=True)
        self.here = self.pinned.numpy()
        self.staged = torch.empty((height, width, 3), dtype=torch.uint8, device="cuda")
        self.pixels = parse_interface({**self.staged.__cuda_array_interface__, "stream": None}, None, self.staged)
        self.frames = torch.zeros((1, plan.height, plan.width, 3), dtype=torch.uint8, device="cuda")
        self.coloured = torch.zeros(1, dtype=torch.int32, device="cuda")
        self.peaks = CudaPeaks((1, 3, plan.height, plan.width), np.float16, RADIUS)
        self.uploaded, self.end = torch.cuda.Event(), torch.cuda.Event()
        torch.cuda.synchronize()
        with torch.inference_mode():
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.maps = path.network(self.frames)
                    self.peaks.begin(path.cupy_stream, 0.5)
                    self.peaks.enqueue(path.cupy_stream, self.maps.data_ptr())
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="relaxed"):
                self.maps = path.network(self.frames)
                self.peaks.enqueue(path.cupy_stream, self.maps.data_ptr())


class CapturedPath:
    """Preparation, PyTorch's FP16 network and peaks on one stream, the last two as a CUDA graph; two lanes.

    Parameters
    ----------
    network
        :class:`Network` in FP16 on the GPU, compiled or not.
    height, width
        Size of the frames, px.
    """

    def __init__(self, network: nn.Module, height: int, width: int) -> None:
        import cupy

        self.network = network
        self.cupy_stream: Any = cupy.cuda.Stream(non_blocking=True)
        self.stream, self.uploads = torch.cuda.ExternalStream(self.cupy_stream.ptr), torch.cuda.Stream()
        self.prepare = CudaPrepare(ModelInfo().mpp, MULTIPLE)
        self.plan = self.prepare.plan(height, width, None)
        self.lanes = [_Lane(self, height, width) for _ in range(2)]
        self._next = 0

    def submit(self, frame: NDArray[np.uint8], threshold: float) -> _Lane:
        """Submit a frame; the one before the last must have been collected."""
        lane, self._next = self.lanes[self._next], 1 - self._next
        np.copyto(lane.here, frame)
        with torch.cuda.stream(self.uploads):
            lane.staged.copy_(lane.pinned, non_blocking=True)
            lane.uploaded.record(self.uploads)
        self.stream.wait_event(lane.uploaded)
        target, flag = lane.frames.data_ptr(), lane.coloured.data_ptr()
        self.prepare.enqueue(self.cupy_stream, self.plan, lane.pixels, target, flag)
        self.start(lane, threshold)
        lane.end.record(self.stream)
        return lane

    def start(self, lane: _Lane, threshold: float) -> None:
        """Queue network and peaks."""
        lane.peaks.begin(self.cupy_stream, threshold, self.plan.scaled_height, self.plan.scaled_width)
        with torch.cuda.stream(self.stream):
            lane.graph.replay()

    def collect(self, lane: _Lane) -> Detections:
        """Wait for a frame."""
        lane.end.synchronize()
        return lane.peaks.read(self.cupy_stream)[0]


def compiled(network: Network) -> nn.Module:
    """Return a copy that torch.compile compiles at its first run."""
    made: nn.Module = torch.compile(copy.deepcopy(network), dynamic=False)  # type: ignore[assignment]
    return made


def tflops(size: int = 8192, rounds: int = 10) -> float:
    """Return the FP16 throughput of this GPU in matrix products, TFLOP/s."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.float16) for _ in range(2))
    times = []
    for _ in range(rounds + 3):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        torch.mm(a, b)
        after.record()
        after.synchronize()
        times.append(before.elapsed_time(after))
    return round(2 * size**3 / (float(np.median(times[3:])) * 1e9), 1)
