"""Threshold and max-pool NMS: proximity maps to nuclei. ``reference`` defines the rule, the others agree with it."""
