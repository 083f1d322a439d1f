"""Formats, names, numbers and deadlines in headers and cookies."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import pytest
from starlette.requests import Request

from openenv_async import serve
from openenv_async.errors import (
    InvalidModel,
    ProtocolError,
    ServerBusy,
    SessionClosed,
    SessionNotFound,
    Unauthorized,
)
from openenv_async.server import http_headers
from openenv_async.types import MAX_SECONDS
from tests.helpers import Counter


async def test_two_servers_of_one_host_share_a_jar() -> None:
    async with serve(Counter) as one, serve(Counter) as two:
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as http:
            for url in (one, two):
                async with http.post(f"{url}/reset", json={}) as reply:
                    assert reply.status == 200
            for count in (1, 2):
                for url in (one, two):
                    async with http.post(f"{url}/step", json={"action": {}}) as reply:
                        assert (await reply.json())["observation"]["count"] == count
            async with http.post(f"{one}/close", json={}) as reply:
                assert reply.status == 200
            async with http.post(f"{one}/step", json={"action": {}}) as reply:
                said = await reply.json()
                assert "another server" in said["error"]["message"]
            async with http.post(f"{two}/step", json={"action": {}}) as reply:
                assert (await reply.json())["observation"]["count"] == 3


# -- headers by themselves ------------------------------------------------------------------------

NAME = f"{'a' * 32}.{'b' * 32}"


def request(path: str = "/env/reset", scheme: str = "http", **headers: str) -> Request:
    """A request with these headers, to a server whose cookie ends in ``_me``."""
    raw = [
        (name.replace("_", "-").lower().encode(), text.encode("latin-1"))
        for name, text in headers.items()
    ]
    return Request(
        {
            "type": "http",
            "method": "POST",
            "path": path,
            "scheme": scheme,
            "server": ("127.0.0.1", 80),
            "query_string": b"",
            "headers": raw,
            http_headers.COOKIE_SCOPE: "openenv_session_me",
        }
    )


@pytest.mark.parametrize(
    ("headers", "sent", "accepted"),
    [
        ({}, "plain", "plain"),
        ({"content_type": "application/msgpack"}, "msgpack", "msgpack"),
        ({"content_type": " Application/OpenEnv+JSON ; charset=utf-8"}, "json", "json"),
        ({"content_type": "text/html"}, "plain", "plain"),
        ({"accept": "application/msgpack"}, "plain", "msgpack"),
        ({"accept": "text/html, application/openenv+json;q=0.5"}, "plain", "json"),
        ({"content_type": "application/msgpack", "accept": "*/*"}, "msgpack", "msgpack"),
        ({"content_type": "application/msgpack", "accept": "application/json"}, "msgpack", "plain"),
    ],
)
def test_formats(headers: dict[str, str], sent: str, accepted: str) -> None:
    asked = request(**headers)
    assert http_headers.sent_format(asked) == sent
    assert http_headers.accepted_format(asked) == accepted


def test_the_richer_format_loses_nothing() -> None:
    formats: list[Any] = ["plain", "json", "msgpack"]
    for number, one in enumerate(formats):
        for other in formats[number:]:
            assert http_headers.richer(one, other) == other
            assert http_headers.richer(other, one) == other


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({}, None),
        ({"X_OpenEnv_Session": NAME}, NAME),
        ({"cookie": f"openenv_session_me={NAME}"}, NAME),
        ({"cookie": f"openenv_session={NAME}"}, NAME),
        ({"cookie": f"openenv_session={'0' * 65}; openenv_session_me={NAME}"}, NAME),
        ({"cookie": f"openenv_session_other={NAME}"}, None),
        ({"cookie": "openenv_session_me=bad", "X_OpenEnv_Session": NAME}, NAME),
    ],
)
def test_the_name_of_a_session(headers: dict[str, str], name: str | None) -> None:
    found = http_headers.session_name(request(**headers))
    assert found == (None if name is None else tuple(name.split(".")))


@pytest.mark.parametrize("name", [NAME.upper(), NAME[1:], NAME + "0", NAME.replace(".", ""), "x"])
def test_a_malformed_name(name: str) -> None:
    with pytest.raises(ProtocolError, match="X-OpenEnv-Session must be"):
        http_headers.session_name(request(X_OpenEnv_Session=name))


def test_cookies_of_other_servers_are_told_apart() -> None:
    assert http_headers.has_foreign_cookie(request(cookie="openenv_session_other=x"))
    assert not http_headers.has_foreign_cookie(request(cookie="other=x"))
    assert not http_headers.has_foreign_cookie(request())


def test_names_are_drawn_anew() -> None:
    names = {part for _ in range(10) for part in http_headers.new_name()}
    assert len(names) == 20
    assert all(len(part) == 32 and int(part, 16) >= 0 for part in names)


@pytest.mark.parametrize(("text", "number"), [(None, None), ("1", 1), ("9" * 18, int("9" * 18))])
def test_the_number_of_a_request(text: str | None, number: int | None) -> None:
    asked = request() if text is None else request(X_OpenEnv_Seq=text)
    assert http_headers.request_number(asked) == number


@pytest.mark.parametrize("text", ["0", "-1", "1.0", "", "x", "9" * 19, "²"])
def test_a_wrong_number(text: str) -> None:
    with pytest.raises(ProtocolError, match="X-OpenEnv-Seq must be a positive integer"):
        http_headers.request_number(request(X_OpenEnv_Seq=text))


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, None), ("0", 0.0), ("1.5", 1.5), ("1e9", 1e9)]
)
def test_the_deadline_of_a_request(text: str | None, seconds: float | None) -> None:
    asked = request() if text is None else request(X_OpenEnv_Timeout=text)
    assert http_headers.request_timeout(asked) == seconds


@pytest.mark.parametrize("text", ["-0.1", "nan", "inf", "x", "", str(MAX_SECONDS * 1.01)])
def test_a_wrong_deadline(text: str) -> None:
    with pytest.raises(ProtocolError, match="X-OpenEnv-Timeout must be a number of seconds"):
        http_headers.request_timeout(request(X_OpenEnv_Timeout=text))


def fields(**values: Any) -> dict[str, Any]:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in values.items()}


def test_the_deadline_in_a_body() -> None:
    assert http_headers.step_timeout(fields(), "plain") is None
    assert http_headers.step_timeout(fields(timeout_s=None), "plain") is None
    taken = fields(timeout_s=2, other=1)
    seconds = http_headers.step_timeout(taken, "plain")
    assert (seconds, type(seconds)) == (2.0, float)
    assert list(taken) == ["other"]
    assert http_headers.step_timeout(fields(timeout_s=MAX_SECONDS), "plain") == MAX_SECONDS
    for value in (0, -1, True, MAX_SECONDS * 1.01):
        with pytest.raises(InvalidModel, match="timeout_s must be a positive number") as caught:
            http_headers.step_timeout(fields(timeout_s=value), "plain")
        assert caught.value.detail["loc"] == ["body", "timeout_s"]


def test_a_field_that_nothing_takes() -> None:
    http_headers.refuse_extra({})
    with pytest.raises(InvalidModel, match="unknown field 'level' in the body") as caught:
        http_headers.refuse_extra(fields(level=1))
    assert caught.value.detail["loc"] == ["body", "level"]


# -- responses by themselves ----------------------------------------------------------------------


@pytest.mark.parametrize("format", ["plain", "json", "msgpack"])
def test_a_body_in_each_format(format: Any) -> None:
    response = http_headers.body_response({"a": 1}, format, 202)
    decode = msgspec.msgpack.decode if format == "msgpack" else msgspec.json.decode
    assert decode(bytes(response.body)) == {"a": 1}
    assert response.status_code == 202
    assert response.headers["content-type"] == http_headers.MEDIA[format]


def test_an_error_says_what_may_be_done_about_it() -> None:
    busy = ServerBusy("full", limit=3, retry_after=1.2)
    response = http_headers.error_response(request(), busy, "plain")
    body = msgspec.json.decode(bytes(response.body))
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "2"
    assert body["detail"] == body["error"]["message"] == "full"
    assert (body["error"]["code"], body["error"]["retryable"]) == ("server_busy", True)
    assert body["error"]["detail"]["limit"] == 3
    assert body["error"]["detail"]["server_version"].startswith("openenv_async/")


def test_an_error_of_the_body_is_listed_as_upstream_does() -> None:
    wrong = InvalidModel("wrong", type="missing", loc=["body", "action"])
    response = http_headers.error_response(request(), wrong, "plain")
    [problem] = msgspec.json.decode(bytes(response.body))["detail"]
    assert response.status_code == 422
    assert (problem["type"], problem["loc"]) == ("missing", ["body", "action"])
    assert "Retry-After" not in response.headers
    assert "WWW-Authenticate" not in response.headers


def test_a_missing_token_is_asked_for() -> None:
    response = http_headers.error_response(request(), Unauthorized("a token"), "plain")
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("cookie", ["openenv_session_me", "openenv_session"])
def test_the_cookie_of_a_session_that_is_gone_is_cleared(cookie: str) -> None:
    for error in (SessionNotFound("gone"), SessionClosed("closed")):
        kept = http_headers.error_response(request(), error, "plain")
        assert "set-cookie" not in kept.headers
        cleared = http_headers.error_response(request(cookie=f"{cookie}={NAME}"), error, "plain")
        assert cleared.headers["set-cookie"].startswith(f'{cookie}=""; ')
        assert "Max-Age=0" in cleared.headers["set-cookie"]
        assert "Path=/env;" in cleared.headers["set-cookie"]
    other = http_headers.error_response(
        request(cookie=f"{cookie}={NAME}"), ServerBusy("full"), "plain"
    )
    assert "set-cookie" not in other.headers


@pytest.mark.parametrize(
    ("path", "scheme", "mount"), [("/reset", "http", "/"), ("/env/reset", "https", "/env")]
)
def test_a_session_is_named_in_header_and_cookie(path: str, scheme: str, mount: str) -> None:
    session: Any = SimpleNamespace(id="a" * 32, secret="b" * 32)
    response = http_headers.body_response({}, "plain")
    http_headers.named(response, request(path, scheme), session)
    assert response.headers["X-OpenEnv-Session"] == NAME
    cookie = response.headers["set-cookie"]
    assert cookie.startswith(f"openenv_session_me={NAME}; ")
    assert f"Path={mount};" in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert ("Secure" in cookie) == (scheme == "https")
