"""Package a model for NVIDIA Triton Inference Server."""
