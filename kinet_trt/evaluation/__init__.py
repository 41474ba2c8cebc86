"""Compare detections with ground truth, and measure speed."""
