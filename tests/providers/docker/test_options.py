"""What a container is made of, without an Engine."""

from __future__ import annotations

import os
import pickle
from typing import Any

import pytest

from openenv_async.errors import ProviderError
from openenv_async.providers.docker import DockerProvider
from openenv_async.providers.docker.body import create_body
from openenv_async.providers.docker.options import Redactor, size
from openenv_async.providers.docker.owner import Owner, expires_at, this_owner
from openenv_async.providers.docker.reaper import identity
from openenv_async.providers.docker.worker import exit_of


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


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="no option 'size'"):
        DockerProvider("image", size="1g")


@pytest.mark.parametrize(
    "options",
    [
        {"memory": "much"},
        {"memory": 0},
        {"cpus": 0},
        {"pids": 0},
        {"port": 70000},
        {"env": {"A=B": "1"}},
        {"env": {"OPENENV_TOKEN": "x"}},
        {"env": {"A": "1"}, "secrets": {"A": "2"}},
        {"labels": {"openenv_async.run": "x"}},
        {"pull_policy": "sometimes"},
        {"max_starts": 0},
        {"lifetime": 0},
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        DockerProvider("image", **options)


def test_sizes() -> None:
    assert [size(v) for v in (7, "7", "1k", "1.5m", "2G", "1gb")] == [
        *(7, 7, 1024, 1_572_864, 2 * 2**30, 2**30),
    ]


def test_a_provider_shows_no_secret_and_pickles() -> None:
    made = DockerProvider("image", secrets={"KEY": "hush-hush"}, cpus=1.5)
    assert "hush" not in repr(made) + repr(made.options)
    again = pickle.loads(pickle.dumps(made))
    assert again.options == made.options
    assert again.image == "image"


def test_secrets_are_taken_out_of_text() -> None:
    redact = Redactor(["abc", "abcdef", "first line of it\nsecond line of it", ""])
    assert redact("x abcdef y abc") == "x *** y ***"
    assert redact("log: second line of it") == "log: ***"


def test_labels_say_who_owns() -> None:
    owner = this_owner()
    labels = owner.labels(60.0)
    assert Owner.of(labels) == owner
    assert owner.is_here()
    assert owner.is_alive()
    assert expires_at(labels) > expires_at({**labels, "openenv_async.expires": "1"})
    assert expires_at({}) == float("inf")
    assert Owner.of({}) is None
    assert Owner.of({**labels, "openenv_async.owner.pid": "x"}) is None


def test_a_pid_that_is_used_again_is_no_owner() -> None:
    owner = this_owner()
    assert not Owner(owner.run, owner.host, owner.pid, "earlier").is_alive()
    assert not Owner(owner.run, owner.host, 2**22 + 7, owner.started).is_alive()
    assert not Owner(owner.run, "another host", owner.pid, owner.started).is_here()


def test_the_reaper_knows_a_process_from_a_later_one() -> None:
    assert identity(os.getpid()) == identity(os.getpid())
    assert identity(os.getpid()) is not None
    assert identity(2**22 + 7) is None


def test_how_an_end_reads() -> None:
    assert exit_of({"ExitCode": 3}, None, "1g").reason == "its container exited with code 3"
    assert "SIGKILL" in exit_of({"ExitCode": 137}, None, "1g").reason
    ended = exit_of({"ExitCode": 137, "OOMKilled": True}, "last", "1g")
    assert "memory (limit 1g)" in ended.reason
    assert ended.oom
    assert ended.log_tail == "last"


@pytest.mark.parametrize("code", [0, 1, 3, 143, 139, None])
def test_memory_is_no_cause_where_only_a_child_was_killed_for_it(code: int | None) -> None:
    alone = exit_of({"ExitCode": code}, None, "1g")
    ended = exit_of({"ExitCode": code, "OOMKilled": True}, None, "1g")
    assert ended.oom is False
    assert ended.reason.startswith(alone.reason)
    assert "a process in it had been killed for its use of memory (limit 1g)" in ended.reason


async def test_a_closed_provider_starts_nothing() -> None:
    made = DockerProvider("image")
    await made.aclose()
    with pytest.raises(ProviderError, match="closed"):
        await made.start()
