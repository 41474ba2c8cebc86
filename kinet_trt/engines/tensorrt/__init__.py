"""TensorRT: build an engine, read and write its file, run it."""
