"""Errors for a server that does not let a client in: class, retryable or not, and the cure."""

from __future__ import annotations

import errno
import socket
import ssl
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from openenv_async import EnvClient, HTTPEnvClient
from openenv_async.client.refusals import (
    Failure,
    closed_early,
    foreign,
    has_token,
    read_failure,
    reason_of,
    refusal,
    refused,
    unauthorized,
    unreachable,
)
from openenv_async.client.server_info import fetch_schema
from openenv_async.errors import (
    ConnectFailed,
    InvalidOption,
    OpenEnvError,
    ServerError,
    Unauthorized,
)

URL = "http://here:8000"


def refuse(
    status: int, *, token: bool = False, websocket: bool = True, location: str | None = None
) -> OpenEnvError:
    headers = {} if location is None else {"Location": location}
    return refused(URL, status, headers, has_token=token, websocket=websocket, path="/ws")


def response(status: int, *, token: bool = False, **headers: str) -> Any:
    sent = {"Authorization": "Bearer x"} if token else {}
    return SimpleNamespace(
        status=status,
        headers=headers,
        request_info=SimpleNamespace(headers=sent),
        url=SimpleNamespace(path="/step"),
    )


@pytest.mark.parametrize(
    ("status", "websocket", "kind", "retryable", "part"),
    [
        (401, True, Unauthorized, False, "it needs a token"),
        (407, True, ConnectFailed, False, "the proxy wants credentials"),
        (403, True, ConnectFailed, False, "refuses the WebSocket to /ws"),
        (403, False, ConnectFailed, False, "refuses the request to /ws"),
        (502, True, ConnectFailed, True, "not reachable, or not up yet"),
        (503, True, ConnectFailed, True, "not reachable, or not up yet"),
        (504, True, ConnectFailed, True, "not reachable, or not up yet"),
        (502, False, ServerError, True, "not reachable, or not up yet"),
        (404, True, ConnectFailed, True, "not an openenv_async server at /ws"),
        (404, False, ConnectFailed, False, "not an openenv_async server at /ws"),
        (200, True, ConnectFailed, True, "drops the headers Upgrade and Connection"),
        (400, True, ConnectFailed, True, "drops the headers Upgrade and Connection"),
        (405, True, ConnectFailed, True, "drops the headers Upgrade and Connection"),
        (426, True, ConnectFailed, True, "drops the headers Upgrade and Connection"),
        (426, False, ConnectFailed, False, ", and is not an openenv_async server: check host"),
        (200, False, ConnectFailed, False, ", and is not an openenv_async server: check host"),
        (500, True, ConnectFailed, True, " instead of a WebSocket: check host and port"),
        (500, False, ConnectFailed, False, ", and is not an openenv_async server: check host"),
    ],
)
def test_a_status_is_told_for_what_it_may_mean(
    status: int, websocket: bool, kind: type[OpenEnvError], retryable: bool, part: str
) -> None:
    error = refuse(status, websocket=websocket)
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.message.startswith(f"{URL} answered HTTP {status}")
    assert part in error.message
    if kind is ConnectFailed:
        assert error.phase == "connect"


@pytest.mark.parametrize(("status", "is_one"), [(299, False), (300, True), (399, True)])
def test_a_redirection_is_followed_by_nobody(status: int, is_one: bool) -> None:
    error = refuse(status, location="http://there")
    assert ("a redirection to http://there" in error.message) is is_one
    assert error.retryable is not is_one
    assert "redirection" not in refuse(302).message
    assert "redirection" not in refuse(400, location="http://there").message


def test_a_token_is_mentioned_where_one_was_sent() -> None:
    error = refuse(403, token=True)
    assert type(error) is Unauthorized
    assert error.message.endswith("check the path of the address, then the token")
    assert "token" not in refuse(403).message
    assert refuse(401, token=True).message.endswith("check the token")
    assert "OPENENV_TOKEN" in unauthorized("no", False).message
    assert unauthorized("no", True).message == "no: the token is not the server's, check the token"


def test_a_status_has_its_name() -> None:
    assert "HTTP 404 Not Found, and" in refuse(404).message
    assert "HTTP 299 instead" in refuse(299).message


def test_an_error_in_json_is_kept() -> None:
    body = msgspec.json.encode(
        {"error": {"code": "invalid_option", "message": "m", "retryable": True, "detail": {"a": 1}}}
    )
    error = read_failure(body)
    assert type(error) is InvalidOption
    assert (error.message, error.retryable, error.detail) == ("m", True, {"a": 1})
    assert msgspec.json.decode(body, type=Failure).made().message == "m"
    assert read_failure(b'{"error": 3}') is None
    assert read_failure(b"<html>") is None
    assert read_failure(b'{"error": {"code": "\xff", "message": ""}}') is None


def test_the_body_of_a_refusal_comes_before_its_status() -> None:
    said = b'{"error": {"code": "invalid_option", "message": "m"}}'
    assert type(refusal(URL, response(404), said)) is InvalidOption
    denied = b'{"error": {"code": "unauthorized", "message": "m"}}'
    assert "none was given" in refusal(URL, response(401), denied).message
    assert "check the token" in refusal(URL, response(401, token=True), denied).message
    assert "HTTP 401" in refusal(URL, response(401), denied).message
    error = refusal(URL, response(404), b"<html>")
    assert "HTTP 404" in error.message
    assert not error.retryable


def test_a_foreign_answer_is_told_with_its_path() -> None:
    error = foreign(URL, response(403, token=True))
    assert type(error) is Unauthorized
    assert "refuses the request to /step" in error.message
    assert "to http://x" in foreign(URL, response(302, Location="http://x")).message
    assert has_token(response(200, token=True))
    assert not has_token(response(200))


def because(cause: BaseException, *, inside: str = "__cause__") -> Exception:
    error = Exception("outer words")
    setattr(error, inside, cause)
    return error


def certificate() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError("bad")
    error.verify_message = "self-signed certificate. "
    return error


def tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, "words")
    error.reason = reason
    return error


NOTHING = "nothing listens at here:8000: start the server, or check host and port"
CLOSED = "it closed the connection without an HTTP answer: check host and port"


@pytest.mark.parametrize(
    ("cause", "part"),
    [
        (certificate(), "its certificate is not trusted (self-signed certificate): give ssl="),
        (tls("WRONG_VERSION_NUMBER"), "it does not speak TLS there"),
        (tls("TLSV1_ALERT_UNKNOWN_CA"), "words"),
        (socket.gaierror(-2, "Name unknown"), "there is no host 'here': check the name"),
        (OSError(errno.ECONNREFUSED, "x"), NOTHING),
        (
            OSError(f"several: [Errno {errno.ECONNREFUSED}] a, [Errno {errno.ECONNREFUSED}] b"),
            NOTHING,
        ),
        (OSError(errno.ECONNRESET, "x"), CLOSED),
        (OSError(errno.EPIPE, "x"), CLOSED),
        (OSError(errno.EHOSTUNREACH, "x"), "there is no way to here:8000"),
        (OSError(errno.ENETUNREACH, "x"), "there is no way to here:8000"),
        (EOFError(), CLOSED),
        (ValueError("did not receive a valid HTTP response"), CLOSED),
        (ValueError("Server disconnected"), CLOSED),
    ],
)
def test_a_reason_is_in_plain_words(cause: Exception, part: str) -> None:
    assert part in reason_of(URL, cause)
    error = unreachable(URL, cause)
    assert type(error) is ConnectFailed
    assert error.phase == "connect"
    assert error.message == f"cannot connect to {URL}: {reason_of(URL, cause)}"


@pytest.mark.parametrize("inside", ["__cause__", "__context__", "certificate_error", "os_error"])
def test_the_cause_may_lie_inside(inside: str) -> None:
    refused_ = OSError(errno.ECONNREFUSED, "x")
    assert reason_of(URL, because(refused_, inside=inside)) == NOTHING
    assert reason_of(URL, because(because(refused_, inside=inside))) == NOTHING


def test_the_innermost_cause_counts() -> None:
    outer = OSError(errno.ECONNRESET, "x")
    outer.__cause__ = OSError(errno.ECONNREFUSED, "x")
    assert reason_of(URL, outer) == NOTHING


def test_causes_in_a_circle_end() -> None:
    one, other = ValueError("one\n  line"), ValueError("b")
    one.__cause__, other.__cause__ = other, one
    assert reason_of(URL, one) == "one line"


def test_several_numbers_say_nothing() -> None:
    text = f"[Errno {errno.ECONNREFUSED}] a [Errno {errno.EHOSTUNREACH}] b"
    assert reason_of(URL, OSError(text)) == text
    assert reason_of(URL, OSError("none")) == "none"


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("http://here:8000", "nothing listens at here:8000"),
        ("http://here", "nothing listens at here:"),
        ("http://here:99999", "nothing listens at here:"),
    ],
)
def test_the_port_is_told_where_there_is_one(url: str, where: str) -> None:
    assert reason_of(url, OSError(errno.ECONNREFUSED, "x")).startswith(where)


@pytest.mark.parametrize(
    ("url", "hinted"),
    [("http://a", True), ("ws://a", True), ("https://a", False), ("wss://a", False)],
)
def test_tls_is_hinted_at_where_it_was_not_asked_for(url: str, hinted: bool) -> None:
    assert ("write https://" in closed_early(url)) is hinted


def test_no_message_shows_the_password_of_an_address() -> None:
    secret = "http://user:hunter2@here:8000/?token=hunter2"
    refusing = response(401)
    errors = [
        unreachable(secret, OSError(errno.ECONNREFUSED, "refused")),
        unreachable(secret, ValueError(f"{secret} is odd")),
        refused(secret, 502, {}, has_token=False, websocket=True, path="/ws"),
        foreign(secret, refusing),
        refusal(secret, refusing, b"no JSON"),
    ]
    for error in errors:
        assert "hunter2" not in str(error)
        assert "here:8000" in str(error)


async def test_a_client_that_does_not_get_in_keeps_the_password_to_itself() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        secret = f"http://user:hunter2@127.0.0.1:{free.getsockname()[1]}"
        for attempt in (
            EnvClient(secret).open(),
            HTTPEnvClient(secret).open(),
            fetch_schema(secret),
        ):
            with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:\d+") as caught:
                await attempt
            assert "hunter2" not in str(caught.value)
