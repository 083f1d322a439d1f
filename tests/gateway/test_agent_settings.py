"""The settings of each known agent; real agents read them in ``tests/agents``."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from openenv_async.gateway.agent_settings import (
    KNOWN_AGENTS,
    AgentAddresses,
    AgentSettings,
    agent_settings,
)

ADDRESSES: dict[str, Any] = {
    "openai_base_url": "http://127.0.0.1:9/v1",
    "anthropic_base_url": "http://127.0.0.1:9",
    "key": "key-of-the-model",
}
MCP: dict[str, Any] = {"mcp_url": "http://127.0.0.1:8/mcp/s", "mcp_token": "token-of-the-tools"}


def settings_of(command: str, **more: Any) -> AgentSettings:
    return agent_settings(command, AgentAddresses(**ADDRESSES, **more))


def read(text: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(text) if name.endswith(".toml") else json.loads(text)
    return found


def test_a_program_that_nobody_knows_has_the_variables() -> None:
    settings = settings_of("/opt/own-agent", **MCP)
    assert settings.files == {}
    assert settings.environment == {
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "OPENAI_API_KEY": "key-of-the-model",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
        "ANTHROPIC_API_KEY": "key-of-the-model",
        "OPENENV_MCP_URL": "http://127.0.0.1:8/mcp/s",
        "OPENENV_MCP_TOKEN": "token-of-the-tools",
    }
    assert "OPENENV_MCP_URL" not in settings_of("own-agent").environment


@pytest.mark.parametrize("name", sorted(KNOWN_AGENTS))
def test_a_known_agent_has_them_too_and_no_secret_is_in_a_file(name: str) -> None:
    settings = settings_of(f"/usr/bin/{name}", **MCP)
    assert settings.environment.items() >= settings_of("own-agent", **MCP).environment.items()
    for text in settings.files.values():
        assert "key-of-the-model" not in text
        assert "token-of-the-tools" not in text


@pytest.mark.parametrize(
    ("name", "file", "servers"),
    [
        ("claude", ".claude.json", "mcpServers"),
        ("codex", ".codex/config.toml", "mcp_servers"),
        ("opencode", ".config/opencode/opencode.json", "mcp"),
        ("qwen", ".qwen/settings.json", "mcpServers"),
    ],
)
def test_tools_are_told_where_there_are_some(name: str, file: str, servers: str) -> None:
    [server] = read(settings_of(name, **MCP).files[file], file)[servers].values()
    assert MCP["mcp_url"] in server.values()
    assert "OPENENV_MCP_TOKEN" in str(server)
    [open_server] = read(settings_of(name, mcp_url=MCP["mcp_url"]).files[file], file)[
        servers
    ].values()
    assert "TOKEN" not in str(open_server)
    without = settings_of(name).files
    assert file not in without or servers not in read(without[file], file)


@pytest.mark.parametrize("name", sorted(KNOWN_AGENTS))
def test_the_size_of_the_context_is_told(name: str) -> None:
    told, untold = settings_of(name, context_tokens=4321), settings_of(name)
    assert "4321" in str(told)
    assert "4321" not in str(untold)


@pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])
def test_an_agent_that_speaks_several_dialects_asks_in_the_given_one(dialect: str) -> None:
    file = ".pi/agent/models.json"
    [provider] = read(settings_of("pi", dialect=dialect).files[file], file)["providers"].values()
    assert provider["baseUrl"].endswith("/v1") is (dialect != "messages")
    assert dialect[:4] in provider["api"].replace("completions", "chat")
