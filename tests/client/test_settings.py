"""The settings of a client: checked when made, copied as one value, and never telling the token."""

from __future__ import annotations

import pickle
import ssl
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

import openenv_async
from openenv_async import (
    ClientSettings,
    EnvClient,
    GenericEnvClient,
    HTTPEnvClient,
    Limits,
    SyncEnvClient,
    Timeouts,
)
from openenv_async.client.settings import SETTINGS

URL = "http://127.0.0.1:1"
GIVEN: dict[str, Any] = {
    "token": "very-secret",
    "timeouts": Timeouts(step=3.0),
    "limits": Limits(chunk_size=4096),
    "options": {"level": 3},
    "share": "mine",
    "subprotocol": "openenv.v1.json",
    "headers": {"X-Key": "also-secret"},
    "ssl": "authority.pem",
    "local": False,
}
NOT_OF_HTTP = ("share", "subprotocol", "local")
OF_HTTP = {name: value for name, value in GIVEN.items() if name not in NOT_OF_HTTP}
CLIENTS: list[Any] = [EnvClient, GenericEnvClient, SyncEnvClient, HTTPEnvClient]


def test_the_names_are_those_of_the_fields() -> None:
    assert sorted(SETTINGS) == sorted(GIVEN)
    assert "ClientSettings" in openenv_async.__all__


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_has_the_settings_it_was_made_with(kind: Any) -> None:
    given = OF_HTTP if kind is HTTPEnvClient else GIVEN
    settings = kind(URL, **given).settings
    assert settings == ClientSettings(**given)
    assert kind(URL).settings == ClientSettings()


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("other", CLIENTS)
def test_one_client_has_another_ones_settings(kind: Any, other: Any) -> None:
    settings = other(URL, **(OF_HTTP if other is HTTPEnvClient else GIVEN)).settings
    made = kind.with_settings("http://127.0.0.1:2", settings)
    assert type(made) is kind
    assert made.base_url == "http://127.0.0.1:2"
    usual = NOT_OF_HTTP if kind is HTTPEnvClient else ()
    default = ClientSettings()
    assert made.settings == settings.replace(**{name: getattr(default, name) for name in usual})


def test_timeouts_and_limits_of_a_client_are_those_of_its_settings() -> None:
    client = GenericEnvClient(URL, **GIVEN)
    assert client.timeouts is client.settings.timeouts
    assert client.limits is client.settings.limits


def test_a_copy_is_changed_and_the_original_is_not() -> None:
    settings = ClientSettings(**GIVEN)
    copied = settings.replace(token="other", share=False)
    assert copied == ClientSettings(**{**GIVEN, "token": "other", "share": False})
    assert settings == ClientSettings(**GIVEN)
    assert settings.replace() == settings


def test_a_copy_is_checked_as_well() -> None:
    with pytest.raises(TypeError, match=r"ClientSettings.replace takes no argument 'tokn'.*token="):
        ClientSettings().replace(tokn="x")
    with pytest.raises(TypeError, match="timeouts must be a Timeouts"):
        ClientSettings().replace(timeouts=3)


def test_nothing_of_it_can_be_set_or_changed_behind_it() -> None:
    options, headers = {"level": 3}, {"X-Key": "1"}
    settings = ClientSettings(options=options, headers=headers)
    with pytest.raises(FrozenInstanceError):
        settings.token = "x"  # type: ignore[misc]  # which it refuses
    options["level"], headers["X-Key"] = 4, "2"
    assert (settings.options, settings.headers) == ({"level": 3}, {"X-Key": "1"})


def test_its_text_shows_what_is_unusual_and_no_secret() -> None:
    text = repr(ClientSettings(**GIVEN))
    assert "secret" not in text
    assert text.startswith("ClientSettings(token=…, timeouts=Timeouts(")
    assert "headers={'X-Key': …}" in text
    assert "share='mine'" in text
    assert repr(ClientSettings()) == "ClientSettings()"
    assert repr(ClientSettings(headers={"A": "1", "B": "2"})) == (
        "ClientSettings(headers={'A': …, 'B': …})"
    )


def test_it_pickles() -> None:
    settings = ClientSettings(**GIVEN)
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_its_arguments_are_those_that_are_not_usual() -> None:
    assert ClientSettings().arguments() == {}
    assert ClientSettings(**GIVEN).arguments() == GIVEN
    assert ClientSettings(token="x", options={}).arguments() == {"token": "x", "options": {}}


@pytest.mark.parametrize(
    "given",
    [
        {"token": 1},
        {"timeouts": None},
        {"timeouts": 3.0},
        {"limits": None},
        {"limits": 3},
        {"options": [("a", 1)]},
        {"options": {1: "a"}},
        {"headers": [("a", "b")]},
        {"headers": {"a": 1}},
        {"headers": {1: "a"}},
        {"ssl": 1},
        {"share": None},
    ],
)
def test_a_setting_of_the_wrong_type_is_named(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(given))):
        ClientSettings(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"token": ""},
        {"token": "two words"},
        {"subprotocol": "openenv.v2"},
        {"headers": {"": "a"}},
        {"headers": {"a b": "a"}},
        {"headers": {"a:": "a"}},
        {"headers": {"a\x7f": "a"}},
        {"headers": {"a": "one\ntwo"}},
        {"headers": {"a": "one\rtwo"}},
        {"headers": {"a": "one\0two"}},
        {"headers": {"a": "\ud800"}},
    ],
)
def test_a_wrong_setting_is_named(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))) as caught:
        ClientSettings(**given)
    assert "two words" not in str(caught.value)


@pytest.mark.parametrize("name", ["a!", "!a", "a~", "X-Key"])
def test_a_header_may_have_any_visible_name(name: str) -> None:
    assert ClientSettings(headers={name: "é"}).headers == {name: "é"}


@pytest.mark.parametrize("subprotocol", ["openenv.v1.msgpack", "openenv.v1.json", "upstream", None])
def test_every_subprotocol_can_be_set(subprotocol: str | None) -> None:
    assert ClientSettings(subprotocol=subprotocol).subprotocol == subprotocol


def test_trust_is_a_path_or_a_context() -> None:
    context = ssl.create_default_context()
    assert ClientSettings(ssl=context).ssl is context
    assert ClientSettings(ssl="a.pem").ssl == "a.pem"


@pytest.mark.parametrize("change", fields(ClientSettings), ids=lambda item: item.name)
def test_two_with_one_difference_are_not_equal(change: Any) -> None:
    assert ClientSettings() != ClientSettings(**{change.name: GIVEN[change.name]})


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("name", OF_HTTP)
def test_clients_check_theirs(kind: Any, name: str) -> None:
    with pytest.raises(TypeError, match=name):
        kind(URL, **{name: 1})
