"""Labelled fields: images with annotated nuclei."""
