"""What the log may say while questions are answered."""

from __future__ import annotations

import logging
import threading

import pytest

from quietmind.serve.discreet import LOG, discretion

NOTE = "the safe opens with 4711"


def test_a_library_that_quotes_what_it_was_given_is_reduced_to_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    with discretion():
        logging.getLogger("some.parser").warning("cannot read %r", NOTE)
        logging.getLogger("some.parser").info("reading %r", NOTE)
        try:
            raise ValueError(NOTE)
        except ValueError:
            logging.getLogger("asyncio").exception(NOTE)
            LOG.exception("a request failed inside")
    said = capsys.readouterr().err
    assert NOTE not in said
    assert "4711" not in said
    assert "warning of some.parser (test_discreet:" in said
    assert "error of asyncio (test_discreet:" in said
    assert "a request failed inside (test_discreet:" in said
    assert said.count("  ValueError\n") == 2
    assert f"{__file__}:" in said


def test_a_thread_that_ends_of_an_error_says_where_and_not_what(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError(NOTE)

    with discretion():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    said = capsys.readouterr().err
    assert NOTE not in said
    assert "a thread ended" in said
    assert " in fail\n" in said


def test_clients_that_go_away_and_requests_that_the_end_cuts_short_are_no_news(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with discretion():
        logging.getLogger("asyncio").warning("socket.send() raised exception.")
        logging.getLogger("uvicorn.error").error("Cancel 1 running task(s)")
    assert capsys.readouterr().err == ""


def test_afterwards_everything_is_as_before() -> None:
    before = logging.getLogger().handlers[:], threading.excepthook
    with discretion():
        assert logging.getLogger().handlers != before[0]
    assert (logging.getLogger().handlers, threading.excepthook) == before
