"""Read images and label files, draw overlays, write tables."""
