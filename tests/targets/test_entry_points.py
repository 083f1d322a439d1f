"""The table of entry points and kinds of target: each cell plays, or one typed error says why not.

An episode is really played in every cell, by the entry point itself. Servers are shared, so that
the table stays quick: two run for the URLs, and the process of a name and the container of an
image are started once, by the real providers, for all cells (tests of ``served`` and of the
providers start theirs each time). The Space is this machine's server at a faked address.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import json
import math
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil  # type: ignore[import-untyped]  # it has none
import pytest
from click.testing import CliRunner

from openenv_async import (
    AutoEnv,
    EnvPool,
    GenericEnvClient,
    HTTPEnvClient,
    SyncEnvPool,
    connect_in_process,
    serve,
)
from openenv_async.checks.conformance import run as conformance
from openenv_async.checks.validation import validate
from openenv_async.cli import main
from openenv_async.client.loop_thread import background_loop
from openenv_async.engine import Engine
from openenv_async.errors import TargetNotFound, WrongTarget
from openenv_async.integrations.gymnasium import GymEnv, GymVectorEnv
from openenv_async.integrations.trl import (
    make_environment_factory,
    make_reward_func,
    make_rollout_func,
)
from openenv_async.providers import space
from openenv_async.providers.base import Worker
from openenv_async.providers.docker import DockerProvider
from openenv_async.providers.process import ProcessProvider
from openenv_async.providers.static import StaticProvider
from openenv_async.rollouts import collect_all, replay, rollout, stream, stream_groups
from openenv_async.spec import EnvironmentSpec
from tests.integrations.serving import served
from tests.providers.engines import ECHO, require_engine
from tests.targets.environments import Tiny, TinyEnv, TinyGym, make_tiny

pytest.importorskip("echo_env")
pytest.importorskip("stable_baselines3")
TINY = "tests.targets.environments:Tiny"
MOVE = {"amount": 1}
MESSAGE = {"message": "x"}
DOCKER = (pytest.mark.docker, pytest.mark.xdist_group("docker"))


# -- kinds of target ----------------------------------------------------------------------------


@dataclass
class Servers:
    """The servers of the table.

    Attributes:
        url, other: of two servers of ``Tiny``.
    """

    url: str
    other: str


@dataclass
class Kind:
    """A kind of target.

    Attributes:
        make: makes one, for one cell.
        action: that fits its environment.
        wrong: entry points at which it makes no sense.
        marks: of its tests.
    """

    make: Callable[[Servers], Any]
    action: Any = field(default_factory=lambda: dict(MOVE))
    wrong: frozenset[str] = frozenset()
    marks: Any = ()


ELSEWHERE = frozenset({"serve", "connect_in_process"})
"""Entry points that need the environment itself."""
OF_SERVERS = frozenset(
    {
        *("GymEnv", "GymVectorEnv", "OpenEnvVecEnv", "environment_factory", "reward_func"),
        *("rollout_func", "AutoEnv", "EnvPool", "EnvPool.of", "SyncEnvPool", "validate"),
        "conformance",
    }
)
"""Entry points that play elsewhere than in the loop that calls them."""

KINDS: dict[str, Kind] = {
    "url": Kind(lambda servers: servers.url, wrong=ELSEWHERE),
    "urls": Kind(lambda servers: [servers.url, servers.other], wrong=ELSEWHERE),
    "finder": Kind(lambda servers: _finder(servers.url), wrong=ELSEWHERE),
    "installed": Kind(lambda servers: "echo", MESSAGE),
    "path": Kind(lambda servers: TINY),
    "folder": Kind(lambda servers: Path("environments/echo"), MESSAGE),
    "id": Kind(lambda servers: "CartPole-v1", 1),
    "image": Kind(lambda servers: f"docker://{ECHO}", MESSAGE, ELSEWHERE, DOCKER),
    "space": Kind(lambda servers: "somebody/tiny", wrong=ELSEWHERE),
    "class": Kind(lambda servers: Tiny),
    "gymnasium class": Kind(lambda servers: TinyGym, 1),
    "factory": Kind(lambda servers: make_tiny),
    "instance": Kind(lambda servers: Tiny()),
    "spec": Kind(lambda servers: EnvironmentSpec(Tiny)),
    "engine": Kind(lambda servers: Engine(EnvironmentSpec(Tiny)), wrong=OF_SERVERS | {"serve"}),
    "client": Kind(lambda servers: TinyEnv(servers.url), wrong=ELSEWHERE),
    "blocking client": Kind(lambda servers: TinyEnv(servers.url).sync(), wrong=ELSEWHERE),
    "HTTP client": Kind(lambda servers: HTTPEnvClient(servers.url), wrong=ELSEWHERE),
    "client factory": Kind(
        lambda servers: functools.partial(TinyEnv, servers.url), wrong=ELSEWHERE
    ),
    "pool": Kind(
        lambda servers: EnvPool.from_url(servers.url),
        wrong=ELSEWHERE | {"EnvPool", "EnvPool.of"},  # one that is not open can be made blocking
    ),
    "blocking pool": Kind(
        lambda servers: SyncEnvPool.from_url(servers.url),
        wrong=ELSEWHERE | {"EnvPool", "EnvPool.of", "SyncEnvPool"},
    ),
    "provider": Kind(lambda servers: StaticProvider(servers.url), wrong=ELSEWHERE),
}


def _finder(url: str) -> Callable[[], list[str]]:
    def find() -> list[str]:
        return [url]

    return find


# -- entry points -------------------------------------------------------------------------------


def awaited(entry: Callable[[Any, Any], Awaitable[int]]) -> Callable[[Any, Any], int]:
    """An async entry point, run in a loop of its own."""

    def call(given: Any, action: Any) -> int:
        async def main() -> int:
            return await entry(given, action)

        return asyncio.run(main())

    return call


async def by_rollout(given: Any, action: Any) -> int:
    played = await rollout(given, lambda seen: action, max_steps=2)
    assert played.status.usable, played.error
    return played.steps


async def by_collect(given: Any, action: Any) -> int:
    played = await collect_all(given, lambda seen: action, episodes=2, concurrency=1, max_steps=2)
    assert [each.status.usable for each in played] == [True, True]
    return sum(each.steps for each in played)


async def by_stream(given: Any, action: Any) -> int:
    async with stream(
        given, lambda seen: action, episodes=2, concurrency=1, max_steps=2
    ) as episodes:
        return sum([each.outcome.steps async for each in episodes])


async def by_stream_groups(given: Any, action: Any) -> int:
    async with stream_groups(
        given, lambda seen: action, group_size=2, groups=1, concurrency=1, max_steps=2
    ) as groups:
        return sum([each.outcome.steps async for group in groups for each in group.episodes])


async def by_replay(given: Any, action: Any) -> int:
    recorded = await rollout(given, lambda seen: action, max_steps=2, seed=1)
    assert recorded.trajectory is not None
    ignore = ("observation",) if action == MESSAGE else ()  # an echo has the time in it
    assert await replay(given, recorded.trajectory, ignore=ignore) is None
    return recorded.steps


def spaces_of(action: Any) -> dict[str, Any]:
    """Spaces that do not depend on the schema."""
    return {
        "action_space": gymnasium.spaces.Discrete(2),
        "encode_action": lambda chosen: action,
        "observation_space": gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32),
        "decode_observation": lambda seen: np.zeros(1, np.float32),
        "missing_reward": 0.0,
    }


def by_gym(given: Any, action: Any) -> int:
    with GymEnv(given, **spaces_of(action)) as env:
        env.reset(seed=1)
        reward = env.step(1)[1]
        assert math.isfinite(float(reward))
    return 1


def by_vector(given: Any, action: Any) -> int:
    env = GymVectorEnv(given, 1, **spaces_of(action))
    try:
        env.reset(seed=1)
        assert env.step(np.array([1]))[0].shape == (1, 1)
    finally:
        env.close()
    return 1


def by_sb3(given: Any, action: Any) -> int:
    from openenv_async.integrations.sb3 import OpenEnvVecEnv

    env = OpenEnvVecEnv(given, 1, **spaces_of(action))
    try:
        env.reset()
        assert env.step(np.array([1]))[1].shape == (1,)
    finally:
        env.close()
    return 1


def by_tools(given: Any, action: Any) -> int:
    def act(text: str) -> Any:
        """Take the action.

        Args:
            text: Anything.
        """
        return action

    factory = make_environment_factory(given, tools=[act])
    try:
        env: Any = factory()
        env.reset()
        env.act("x")
    finally:
        factory.close()
    return 1


def by_rewards(given: Any, action: Any) -> int:
    score = make_reward_func(given, lambda completion, ids: action, blocking=True)
    [reward] = score(["p"], ["c"])
    assert reward is None or math.isfinite(reward)
    assert reward is not None or action == MESSAGE
    return 1


def by_rollout_func(given: Any, action: Any) -> int:
    made = make_rollout_func(given)  # what TRL's trainer calls needs a model; its sessions do not

    async def play() -> None:
        client = made.source.client()
        try:
            await client.reset(seed=1)
            await client.step(action)
        finally:
            await client.close()

    try:
        background_loop().run(play())
    finally:
        made.close()
    return 1


def by_auto(given: Any, action: Any) -> int:
    with AutoEnv.from_env(given) as env:
        env.reset(seed=1)
        env.step(action)
    return 1


async def by_auto_async(given: Any, action: Any) -> int:
    async with await AutoEnv.afrom_env(given) as env:
        await env.reset(seed=1)
        await env.step(action)
    return 1


async def by_pool(given: Any, action: Any) -> int:
    async with EnvPool(given) as pool:
        return (await pool.rollout(lambda seen: action, max_steps=2)).steps


async def by_pool_of(given: Any, action: Any) -> int:
    async with EnvPool.of(given) as pool, pool.session() as env:
        await env.reset(seed=1)
        await env.step(action)
    return 1


def by_blocking_pool(given: Any, action: Any) -> int:
    with SyncEnvPool(given) as pool:
        return pool.rollout(lambda seen: action, max_steps=2).steps


async def by_validate(given: Any, action: Any) -> int:
    results = await validate(given, names=["episodes_run_over_native_msgpack"], actions=[action])
    assert results
    assert not [each for each in results if each.status == "failed"], results
    return 1


async def by_conformance(given: Any, action: Any) -> int:
    results = await conformance(
        given, names=["a_whole_episode_runs"], transports=["native msgpack"]
    )
    assert results
    assert not [each for each in results if each.status == "failed"], results
    return 1


async def by_serve(given: Any, action: Any) -> int:
    async with serve(given) as url, GenericEnvClient(url) as env:
        await env.reset(seed=1)
        await env.step(action)
    return 1


async def by_connect(given: Any, action: Any) -> int:
    async with connect_in_process(given) as env:
        await env.reset(seed=1)
        await env.step(action)
    return 1


ENTRIES: dict[str, Callable[[Any, Any], int]] = {
    "rollout": awaited(by_rollout),
    "collect": awaited(by_collect),
    "stream": awaited(by_stream),
    "stream_groups": awaited(by_stream_groups),
    "replay": awaited(by_replay),
    "GymEnv": by_gym,
    "GymVectorEnv": by_vector,
    "OpenEnvVecEnv": by_sb3,
    "environment_factory": by_tools,
    "reward_func": by_rewards,
    "rollout_func": by_rollout_func,
    "AutoEnv": by_auto,
    "AutoEnv.afrom_env": awaited(by_auto_async),
    "EnvPool": awaited(by_pool),
    "EnvPool.of": awaited(by_pool_of),
    "SyncEnvPool": by_blocking_pool,
    "validate": awaited(by_validate),
    "conformance": awaited(by_conformance),
    "serve": awaited(by_serve),
    "connect_in_process": awaited(by_connect),
}


# -- the table ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with served(Tiny) as url, served(Tiny) as other:
        yield Servers(url, other)


class Borrowed(Worker):
    """A worker of all cells, as one cell has it: closing it ends nothing."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(f"{worker.name} (shared)", worker.url, token=worker.token)
        self.pid = getattr(worker, "pid", None)

    async def aclose(self) -> None:
        """Leave it."""


@pytest.fixture(scope="module", autouse=True)
def started_once(servers: Servers) -> Iterator[None]:
    """Let the real providers start each process and container once; the Space is a server here."""
    patch = pytest.MonkeyPatch()
    found: dict[Any, tuple[Any, Worker]] = {}
    for cls, name in ((ProcessProvider, "target"), (DockerProvider, "image")):
        start: Any = cls.start

        async def shared(
            self: Any, *, timeout: float | None = None, start: Any = start, name: str = name
        ) -> Worker:
            key = (type(self), str(getattr(self, name, None) or vars(self)))
            if key not in found:
                own = copy.copy(self)  # the cell's provider has nothing to close
                found[key] = own, await _on_background(start(own, timeout=timeout))
            return Borrowed(found[key][1])

        patch.setattr(cls, "start", shared)
    patch.setattr(space, "space_url", lambda name: servers.url)
    yield
    for provider, worker in found.values():
        background_loop().run(worker.aclose())
        background_loop().run(provider.aclose())
    patch.undo()


async def _on_background(work: Any) -> Any:
    """Await something in the loop that outlives the cells."""
    loop = background_loop().loop
    if asyncio.get_running_loop() is loop:
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))


CELLS = [
    pytest.param(entry, kind, id=f"{entry}-{kind}", marks=KINDS[kind].marks)
    for kind in KINDS
    for entry in ENTRIES
]


@pytest.mark.parametrize(("entry", "kind"), CELLS)
def test_every_entry_point_takes_every_kind_or_says_why_not(
    entry: str, kind: str, servers: Servers
) -> None:
    case = KINDS[kind]
    if kind == "image":
        require_engine()
    given = case.make(servers)
    if entry in case.wrong:
        with pytest.raises(WrongTarget) as refused:
            ENTRIES[entry](given, case.action)
        assert ": " in str(refused.value)  # and what to do instead
    else:
        assert ENTRIES[entry](given, case.action) > 0


# -- what is refused ----------------------------------------------------------------------------


async def a_coroutine() -> None:
    """Return nothing; the caller forgot to await it."""


WRONG: dict[str, Callable[[], Any]] = {
    "number": lambda: 5,
    "None": lambda: None,
    "dict": dict,
    "empty list": list,
    "object": object,
    "bytes": lambda: b"x",
    "module": lambda: sys,
    "coroutine": a_coroutine,
    "missing path": lambda: Path("no/such/folder"),
    "missing text path": lambda: "./no-such-folder",
    "misspelt name": lambda: "ehco",
    "misspelt class": lambda: "tests.targets.environments:Tyni",
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_no_target_is_refused_before_anything_runs(entry: str, wrong: str) -> None:
    if (entry, wrong) in {("AutoEnv", "None"), ("AutoEnv.afrom_env", "None")}:
        pytest.skip("AutoEnv may be given base_url= or image= alone")
    before = {each.pid for each in psutil.Process().children(recursive=True)}
    with pytest.raises((WrongTarget, TargetNotFound)) as refused:
        ENTRIES[entry](WRONG[wrong](), MOVE)
    assert "object at 0x" not in str(refused.value) or wrong == "object"
    assert {each.pid for each in psutil.Process().children(recursive=True)} <= before


# -- the command line, which takes text ---------------------------------------------------------

COMMANDS: dict[str, tuple[list[str], str]] = {
    "info": (["info"], ""),
    "bench": (["bench", "--sessions", "1", "--seconds", "0.1", "--warmup", "0", "--json"], ""),
    "play": (["play", "--seed", "1"], ":random 1\n:quit\n"),
    "rollout": (["rollout", "--episodes", "1", "--max-steps", "2", "--json"], ""),
    "validate": (["validate", "--json"], ""),
}


def _texts(servers: Servers) -> dict[str, str]:
    return {
        "url": servers.url,
        "installed": "echo",
        "path": TINY,
        "folder": "environments/echo",
        "id": "CartPole-v1",
        "space": "somebody/tiny",
    }


@pytest.mark.parametrize("kind", ["url", "installed", "path", "folder", "id", "space"])
@pytest.mark.parametrize("command", ["info", "bench", "play", "rollout"])
def test_every_command_takes_every_text(command: str, kind: str, servers: Servers) -> None:
    (name, *options), typed = COMMANDS[command]
    result = CliRunner().invoke(main, [name, _texts(servers)[kind], *options], input=typed)
    assert result.exit_code == 0, (result.output, result.exception)
    if "--json" in options:
        assert json.loads(result.stdout)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("wrong", ["ehco", "./no-such-folder", "localhost:1"])
def test_a_command_refuses_text_that_names_nothing(command: str, wrong: str) -> None:
    (name, *options), _ = COMMANDS[command]
    result = CliRunner().invoke(main, [name, wrong, *options])
    assert result.exit_code in (1, 2)
    assert result.stderr.startswith("error: ")
