"""Settings by which coding agents find a session's model and the tools of its environment.

Many programs ask the model at ``OPENAI_BASE_URL`` or ``ANTHROPIC_BASE_URL`` and need nothing else.
Some coding agents read such things from files of their own, ask at other addresses too (telemetry,
news of releases, lists of models), or keep the tools of an MCP server behind a search of their own.
``agent_settings`` knows for each of ``KNOWN_AGENTS`` what to write below its ``HOME`` and which
variables to set, so that it asks its session and nobody else. Secrets stand in variables alone; the
files name them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final

__all__ = ["KNOWN_AGENTS", "AgentAddresses", "AgentSettings", "agent_settings"]

_PROVIDER: Final = "gateway"
"""Our name among an agent's providers of models."""
_SERVER: Final = "openenv"
"""Our name among an agent's MCP servers: tools are called ``mcp__openenv__step`` or the like."""


@dataclass(frozen=True, kw_only=True)
class AgentAddresses:
    """The addresses and keys of one session, as its agent is told them.

    Attributes:
        openai_base_url: ends in ``/v1``.
        anthropic_base_url: without ``/v1``.
        key: of the model's session.
        model: the name that the agent asks for; any is served.
        dialect: in which an agent that speaks several asks: ``chat``, ``responses``, ``messages``.
        context_tokens: size of the model's context, by which an agent decides when to compact its
            history; ``None`` leaves the agent's own guess.
        mcp_url, mcp_token: of the environment's session; ``None`` where there is none.
    """

    openai_base_url: str
    anthropic_base_url: str
    key: str
    model: str = "session"
    dialect: str = "chat"
    context_tokens: int | None = None
    mcp_url: str | None = None
    mcp_token: str | None = None


@dataclass(frozen=True)
class AgentSettings:
    """Files and variables of one agent.

    Attributes:
        environment: variables to set.
        files: path below the agent's ``HOME`` -> text.
    """

    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def agent_settings(command: str, addresses: AgentAddresses) -> AgentSettings:
    """Return what an agent needs to find its session.

    Args:
        command: the agent's program, by name or path. One that is not in ``KNOWN_AGENTS`` is given
            the variables that all are given.
        addresses: of the session.
    """
    environment = {
        "OPENAI_BASE_URL": addresses.openai_base_url,
        "OPENAI_API_KEY": addresses.key,
        "ANTHROPIC_BASE_URL": addresses.anthropic_base_url,
        "ANTHROPIC_API_KEY": addresses.key,
    }
    if addresses.mcp_url is not None:
        environment["OPENENV_MCP_URL"] = addresses.mcp_url
    if addresses.mcp_token is not None:
        environment["OPENENV_MCP_TOKEN"] = addresses.mcp_token
    known = KNOWN_AGENTS.get(PurePath(command).name)
    if known is None:
        return AgentSettings(environment)
    own = known(addresses)
    return AgentSettings({**environment, **own.environment}, own.files)


def _codex(addresses: AgentAddresses) -> AgentSettings:
    top: dict[str, Any] = {
        "model": addresses.model,
        "model_provider": _PROVIDER,
        "check_for_update_on_startup": False,
    }
    if addresses.context_tokens is not None:
        top["model_context_window"] = addresses.context_tokens
    tables: dict[str, dict[str, Any]] = {
        f"model_providers.{_PROVIDER}": {
            "name": _PROVIDER,
            "base_url": addresses.openai_base_url,
            "env_key": "OPENAI_API_KEY",
            "wire_api": "responses",
        },
        "analytics": {"enabled": False},
        "otel": {"exporter": "none"},
    }
    if addresses.mcp_url is not None:
        server = {"url": addresses.mcp_url}
        if addresses.mcp_token is not None:
            server["bearer_token_env_var"] = "OPENENV_MCP_TOKEN"
        tables[f"mcp_servers.{_SERVER}"] = server
    lines = [f"{name} = {json.dumps(value)}" for name, value in top.items()]
    for table, values in tables.items():
        lines += ["", f"[{table}]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    return AgentSettings({}, {".codex/config.toml": "\n".join(lines) + "\n"})


def _claude(addresses: AgentAddresses) -> AgentSettings:
    environment = {
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
        "ENABLE_TOOL_SEARCH": "false",  # or MCP tools are not among the tools of its requests
    }
    if addresses.context_tokens is not None:
        environment["CLAUDE_CODE_AUTO_COMPACT_WINDOW"] = str(addresses.context_tokens)
    if addresses.mcp_url is None:
        return AgentSettings(environment)
    server = {"type": "http", "url": addresses.mcp_url, **_bearer(addresses, "${%s}")}
    return AgentSettings(environment, {".claude.json": _json(mcpServers={_SERVER: server})})


def _opencode(addresses: AgentAddresses) -> AgentSettings:
    model: dict[str, Any] = {"name": addresses.model}
    if addresses.context_tokens is not None:
        output = max(1, min(32_000, addresses.context_tokens // 4))
        model["limit"] = {"context": addresses.context_tokens, "output": output}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": _PROVIDER,
        "options": {"baseURL": addresses.openai_base_url, "apiKey": "{env:OPENAI_API_KEY}"},
        "models": {addresses.model: model},
    }
    config: dict[str, Any] = {
        "autoupdate": False,
        "share": "disabled",
        "permission": {"*": "allow"},
        "model": f"{_PROVIDER}/{addresses.model}",
        "provider": {_PROVIDER: provider},
    }
    if addresses.mcp_url is not None:
        bearer = _bearer(addresses, "{env:%s}")
        config["mcp"] = {
            _SERVER: {"type": "remote", "url": addresses.mcp_url, "oauth": False, **bearer}
        }
    environment = {
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
    }
    return AgentSettings(environment, {".config/opencode/opencode.json": _json(**config)})


def _qwen(addresses: AgentAddresses) -> AgentSettings:
    config: dict[str, Any] = {
        "general": {"enableAutoUpdate": False},
        "privacy": {"usageStatisticsEnabled": False},
        "security": {"auth": {"selectedType": "openai"}},
        "telemetry": {"enabled": False},
        "tools": {"toolSearch": {"enabled": False}},  # or MCP tools are behind a search
    }
    if addresses.context_tokens is not None:
        config["model"] = {"generationConfig": {"contextWindowSize": addresses.context_tokens}}
    if addresses.mcp_url is not None:
        server = {"httpUrl": addresses.mcp_url, "trust": True, **_bearer(addresses, "$%s")}
        config["mcpServers"] = {_SERVER: server}
    return AgentSettings(
        {"OPENAI_MODEL": addresses.model, "QWEN_CODE_SUPPRESS_YOLO_WARNING": "1"},
        {".qwen/settings.json": _json(**config)},
    )


def _pi(addresses: AgentAddresses) -> AgentSettings:
    api = _PI_APIS[addresses.dialect]
    window = addresses.context_tokens or 128_000
    model = {
        "id": addresses.model,
        "input": ["text", "image"],
        "contextWindow": window,
        "maxTokens": min(16_384, window // 4),
    }
    is_messages = addresses.dialect == "messages"
    provider = {
        "baseUrl": addresses.anthropic_base_url if is_messages else addresses.openai_base_url,
        "api": api,
        "apiKey": "OPENAI_API_KEY",
        "models": [model],
    }
    return AgentSettings(
        {"PI_OFFLINE": "1", "PI_SKIP_VERSION_CHECK": "1", "PI_TELEMETRY": "0"},
        {
            ".pi/agent/models.json": _json(providers={_PROVIDER: provider}),
            ".pi/agent/settings.json": _json(
                defaultProvider=_PROVIDER, defaultModel=addresses.model
            ),
        },
    )


_PI_APIS: Final = {
    "chat": "openai-completions",
    "responses": "openai-responses",
    "messages": "anthropic-messages",
}

KNOWN_AGENTS: Final[Mapping[str, Callable[[AgentAddresses], AgentSettings]]] = {
    "claude": _claude,
    "codex": _codex,
    "opencode": _opencode,
    "pi": _pi,
    "qwen": _qwen,
}
"""Name of a program -> what it needs besides the variables that all are given."""


def _bearer(addresses: AgentAddresses, variable: str) -> dict[str, Any]:
    """Return the headers of an MCP server, in which a variable is named as the agent has it."""
    if addresses.mcp_token is None:
        return {}
    return {"headers": {"Authorization": f"Bearer {variable % 'OPENENV_MCP_TOKEN'}"}}


def _json(**values: Any) -> str:
    return json.dumps(values, indent=2) + "\n"
