"""TRL's ``environment_factory``: one pool, tools that a model can use, nothing left at exit.

Beside faults, rewards and TRL's own trainer: ``tests/integrations/test_trl.py``.
"""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator

import pytest

from openenv_async.errors import CallerError, SessionClosed, TargetNotFound
from openenv_async.integrations.trl import make_environment_factory, make_rollout_func
from tests.integrations.serving import served
from tests.integrations.trl_worlds import Talk, say


@pytest.fixture
def talk() -> Iterator[str]:
    with served(Talk) as url:
        yield url


def test_instances_share_one_pool_and_copies_too(talk: str) -> None:
    factory = make_environment_factory(talk, tools=[say])
    envs = [factory() for _ in range(8)]
    for env in envs:
        env.reset()
    pool = factory.source._pool
    assert pool is not None
    assert (pool.statistics().ready, pool.statistics().sessions) == (1, 8)
    connections = {env._client.connection for env in envs}
    assert len(connections) == 1
    copy = pickle.loads(pickle.dumps(factory))
    assert copy.source is factory.source
    again = pickle.loads(pickle.dumps(envs[0]))
    assert type(again).__name__ == type(envs[0]).__name__
    assert again.reset(seed=5) == "seed 5:"
    factory.close()
    with pytest.raises(SessionClosed):
        factory().reset()


def test_an_instance_has_reset_reward_and_tools_and_nothing_else(talk: str) -> None:
    factory = make_environment_factory(talk, tools=[say])
    env = factory()
    public = [
        name
        for name, _ in inspect.getmembers(type(env), predicate=inspect.isfunction)
        if not name.startswith("_")
    ]
    assert sorted(public) == ["get_reward", "reset", "say"]
    assert inspect.signature(env.say) == inspect.Signature(
        [inspect.Parameter("text", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str)],
        return_annotation=str,
    )
    assert env.reset(prompt="x", seed=7, answer=4) == "seed 7:"
    assert env.get_reward() is None
    assert env.say(text="abc") == "<abc>"
    assert env.get_reward() == 3.0
    assert env.say("de") == "<de>\n(The episode is over.)"
    with pytest.raises(CallerError, match="over"):
        env.say("more")
    assert env.get_reward() == 5.0
    assert env.reset(seed=8) == "seed 8:"
    assert env.get_reward() is None
    factory.close()


def test_an_unknown_name_fails_at_construction() -> None:
    for make in (make_rollout_func, make_environment_factory):
        with pytest.raises(TargetNotFound):
            make("no-such-environment")


def test_everything_is_released_at_exit() -> None:
    """A trainer closes nothing: the server process that was started is gone all the same."""
    code = """
from openenv_async.integrations.trl import make_environment_factory
factory = make_environment_factory("echo")
env = factory()
print(env.reset(), "|", env.act(message="hi"))
print(factory.source._pool.workers[0].pid)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "Echo: hi" in lines[0]
    with pytest.raises(ProcessLookupError):
        os.kill(int(lines[1]), 0)
