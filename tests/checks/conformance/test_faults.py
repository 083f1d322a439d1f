"""The checks of faults: kept over every transport, and broken by a runtime that hides them."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.checks.conformance import faults
from openenv_async.checks.conformance.faults import _wrong_action
from openenv_async.checks.conformance.subject import Subject
from openenv_async.checks.registry import Skipped
from openenv_async.checks.transports import NativeTransport
from tests.checks.conformance.over import caught, passes, promises


@promises(faults)
async def test_it_is_kept_over(name: str, transport: str) -> None:
    await passes(name, transport)


@pytest.mark.parametrize(
    ("lie", "check"),
    [
        ("shifts replies", "other_sessions_are_undisturbed"),
        ("swallows errors", "an_environment_that_raises_in_step"),
        ("drops options", "an_unknown_reset_option_is_refused"),
        ("drops options", "an_environment_that_raises_in_reset"),
        ("drops options", "a_reset_option_of_the_wrong_type_is_refused"),
        ("drops unknown fields", "unknown_fields_are_refused"),
        ("queues calls", "a_second_call_meanwhile_is_refused"),
    ],
)
async def test_a_broken_runtime_is_caught_by_name(lie: str, check: str) -> None:
    assert (await caught(lie, check)).reason


def wrong_action(schema: Any) -> Any:
    transport = NativeTransport("http://127.0.0.1:9")
    return _wrong_action(Subject(transport, False, {"action": schema}, None, 0))


def test_a_wrong_action_is_of_another_kind() -> None:
    fields = {"type": "object", "properties": {"a": True}}
    assert isinstance(wrong_action(fields), str)
    assert isinstance(wrong_action({"$ref": "#/$defs/A", "$defs": {"A": fields}}), str)
    for kind in ("string", "integer", "number", "array", "boolean"):
        assert isinstance(wrong_action({"type": kind}), dict)


@pytest.mark.parametrize("schema", [{"type": "object"}, {}, {"anyOf": [{"type": "string"}]}])
def test_a_schema_that_takes_anything_has_no_wrong_action(schema: Any) -> None:
    with pytest.raises(Skipped):
        wrong_action(schema)
