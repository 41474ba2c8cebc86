"""What every CUDA module shares: the driver, kernels compiled with NVRTC, arrays of other libraries."""
