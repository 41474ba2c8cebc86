"""Simulate fields and slides with known nuclei."""
