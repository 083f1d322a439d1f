"""Upstream's models: what they take, refuse and dump."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from openenv_async.compat.upstream.types import (
    Action,
    ConcurrencyConfig,
    HealthResponse,
    Observation,
    ResetRequest,
    SchemaResponse,
    ServerCapacityStatus,
    ServerMode,
    State,
    StepRequest,
    WSErrorCode,
    WSErrorResponse,
    WSIncomingMessage,
    WSStepMessage,
)


class Move(Action):
    to: int


def test_actions_and_observations_refuse_unknown_fields_and_states_take_them() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Move.model_validate({"to": 1, "speed": 2})
    with pytest.raises(ValidationError, match="Extra inputs"):
        Observation.model_validate({"text": "hello"})
    state = State.model_validate({"step_count": 1, "score": 3})
    assert state.model_dump() == {"episode_id": None, "step_count": 1, "score": 3}


def test_assignments_are_validated() -> None:
    observation = Observation()
    observation.reward = 1
    assert (observation.reward, observation.done, observation.metadata) == (1, False, {})
    with pytest.raises(ValidationError):
        observation.done = "perhaps"  # type: ignore[assignment]  # the mistake that is tested
    with pytest.raises(ValidationError):
        State().step_count = -1


def test_requests_take_more_fields_and_check_their_own() -> None:
    request = ResetRequest.model_validate({"seed": 3, "level": "hard"})
    assert request.model_extra == {"level": "hard"}
    for bad in ({"seed": -1}, {"episode_id": "x" * 256}):
        with pytest.raises(ValidationError):
            ResetRequest.model_validate(bad)
    with pytest.raises(ValidationError):
        StepRequest.model_validate({"action": {}, "timeout_s": 0})


def test_a_message_is_told_by_its_type() -> None:
    read: TypeAdapter[object] = TypeAdapter(WSIncomingMessage)
    assert isinstance(read.validate_python({"type": "step", "data": {"to": 1}}), WSStepMessage)
    with pytest.raises(ValidationError):
        read.validate_python({"type": "jump"})


def test_words_are_dumped_as_their_text() -> None:
    assert HealthResponse().model_dump() == {"status": "healthy"}
    error = WSErrorResponse(data={"code": WSErrorCode.SESSION_ERROR})
    assert error.model_dump()["data"]["code"] == "SESSION_ERROR"
    assert ServerMode("production") is ServerMode.PRODUCTION


def test_a_schema_without_a_schema_of_resets_has_no_such_key() -> None:
    plain = SchemaResponse(action={}, observation={}, state={})
    assert set(plain.model_dump()) == {"action", "observation", "state"}
    two = SchemaResponse(action={}, observation={}, state={}, reset_observation={"type": "object"})
    assert two.model_dump()["reset_observation"] == {"type": "object"}


def test_capacity_counts() -> None:
    status = ServerCapacityStatus.from_counts(1, 2)
    assert (status.available_slots, status.is_at_capacity) == (1, False)
    assert ServerCapacityStatus.from_counts(2, 2).is_at_capacity
    with pytest.raises(ValidationError, match="cannot exceed"):
        ServerCapacityStatus.from_counts(3, 2)
    with pytest.raises(ValidationError):
        ConcurrencyConfig(max_concurrent_envs=0)
