"""The PyTorch workshop: network, proximity maps, losses, fields, training, ONNX. Installed as ``kinet_trt.export``."""
