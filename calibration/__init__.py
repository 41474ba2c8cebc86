"""Quantise models to INT8 and measure the loss. Installed as ``kinet_trt.calibration``."""
