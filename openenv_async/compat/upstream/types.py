"""Upstream's models of actions, observations, states and messages, as pydantic has them.

Fields, defaults and what is refused are upstream's, since environments and the JSON Schemas that
clients read are made of them: an action and an observation take no field that was not declared,
a state takes any.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

__all__ = [
    "Action",
    "BaseMessage",
    "CodeExecResult",
    "ConcurrencyConfig",
    "EnvironmentMetadata",
    "GetTaskRangeRequest",
    "GetTaskRequest",
    "HealthResponse",
    "HealthStatus",
    "ListTasksRequest",
    "NumTasksRequest",
    "Observation",
    "ResetRequest",
    "ResetResponse",
    "Scalar",
    "SchemaResponse",
    "ServerCapacityStatus",
    "ServerMode",
    "SessionInfo",
    "State",
    "StepRequest",
    "StepResponse",
    "WSCloseMessage",
    "WSErrorCode",
    "WSErrorResponse",
    "WSIncomingMessage",
    "WSObservationResponse",
    "WSResetMessage",
    "WSStateMessage",
    "WSStateResponse",
    "WSStepMessage",
]

Scalar = int | float | bool

_STRICT = ConfigDict(extra="forbid")
_MODEL = ConfigDict(extra="forbid", validate_assignment=True, arbitrary_types_allowed=True)


# -- words ------------------------------------------------------------------------------------
# Plain ``str`` mixed with ``Enum``, as upstream has them: ``str()`` of a StrEnum differs.


class ServerMode(str, Enum):  # noqa: UP042  # upstream's kind of enum
    """The two modes of a server: with and without ``/reset`` and ``/step`` over HTTP."""

    SIMULATION = "simulation"
    PRODUCTION = "production"


class HealthStatus(str, Enum):  # noqa: UP042  # upstream's kind of enum
    """The health of a server."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DEGRADED = "degraded"


class WSErrorCode(str, Enum):  # noqa: UP042  # upstream's kind of enum
    """Codes of error messages on a WebSocket."""

    INVALID_JSON = "INVALID_JSON"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    EXECUTION_ERROR = "EXECUTION_ERROR"
    CAPACITY_REACHED = "CAPACITY_REACHED"
    FACTORY_ERROR = "FACTORY_ERROR"
    SESSION_ERROR = "SESSION_ERROR"


# -- models that authors subclass -------------------------------------------------------------


class Action(BaseModel):
    """Base of an environment's actions."""

    model_config = _MODEL

    metadata: dict[str, Any] = Field(
        default_factory=dict, description="Further facts about the action"
    )


class Observation(BaseModel):
    """Base of an environment's observations, with the reward and the end of the episode."""

    model_config = _MODEL

    done: bool = Field(default=False, description="True once the episode is over")
    reward: bool | int | float | None = Field(
        default=None, description="The reward of the last action"
    )
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="Further facts about the observation"
    )


class State(BaseModel):
    """Base of an environment's state; further fields may be set on any instance."""

    model_config = ConfigDict(extra="allow", validate_assignment=True, arbitrary_types_allowed=True)

    episode_id: str | None = Field(default=None, description="Name of the episode")
    step_count: int = Field(default=0, ge=0, description="Steps taken in the episode")


class BaseMessage(BaseModel):
    """Base of models that travel between client and server."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class CodeExecResult(BaseMessage):
    """The outcome of a piece of code that was run."""

    stdout: str = Field(description="Text on standard output")
    stderr: str = Field(description="Text on standard error")
    exit_code: int = Field(description="Its exit code")


class EnvironmentMetadata(BaseMessage):
    """The facts that an environment gives about itself."""

    name: str = Field(description="Name of the environment")
    description: str = Field(description="Its purpose, in words")
    readme_content: str | None = Field(default=None, description="Text of its README file")
    version: str | None = Field(default=None, description="Its version")
    author: str | None = Field(default=None, description="Its author")
    documentation_url: str | None = Field(default=None, description="Address of its documentation")


# -- requests and answers over HTTP -----------------------------------------------------------


class ResetRequest(BaseModel):
    """Body of ``POST /reset``; further fields are options of the environment."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"seed": 7, "episode_id": "episode-7"}, {}]},
    )

    seed: int | None = Field(default=None, ge=0, description="Seed of the episode")
    episode_id: str | None = Field(default=None, max_length=255, description="Name of the episode")


class StepRequest(BaseModel):
    """Body of ``POST /step``; further fields are arguments of the environment's ``step``."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"action": {"value": 1}, "timeout_s": 30.0}]},
    )

    action: dict[str, Any] = Field(..., description="The action, as its schema says")
    timeout_s: float | None = Field(default=None, gt=0, description="Seconds that it may take")
    request_id: str | None = Field(default=None, max_length=255, description="Name of the request")


class _Result(BaseModel):
    """Fields of the answers to ``/reset`` and ``/step``."""

    model_config = _STRICT

    observation: dict[str, Any] = Field(..., description="The observation")
    reward: float | None = Field(default=None, description="The reward")
    done: bool = Field(default=False, description="True once the episode is over")
    metadata: dict[str, Any] | None = Field(default=None, description="Further facts")


class ResetResponse(_Result):
    """Answer to ``POST /reset``."""


class StepResponse(_Result):
    """Answer to ``POST /step``."""


class SchemaResponse(BaseMessage):
    """Answer to ``GET /schema``; ``reset_observation`` is left out where there is none."""

    action: dict[str, Any] = Field(description="JSON Schema of actions")
    observation: dict[str, Any] = Field(description="JSON Schema of observations")
    state: dict[str, Any] = Field(description="JSON Schema of the state")
    reset_observation: dict[str, Any] | None = Field(
        default=None, description="JSON Schema of the observations of reset"
    )

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        if self.reset_observation is None:
            fields.pop("reset_observation", None)
        return fields


class HealthResponse(BaseMessage):
    """Answer to ``GET /health``."""

    status: HealthStatus = Field(default=HealthStatus.HEALTHY, description="Health of the server")


class ListTasksRequest(BaseMessage):
    """Body of a request for the tasks of a split."""

    split: str = Field(description="Name of the split")


class NumTasksRequest(BaseMessage):
    """Body of a request for the number of tasks of a split."""

    split: str = Field(description="Name of the split")


class GetTaskRequest(BaseMessage):
    """Body of a request for one task."""

    split: str = Field(description="Name of the split")
    index: int = Field(description="Place of the task in its split")


class GetTaskRangeRequest(BaseMessage):
    """Body of a request for a range of tasks."""

    split: str = Field(description="Name of the split")
    start: int | None = Field(default=None, description="First place")
    stop: int | None = Field(default=None, description="Place after the last")


# -- messages of the WebSocket ----------------------------------------------------------------


class WSResetMessage(BaseMessage):
    """Message that begins an episode."""

    type: Literal["reset"] = Field(default="reset", description="Kind of message")
    data: dict[str, Any] = Field(default_factory=dict, description="Options of reset")


class WSStepMessage(BaseMessage):
    """Message that takes an action."""

    type: Literal["step"] = Field(default="step", description="Kind of message")
    data: dict[str, Any] = Field(..., description="The action")


class WSStateMessage(BaseMessage):
    """Message that asks for the state."""

    type: Literal["state"] = Field(default="state", description="Kind of message")


class WSCloseMessage(BaseMessage):
    """Message that closes the session."""

    type: Literal["close"] = Field(default="close", description="Kind of message")


WSIncomingMessage = Annotated[
    WSResetMessage | WSStepMessage | WSStateMessage | WSCloseMessage, Field(discriminator="type")
]


class WSObservationResponse(BaseModel):
    """Message with an observation."""

    model_config = _STRICT

    type: Literal["observation"] = Field(default="observation", description="Kind of message")
    data: dict[str, Any] = Field(description="Observation, reward and done")


class WSStateResponse(BaseModel):
    """Message with the state."""

    model_config = _STRICT

    type: Literal["state"] = Field(default="state", description="Kind of message")
    data: dict[str, Any] = Field(description="The state")


class WSErrorResponse(BaseModel):
    """Message with an error."""

    model_config = _STRICT

    type: Literal["error"] = Field(default="error", description="Kind of message")
    data: dict[str, Any] = Field(description="Its code and message")


# -- sessions ---------------------------------------------------------------------------------


class ConcurrencyConfig(BaseMessage):
    """Limits of a server's sessions."""

    max_concurrent_envs: int = Field(default=1, ge=1, description="Sessions at once")
    session_timeout: float | None = Field(
        default=None, gt=0, description="Seconds after which an idle session ends; none: never"
    )


class ServerCapacityStatus(BaseMessage):
    """Numbers of sessions: those that are open, and those that may be."""

    active_sessions: int = Field(ge=0, description="Open sessions")
    max_sessions: int = Field(ge=1, description="Sessions that may be open")

    @model_validator(mode="after")
    def _within_bounds(self) -> Self:
        if self.active_sessions > self.max_sessions:
            raise ValueError(
                f"active_sessions {self.active_sessions} cannot exceed max_sessions"
                f" {self.max_sessions}"
            )
        return self

    @property
    def available_slots(self) -> int:
        """Sessions that may still be opened."""
        return self.max_sessions - self.active_sessions

    @property
    def is_at_capacity(self) -> bool:
        """True if no session may be opened."""
        return self.available_slots == 0

    @classmethod
    def from_counts(cls, active: int, max_sessions: int) -> Self:
        """Return the status of these counts."""
        return cls(active_sessions=active, max_sessions=max_sessions)


class SessionInfo(BaseMessage):
    """Facts about an open session; times are seconds since 1970."""

    session_id: str = Field(description="Id of the session")
    created_at: float = Field(description="When it was opened")
    last_activity_at: float = Field(description="When it was used last")
    step_count: int = Field(default=0, ge=0, description="Steps taken in it")
    environment_type: str = Field(description="Class of its environment")
