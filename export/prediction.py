"""Maps of an image from a network in PyTorch."""

from __future__ import annotations

import os

import numpy as np
import torch
from kinet_trt.export.checkpoint import ModelInfo
from kinet_trt.export.networks.base import BASE_MULTIPLE, Network
from numpy.typing import NDArray
from torch import Tensor

from kinet_trt.core.detections import Detections
from kinet_trt.core.frame import Frame, fit
from kinet_trt.peaks.reference import find_peaks

ISA_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of ONEDNN_MAX_CPU_ISA with which oneDNN has no BF16 arithmetic."""


def normalise(pixels: Tensor, info: ModelInfo) -> Tensor:
    """Convert uint8 [N, H, W, 3] to the input of a network, float32 [N, 3, H, W]."""
    mean = torch.tensor(info.mean, device=pixels.device)
    std = torch.tensor(info.std, device=pixels.device)
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def network_input(pixels: NDArray[np.uint8], info: ModelInfo, device: torch.device | None = None) -> Tensor:
    """Return an RGB image, uint8 [H, W, 3], padded and normalised, float32 [1, 3, H', W']."""
    return normalise(torch.tensor(fit(Frame(pixels), info.mpp, BASE_MULTIPLE).pixels[None], device=device), info)


def predict(network: Network, info: ModelInfo, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the maps of an RGB image, uint8 [H, W, 3], as float32 [classes, H', W'] with padded H' and W'."""
    image = network_input(pixels, info, next(network.parameters()).device)
    with torch.inference_mode():
        maps, _ = network(image)
    return maps[0].float().cpu().numpy()  # type: ignore[no-any-return]


def detect(network: Network, info: ModelInfo, pixels: NDArray[np.uint8], threshold: float) -> Detections:
    """Return the nuclei of an RGB image, uint8 [H, W, 3], whose peaks are not in the padding."""
    peaks = find_peaks(predict(network, info, pixels), threshold, info.nms_radius)
    return peaks.where((peaks.x < pixels.shape[1]) & (peaks.y < pixels.shape[0]))


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device has BF16 arithmetic: GPUs that support it and CPUs with instructions for it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # oneDNN may be limited to older instructions, where it only emulates BF16; PyTorch does not report this.
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ISA_WITHOUT_BFLOAT16:
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu._is_avx512_bf16_supported()
