"""A task's ``task.toml``, read as Harbor 0.26.0 reads it.

Rules (Harbor's ``harbor/models/task/config.py``, schema version 1.4):

- Keys that are not known are left alone. Numbers may be written as text.
- ``version`` is the older name of ``schema_version``; in ``[environment]`` ``memory`` and
  ``storage`` (such as ``"2G"``) those of ``memory_mb`` and ``storage_mb``, and ``allow_internet``
  that of ``network_mode``, which wins.
- Reading refuses nothing that Harbor takes; ``unsupported`` tells what cannot be had here.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from openenv_async.errors import InvalidTasks

__all__ = [
    "AgentSection",
    "EnvironmentSection",
    "HealthcheckSection",
    "NetworkMode",
    "TaskConfig",
    "VerifierSection",
    "read_config",
    "resolved_variables",
    "unsupported",
]

NetworkMode = Literal["no-network", "public", "allowlist"]
Texts = dict[str, str]

_PACKAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_SIZES: Final = {"G": 1024.0, "M": 1.0, "K": 1 / 1024}
_VARIABLE: Final = re.compile(r"\$\{([^}:]+)(?::-(.*))?\}")


class PackageSection(msgspec.Struct, frozen=True, kw_only=True):
    """``[task]``: the package that the task is."""

    name: str
    version: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    description: str = ""
    authors: tuple[dict[str, Any], ...] = ()
    keywords: tuple[str, ...] = ()


class AgentSection(msgspec.Struct, frozen=True, kw_only=True):
    """``[agent]``: the time that an agent has, and who it is."""

    timeout_sec: float | None = None
    user: str | int | None = None
    network_mode: NetworkMode | None = None
    allowed_hosts: tuple[str, ...] | None = None


class HealthcheckSection(msgspec.Struct, frozen=True, kw_only=True):
    """``[environment.healthcheck]``: a command that succeeds once the container is ready."""

    command: str
    interval_sec: float = 5.0
    timeout_sec: float = 30.0
    start_period_sec: float = 0.0
    start_interval_sec: float = 5.0
    retries: int = 3


class EnvironmentSection(msgspec.Struct, frozen=True, kw_only=True):
    """``[environment]``: the container."""

    docker_image: str | None = None
    build_timeout_sec: float = 600.0
    os: Literal["linux", "windows"] = "linux"
    cpus: float | None = None
    memory_mb: int | None = None
    storage_mb: int | None = None
    gpus: int | None = None
    gpu_types: tuple[str, ...] | None = None
    tpu: dict[str, Any] | None = None
    env: Texts = {}
    mcp_servers: tuple[dict[str, Any], ...] = ()
    skills_dir: str | None = None
    healthcheck: HealthcheckSection | None = None
    workdir: str | None = None
    network_mode: NetworkMode = "public"
    allowed_hosts: tuple[str, ...] | None = None


class CollectSection(msgspec.Struct, frozen=True, kw_only=True):
    """``[[verifier.collect]]``: a command before the tests."""

    command: str
    service: Annotated[str, msgspec.Meta(pattern=r"^\s*[a-zA-Z0-9][\w.-]*\s*$")] = "main"
    timeout_sec: float = 60.0
    user: str | int | None = None


class VerifierSection(msgspec.Struct, frozen=True, kw_only=True):
    """``[verifier]``: the tests, which give the reward."""

    timeout_sec: float = 600.0
    env: Texts = {}
    user: str | int | None = None
    environment_mode: Literal["shared", "separate"] | None = None
    environment: EnvironmentSection | None = None
    collect: tuple[CollectSection, ...] = ()
    network_mode: NetworkMode | None = None
    allowed_hosts: tuple[str, ...] | None = None


class SolutionSection(msgspec.Struct, frozen=True, kw_only=True):
    """``[solution]``: the variables of the reference solution."""

    env: Texts = {}


class TaskConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a ``task.toml``."""

    schema_version: str = "1.4"
    task: PackageSection | None = None
    metadata: dict[str, Any] = {}
    agent: AgentSection = AgentSection()
    verifier: VerifierSection = VerifierSection()
    environment: EnvironmentSection = EnvironmentSection()
    solution: SolutionSection = SolutionSection()
    source: str | None = None
    multi_step_reward_strategy: Literal["mean", "final"] | None = None
    steps: tuple[dict[str, Any], ...] | None = None
    artifacts: tuple[str | dict[str, Any], ...] = ()


def read_config(text: str) -> TaskConfig:
    """Return the contents of a ``task.toml``.

    Raises:
        InvalidTasks: it is not TOML, or Harbor would refuse it; the message names the key.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise InvalidTasks(f"it is not TOML: {exc}") from None
    if "version" in data:
        data.setdefault("schema_version", data.pop("version"))
    verifier = data.get("verifier")
    for table in (data, verifier):
        if isinstance(table, dict) and isinstance(table.get("environment"), dict):
            table["environment"] = _environment(table["environment"])
    try:
        config = msgspec.convert(data, TaskConfig, strict=False)
    except msgspec.ValidationError as exc:
        raise InvalidTasks(_told(str(exc))) from None
    _check(config)
    return config


def _told(message: str) -> str:
    """Return msgspec's message with the key as TOML writes it."""
    words, _, where = message.partition(" - at `$")
    key = where.rstrip("`").lstrip(".")
    return f"{key}: {words}" if key else words


def _environment(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table with today's keys for older ones."""
    table = dict(given)
    if isinstance(table.get("os"), str):
        table["os"] = table["os"].lower()
    for older, key in (("memory", "memory_mb"), ("storage", "storage_mb")):
        value = table.pop(older, None)
        if isinstance(value, str):
            size = _megabytes(value, f"environment.{older}")
            if table.setdefault(key, size) != size:
                raise InvalidTasks(
                    f"environment.{older} = {value!r} is {size} MB, and environment.{key} ="
                    f" {table[key]!r}: leave one out"
                )
    internet = table.pop("allow_internet", None)
    try:
        internet = msgspec.convert(internet, bool | None, strict=False)
    except msgspec.ValidationError:
        raise InvalidTasks(
            f"environment.allow_internet: expected true or false, got {internet!r}"
        ) from None
    if internet is not None and "network_mode" not in table and table.get("allowed_hosts") is None:
        table["network_mode"] = "public" if internet else "no-network"
    return table


def _megabytes(text: str, key: str) -> int:
    text = text.strip().upper()
    unit = _SIZES.get(text[-1:])
    try:
        if unit is not None:
            return int(float(text[:-1]) * unit)
    except (ValueError, OverflowError):
        pass
    raise InvalidTasks(f"{key} = {text!r} is not a size: write 512M or 2G")


def _check(config: TaskConfig) -> None:
    """Refuse what the types allow and Harbor does not."""
    name = config.task.name if config.task is not None else None
    if name is not None and (not _PACKAGE.fullmatch(name) or ".." in name):
        raise InvalidTasks(f"task.name = {name!r} is not a package's name: write org/name")
    verifier = config.verifier
    environments = [("environment", config.environment)]
    if verifier.environment is not None:
        environments.append(("verifier.environment", verifier.environment))
    for key, environment in environments:
        if environment.cpus is not None and not math.isfinite(environment.cpus):
            raise InvalidTasks(f"{key}.cpus = {environment.cpus} is not a finite number")
        _check_hosts(key, environment.network_mode, environment.allowed_hosts)
    _check_hosts("agent", config.agent.network_mode, config.agent.allowed_hosts)
    _check_hosts("verifier", verifier.network_mode, verifier.allowed_hosts)
    if verifier.environment_mode == "shared" and verifier.environment is not None:
        raise InvalidTasks(
            'verifier.environment_mode = "shared" has no verifier.environment: leave one out'
        )


def _check_hosts(key: str, mode: NetworkMode | None, hosts: tuple[str, ...] | None) -> None:
    if mode == "allowlist" or (mode is not None and not hosts) or hosts is None:
        return
    raise InvalidTasks(f'{key}.allowed_hosts needs {key}.network_mode = "allowlist"')


def unsupported(config: TaskConfig) -> list[str]:
    """Return what the task asks for that cannot be had here: its keys, each with the reason."""
    environment, verifier = config.environment, config.verifier
    baseline = environment.network_mode
    asked = {
        "steps": (config.steps, "tasks of several steps are not played"),
        "environment.os": (environment.os == "windows", "containers are Linux"),
        "environment.cpus": (
            environment.cpus is not None and environment.cpus <= 0,
            "a container has a limit",
        ),
        "environment.memory_mb": (
            environment.memory_mb is not None and environment.memory_mb <= 0,
            "a container has a limit",
        ),
        "environment.gpus": (environment.gpus, "containers have no GPU"),
        "environment.tpu": (environment.tpu, "containers have no TPU"),
        "environment.mcp_servers": (
            environment.mcp_servers,
            "actions are shell commands, and reach no MCP server",
        ),
        "environment.network_mode": (
            baseline == "allowlist",
            "a container has a network or none, and no list of hosts",
        ),
        "agent.network_mode": (
            config.agent.network_mode not in (None, baseline),
            "a container's network does not change during an episode",
        ),
        "verifier.network_mode": (
            verifier.network_mode not in (None, baseline),
            "a container's network does not change during an episode",
        ),
        "verifier.environment": (
            verifier.environment,
            "tests run in the container that the agent had",
        ),
        "verifier.environment_mode": (
            verifier.environment_mode == "separate",
            "tests run in the container that the agent had",
        ),
        "verifier.collect": (
            any(each.service != "main" for each in verifier.collect),
            "there is one container, main",
        ),
    }
    return [f"{key} ({why})" for key, (given, why) in asked.items() if given]


def resolved_variables(given: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables with ``${NAME}`` and ``${NAME:-default}`` filled in.

    Args:
        given: as the task has them.
        variables: values by name; this process's own are not looked at, since an agent reads them.

    Raises:
        InvalidTasks: one has neither value nor default.
    """
    made = {}
    for name, value in given.items():
        match = _VARIABLE.fullmatch(value)
        if match is not None:
            known = variables.get(match[1], match[2])
            if known is None:
                raise InvalidTasks(
                    f"the task needs the variable {match[1]}: give it, variables="
                    f'{{"{match[1]}": …}}',
                    variable=match[1],
                )
            value = known
        made[name] = value
    return made
