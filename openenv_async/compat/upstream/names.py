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

_PROVIDERS: Final = "ContainerProvider LocalDockerProvider RuntimeProvider"
_HARNESS: Final = (
    "Message RESERVED_TOOL_NAMES ResourceSession ResourceSessionFactory StepEnvSessionAdapter"
    " ToolResult VerifyResult"
)
_LLM: Final = "LLMClient LLMResponse OpenAIClient ToolCall create_llm_client"
_CLIENTS: Final = "EnvClient GenericAction GenericEnvClient SyncEnvClient"
_TOOL_CLIENTS: Final = "MCPClientBase MCPToolClient"

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
    **_from("mcp_environment", "MCPEnvironment"),
}
_NO_GRADIO: Final = Refused(
    "upstream's Gradio page is not made here: `openenv-async serve` has a page of its own at /"
)
_NO_CLOUD: Final = Refused(
    "servers are placed by `openenv_async.providers` (Docker, processes, Ray, Spaces): give EnvPool"
    " or AutoEnv one of those, or start it yourself and give base_url"
)
_NO_ANTHROPIC: Final = Refused(
    "OpenAIClient talks to any service with an OpenAI-compatible address: give it that of the model"
)
_NO_HARNESS: Final = Refused(
    "upstream's runners of agents are not here: `openenv-async rollout` and the trainers' adapters"
    " play, and /mcp is for agents that play by themselves"
)
_NO_PAGE: Final = Refused(
    "its pages are served by `openenv-async serve`, and routes of your own by FastAPI"
)
_OTHER_HARNESS: Final = (
    "AgenticHarnessAdapter CLIHarnessAdapter HarnessAction HarnessAdapter HarnessClientMessage"
    " HarnessConfig HarnessEnvironment HarnessError HarnessEvent HarnessEventType HarnessMCPBridge"
    " HarnessNotRunningError HarnessProcess HarnessResponse HarnessRolloutResult HarnessRunLimits"
    " HarnessStartupError HarnessTransport HarnessTurnTimeoutError LoopOwningSession"
    " MCPHarnessAdapter ModelStep ModelStepResult RolloutEvent SessionMCPBridge ToolTraceEntry"
    " TraceEntry TrainableSession TrainingTrace TrainingTurn build_bridge_server"
    " build_harness_rollout_func events_to_metadata resolve_tool_conflicts"
)
_CORE: Final[_Names] = {
    **_ENV_SERVER,
    **_from("clients", _CLIENTS),
    **_from("mcp_client", _TOOL_CLIENTS),
    **_from("llm_client", _LLM),
    "AnthropicClient": _NO_ANTHROPIC,
}

MODULES: Final[Mapping[str, _Names]] = {
    "openenv": {
        **_from("auto", "AutoAction AutoEnv"),
        **_from("clients", "GenericAction GenericEnvClient SyncEnvClient"),
    },
    "openenv.auto": _from("auto", "AutoAction AutoEnv"),
    "openenv.auto.auto_action": {
        **_from("auto", "AutoAction"),
        **_from("clients", "GenericAction"),
    },
    "openenv.auto.auto_env": {
        **_from("auto", "AutoEnv"),
        **_from("clients", "EnvClient GenericEnvClient"),
    },
    "openenv.core": _CORE,
    "openenv.core.client_types": _from("client_types", "ObsT StateT StepResult"),
    "openenv.core.containers": {},
    "openenv.core.containers.runtime": {
        **_from("containers", _PROVIDERS),
        **dict.fromkeys(("DockerSwarmProvider", "KubernetesProvider", "UVProvider"), _NO_CLOUD),
    },
    "openenv.core.containers.runtime.providers": {
        **_from("containers", _PROVIDERS),
        **dict.fromkeys(("DockerSwarmProvider", "KubernetesProvider"), _NO_CLOUD),
    },
    "openenv.core.env_client": {
        **_from("clients", "EnvClient"),
        **_from("client_types", "ObsT StateT StepResult"),
        **_from("containers", "ContainerProvider LocalDockerProvider RuntimeProvider"),
    },
    "openenv.core.env_server": {
        **_ENV_SERVER,
        "WebInterfaceManager": _NO_GRADIO,
        "create_web_interface_app": _NO_GRADIO,
    },
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
    "openenv.core.env_server.mcp_environment": {
        **_from(
            "mcp_environment", "MCPEnvironment MCP_TOOL_CALL_TIMEOUT VALID_MODES get_server_tools"
        ),
        **_from("mcp_environment", "run_async_safely"),
        **_from("interfaces", "Environment"),
        **_from("mcp_types", _TOOLS),
        **_from("types", "Action Observation"),
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
    "openenv.core.env_server.web_interface": {
        **_from("interfaces", "load_environment_metadata"),
        **dict.fromkeys(
            (
                *("ActionLog", "EpisodeState", "WebInterfaceManager", "create_web_interface_app"),
                "get_quick_start_markdown",
            ),
            _NO_GRADIO,
        ),
    },
    "openenv.core.generic_client": {
        **_from("clients", "EnvClient GenericAction GenericEnvClient"),
        **_from("client_types", "StepResult"),
    },
    "openenv.core.harness": {
        **_from("harness", _HARNESS),
        **dict.fromkeys(_OTHER_HARNESS.split(), _NO_HARNESS),
    },
    "openenv.core.llm_client": {**_from("llm_client", _LLM), "AnthropicClient": _NO_ANTHROPIC},
    "openenv.core.mcp_client": {
        **_from("mcp_client", "GenericMCPObservation MCPClientBase MCPToolClient"),
        **_from("clients", "EnvClient"),
        **_from("client_types", "StepResult"),
        **_from("mcp_types", _TOOLS),
        **_from("types", "Observation State"),
    },
    "openenv.core.rubrics": _from("rubrics", _RUBRICS),
    "openenv.core.rubrics.base": _from("rubrics", "Rubric"),
    "openenv.core.rubrics.containers": _from(
        "rubrics", "Gate Rubric RubricDict RubricList Sequential WeightedSum"
    ),
    "openenv.core.rubrics.llm_judge": _from("rubrics", "LLMJudge Rubric"),
    "openenv.core.rubrics.trajectory": _from(
        "rubrics", "ExponentialDiscountingTrajectoryRubric Rubric TrajectoryRubric"
    ),
    "openenv.core.sync_client": {
        **_from("clients", "SyncEnvClient"),
        **_from("client_types", "StepResult"),
    },
    "openenv.core.utils": {
        **_from("mcp_environment", "run_async_safely"),
        **_from("clients", "convert_to_ws_url hf_space_subdomain"),
    },
}
"""Upstream's modules, with what each has of its own and what it hands on."""

REFUSED: Final[Mapping[str, str]] = {
    "openenv.auto._discovery": "`openenv-async list` and AutoEnv.list_environments() list"
    " environments",
    "openenv.cli": "the command line is `openenv-async`: serve, validate, build, push, import",
    **{
        f"openenv.core.containers.runtime.{name}": _NO_CLOUD.reason
        for name in (
            *("_server_config", "aca_provider", "daytona_provider", "hf_sandbox_provider"),
            *("modal_provider", "novita_provider", "uv_provider"),
        )
    },
    "openenv.core.containers.test_local_docker_provider": "it is a test of upstream's own",
    "openenv.core.env_server._utils": "it is private to upstream",
    "openenv.core.env_server.gradio_theme": _NO_GRADIO.reason,
    "openenv.core.env_server.gradio_ui": _NO_GRADIO.reason,
    "openenv.core.env_server.route_config": _NO_PAGE.reason,
    "openenv.core.evals": "`openenv-async rollout` plays and counts; its records are what"
    " evaluations read",
    **{
        f"openenv.core.harness.{name}": _NO_HARNESS.reason
        for name in (
            *("adapter", "bridge", "capture", "collect", "config", "environment", "events"),
            *("process", "rollout", "tools", "training"),
        )
    },
    "openenv.core.tools": "its Git server is Gitea, and its Python runs in this process: install"
    " openenv beside openenv_async, whose own classes are then used",
    "openenv.discovery": "`openenv-async list` lists environments; there are no catalogs",
    "openenv.harbor": "`openenv-async serve harbor:FOLDER` plays Harbor's tasks",
    "openenv.validation": "`openenv-async validate` checks folders and servers",
}
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
