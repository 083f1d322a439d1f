"""Actions and observations as clients and agents are told of them."""

from __future__ import annotations

from typing import Any

from openenv_async.compat.harbor.models import HarborAction, HarborObservation
from openenv_async.models import json_schema
from openenv_async.schemas.refs import resolved


def _schema(model: type) -> dict[str, Any]:
    schema = json_schema(model)
    found: dict[str, Any] = resolved(schema, schema)
    return found


def test_an_action_may_be_a_command_or_the_end() -> None:
    schema = _schema(HarborAction)
    fields = schema["properties"]
    assert [*fields] == ["command", "timeout", "submit"]
    assert schema.get("required", []) == []
    (seconds,) = [each for each in fields["timeout"]["anyOf"] if each["type"] == "number"]
    assert seconds["exclusiveMinimum"] == 0


def test_an_observation_has_no_field_that_is_taken_for_a_reward_or_an_end() -> None:
    fields = {*_schema(HarborObservation)["properties"]}
    assert fields.isdisjoint({"reward", "done", "terminated", "truncated"})
