"""Upstream's providers: what subclasses get, and the one of the local Docker Engine."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.compat.upstream import GenericEnvClient, containers
from openenv_async.compat.upstream.containers import (
    ContainerProvider,
    LocalDockerProvider,
    RuntimeProvider,
)
from tests.providers.engines import ECHO, require_engine


class Container(ContainerProvider):
    closed = False

    def start_container(self, image: str, *_: Any, **__: Any) -> str:
        return f"http://{image}"

    def stop_container(self) -> None:
        pass

    def wait_for_ready(self, base_url: str, timeout_s: float = 30.0) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class Runtime(RuntimeProvider):
    runs = False

    def start(self, *_: Any, **__: Any) -> str:
        self.runs = True
        return "http://a"

    def stop(self) -> None:
        self.runs = False

    def wait_for_ready(self, timeout_s: float = 30.0) -> None:
        pass


def test_they_are_contexts() -> None:
    with Container() as container:
        url = container.start_container("echo")
    assert (url, container.closed) == ("http://echo", True)
    with Runtime() as runtime:
        during = runtime.runs
    assert (during, runtime.runs) == (True, False)
    base: Any = ContainerProvider
    with pytest.raises(TypeError, match="abstract"):
        base()


class Worker:
    url = "http://127.0.0.1:9"
    token = "secret"


class Owned:
    """A container that is there at once, or never."""

    made: list[Owned] = []  # noqa: RUF012  # of the test

    def __init__(self, provider: Any, timeout: float) -> None:
        self.provider, self.timeout, self.closed = provider, timeout, False
        self.made.append(self)

    async def start(self) -> Worker:
        if self.provider.image == "none":
            raise RuntimeError("no such image")
        return Worker()

    async def aclose(self) -> None:
        self.closed = True


def test_a_local_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "OwnedContainer", Owned)
    Owned.made = []
    provider = LocalDockerProvider()
    url = provider.start_container("echo:1", env_vars={"A": "b"}, start_timeout=5.0, memory="1g")
    [container] = Owned.made
    assert (url, provider.token, container.timeout) == (Worker.url, Worker.token, 5.0)
    assert container.provider.options.env == {"A": "b"}
    assert container.provider.options.memory == "1g"
    provider.wait_for_ready(url)
    provider.stop_container()
    provider.stop_container()
    assert (container.closed, provider.token) == (True, None)
    with pytest.raises(RuntimeError, match="no such image"):
        provider.start_container("none")
    with pytest.raises(TypeError, match="a free port of this machine is"):
        provider.start_container("echo:1", port=8000)
    with pytest.raises(TypeError, match="no option 'speed'"):
        provider.start_container("echo:1", speed=3)


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_a_container_of_the_real_engine_is_played_and_removed() -> None:
    require_engine()
    provider = LocalDockerProvider()
    client: Any = GenericEnvClient.from_docker_image(ECHO, provider).sync()
    with client as env:
        token = provider.token
        assert token
        assert env.reset().observation["echo"] == "Ready"
        assert env.step({"message": "hello"}).observation["echo"] == "Echo: hello"
        url = env.base_url
    assert provider.token is None
    with pytest.raises(ConnectionError, match=r"cannot connect|did not answer"):
        GenericEnvClient(url).sync().reset()
