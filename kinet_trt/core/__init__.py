"""Values and rules that everything else builds on: frames, detections, the Ki67 index, errors."""
