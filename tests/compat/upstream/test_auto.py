"""Upstream's ``AutoEnv`` and ``AutoAction``, with its keywords."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.compat.upstream.auto import AutoAction, AutoEnv
from openenv_async.compat.upstream.clients import GenericAction, GenericEnvClient, Starting


class Provider:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def start_container(self, image: str, **options: Any) -> str:
        self.calls.append((image, options))
        return "http://127.0.0.1:1"

    def wait_for_ready(self, base_url: str, timeout_s: float = 30.0) -> None:
        self.calls.append(timeout_s)
        raise TimeoutError("nobody answers")

    def stop_container(self) -> None:
        self.calls.append("stopped")


def test_a_server_that_runs() -> None:
    env = AutoEnv.from_env("echo", base_url="http://127.0.0.1:1", message_timeout_s=3.0)
    assert isinstance(env, GenericEnvClient)
    assert env.base_url == "http://127.0.0.1:1"


def test_an_image() -> None:
    provider: Any = Provider()
    env = AutoEnv.from_hub(
        "echo",
        docker_image="echo:1",
        container_provider=provider,
        wait_timeout=7.0,
        env_vars={"A": "b"},
        message_timeout_s=3.0,
    )
    assert isinstance(env, Starting)
    assert env._given["message_timeout_s"] == 3.0
    with pytest.raises(TypeError, match="message_timeout"):
        AutoEnv.from_env("echo", docker_image="echo:1", message_timeout=3.0)
    with pytest.raises(TimeoutError):
        env.sync()
    assert provider.calls == [("echo:1", {"env_vars": {"A": "b"}}), 7.0, "stopped"]


def test_a_name_starts_its_server() -> None:
    with AutoEnv.from_env("openenv_async.testing:ConformanceEnvironment") as env:
        assert isinstance(env.reset().observation, dict)
        assert env.base_url is not None
    assert env.base_url is None


def test_what_is_of_a_container_needs_one() -> None:
    with pytest.raises(ValueError, match="starts no container"):
        AutoEnv.from_env("echo", env_vars={"A": "b"})
    with pytest.raises(TypeError, match=r"AutoEnv\.from_env\(NAME\)"):
        AutoEnv("echo")
    with pytest.raises(TypeError, match=r"AutoAction\.from_env\(NAME\)"):
        AutoAction("echo")


def test_types() -> None:
    assert AutoAction.from_env("echo", skip_install=True) is GenericAction
    target = "openenv_async.testing:ConformanceEnvironment"
    assert AutoAction.from_env(target) is not GenericAction
    assert AutoEnv.get_env_class(target) is not None
    assert isinstance(list(AutoEnv.list_environments()), list)
