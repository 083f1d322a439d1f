"""The body of a request to create a container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openenv_async.providers.docker import DockerProvider
from openenv_async.providers.docker.body import create_body
from openenv_async.providers.docker.owner import this_owner


def body(config: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    made = DockerProvider("image", **options)
    return create_body(
        "image", config or {}, made.options, this_owner(), token="the-token", lease=40.0
    )


def test_limits_and_rights_by_default() -> None:
    made = body()
    host = made["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 2 * 2**30
    assert host["NanoCpus"] == 2_000_000_000
    assert host["PidsLimit"] == 1024
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Init"] is True
    assert host["PortBindings"] == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
    assert made["User"] == "10001:10001"


def test_what_the_image_says_counts() -> None:
    made = body({"User": "app", "Labels": {"openenv_async.read_only": "true"}})
    assert "User" not in made
    assert made["HostConfig"]["ReadonlyRootfs"] is True
    assert "/tmp" in made["HostConfig"]["Tmpfs"]
    assert body({"User": "root"})["User"] == "10001:10001"
    assert body({"User": "0:0"})["User"] == "10001:10001"
    assert body({"User": "root"}, user="root")["User"] == "root"
    assert body()["HostConfig"]["ReadonlyRootfs"] is False
    assert body(read_only=True)["HostConfig"]["ReadonlyRootfs"] is True


def test_every_option_reaches_the_engine() -> None:
    made = body(
        port=9000,
        env={"A": "1"},
        secrets={"B": "two"},
        command=["serve", "it"],
        gpus=["GPU-1", "GPU-2"],
        volumes={"/data": "/data:ro", "cache": "/cache"},
        networks=["one", "two"],
        cap_add=["NET_RAW"],
        labels={"team": "x"},
        shm_size="1g",
        memory=10**9,
        cpus=0.5,
        pids=7,
    )
    host = made["HostConfig"]
    assert {"A=1", "B=two", "OPENENV_TOKEN=the-token"} <= set(made["Env"])
    assert made["Cmd"] == ["serve", "it"]
    assert host["DeviceRequests"][0]["DeviceIDs"] == ["GPU-1", "GPU-2"]
    assert host["Binds"] == ["/data:/data:ro", "cache:/cache"]
    assert host["NetworkMode"] == "one"
    assert host["CapAdd"] == ["NET_RAW"]
    assert made["Labels"]["team"] == "x"
    assert (host["ShmSize"], host["Memory"], host["PidsLimit"]) == (2**30, 10**9, 7)
    assert "9000/tcp" in host["PortBindings"]
    assert body(gpus="all")["HostConfig"]["DeviceRequests"][0]["Count"] == -1
    assert body(gpus=2)["HostConfig"]["DeviceRequests"][0]["Count"] == 2


@pytest.mark.parametrize(
    ("image_user", "option", "user"),
    [
        ("", None, "10001:10001"),
        ("0", None, "10001:10001"),
        ("root:root", None, "10001:10001"),
        ("1000", None, None),
        ("app:root", None, None),
        ("app", "0:0", "0:0"),
    ],
)
def test_the_server_runs_as_root_only_where_that_is_asked_for(
    image_user: str, option: str | None, user: str | None
) -> None:
    assert body({"User": image_user}, user=option).get("User") == user


def test_the_token_and_the_lease_are_set_last() -> None:
    made = body(env={"A": "1"}, secrets={"B": "2"})
    assert made["Env"] == ["A=1", "B=2", "OPENENV_TOKEN=the-token", "OPENENV_OWNER_LEASE=40"]


def test_without_a_command_the_image_s_runs() -> None:
    assert "Cmd" not in body()
    assert body(command=("a", "b"))["Cmd"] == ["a", "b"]


def test_sources_of_mounts_are_absolute_or_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    volumes = {"./a": "/a", "~/b": "/b", "/c": "/c", "cache": "/d"}
    binds = body(volumes=volumes)["HostConfig"]["Binds"]
    assert binds == [f"{Path.cwd()}/a:/a", "/home/me/b:/b", "/c:/c", "cache:/d"]


@pytest.mark.parametrize(
    ("gpus", "request_"),
    [
        ("all", {"Count": -1}),
        (2, {"Count": 2}),
        ("GPU-1", {"DeviceIDs": ["GPU-1"]}),
        (["0", "3"], {"DeviceIDs": ["0", "3"]}),
    ],
)
def test_gpus(gpus: Any, request_: dict[str, Any]) -> None:
    [made] = body(gpus=gpus)["HostConfig"]["DeviceRequests"]
    assert made == {"Driver": "", "Capabilities": [["gpu"]], **request_}
    assert "DeviceRequests" not in body()["HostConfig"]


def test_the_port_is_the_engine_s_choice_on_loopback() -> None:
    made = body(port=9000)
    assert made["HostConfig"]["PortBindings"] == {
        "9000/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]
    }
    assert made["ExposedPorts"] == {"9000/tcp": {}}
    assert "NetworkMode" not in made["HostConfig"]
