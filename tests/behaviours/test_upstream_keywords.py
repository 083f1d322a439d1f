"""Each keyword, hook and name of upstream's: taken by ours, or refused by name with the remedy.

``openenv_async.compat.upstream`` takes those that the package itself refuses.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

import pytest

import openenv_async
from openenv_async import AutoEnv, EnvClient, GenericEnvClient, HTTPEnvClient
from openenv_async.compat import upstream

URL = "http://127.0.0.1:1"
OF_CLIENTS = {
    "connect_timeout_s": r"timeouts=Timeouts\(connect=",
    "message_timeout_s": r"timeouts=Timeouts\(reset=",
    "max_message_size_mb": r"limits=Limits\(max_message_size=",
    "websocket_ping_interval_s": r"Timeouts\(lease=",
    "websocket_ping_timeout_s": r"Timeouts\(lease=",
    "provider": "EnvPool or AutoEnv",
    "mode": "--mode",
}
OF_AUTO_ENV = {
    "docker_image": "image=",
    "container_provider": "provider=",
    "wait_timeout": "start_timeout=",
    "env_vars": r"DockerProvider\(IMAGE, env=",
    "skip_install": "no package is installed",
}
OF_APPLICATIONS = ("action_cls", "observation_cls", "env_name", "max_concurrent_envs")
NAMES = ("Action", "Observation", "State", "GenericAction", "MCPToolClient", "create_fastapi_app")


@pytest.mark.parametrize("client", [EnvClient, GenericEnvClient, HTTPEnvClient])
@pytest.mark.parametrize("keyword", OF_CLIENTS)
def test_of_clients(client: Any, keyword: str) -> None:
    with pytest.raises(TypeError, match=f"no argument '{keyword}': .*{OF_CLIENTS[keyword]}"):
        client(URL, **{keyword: None})


def test_of_clients_that_are_ported() -> None:
    given: dict[str, Any] = dict.fromkeys(OF_CLIENTS, 1.0)
    for client in (upstream.GenericEnvClient, upstream.MCPToolClient):
        client(URL, **{**given, "provider": None, "mode": "production"})


@pytest.mark.parametrize("keyword", OF_AUTO_ENV)
def test_of_auto_env(keyword: str) -> None:
    with pytest.raises(TypeError, match=f"no argument '{keyword}': .*{OF_AUTO_ENV[keyword]}"):
        AutoEnv.from_env("echo", **cast("Any", {keyword: None}))
    assert keyword in inspect.signature(upstream.AutoEnv.from_env).parameters


@pytest.mark.parametrize("keyword", OF_APPLICATIONS)
def test_of_applications(keyword: str) -> None:
    class Quiet(openenv_async.Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
        async def reset(self) -> dict[str, Any]:
            return {}

        async def step(self, action: dict[str, Any]) -> dict[str, Any]:
            return {}

    value = {"env_name": "quiet", "max_concurrent_envs": 2}.get(keyword, dict[str, Any])
    keywords: dict[str, Any] = {keyword: value}
    assert openenv_async.create_app(Quiet, **keywords) is not None
    for made in (upstream.create_app, upstream.create_fastapi_app, upstream.HTTPEnvServer):
        assert keyword in inspect.signature(made).parameters


@pytest.mark.parametrize("hook", ["_step_payload", "_parse_result"])
@pytest.mark.parametrize("client", [EnvClient, HTTPEnvClient])
def test_hooks(client: Any, hook: str) -> None:
    with pytest.raises(TypeError, match=rf"Mine\.{hook} is a hook of OpenEnv's.*compat\.upstream"):
        type("Mine", (client,), {hook: lambda *_: None})
    assert getattr(upstream.EnvClient, hook).__isabstractmethod__


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    with pytest.raises(ImportError, match=rf"compat\.upstream import {name}"):
        getattr(openenv_async, name)
    assert getattr(upstream, name) is not None
