"""Counting the tiles of slides on a Dask cluster.

Workers receive batches of tiles, and the paths of slide and model, which must be the same on every machine. Each worker
opens its engine once. The process that started the count saves the nuclei. If a worker is lost, Dask sends its batches
to another one; a tile that is counted twice is saved once (`kinet_trt.slides.results_db`).

Dask's messages are pickled Python: make its ports accessible to trusted machines only, or use ``tls://`` (see
Dask's configuration).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dask
from distributed import Client, Future, LocalCluster, Worker, WorkerPlugin, get_worker, wait
from distributed import TimeoutError as DaskTimeoutError
from distributed.comm.core import CommClosedError

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.slides.count import TileCounter
from kinet_trt.slides.plan import Plan
from kinet_trt.slides.slide import Slide, open_slide
from kinet_trt.slides.tiles import count_tiles

log = logging.getLogger(__name__)

LOCAL = "local"
MAX_BATCH = 8
"""Maximum number of tiles per batch: some seconds of work, so that messages and lost workers cost little."""
MIN_BATCHES = 8
"""Minimum number of batches of a slide per thread, so that threads finish at about the same time."""
BATCHES_IN_FLIGHT = 2
"""Batches per thread that are submitted at a time: one is counted while one waits."""
MAX_OPEN_SLIDES = 4
"""Slides that a worker keeps open."""
CONNECT_TIMEOUT = 10.0
"""Timeout of the connection to a scheduler, s."""
RESULT_TIMEOUT = 30.0
"""Time without a result after which a missing worker is reported, s."""

Tiles = list[tuple[int, Detections]]
"""Number and nuclei of tiles, px of level 0."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Tiles of one slide.

    The path is absolute, the um/px None for that of the file, and the plan has the tiles of this batch only.
    """

    slide: Path
    mpp: float | None
    plan: Plan


@contextmanager
def connect(address: str, workers: int | None = None) -> Iterator[Client]:
    """Provide a client of a cluster; raise a KinetError if no scheduler answers.

    ``address`` is that of a Dask scheduler, such as ``tcp://10.0.0.5:8786``, or ``"local"`` for a cluster on this
    machine, which ends with the context. A local cluster has ``workers`` workers with one thread each, by default one
    per core.
    """
    with ExitStack() as stack:
        if address == LOCAL:
            # Dask's default folder is shared by all users of the machine and is not deleted.
            scratch = stack.enter_context(TemporaryDirectory(prefix="kinet-trt-"))
            stack.enter_context(dask.config.set({"temporary-directory": scratch}))
            # Processes, because each engine uses the threads of its process. They listen on this machine only.
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                silence_logs=logging.ERROR,
            )
            yield stack.enter_context(Client(stack.enter_context(cluster)))
            return
        try:
            client = Client(address, timeout=CONNECT_TIMEOUT)
        except (OSError, ValueError) as error:
            raise KinetError(
                f"cluster {address}: no Dask scheduler answers ({error}). Expected the address that `dask scheduler` "
                "prints, such as tcp://10.0.0.5:8786, or local"
            ) from error
        yield stack.enter_context(client)


def cluster_tile_counter(client: Client, model: Path | None) -> TileCounter:
    """Return a tile counter for `kinet_trt.slides.count.count_slide` that counts on a cluster; see `count_batches`."""

    def count(slide: Slide, plan: Plan, numbers: Sequence[int]) -> Iterator[tuple[int, Detections]]:
        mpp = slide.mpp if slide.mpp_source == "option" else None
        size = min(MAX_BATCH, max(1, len(numbers) // (_threads(client) * MIN_BATCHES)))
        for _, tiles in count_batches(client, batches(slide.path, mpp, plan, numbers, size), model, plan):
            if isinstance(tiles, KinetError):
                raise tiles
            yield from tiles

    return count


def batches(
    slide: Path, mpp: float | None, plan: Plan, missing: Iterable[int], size: int = MAX_BATCH
) -> Iterator[Batch]:
    """Split tiles into batches of at most ``size``."""
    numbers = tuple(missing)
    for start in range(0, len(numbers), size):
        yield Batch(slide.resolve(), mpp, replace(plan, tiles=numbers[start : start + size]))


def count_batches(
    client: Client, work: Iterable[Batch], model: Path | None, plan: Plan
) -> Iterator[tuple[Batch, Tiles | KinetError]]:
    """Count batches on a cluster; yield each with its tiles or an error, in the order of completion.

    The work is iterated as workers become free. ``model`` is the model file, under the same path on every machine, or
    None for the built-in model. All batches are counted with the model, threshold and precision of ``plan``. Raises a
    KinetError if the connection to the scheduler is lost.
    """
    plugin = SlideWorker(model.resolve() if model else None, plan)
    with _connection_errors():
        client.register_plugin(plugin, name=plugin.name)
    work = iter(work)
    in_flight: dict[Future[Any], Batch] = {}
    try:
        while True:
            with _connection_errors():
                while len(in_flight) < _threads(client) * BATCHES_IN_FLIGHT and (batch := next(work, None)) is not None:
                    # pure=False, because all batches differ and Dask need not hash them.
                    in_flight[client.submit(_count_on_worker, plugin.name, batch, pure=False)] = batch
            if not in_flight:
                return
            for future in _wait_for_any(client, list(in_flight)):
                yield in_flight.pop(future), _result(future)
    finally:
        # These results are no longer needed: free the workers.
        client.cancel(list(in_flight), force=True)


def _threads(client: Client) -> int:
    threads: dict[str, int] = client.nthreads()
    return max(1, sum(threads.values()))


class SlideWorker(WorkerPlugin):  # type: ignore[misc]  # Dask has no types
    """State of a worker: the engine, opened for its first batch, and the most recent slides."""

    idempotent = True

    def __init__(self, model: Path | None, plan: Plan) -> None:
        self._model, self._threshold, self._precision = model, plan.threshold, plan.precision
        # The key includes the model's hash: workers outlive commands, and the file may change in between.
        key = repr((str(model), plan.model_sha256, plan.threshold, plan.precision))
        self.name = f"kinet-trt-{hashlib.sha256(key.encode()).hexdigest()[:12]}"

    def setup(self, worker: Worker) -> None:
        """Start on a worker (called by Dask)."""
        self._threads, self._address = worker.state.nthreads, worker.address
        self._lock = threading.Lock()
        self._counter: NucleusCounter | None = None
        self._slides: dict[tuple[Path, float | None, str], Slide] = {}

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002
        """Close the slides (called by Dask)."""
        for slide in self._slides.values():
            slide.close()

    def count(self, batch: Batch) -> Tiles | KinetError:
        """Count a batch. A KinetError is returned, not raised: another worker would fail in the same way."""
        try:
            with self._lock:
                if self._counter is None:
                    self._counter = NucleusCounter(
                        self._model, threshold=self._threshold, precision=self._precision, threads=self._threads
                    )
                key = batch.slide, batch.mpp, batch.plan.fingerprint
                slide = self._slides.pop(key, None) or open_slide(batch.slide, batch.mpp)
                self._slides[key] = slide
                # Not closed here: another thread of this worker may still read a slide. It closes when it is collected.
                while len(self._slides) > MAX_OPEN_SLIDES:
                    self._slides.pop(next(iter(self._slides)))
            return list(count_tiles(slide, batch.plan, batch.plan.tiles, self._counter))
        except KinetError as error:
            # A plain KinetError, which every process can unpickle.
            return KinetError(
                f"{error} (on the worker {self._address}; slides and models must have the same path on every machine)"
            )


def _count_on_worker(name: str, batch: Batch) -> Tiles | KinetError:
    """Count a batch on a worker that has the plugin of this name."""
    plugin: SlideWorker = get_worker().plugins[name]
    return plugin.count(batch)


def _wait_for_any(client: Client, futures: list[Future[Any]]) -> list[Future[Any]]:
    """Wait until at least one future is done, and return all that are."""
    while True:
        with _connection_errors():
            try:
                return list(wait(futures, timeout=RESULT_TIMEOUT, return_when="FIRST_COMPLETED").done)
            except DaskTimeoutError:
                if not client.nthreads():
                    log.warning("the cluster has no workers. Start one: dask worker %s", client.scheduler.address)


def _result(future: Future[Any]) -> Tiles | KinetError:
    """Return the result of a future; failures of Dask become a KinetError."""
    if future.status == "finished":
        result: Tiles | KinetError = future.result()
        return result
    if future.status != "error":
        return KinetError("the scheduler cancelled a batch of tiles. Run the same command again to resume")
    error = future.exception()
    kind = type(error).__name__
    if kind == "KilledWorker":
        return KinetError(
            "several workers stopped while counting the same batch of tiles. They may be out of memory (dask worker "
            "--memory-limit), or a library may have crashed. Check the logs of the workers"
        )
    return KinetError(f"the cluster could not count a batch of tiles ({kind}: {error}). Check the logs of the workers")


@contextmanager
def _connection_errors() -> Iterator[None]:
    """Turn a lost connection to the scheduler into a KinetError."""
    try:
        yield
    except (CommClosedError, OSError, RuntimeError, CancelledError) as error:
        raise KinetError(
            f"the connection to the cluster's scheduler was lost ({error}). Restart the scheduler and run the same "
            "command again to resume: counted tiles are kept"
        ) from error
