"""Networks in PyTorch, their training, and export to ONNX. Installed as ``kinet_trt.export``."""
