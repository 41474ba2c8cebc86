"""Shared CUDA modules: the driver, kernels compiled with NVRTC, arrays of other libraries, errors."""
