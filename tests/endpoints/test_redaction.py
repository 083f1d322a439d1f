"""Redaction: secrets do not leave, plain text is not changed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.endpoints.redaction import redacted, redacted_command, redacted_value

NONE: dict[str, str] = {}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pass@host:80/a", "http://***@host:80/a"),
        (
            "cannot connect to wss://u:p@ss@h/ws: refused",
            "cannot connect to wss://***@h/ws: refused",
        ),
        ("https://ghost@example.org", "https://***@example.org"),
        ("openai:model@http://u:p@h/v1", "openai:model@http://***@h/v1"),
        ("http://h/a?token=abc&x=1", "http://h/a?token=***&x=1"),
        ("http://h/a?x=1&api_key=abc#top", "http://h/a?x=1&api_key=***#top"),
        ("http://h/?access_token=a.b.c, then", "http://h/?access_token=***, then"),
        ("http://h/?key=abc'", "http://h/?key=***'"),
        ("http://h/?X-Amz-Signature=abc&n=2", "http://h/?X-Amz-Signature=***&n=2"),
        ("http://h/#accessToken=abc", "http://h/#accessToken=***"),
        ("run --token s3cret --n 3", "run --token *** --n 3"),
        ("run --token=s3cret --n 3", "run --token=*** --n 3"),
        ("run --api-key 'a b' x", "run --api-key *** x"),
        ("run --hub-token abcdefgh", "run --hub-token ***"),
        ("Authorization: Bearer abc", "Authorization: Bearer ***"),
        ("{'Authorization': 'Basic dTpw'}", "{'Authorization': 'Basic ***'}"),
        ("authorization=abc12345", "authorization=***"),
        ("x-api-key: abc123456", "x-api-key: ***"),
        ("refused Bearer abcdefghij", "refused Bearer ***"),
        ("openenv.bearer.abcdefgh12", "openenv.bearer.***"),
        ('{"api_key": "abc", "n": 1}', '{"api_key": "***", "n": 1}'),
        ("OPENENV_TOKEN=abc openenv-async rollout", "OPENENV_TOKEN=*** openenv-async rollout"),
        (
            "Incorrect API key provided: sk-abcdefghij0123456789.",
            "Incorrect API key provided: ***.",
        ),
        ("hf_abcdefghijklmnop0123 is wrong", "*** is wrong"),
    ],
)
def test_secrets_are_hidden(text: str, shown: str) -> None:
    assert redacted(text, NONE) == shown
    assert redacted(shown, NONE) == shown  # what was redacted stays


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step() after the episode ended: call reset() first",
        "http://127.0.0.1:8000/ws?session=3&max_tokens=5",
        "mail a@b.org, or http://h/@scope/name",
        "give --token FILE, or set OPENENV_TOKEN",
        "pass --token or --token-file secret.txt --key=",
        "the bearer token is missing; bearer authentication is off",
        "authorization: the server refused it",
        "a monkey=3, ?monkey=3 and a key: value",
        "KeyError: 'key'",
        '{"key": "A minor", "tokens": [1, 2]}',
        "ask-a-question-and-answer-it, disk-0123456789abcdefgh",
        "http://host/?q=1&sort=key",
        "Ω – keys and tokens\n\tpassword",
        "openai:model@http://127.0.0.1:8000/v1",
    ],
)
def test_plain_text_stays(text: str) -> None:
    assert redacted(text, NONE) == text


def test_values_of_variables_that_hold_keys_are_hidden_wherever_they_stand() -> None:
    environ = {
        "MY_API_KEY": "0123456789",
        "LONGER_TOKEN": "0123456789abc\n",
        "DB_PASSWORD": "correct horse",
        "SHORT_KEY": "short",
        "TOKENS": "tokens-of-all-kinds",
        "PLAIN": "nothing-secret",
        "EMPTY_SECRET": "",
    }
    text = "0123456789abc correct horse 0123456789 short tokens-of-all-kinds nothing-secret"
    assert redacted(text, environ) == "*** *** *** short tokens-of-all-kinds nothing-secret"
    assert redacted_command(["a", "x0123456789y"], environ) == ["a", "x***y"]
    assert redacted_value({"a": ["0123456789"]}, environ) == {"a": ["***"]}


@pytest.mark.parametrize(
    "written",
    ['a/b"c+d\\e=f', r'{"key": "a/b\"c+d\\e=f"}', "a/b%22c%2Bd%5Ce%3Df", "a%2Fb%22c%2Bd%5Ce%3Df"],
)
def test_a_value_is_hidden_as_json_and_urls_write_it(written: str) -> None:
    shown = redacted(f"got {written}", {"MY_TOKEN": 'a/b"c+d\\e=f'})
    assert "***" in shown
    assert "b%22c" not in shown
    assert "c+d" not in shown


def test_the_variables_of_this_process_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_MODEL_KEY", "abcdefgh")
    assert redacted("abcdefgh") == "***"
    assert redacted_command(["abcdefgh"]) == ["***"]
    assert redacted_value("abcdefgh") == "***"


def test_a_command_keeps_all_but_its_secrets() -> None:
    command = [
        "openenv-async",
        "rollout",
        "http://u:p@h:1",
        "--token",
        "short",
        "--password=x",
        "--param",
        "api_key=abc",
        "--param",
        "size=3",
        "--key",
        "--json",
        "--token-file",
        "token.txt",
        "--policy",
        "openai:m@http://h/v1?key=a",
        "--secret",
    ]
    assert redacted_command(command, NONE) == [
        "openenv-async",
        "rollout",
        "http://***@h:1",
        "--token",
        "***",
        "--password=***",
        "--param",
        "api_key=***",
        "--param",
        "size=3",
        "--key",
        "--json",
        "--token-file",
        "token.txt",
        "--policy",
        "openai:m@http://h/v1?key=***",
        "--secret",
    ]


def test_values_keep_their_shape() -> None:
    array = np.zeros(3)
    value = {
        "token": "abc",
        "api_key": b"abc",
        "eos_token": "</s>",
        "max_tokens": 5,
        "password": "",
        "secret": None,
        "key": "A minor",
        "hub": {"auth_token": "x", "url": "http://u:p@h"},
        "list": ["?key=a", ("--token=b", 1.5, None, True)],
        3: array,
    }
    made = redacted_value(value, NONE)
    assert made.pop(3) is array
    assert made == {
        "token": "***",
        "api_key": "***",
        "eos_token": "</s>",
        "max_tokens": 5,
        "password": "",
        "secret": None,
        "key": "A minor",
        "hub": {"auth_token": "***", "url": "http://***@h"},
        "list": ["?key=***", ("--token=***", 1.5, None, True)],
    }
    assert value["token"] == "abc"


@given(st.text("abc xyzÀ\n.,:'\"{}[]0129/-_()"))
def test_text_without_any_mark_of_a_secret_is_never_changed(text: str) -> None:
    assert redacted(text, NONE) == text
