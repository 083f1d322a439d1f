"""Containers that are reached by a Unix socket: the mount, the hand-over, and what is left."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openenv_async.endpoints.local import find_folder, take_listener, users_folder
from openenv_async.providers.docker import DockerProvider
from openenv_async.providers.docker.calls import EngineError
from openenv_async.providers.docker.local_folders import LocalFolders, sweep_folders, with_folder
from openenv_async.providers.docker.start import ContainerRecipe, ContainerStart
from tests.providers.docker.fake_engine import FakeEngine, attached

NAME = "openenv-" + "0f" * 16


@pytest.fixture(autouse=True)
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, which does not exist yet."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return users_folder()


def left(users: Path) -> list[str]:
    return sorted(path.name for path in users.iterdir()) if users.exists() else []


class NearEngine(FakeEngine):
    """An Engine of this machine, which may refuse mounts."""

    refuses = ""

    async def shares_networks(self) -> bool:
        return True

    async def create(self, name: str, body: dict[str, Any], **more: Any) -> str:
        if self.refuses and body["HostConfig"].get("Mounts"):
            raise EngineError(self.refuses, retryable=False)
        return await super().create(name, body, **more)


def start_of(made: DockerProvider, at: Any) -> ContainerStart:
    recipe = ContainerRecipe("image", "missing", made.options, 40.0, {"group": "g"})
    return ContainerStart(made, recipe, at, 10.0, lambda: False)


async def test_a_container_has_a_folder_of_its_own_until_it_is_removed(users: Path) -> None:
    engine, made = NearEngine(), DockerProvider("image", direct=False)
    async with attached(made, engine) as at:
        start = start_of(made, at)
        worker = await start.run()
        [(_, body)] = engine.created
        name = start.name.removeprefix("openenv-")
        assert body["HostConfig"]["Mounts"] == [
            {
                "Type": "bind",
                "Source": str(users / name),
                "Target": f"/run/openenv/{name}",
                "ReadOnly": True,
            }
        ]
        assert f"OPENENV_LOCAL_FOLDER=/run/openenv/{name}" in body["Env"]
        assert find_folder(name, worker.url.removeprefix("http://")) == users / name
        at.removals.begin(start.name)
        await at.removals.end(start.name)
    assert left(users) == []


@pytest.mark.parametrize("is_wanted", [False, True])
async def test_none_is_made_for_who_does_not_want_it_or_an_engine_elsewhere(
    users: Path, is_wanted: bool
) -> None:
    made = DockerProvider("image", local_folder=is_wanted)
    engine = FakeEngine() if is_wanted else NearEngine()
    async with attached(made, engine) as at:
        await start_of(made, at).run()
    [(_, body)] = engine.created
    assert "Mounts" not in body["HostConfig"]
    assert left(users) == []


async def test_an_engine_that_cannot_mount_it_starts_the_container_without(
    users: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "openenv_async.providers.docker")
    engine, made = NearEngine(), DockerProvider("image")
    engine.refuses = 'invalid mount config for type "bind": bind source path does not exist'
    async with attached(made, engine) as at:
        for _ in range(2):
            await start_of(made, at).run()
    assert ["Mounts" in body["HostConfig"] for _, body in engine.created] == [False, False]
    assert left(users) == []
    assert [each.getMessage().count("by TCP alone") for each in caplog.records] == [1]


async def test_another_refusal_is_a_failed_start_and_leaves_no_folder(users: Path) -> None:
    engine, made = NearEngine(), DockerProvider("image")
    engine.refuses = "no space left on device"
    async with attached(made, engine) as at:
        with pytest.raises(Exception, match="no space left"):
            await start_of(made, at).run()
    assert left(users) == []


@pytest.fixture
def in_the_way(users: Path) -> None:
    """A file where the user's folder would be."""
    users.write_text("")


@pytest.mark.usefixtures("in_the_way")
async def test_where_no_folder_can_be_made_the_start_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "openenv_async.providers.docker")
    engine, made = NearEngine(), DockerProvider("image")
    async with attached(made, engine) as at:
        await start_of(made, at).run()
    [(_, body)] = engine.created
    assert "Mounts" not in body["HostConfig"]
    assert "by TCP alone" in caplog.text


async def test_the_socket_is_given_to_the_first_server_that_asks() -> None:
    folders = LocalFolders()
    path = folders.make(NAME)
    assert path is not None
    listener = await asyncio.to_thread(take_listener, path, 5.0)
    with listener, pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(take_listener, path, 5.0)
    folders.remove(NAME)
    folders.remove(NAME)


def test_a_loop_that_ended_does_not_keep_a_folder(users: Path) -> None:
    folders = LocalFolders()

    async def make() -> None:
        assert folders.make(NAME) is not None

    asyncio.run(make())
    folders.remove(NAME)
    assert left(users) == []


def test_what_a_killed_process_left_is_swept(users: Path) -> None:
    code = (
        "import asyncio, os, signal\n"
        "from openenv_async.providers.docker.local_folders import LocalFolders\n"
        "async def main():\n"
        f"    LocalFolders().make({NAME!r})\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ, timeout=60, check=False)
    assert len(left(users)) == 2
    assert sweep_folders() == 1
    assert left(users) == []


async def test_what_lives_is_not_swept() -> None:
    folders = LocalFolders()
    assert folders.make(NAME) is not None
    (users_folder() / ("1f" * 16 + ".owner")).write_text("[1]")
    assert sweep_folders() == 0
    folders.remove(NAME)


def test_what_is_mounted_already_stays() -> None:
    body = {"Env": ["A=1"], "HostConfig": {"Mounts": [{"Type": "tmpfs"}], "Memory": 1}}
    made = with_folder(body, Path("/x") / ("0f" * 16))
    assert [each["Type"] for each in made["HostConfig"]["Mounts"]] == ["tmpfs", "bind"]
    assert made["HostConfig"]["Memory"] == 1
    assert body["Env"] == ["A=1"]
