"""Threshold and max-pool NMS: nuclei from proximity maps. ``reference`` defines the result."""
