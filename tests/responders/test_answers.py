"""Waits that model servers ask for, addresses that are none, and what is shown of an answer."""

from __future__ import annotations

import email.utils
import time

import pytest

from openenv_async.responders.answers import asked_wait, check_base_url, shown


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After-Ms": "250", "Retry-After": "9"}, 0.25, 0.25),
        ({"Retry-After": "soon"}, 0, 0),
        ({"Retry-After": "nan"}, 0, 0),
        ({"Retry-After": "-3"}, 0, 0),
        ({}, 0, 0),
    ],
)
def test_a_wait_that_is_asked_for(headers: dict[str, str], least: float, most: float) -> None:
    assert least <= asked_wait(headers) <= most


@pytest.mark.parametrize(("seconds", "least", "most"), [(600, 300, 600), (-60, 0, 0)])
def test_a_wait_may_be_asked_for_by_a_date(seconds: float, least: float, most: float) -> None:
    date = email.utils.formatdate(time.time() + seconds)
    assert least <= asked_wait({"Retry-After": date}) <= most


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("127.0.0.1:8000", "begins with http"),
        (
            "http://me:word@host/v1",
            "a name or password: give the URL alone, and the key as api_key",
        ),
        ("http://host/v1?key=a", "a query"),
    ],
)
def test_an_address_that_is_none(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as told:
        check_base_url(url, "as api_key")
    assert "word" not in str(told.value).replace("password", "")


def test_a_key_that_an_answer_repeats_is_not_shown() -> None:
    assert shown("no  such\nkey: abc-1", "abc-1") == "no such key: ***"
