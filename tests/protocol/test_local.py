"""The local handshake: what the header and the greetings say, and what is none of them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.errors import ProtocolError
from openenv_async.protocol.local import (
    END_ABNORMAL,
    END_NORMAL,
    ClientGreeting,
    LocalOffer,
    ServerGreeting,
    abstract_address,
    end_body,
    read_end,
    read_greeting,
    write_greeting,
)

NAME, KEY = "0f" * 16, "a1" * 16


def test_an_offer_is_a_line_of_five_words() -> None:
    offer = LocalOffer(NAME, KEY, ("127.0.0.1", 40_000))
    assert offer.header() == f"1 {NAME} {KEY} 127.0.0.1 40000"
    assert LocalOffer.read(offer.header()) == offer
    six = LocalOffer(NAME, KEY, ("::1", 1))
    assert LocalOffer.read(six.header()) == six


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"1 {NAME} {KEY} 127.0.0.1",
        f"2 {NAME} {KEY} 127.0.0.1 1",
        f"1 {NAME} {KEY} 127.0.0.1 1 1",
        f"1 ../../run/docker.sock {KEY} 127.0.0.1 1",
        f"1 {NAME[:-1]}/ {KEY} 127.0.0.1 1",
        f"1 {NAME.upper()} {KEY} 127.0.0.1 1",
        f"1 {NAME} {KEY}0 127.0.0.1 1",
        f"1 {NAME} {KEY} 127.0.0.1 -1",
        f"1 {NAME} {KEY} 127.0.0.1 ١",
        f"1 {NAME} {KEY} 127.0.0.1 999999999999",
    ],
)
def test_what_cannot_be_read_is_no_offer(header: str | None) -> None:
    assert LocalOffer.read(header) is None


@given(st.text(max_size=120))
def test_no_text_breaks_the_reader_of_offers(text: str) -> None:
    offer = LocalOffer.read(text)
    assert offer is None or offer.header() == text


def test_the_name_leads_to_an_abstract_socket() -> None:
    assert abstract_address(NAME) == f"\0openenv-{NAME}"


def test_greetings_are_maps_and_unknown_keys_are_ignored() -> None:
    client = ClientGreeting(KEY, {"authorization": "Bearer t"}, ["memory"])
    body = write_greeting(client)
    assert msgspec.msgpack.decode(body) == {
        "key": KEY,
        "headers": {"authorization": "Bearer t"},
        "wants": ["memory"],
    }
    assert read_greeting(body, of_client=True) == client
    later = msgspec.msgpack.encode({"key": KEY, "of_later": [1]})
    assert read_greeting(later, of_client=True) == ClientGreeting(KEY)
    server = ServerGreeting(403, b"no", {"memory": {"size": 1}})
    assert read_greeting(memoryview(write_greeting(server)), of_client=False) == server
    assert msgspec.msgpack.decode(write_greeting(ServerGreeting())) == {}


@pytest.mark.parametrize("body", [b"", b"\x90", b"\xc1", b"\x81\xa3key\x01", b"\x91" * 5000])
@pytest.mark.parametrize("of_client", [True, False])
def test_what_is_no_greeting_is_refused(body: bytes, of_client: bool) -> None:
    if not of_client and body == b"\x81\xa3key\x01":
        body = b"\x81\xa6status\xa1x"
    with pytest.raises(ProtocolError, match="not a greeting"):
        read_greeting(body, of_client)


def test_an_end_has_a_code_and_a_reason() -> None:
    assert end_body(END_NORMAL) == b"\x03\xe8"
    assert read_end(end_body(1008, "why")) == (1008, "why")
    assert read_end(b"") == read_end(b"\x03") == (END_ABNORMAL, "")
    assert read_end(b"\x03\xe8\xff") == (1000, "�")
    assert len(end_body(1000, "x" * 5000)) == 2 + 1024
