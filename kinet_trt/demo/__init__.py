"""The demo: count a synthetic and a real field."""
