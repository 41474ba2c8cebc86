"""One-slot mailbox: replacement, blocking and closing."""

from __future__ import annotations

import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from kinet_trt.live.acquisition.mailbox import Mailbox


@given(st.lists(st.sampled_from(["put", "take"]), max_size=40))
def test_items_are_taken_or_skipped_in_order(acts):
    box: Mailbox[int] = Mailbox()
    taken, given_ = [], 0
    for act in acts:
        if act == "put":
            given_ += 1
            box.put(given_)
        elif (thing := box.take(0)) is not None:
            assert thing == given_
            taken.append(thing)
    left = box.take(0) is not None
    assert taken == sorted(set(taken))
    assert len(taken) + box.skipped + left == given_


def test_put_waits_with_every():
    box: Mailbox[int] = Mailbox(every=True)
    giver = threading.Thread(target=lambda: [box.put(n) for n in range(50)])
    giver.start()
    assert [box.take(5) for _ in range(50)] == list(range(50))
    giver.join(60)
    assert not giver.is_alive()
    assert box.skipped == 0


def test_close_wakes_both_sides_and_keeps_the_item():
    full: Mailbox[int] = Mailbox(every=True)
    full.put(1)
    empty: Mailbox[int] = Mailbox()
    threads = [threading.Thread(target=lambda: full.put(2)), threading.Thread(target=lambda: empty.take(60))]
    for thread in threads:
        thread.start()
    full.close()
    empty.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not full.closed
    assert full.take(0) == 1
    assert full.closed
    full.put(3)
    assert full.take(0) is None


def test_take_returns_after_its_timeout():
    start = time.monotonic()
    assert Mailbox().take(0.05) is None
    assert time.monotonic() - start > 0.04
