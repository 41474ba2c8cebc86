"""The worker pipeline: order, limits, errors, cancellation."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinet_trt.core.errors import CountCancelledError, EngineError
from kinet_trt.inference.pipeline import THREADS, Workers

SOON = 60.0  # s


@pytest.fixture
def workers():
    workers = Workers()
    yield workers
    workers.close()


def until(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def patient(item, stop):
    """Work until stopped."""
    if not stop.wait(SOON):
        raise AssertionError("nobody stopped it")
    raise CountCancelledError


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=12), st.booleans())
def test_results_are_in_order_for_any_durations(delays, asynchronous):
    workers = Workers()

    def work(numbered, _):
        time.sleep(numbered[1] / 1000)
        return numbered[0]

    async def gathered():
        return [one async for one in workers.in_order_async(work, enumerate(delays))]

    try:
        found = asyncio.run(gathered()) if asynchronous else list(workers.in_order(work, enumerate(delays)))
    finally:
        workers.close()
    assert found == list(range(len(delays)))


def test_work_overlaps(workers):
    together = threading.Barrier(THREADS, timeout=SOON)
    assert len(list(workers.in_order(lambda item, stop: together.wait(), range(2 * THREADS)))) == 2 * THREADS


def test_source_is_read_no_further_than_the_window(workers):
    drawn, taken = [], 0

    def source():
        for number in range(20):
            drawn.append(number)
            yield number

    for result in workers.in_order(lambda item, stop: item, source()):
        time.sleep(0.01)
        taken += 1
        assert result == taken - 1
        assert len(drawn) <= taken + THREADS + 1  # one is drawn and waits for room
    assert taken == 20


def test_result_does_not_wait_for_the_next_item(workers):
    more = threading.Event()

    def camera():
        yield 1
        assert more.wait(SOON)
        yield 2

    results = workers.in_order(lambda item, stop: item, camera())
    assert next(results) == 1
    more.set()
    assert list(results) == [2]


@pytest.mark.parametrize("where", ["source", "work"])
def test_error_is_raised_in_order_and_ends_the_stream(workers, where):
    def source():
        yield from (1, 2)
        if where == "source":
            raise OSError("unplugged")
        yield from (3, 4)

    def work(item, stop):
        if item == 3:
            raise OSError("unplugged")
        return item

    results = workers.in_order(work, source())
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(OSError, match="unplugged"):
        next(results)
    assert list(results) == []

    async def asked():
        results = workers.in_order_async(work, source())
        assert [await anext(results), await anext(results)] == [1, 2]
        with pytest.raises(OSError, match="unplugged"):
            await anext(results)
        assert [one async for one in results] == []

    asyncio.run(asked())


def test_leaving_the_loop_stops_the_work_and_the_source(workers):
    started, stopped, drawn = threading.Event(), threading.Event(), []

    def work(item, stop):
        if item == 0:
            return item
        started.set()
        assert stop.wait(SOON)
        stopped.set()
        raise CountCancelledError

    results = workers.in_order(work, (drawn.append(n) or n for n in range(1000)))
    assert next(results) == 0
    assert started.wait(SOON)
    results.close()
    assert stopped.wait(SOON)
    until(lambda: not [t for t in threading.enumerate() if t.name == "kinet-trt frames"])
    assert len(drawn) <= THREADS + 3


def test_cancelled_task_stops_its_work(workers):
    async def cancelled():
        task = asyncio.ensure_future(workers.run(patient, 1))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    began = time.monotonic()
    asyncio.run(cancelled())
    workers.close()  # waits for the thread
    assert time.monotonic() - began < SOON / 2


def test_leaving_an_asynchronous_loop_stops_the_work(workers):
    async def left():
        results = workers.in_order_async(lambda item, stop: item if item == 0 else patient(item, stop), range(100))
        assert await anext(results) == 0
        await results.aclose()

    began = time.monotonic()
    asyncio.run(left())
    workers.close()
    assert time.monotonic() - began < SOON / 2


def test_asynchronous_source_runs_in_the_event_loop(workers):
    async def camera():
        for number in range(5):
            await asyncio.sleep(0)
            yield number, threading.current_thread()

    async def gathered():
        here = threading.current_thread()
        return [(await_, thread is here) async for await_, thread in workers.in_order_async(lambda i, _: i, camera())]

    assert asyncio.run(gathered()) == [(n, True) for n in range(5)]


def test_event_loop_is_not_blocked(workers):
    async def ticks():
        slow = asyncio.ensure_future(workers.run(lambda item, stop: time.sleep(0.3), 1))
        n = 0
        while not slow.done():
            await asyncio.sleep(0.01)
            n += 1
        return n

    assert asyncio.run(ticks()) >= 5


def test_closed_pipeline_rejects_work(workers):
    assert list(workers.in_order(lambda item, stop: item, [1])) == [1]
    workers.close()
    with pytest.raises(EngineError, match="create another"):
        list(workers.in_order(lambda item, stop: item, [1]))
    with pytest.raises(EngineError, match="create another"):
        asyncio.run(workers.run(lambda item, stop: item, 1))
    workers.close()
