"""GPU timing: the median of many runs, each between two events, over varying inputs."""

from __future__ import annotations

import numpy as np


def microseconds(launch, stream, inputs, rounds=100):
    """Return the median time of ``launch(stream, input)``, us, in a captured graph of each input.

    The graphs leave out what the host needs to launch kernels one by one, as in an engine.
    """
    import cupy

    for given in inputs:
        launch(stream, given)
    stream.synchronize()
    graphs = []
    for given in inputs:
        stream.begin_capture()
        launch(stream, given)
        graphs.append(stream.end_capture())
    times = []
    for i in range(rounds):
        before, after = cupy.cuda.Event(), cupy.cuda.Event()
        before.record(stream)
        graphs[i % len(graphs)].launch(stream)
        after.record(stream)
        after.synchronize()
        times.append(1000 * cupy.cuda.get_elapsed_time(before, after))
    return float(np.median(times[10:]))
