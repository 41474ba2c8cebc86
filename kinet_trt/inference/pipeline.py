"""Pipelined counting: the network runs on one frame while the next is scaled and the previous one is searched."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from kinet_trt.core.errors import EngineError

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Item, threading.Event], Result]
"""Turns an item into a result; raises `CountCancelledError` soon after the event is set."""

THREADS = 2
"""A third thread gains nothing: the network takes longest and uses all cores."""


class Workers:
    """A thread pool that yields results in order, at most one item ahead per thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Queue work; an EngineError once closed."""
        with self._lock:
            self.check_open()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, "kinet-trt")
            return self._pool.submit(work, *arguments)

    def check_open(self) -> None:
        """Raise an EngineError once closed."""
        if self._closed:
            raise EngineError("this counter is closed: create another")

    def close(self) -> None:
        """Wait for running work, drop queued work, and refuse more."""
        with self._lock:
            self._closed, pool = True, self._pool
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def in_order(self, work: Work[Item, Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in the order of the items.

        A separate thread draws the items, at most :data:`THREADS` ahead of the last result taken: a result never waits
        for the next item, and a slow consumer slows the source down. Exceptions of the items or the work are raised at
        their place in the order and end the iteration.
        """
        room = threading.Semaphore(THREADS)
        turns: queue.SimpleQueue[Future[Result] | None] = queue.SimpleQueue()
        stop = threading.Event()

        def draw() -> None:
            try:
                for item in items:
                    room.acquire()
                    if stop.is_set():
                        return
                    turns.put(self.submit(work, item, stop))
                turns.put(None)
            except BaseException as error:
                turns.put(_failed(error))

        def drawn() -> Iterator[Result]:
            # A daemon thread: a source that blocks forever must not keep the program from exiting.
            threading.Thread(target=draw, name="kinet-trt frames", daemon=True).start()
            try:
                while (turn := turns.get()) is not None:
                    result = turn.result()
                    room.release()
                    yield result
            finally:
                stop.set()
                room.release()
                while not turns.empty():
                    if (left := turns.get()) is not None:
                        left.cancel()

        return drawn()

    async def run(self, work: Work[Item, Result], item: Item) -> Result:
        """Return the result of one item without blocking the event loop; cancelling the task stops the work."""
        stop = threading.Event()
        try:
            return await asyncio.wrap_future(self.submit(work, item, stop))
        finally:
            stop.set()

    async def in_order_async(
        self, work: Work[Item, Result], items: Iterable[Item] | AsyncIterable[Item]
    ) -> AsyncIterator[Result]:
        """Yield the results as :meth:`in_order`, in an event loop."""
        room = asyncio.Semaphore(THREADS)
        turns: asyncio.Queue[asyncio.Task[Result] | asyncio.Future[Result] | None] = asyncio.Queue()
        source = items if isinstance(items, AsyncIterable) else _from_a_thread(items)

        async def draw() -> None:
            try:
                async for item in source:
                    await room.acquire()
                    turns.put_nowait(asyncio.ensure_future(self.run(work, item)))
                turns.put_nowait(None)
            except Exception as error:
                failed: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
                failed.set_exception(error)
                turns.put_nowait(failed)

        drawing = asyncio.ensure_future(draw())
        turn: asyncio.Task[Result] | asyncio.Future[Result] | None = None
        try:
            while (turn := await turns.get()) is not None:
                result = await turn
                room.release()
                yield result
        finally:
            left: list[asyncio.Future[Any]] = [drawing, *([turn] if turn else [])]
            while not turns.empty():
                if (waiting := turns.get_nowait()) is not None:
                    left.append(waiting)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)


async def _from_a_thread(items: Iterable[Item]) -> AsyncIterator[Item]:
    """Draw from a blocking iterator, such as a camera's, without blocking the event loop."""
    iterator, end = iter(items), object()
    while (item := await asyncio.to_thread(next, iterator, end)) is not end:
        yield item  # type: ignore[misc]  # the sentinel is not an item


def _failed(error: BaseException) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future
