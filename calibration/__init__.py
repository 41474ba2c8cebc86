"""Quantize models to INT8 and measure the F1 loss. Installed as ``kinet_trt.calibration``."""
