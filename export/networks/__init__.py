"""The networks that KiNet's paper compares it with, one module each."""
