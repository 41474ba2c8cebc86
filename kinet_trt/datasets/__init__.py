"""Labelled fields: images with nuclei that people marked."""
