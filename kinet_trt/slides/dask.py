"""Tiles of slides on many machines: Dask's scheduler, its workers, and an engine that each of them opens once.

A worker is asked for batches of tiles (`kinet_trt.slides.tiles.count_tiles`) by the paths of slide and model, which are
to be the same on every machine. Nuclei come back and land in the ledger here. A batch of a worker that is lost is given
to another by Dask; landing a tile twice changes nothing (`kinet_trt.slides.results_db`).

Dask's messages are pickled Python: let nobody but its own machines reach its ports, or use ``tls://`` (Dask's own
configuration).
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dask
from distributed import Client, Future, LocalCluster, Worker, WorkerPlugin, get_worker, wait
from distributed import TimeoutError as NothingYet
from distributed.comm.core import CommClosedError

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.slides.count import Work
from kinet_trt.slides.plan import Plan
from kinet_trt.slides.slide import Slide, open_slide
from kinet_trt.slides.tiles import count_tiles

log = logging.getLogger(__name__)

LOCAL = "local"
BATCH = 8
"""Most tiles that are asked for at a time: some seconds of work, so that messages do not weigh and a lost worker costs
little."""
ROUNDS = 8
"""Batches of a slide a worker's thread, at least: at its end, no worker waits long for the last."""
AHEAD = 2
"""Batches under way a worker's thread: one is counted, one waits there."""
SLIDES_OPEN = 4
"""Slides that a worker keeps open."""
CONNECT = 10.0
"""s after which an address without a scheduler is given up."""
WAIT = 30.0
"""s without a result after which it is said that there is no worker."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Tiles of one slide.

    Attributes
    ----------
    slide
        The file, absolute.
    mpp
        um/px that somebody gave; None: the file's.
    plan
        With these tiles only.
    """

    slide: Path
    mpp: float | None
    plan: Plan


@contextmanager
def connect(address: str, workers: int | None = None) -> Iterator[Client]:
    """Give a client of a cluster.

    Parameters
    ----------
    address
        Of a Dask scheduler, such as ``tcp://10.0.0.5:8786``; or ``"local"``: a cluster of this machine's, that ends
        with the context.
    workers
        Of a local cluster, each with one thread; None: one a core.

    Raises
    ------
    KinetError
        If there is no scheduler.
    """
    with ExitStack() as stack:
        if address == LOCAL:
            # Dask's own folder for this would stay behind, and every user of the machine shares it.
            scratch = stack.enter_context(TemporaryDirectory(prefix="kinet-trt-"))
            stack.enter_context(dask.config.set({"temporary-directory": scratch}))
            # Processes, for an engine uses what its process has; and nothing listens beyond this machine.
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
            client = Client(address, timeout=CONNECT)
        except (OSError, ValueError) as error:
            raise KinetError(
                f"cluster {address}: no Dask scheduler answers ({error}): expected the address that `dask scheduler` "
                "prints, such as tcp://10.0.0.5:8786, or local"
            ) from error
        yield stack.enter_context(client)


def work_on(client: Client, model: Path | None) -> Work:
    """Return what counts a slide's tiles on a cluster, for :func:`kinet_trt.slides.count.count_slide`.

    Parameters
    ----------
    client
        From :func:`connect`.
    model
        As for :func:`count`.
    """

    def work(slide: Slide, plan: Plan, numbers: Sequence[int]) -> Iterator[tuple[int, Detections]]:
        mpp = slide.mpp if slide.mpp_source == "option" else None
        threads = max(1, sum(client.nthreads().values()))
        size = min(BATCH, max(1, len(numbers) // (threads * ROUNDS)))
        parts = batches(slide.path, mpp, plan, numbers, size)
        for _, tiles in count(client, parts, model, plan):
            if isinstance(tiles, KinetError):
                raise tiles
            yield from tiles

    return work


def batches(slide: Path, mpp: float | None, plan: Plan, missing: Iterable[int], size: int = BATCH) -> Iterator[Batch]:
    """Cut the tiles that are not counted yet into batches."""
    numbers = tuple(missing)
    for start in range(0, len(numbers), size):
        yield Batch(slide.resolve(), mpp, dataclasses.replace(plan, tiles=numbers[start : start + size]))


def count(
    client: Client, work: Iterable[Batch], model: Path | None, plan: Plan
) -> Iterator[tuple[Batch, list[tuple[int, Detections]] | KinetError]]:
    """Count batches on a cluster.

    Parameters
    ----------
    client
        From :func:`connect`.
    work
        Drawn as the cluster has room for it.
    model
        The model file, under the same path on every machine; None: the one inside the package.
    plan
        Whose model, threshold and precision all of the work has.

    Yields
    ------
    batch, result
        As they come: number and nuclei of each tile, px of level 0; or what was wrong, in words for a person.

    Raises
    ------
    KinetError
        If the scheduler is lost.
    """
    opened = Opened(model.resolve() if model else None, plan)
    with _in_words():
        client.register_plugin(opened, name=opened.name)
    work = iter(work)
    under_way: dict[Future[Any], Batch] = {}
    try:
        while True:
            with _in_words():
                room = max(1, sum(client.nthreads().values())) * AHEAD
                while len(under_way) < room and (batch := next(work, None)) is not None:
                    # No two batches are the same work: Dask need not compare them.
                    under_way[client.submit(_count, opened.name, batch, pure=False)] = batch
            if not under_way:
                return
            for future in _ended(client, list(under_way)):
                yield under_way.pop(future), _result(future)
    finally:
        # What is under way is of no use to anybody: a worker is not kept busy with it.
        client.cancel(list(under_way), force=True)


class Opened(WorkerPlugin):  # type: ignore[misc]  # Dask has no types
    """What a worker keeps open: the engine, opened with its first batch, and the last few slides."""

    idempotent = True

    def __init__(self, model: Path | None, plan: Plan) -> None:
        self._model, self._threshold, self._precision = model, plan.threshold, plan.precision
        # By its content too: workers outlive commands, and another model may by then lie under the same path.
        asked = repr((str(model), plan.model_sha256, plan.threshold, plan.precision))
        self.name = f"kinet-trt-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"

    def setup(self, worker: Worker) -> None:
        """Begin on a worker; its name and number of threads are as Dask knows them."""
        self._threads, self._where = worker.state.nthreads, worker.address
        self._lock = threading.Lock()
        self._counter: NucleusCounter | None = None
        self._slides: dict[tuple[Path, float | None, str], Slide] = {}

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002  # Dask calls it so
        """Close what is open."""
        for slide in self._slides.values():
            slide.close()

    def count(self, batch: Batch) -> list[tuple[int, Detections]]:
        """Count the tiles of a batch."""
        with self._lock:
            if self._counter is None:
                self._counter = NucleusCounter(
                    self._model, threshold=self._threshold, precision=self._precision, threads=self._threads
                )
            which = batch.slide, batch.mpp, batch.plan.fingerprint
            slide = self._slides.pop(which, None) or open_slide(batch.slide, batch.mpp)
            self._slides[which] = slide
            # Those further back may still be read by this worker's other threads; they close when the last has done.
            while len(self._slides) > SLIDES_OPEN:
                self._slides.pop(next(iter(self._slides)))
        return list(count_tiles(slide, batch.plan, batch.plan.tiles, self._counter))

    def explain(self, error: KinetError) -> KinetError:
        """Return an error that says where it came about; any other process can read it."""
        return KinetError(
            f"{error} (on the worker {self._where}; slides and models must lie under one path everywhere)"
        )


def _count(name: str, batch: Batch) -> list[tuple[int, Detections]] | KinetError:
    """Count a batch: runs on a worker. What is wrong with it is an answer, for no other worker would do better."""
    opened: Opened = get_worker().plugins[name]
    try:
        return opened.count(batch)
    except KinetError as error:
        return opened.explain(error)


def _ended(client: Client, futures: list[Future[Any]]) -> list[Future[Any]]:
    """Wait until at least one has ended; return those that have."""
    while True:
        with _in_words():
            try:
                return list(wait(futures, timeout=WAIT, return_when="FIRST_COMPLETED").done)
            except NothingYet:
                if not client.nthreads():
                    log.warning("the cluster has no worker: waiting for one (dask worker %s)", client.scheduler.address)


def _result(future: Future[Any]) -> list[tuple[int, Detections]] | KinetError:
    """Return what a future holds; what is no answer of ours is put into words."""
    if future.status == "finished":
        result: list[tuple[int, Detections]] | KinetError = future.result()
        return result
    error = future.exception() if future.status == "error" else "cancelled by the scheduler"
    kind = type(error).__name__
    if kind == "KilledWorker":
        return KinetError(
            "several workers ended while they counted one batch of tiles: they may lack memory (dask worker "
            "--memory-limit), or a library crashes on it: look at the workers' logs"
        )
    return KinetError(f"the cluster could not count it: {kind}: {error}")


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except (CommClosedError, OSError, RuntimeError, CancelledError) as error:
        raise KinetError(
            f"the cluster's scheduler is lost ({error}): start it again, and run the same command: what is counted is "
            "kept"
        ) from error
