"""AutoEnv and AutoAction: by name, folder, image, URL and Space; nothing is guessed."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has none
import pytest

from openenv_async import AutoAction, AutoEnv, serve
from openenv_async.building.scaffold import scaffold
from openenv_async.client.env import EnvClient
from openenv_async.errors import (
    ConnectFailed,
    InvalidOption,
    ProviderError,
    TargetNotFound,
    Unauthorized,
    WorkerStartFailed,
)
from openenv_async.providers.process import ProcessProvider
from openenv_async.targets import auto, classes, discovery
from openenv_async.targets.discovery import EnvironmentEntry
from openenv_async.targets.listing import EnvironmentInfo, EnvironmentList
from tests.checks.validation.broken import Good, Move, Seen
from tests.modules import forget_modules

pytest.importorskip("echo_env")
GOOD = "tests.checks.validation.broken:Good"
ENTRY = EnvironmentEntry(environment=GOOD, image="no-such-image-of-ours")


@pytest.fixture(autouse=True)
def _modules() -> Iterator[None]:
    with forget_modules():
        yield


@pytest.fixture
def no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")


# -- what there is ------------------------------------------------------------------------------


def test_the_list_is_a_list_that_shows_itself(capsys: pytest.CaptureFixture[str]) -> None:
    found = AutoEnv.list_environments()
    assert isinstance(found, list)
    [echo] = [each for each in found if each.name == "echo"]
    assert (echo.package, echo.entry) == ("openenv-async-echo", "echo_env:ENVIRONMENT")
    assert echo.version
    assert AutoEnv.get_env_info("Echo_Env") == echo
    print(found)  # noqa: T201 - as a notebook would
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split() == ["name", "version", "package", "description"]
    assert echo.description in shown
    assert repr(found) == str(found)


def test_an_empty_list_says_what_to_do() -> None:
    assert "pip install" in str(EnvironmentList())
    assert "mine" in str(EnvironmentList([EnvironmentInfo("mine", "d", "1", "p", "m:E")]))


def test_an_unknown_name_gets_the_nearest() -> None:
    for call in (
        AutoEnv.from_env,
        AutoEnv.get_env_class,
        AutoEnv.get_env_info,
        AutoAction.from_env,
    ):
        with pytest.raises(TargetNotFound, match="did you mean echo"):
            call("ehco-env")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name an environment"),
        ({"base_url": "echo"}, "not a valid server address"),
        ({"base_url": "http://x", "image": "y"}, "give one"),
        ({"name": "echo", "provider": "magic"}, "there is no provider 'magic'"),
        ({"base_url": "http://x", "params": {"a": 1}}, "neither params nor provider"),
        ({"name": "echo", "image": "x", "params": {"a": 1}}, "fixes its own arguments"),
        ({"name": GOOD, "provider": "docker"}, "names no image"),
    ],
)
def test_what_makes_no_sense_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        AutoEnv.from_env(**options)


def test_there_are_no_instances() -> None:
    for facade in (AutoEnv, AutoAction):
        with pytest.raises(TypeError, match="from_env"):
            facade()


# -- by name ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_docker")
def test_the_embedded_provider_is_the_default_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "openenv_async.targets"):
        env = AutoEnv.from_env("echo-env")
    worker: Any = getattr(env.client, "worker")  # noqa: B009 - of the class made for it
    try:
        assert (env.provider, env.provider_reason) == ("process", "no Docker Engine answers")
        assert "echo-env: process (no Docker Engine answers)" in caplog.text
        assert "process: no Docker Engine answers" in repr(env)
        assert psutil.pid_exists(worker.pid)
        action_type = AutoAction.from_env("echo-env")
        assert action_type.__module__ == "echo_env.models"
        assert isinstance(env.client, AutoEnv.get_env_class("echo-env"))
        assert env.reset().observation.echo == "Ready"
        assert env.step(action_type(message="x")).observation.echo == "Echo: x"
    finally:
        env.close()
    assert not psutil.pid_exists(worker.pid)
    env.close()


@pytest.mark.usefixtures("no_docker")
async def test_async_and_with_arguments() -> None:
    pytest.importorskip("gymnasium_env")
    params = {"id": "Blackjack-v1"}
    env = await AutoEnv.afrom_env("gymnasium-inline", params=params)
    async with env:
        assert (env.provider, env.provider_reason) == ("process", "it has params")
        result = await env.reset(seed=1)
        assert len(result.observation.value) == 3
        assert (await env.state()).id == "Blackjack-v1"
    assert env.worker is None


def test_without_a_client_of_its_own_the_types_are_the_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = {"mine": EntryPoint("mine", f"{__name__}:ENTRY", discovery.GROUP)}
    monkeypatch.setattr(discovery, "installed", lambda: made)
    client = AutoEnv.get_env_class("mine")
    assert issubclass(client, EnvClient)
    assert client.model_types()[:2] == (Move, Seen)
    assert AutoAction.from_env("mine") is Move


def test_by_module_and_class() -> None:
    with AutoEnv.from_env(GOOD) as env:
        assert isinstance(env.reset(seed=1).observation, Seen)
        assert env.step(Move(3)).observation.total == 3


def test_a_provider_of_ones_own_stays_with_its_owner() -> None:
    provider = ProcessProvider(GOOD)
    with AutoEnv.from_env(GOOD, provider=provider) as env:
        assert env.reset().observation.total == 0
        assert env.provider == "process"
        assert len(provider._workers) == 1
    assert not provider._workers


def test_a_server_that_does_not_start_leaves_nothing() -> None:
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(WorkerStartFailed, match="color"):
        AutoEnv.from_env(GOOD, params={"color": 1})
    assert set(psutil.Process().children(recursive=True)) <= before


# -- by folder ----------------------------------------------------------------------------------


def test_by_folder(tmp_path: Path) -> None:
    scaffold("shelf_env", into=tmp_path)
    folder = str(tmp_path / "shelf_env")
    action_type = AutoAction.from_env(folder)
    assert action_type.__module__ == "shelf_env.models"
    with AutoEnv.from_env(folder) as env:
        assert env.provider_reason == "it has no image"
        assert type(env.reset(seed=4).observation).__name__ == "ShelfObservation"
        assert env.step(action_type(guess=50)).observation.left == 6


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(TargetNotFound, match="there is no folder"):
        AutoEnv.from_env(str(tmp_path / "gone"))
    with pytest.raises(TargetNotFound, match=r"no openenv\.yaml"):
        AutoEnv.from_env(str(tmp_path))


# -- by address ---------------------------------------------------------------------------------


async def test_by_address_the_classes_come_from_the_schema() -> None:
    async with serve(Good) as url:
        action_type = await asyncio.to_thread(AutoAction.from_env, base_url=url)
        assert (action_type.__name__, action_type.__module__) == ("Move", "types")
        async with await AutoEnv.afrom_env(base_url=url) as env:
            assert (env.provider, env.worker) == ("url", None)
            assert (await env.reset(seed=2)).observation.total == 0
            result = await env.step(action_type(by=2))
            assert (result.observation.total, result.reward) == (2, 1.0)
            assert (await env.state()).total == 2


async def test_by_address_and_name_the_classes_are_the_names() -> None:
    async with serve(Good) as url, await AutoEnv.afrom_env(GOOD, base_url=url) as env:
        assert isinstance((await env.reset()).observation, Seen)


async def test_a_token_is_shown() -> None:
    async with serve(Good, token="a-secret-of-this-test") as url:
        with pytest.raises(Unauthorized, match="it needs a token"):
            await AutoEnv.afrom_env(base_url=url)
        env = await AutoEnv.afrom_env(base_url=url, token="a-secret-of-this-test")
        async with env:
            assert (await env.reset()).observation.total == 0


async def test_nothing_answers() -> None:
    with pytest.raises(ConnectFailed, match="there is no folder 'envs/mine', and as a Space"):
        await AutoEnv.afrom_env("envs/mine", base_url="http://127.0.0.1:1")
    with pytest.raises(ConnectFailed):
        await AutoEnv.afrom_env(base_url="http://127.0.0.1:1")


async def test_pickled_it_is_a_plain_client_of_the_same_server() -> None:
    async with serve(Good) as url:
        async with await AutoEnv.afrom_env(base_url=url) as env:
            with pytest.raises((pickle.PicklingError, AttributeError)):
                pickle.dumps(env)  # its class was made here and exists nowhere else
        async with await AutoEnv.afrom_env("echo", base_url=url) as env:
            copy = pickle.loads(pickle.dumps(env))
            assert type(copy) is AutoEnv.get_env_class("echo")
            assert copy.base_url == url


# -- by Space -----------------------------------------------------------------------------------


async def test_a_spaces_code_does_not_run_unless_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaffold("space_env", into=tmp_path)
    folder = tmp_path / "space_env"
    marker = tmp_path / "it-ran"
    models = folder / "models.py"
    models.write_text(f"{models.read_text()}\nopen({str(marker)!r}, 'w').close()\n")
    fetched: list[str] = []

    def fetch(name: str) -> Path:
        fetched.append(name)
        return folder

    monkeypatch.setattr(auto, "fetch_space", fetch)
    async with serve(Good) as url:
        async with await AutoEnv.afrom_env("somebody/space-env", base_url=url) as env:
            assert env.provider == "space"
            assert (await env.reset()).observation.total == 0
        assert not fetched
        assert not marker.exists()
        env = await AutoEnv.afrom_env("somebody/space-env", base_url=url, trust_remote_code=True)
        await env.close()
    assert fetched == ["somebody/space-env"]
    assert marker.exists()
    assert type(env).__name__ == "SpaceEnv"


def test_a_space_is_at_its_address() -> None:
    asked = auto._Request("Some-Body/My_Env", None, None, False)
    assert asked.url == "https://some-body-my-env.hf.space"


def test_a_space_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(ProviderError, match="nobody/nothing cannot be fetched: no network at all"):
        classes.fetch_space("nobody/nothing")


# -- as OpenEnv's pages show it ------------------------------------------------------------------


@pytest.mark.usefixtures("no_docker")
def test_the_snippet_of_openenv(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("coding_env")
    from openenv_async import AutoAction, AutoEnv

    # List available environments
    AutoEnv.list_environments()

    # Create environment by name
    env = AutoEnv.from_env("coding-env")

    # Get action class
    CodeAction = AutoAction.from_env("coding-env")

    # Use environment
    result = env.reset()
    print(f"Reset: {result.observation}")  # noqa: T201 - the seed's line

    action = CodeAction(code="print('Hello, World!')")
    step_result = env.step(action)
    print(f"Output: {step_result.observation.stdout}")  # noqa: T201 - the seed's line

    env.close()
    assert "Output: Hello, World!" in capsys.readouterr().out
