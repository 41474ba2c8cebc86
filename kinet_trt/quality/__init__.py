"""Is a picture good enough to count: focus, missing rows, likeness to the training data."""
