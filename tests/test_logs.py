"""The log hook."""

import logging

import numpy as np

from kinet_trt import Counter, log_to


def test_a_hook_hears_what_a_person_should_know():
    counter, heard = Counter(precision="fp32"), []
    with log_to(lambda *message: heard.append(message)):
        counter(np.full((64, 64, 3), 200, np.uint8))
    assert [level for level, _ in heard] == ["WARNING"]
    assert "no colour" in heard[0][1]
    counter(np.full((64, 64, 3), 200, np.uint8))
    assert len(heard) == 1


def test_levels_and_the_rest_of_logging_are_as_before(caplog):
    log, heard = logging.getLogger("kinet_trt.counter"), []
    before = logging.getLogger("kinet_trt").level
    with log_to(lambda *message: heard.append(message), logging.INFO):
        log.info("for %s", "developers")
        log.debug("for us")
    assert heard == [("INFO", "for developers")]
    assert caplog.records == []
    assert logging.getLogger("kinet_trt").level == before
    log.warning("again")
    assert [record.message for record in caplog.records] == ["again"]


def test_a_hook_that_fails_does_not_stop_the_count(capsys):
    def fails(level, message):
        raise ValueError("the hook's own")

    with log_to(fails):
        assert len(Counter(precision="fp32")(np.full((64, 64, 3), 200, np.uint8))) == 0
    assert "the hook's own" in capsys.readouterr().err
