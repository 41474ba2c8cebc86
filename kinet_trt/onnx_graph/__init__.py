"""Passes over an ONNX graph: precision, quantization, fused peak finding, inspection."""
