"""Fields of a request, read by their types or refused by their names."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.errors import CallRefused
from openenv_async.gateway.dialects.fields import Fields, read_body, thread_of


@pytest.mark.parametrize(
    "body",
    [b"", b"[1]", b'"text"', b"{", b'{"a": }', b'{"a": "\xff"}', b"[" * 10_000, b'{"a":' * 10_000],
)
def test_a_body_that_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(CallRefused) as refused:
        read_body(body)
    assert refused.value.detail["field"] == "body"


def test_nesting_is_bounded_and_text_that_looks_like_it_is_not_counted() -> None:
    with pytest.raises(CallRefused, match="nested deeper"):
        read_body(b'{"a":' + b"[" * 70 + b"]" * 70 + b"}")
    body = b'{"a":"' + b"[" * 500 + b'\\"' + b"{" * 500 + b'"}'
    assert len(read_body(body).take("a")) == 1001


def test_a_field_of_another_type_is_refused_by_its_name() -> None:
    reads: dict[str, Any] = {
        "flag": 1,
        "text": 1,
        "list": {},
        "mapping": [],
        "number": True,
        "count": 0,
    }
    for kind, wrong in reads.items():
        with pytest.raises(CallRefused, match=r"^field is .*: give ") as refused:
            getattr(Fields({"field": wrong}), kind)("field")
        assert refused.value.detail["field"] == "field"
    empty: dict[str, Any] = {
        "flag": False,
        "text": None,
        "list": [],
        "mapping": {},
        "number": None,
        "count": None,
    }
    for kind, value in empty.items():
        assert getattr(Fields({}), kind)("field") == value
        assert getattr(Fields({"field": None}), kind)("field") == value


def test_the_rest_is_left_out_with_reasons_or_refused() -> None:
    fields = Fields({"user": "u", "new": 1, "gone": None, "echo": False})
    fields.leave_rest({"user": "names nothing"}, {"echo": "ask without it"})
    assert fields.left_out == {"user": "names nothing", "new": "unknown to the gateway"}
    with pytest.raises(CallRefused, match="echo is not served by the gateway: ask without it"):
        Fields({"echo": True}).leave_rest({}, {"echo": "ask without it"})


def test_only_names_of_run_and_conversation_are_kept_of_the_headers() -> None:
    headers = {"authorization": "Bearer k", "session-id": "s", "x-stainless-retry-count": "1"}
    assert thread_of(headers) == {"session-id": "s"}


def test_of_metadata_in_a_header_the_keys_that_last_are_taken() -> None:
    metadata = '{"turn_id": "t", "request_kind": "compaction", "thread_source": 5}'
    assert thread_of({"x-codex-turn-metadata": metadata}) == {
        "x-codex-turn-metadata.request_kind": "compaction"
    }
    for useless in ("", "5", "[]", "{", "[" * 100_000):
        assert thread_of({"x-codex-turn-metadata": useless}) == {}
