"""Errors as agents understand them."""

from __future__ import annotations

import msgspec
import pytest

from openenv_async.errors import (
    BudgetExhausted,
    CallRefused,
    ConnectFailed,
    EnvironmentRaised,
    GoingAway,
    InvalidCompletion,
    JournalFailed,
    OpenEnvError,
    PayloadTooLarge,
    ResponderFailed,
    ResponderRateLimited,
    ResponderUnavailable,
    ServerBusy,
    SessionBusy,
    SessionClosed,
    Unauthorized,
)
from openenv_async.gateway.dialects.failures import failure_of, openai_error

TOLD = [
    (CallRefused("n is 2", field="n"), 400, False),
    (CallRefused("nothing at this path", status=404), 404, False),
    (BudgetExhausted("spent"), 400, False),
    (SessionBusy("busy"), 400, False),
    (Unauthorized("no key"), 401, False),
    (SessionClosed("ended"), 401, False),
    (PayloadTooLarge("large"), 413, False),
    (ResponderRateLimited("slow down", retry_after=2.5), 429, True),
    (ResponderUnavailable("gone", status=500), 500, True),
    (InvalidCompletion("not one"), 400, False),
    (ResponderFailed("HTTP 400: no such field", status=400), 400, False),
    (ServerBusy("too many", retry_after=1), 429, True),
    (ServerBusy("too many"), 503, True),
    (GoingAway("ends"), 503, True),
    (JournalFailed("disk full", retryable=True), 500, True),
    (JournalFailed("not a journal"), 400, False),
    (ConnectFailed("no engine"), 500, True),
    (EnvironmentRaised("failed"), 400, False),
]


@pytest.mark.parametrize(
    ("error", "status", "may_retry"), TOLD, ids=lambda value: getattr(value, "code", None)
)
def test_only_what_may_pass_is_retried(error: OpenEnvError, status: int, may_retry: bool) -> None:
    failure = failure_of(error)
    assert (failure.status, failure.headers["x-should-retry"]) == (status, str(may_retry).lower())
    assert (failure.status in (408, 409, 429) or failure.status >= 500) == may_retry
    assert failure.message == error.message


def test_the_wait_that_was_asked_for_is_passed_on() -> None:
    assert failure_of(ResponderRateLimited("m", retry_after=2.5)).headers["retry-after"] == "2.5"
    assert failure_of(ServerBusy("m", retry_after=3)).headers["retry-after"] == "3"
    assert "retry-after" not in failure_of(ResponderRateLimited("m")).headers
    assert "retry-after" not in failure_of(CallRefused("m", retry_after=3)).headers


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        "Requested token count exceeds the model's maximum context length of 4096 tokens.",
        "the request exceeds the available context size, try increasing it",
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
    ],
)
def test_a_prompt_that_does_not_fit_is_told_as_agents_know_it(message: str) -> None:
    status, headers, body = openai_error(ResponderFailed(message, status=400))
    assert (status, headers["x-should-retry"]) == (400, "false")
    error = msgspec.json.decode(body)["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["message"] == message


def test_the_error_object_names_the_field_and_the_code() -> None:
    error = msgspec.json.decode(openai_error(CallRefused("n is 2", field="n"))[2])["error"]
    assert error == {
        "message": "n is 2",
        "type": "invalid_request_error",
        "param": "n",
        "code": "call_refused",
    }
    assert msgspec.json.decode(openai_error(ConnectFailed("m"))[2])["error"]["type"] == (
        "server_error"
    )
