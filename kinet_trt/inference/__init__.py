"""Count the nuclei of a frame: tiling, batching, threads."""
