"""Upstream's modules and names beside ours: the table that imports and the documentation read.

A module of upstream's has a row. It maps each public name to the module of this package that has
it, or to a ``Refused`` that says why there is none and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["ALIASES", "MODULES", "REFUSED", "Refused", "home_of"]


@dataclass(frozen=True, slots=True)
class Refused:
    """A name or module that there is none of here.

    Attributes:
        reason: why, and what to do in its place.
    """

    reason: str


_TYPES: Final = (
    "Action BaseMessage CodeExecResult ConcurrencyConfig EnvironmentMetadata GetTaskRangeRequest"
    " GetTaskRequest HealthResponse HealthStatus ListTasksRequest NumTasksRequest Observation"
    " ResetRequest ResetResponse Scalar SchemaResponse ServerCapacityStatus ServerMode SessionInfo"
    " State StepRequest StepResponse WSCloseMessage WSErrorCode WSErrorResponse WSIncomingMessage"
    " WSObservationResponse WSResetMessage WSStateMessage WSStateResponse WSStepMessage"
)
_TOOLS: Final = (
    "CallToolAction CallToolObservation JsonRpcError JsonRpcErrorCode JsonRpcRequest"
    " JsonRpcResponse ListToolsAction ListToolsObservation McpMethod RESERVED_TOOL_NAMES Tool"
    " ToolError ToolErrorType WSMCPMessage WSMCPResponse"
)
_INTERFACES: Final = "ActT Environment Message ModelTokenizer ObsT StateT TaskProvider Transform"
_EXCEPTIONS: Final = (
    "ConcurrencyConfigurationError EnvironmentFactoryError OpenEnvError SessionCapacityError"
    " SessionCreationError SessionNotFoundError"
)
_SERVING: Final = "HTTPEnvServer create_app create_fastapi_app"
_SERIALIZATION: Final = (
    "deserialize_action deserialize_action_with_preprocessing serialize_observation"
)

_RUBRICS: Final = (
    "ExponentialDiscountingTrajectoryRubric Gate LLMJudge Rubric RubricDict RubricList Sequential"
    " TrajectoryRubric WeightedSum"
)

_Names = Mapping[str, str | Refused]


def _from(home: str, names: str) -> dict[str, str | Refused]:
    return dict.fromkeys(names.split(), home)


_ENV_SERVER: Final[_Names] = {
    **_from("types", _TYPES),
    **_from("mcp_types", _TOOLS),
    **_from("interfaces", _INTERFACES),
    **_from("interfaces", "CompositeTransform NullTransform"),
    **_from("exceptions", _EXCEPTIONS),
    **_from("serving", _SERVING),
    **_from("serialization", _SERIALIZATION),
}

MODULES: Final[Mapping[str, _Names]] = {
    "openenv": {},
    "openenv.core": _ENV_SERVER,
    "openenv.core.env_server": _ENV_SERVER,
    "openenv.core.env_server.base_transforms": {
        **_from("interfaces", "CompositeTransform NullTransform Transform"),
        **_from("types", "Observation"),
    },
    "openenv.core.env_server.exceptions": _from("exceptions", _EXCEPTIONS),
    "openenv.core.env_server.http_server": {
        **_from("serving", _SERVING),
        **_from("interfaces", "Environment"),
        **_from("types", _TYPES),
        **_from("mcp_types", _TOOLS),
        **_from("exceptions", _EXCEPTIONS),
        **_from("serialization", _SERIALIZATION),
    },
    "openenv.core.env_server.interfaces": {
        **_from("interfaces", _INTERFACES),
        **_from("types", "Action EnvironmentMetadata Observation State"),
    },
    "openenv.core.env_server.mcp_types": {
        **_from("mcp_types", _TOOLS),
        **_from("types", "Action BaseMessage Observation"),
    },
    "openenv.core.env_server.serialization": {
        **_from("serialization", _SERIALIZATION),
        **_from("types", "Action Observation"),
        **_from("mcp_types", "CallToolAction ListToolsAction"),
    },
    "openenv.core.env_server.types": _from("types", _TYPES),
    "openenv.core.rubrics": _from("rubrics", _RUBRICS),
    "openenv.core.rubrics.base": _from("rubrics", "Rubric"),
    "openenv.core.rubrics.containers": _from(
        "rubrics", "Gate Rubric RubricDict RubricList Sequential WeightedSum"
    ),
    "openenv.core.rubrics.llm_judge": _from("rubrics", "LLMJudge Rubric"),
    "openenv.core.rubrics.trajectory": _from(
        "rubrics", "ExponentialDiscountingTrajectoryRubric Rubric TrajectoryRubric"
    ),
}
"""Upstream's modules, with what each has of its own and what it hands on."""

REFUSED: Final[Mapping[str, str]] = {}
"""Upstream's modules that there are none of here, with the remedy; those inside them too."""

ALIASES: Final[Mapping[str, str]] = {"openenv_core": "openenv.core"}
"""Older names of packages."""


def home_of(module: str, name: str) -> str | None:
    """Return the module of this package that has an upstream name; ``None`` where none has.

    Raises:
        ImportError: the name is known and refused.
    """
    home = MODULES[module].get(name)
    if isinstance(home, Refused):
        raise ImportError(f"{module}.{name} is not among this runtime's names: {home.reason}")
    return None if home is None else f"openenv_async.compat.upstream.{home}"
