"""What a smaller precision costs, judged by the nuclei that are found. Installed as ``kinet_trt.calibration``."""
