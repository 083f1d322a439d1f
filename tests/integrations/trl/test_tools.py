"""Environments as tools: what a call may be, what a failure gives, copies in other processes."""

from __future__ import annotations

import asyncio
import functools
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openenv_async import EnvPool
from openenv_async.errors import InvalidOption, WorkerStartFailed
from openenv_async.integrations.trl import (
    make_environment_factory,
)
from tests.integrations.serving import served
from tests.integrations.trl_worlds import CutClient, Talk, say

ROOT = Path(__file__).resolve().parents[3]


def test_a_factory_that_cannot_be_made_leaves_no_pool_behind(monkeypatch: Any) -> None:
    made: list[EnvPool[Any]] = []
    of = EnvPool.of

    def remembered(*args: Any, **options: Any) -> EnvPool[Any]:
        made.append(of(*args, **options))
        return made[-1]

    monkeypatch.setattr(EnvPool, "of", remembered)
    with pytest.raises(WorkerStartFailed):
        make_environment_factory("os:path")
    assert [pool.is_closed for pool in made] == [True]


@pytest.mark.parametrize("fault", ["raises", "reset raises", "cut"])
def test_a_tool_whose_environment_failed_has_no_reward(fault: str) -> None:
    with served(Talk) as url:
        factory = make_environment_factory(functools.partial(CutClient, url), tools=[say])
        env = factory()
        env.reset(fault=fault)
        if fault != "reset raises":
            env.say("abc")
        with pytest.raises(Exception, match=r"broken|network|stop calling"):
            env.say("abc")
        assert env.get_reward() is None
        with pytest.raises(Exception, match="stop calling"):
            env.say("abc")
        env.reset()
        env.say("abc")
        assert env.get_reward() == 3.0
        factory.close()


def test_a_call_that_does_not_fit_is_told_and_costs_nothing(talk: str) -> None:
    factory = make_environment_factory(talk, tools=[say], unplayed_reward=-1.0)
    env = factory()
    env.reset()
    assert env.get_reward() == -1.0
    with pytest.raises(TypeError):
        env.say(words="x")
    env.say("ab")
    assert env.get_reward() == 2.0
    with pytest.raises(InvalidOption):
        make_environment_factory(talk, tools=[say], reset=lambda row: {"color": 1})().reset()
    factory.close()


def test_a_factory_travels_to_another_process(talk: str, tmp_path: Path) -> None:
    factory = make_environment_factory(talk, tools=[say])
    factory().reset()
    data = tmp_path / "factory"
    data.write_bytes(pickle.dumps(factory))
    code = (
        "import pickle, sys; env = pickle.load(open(sys.argv[1], 'rb'))();"
        "print(env.reset(seed=9), env.say(text='abcd'), env.get_reward())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(data)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    factory.close()
    assert done.stdout.split("\n")[0] == "seed 9: <abcd> 4.0", done.stderr
    assert done.stderr == ""


def nameless(text: str) -> Any:
    return {}


def unhinted(text) -> Any:  # type: ignore[no-untyped-def]  # wrong on purpose
    """Say.

    Args:
        text: What.
    """
    return {}


def undescribed(text: str) -> Any:
    """Say."""
    return {}


def reset(text: str) -> Any:
    """Say.

    Args:
        text: What.
    """
    return {}


@pytest.mark.parametrize(
    ("tools", "why"),
    [
        ([nameless], "docstring"),
        ([unhinted], "type hint of 'text'"),
        ([undescribed], "line for 'text'"),
        ([reset], "cannot be named"),
        ([say, say], "two tools"),
    ],
)
def test_a_tool_that_a_model_could_not_use(talk: str, tools: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make_environment_factory(talk, tools=tools)


async def later(text: str) -> Any:
    """Say something, after a while.

    Args:
        text: What to say.
    """
    await asyncio.sleep(0)
    return {"text": text}


@functools.wraps(later)
def decorated(*args: Any, **kwargs: Any) -> Any:
    return later(*args, **kwargs)


async def refusing(text: str) -> Any:
    """Say nothing.

    Args:
        text: What not to say.
    """
    raise ValueError("not this")


async def yielding(text: str) -> Any:
    """Say something, piece by piece.

    Args:
        text: What to say.
    """
    yield {"text": text}


@pytest.mark.parametrize("tool", [later, decorated])
def test_a_tool_may_be_async(talk: str, tool: Any) -> None:
    factory = make_environment_factory(talk, tools=[tool, refusing])
    env = factory()
    env.reset()
    assert env.later("abc") == "<abc>"
    with pytest.raises(ValueError, match="not this"):
        env.refusing("x")
    assert env.later(text="de") == "<de>\n(The episode is over.)"
    assert env.get_reward() == 5.0
    with pytest.raises(ValueError, match="yields"):
        make_environment_factory(talk, tools=[yielding])
    with pytest.raises(ValueError, match="public name"):
        make_environment_factory(talk, tools=[functools.partial(say)])
    factory.close()
