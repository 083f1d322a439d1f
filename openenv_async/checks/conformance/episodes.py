"""Episodes: the flow of calls, rewards and ends that tell the truth, seeds that mean something."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Final

from openenv_async.checks.conformance.subject import Subject
from openenv_async.checks.registry import Skipped, check, require
from openenv_async.types import StepResult

_CLOCK_SLACK: Final = 3600.0
"""Seconds from now within which a number is taken for a reading of the clock."""
_FLOW = "look at the session's lifecycle: reset, step, state, close"
_TRUTH = "look at where the reward and the end are read off the environment's result"
_SEEDS = "look at how reset hands the seed to the environment and reports it"


@check("conformance", "reset", "held", remedy=_FLOW)
async def a_whole_episode_runs(subject: Subject) -> None:
    """Reset, five steps (or until the end), state and close all answer, in that order."""
    async with subject.transport.session() as env:
        result = await env.reset()
        require(isinstance(result, StepResult), f"reset gave {type(result).__name__}")
        for _ in range(5):
            if result.done:
                break
            result = await subject.step(env)
            reward = result.reward
            require(
                reward is None or type(reward) in (int, float), f"the reward is {reward!r:.100}"
            )
            require(type(result.done) is bool, f"done is {result.done!r:.100}")
        if "state" in subject.transport.features:
            await env.state()


@check("conformance", "reset", "held", remedy=_FLOW)
async def a_session_runs_many_episodes(subject: Subject) -> None:
    """Reset begins a new episode as often as it is asked, also in the middle of one."""
    seen = set()
    async with subject.transport.session() as env:
        for _ in range(3):
            result = await env.reset()
            if env.episode is not None:
                seen.add(env.episode.episode_id)
            if not result.done:
                await subject.step(env)
    require(
        "episode" not in subject.transport.features or len(seen) == 3,
        f"three resets reported the episodes {sorted(seen)}",
    )


@check("conformance", "episode", remedy=_FLOW)
async def the_episode_id_is_kept(subject: Subject) -> None:
    """An episode id that the caller gives is the one that is reported."""
    async with subject.transport.session() as env:
        await env.reset(episode_id="conformance-7")
        require(env.episode.episode_id == "conformance-7", f"reported {env.episode!r}")
        await env.state()
        require(env.episode.episode_id == "conformance-7", f"state reported {env.episode!r}")


@check("conformance", "state", "held", own=True, remedy=_FLOW)
async def state_counts_the_steps(subject: Subject) -> None:
    """State shows the episode that runs, in the session that asks."""
    async with subject.transport.session() as one, subject.transport.session() as other:
        await one.reset()
        await other.reset()
        for _ in range(3):
            await one.step(subject.action())
        state, beside = await one.state(), await other.state()
    require(state["steps"] == 3, f"3 steps were taken, state says {state['steps']}")
    require(beside["steps"] == 0, f"another session's steps were counted: {beside['steps']}")
    require(state["instance"] != beside["instance"], "two sessions share an environment")


@check("conformance", "reward", own=True, remedy=_TRUTH)
async def the_reward_is_the_environments(subject: Subject) -> None:
    """A reward arrives as the environment gave it, 0.0 and negative ones too."""
    async with subject.transport.session() as env:
        await env.reset()
        for value in (1.5, 0.0, -2.25, 1e300, 3.0):
            result = await env.step({"command": "reward", "value": value})
            require(
                result.reward == value and type(result.reward) is not bool,
                f"gave {value!r}, got {result.reward!r}",
            )


@check(
    "conformance",
    "exact",
    own=True,
    remedy="JSON has no number for these: docs/protocol.md, section 2",
)
async def a_reward_that_is_not_finite_arrives(subject: Subject) -> None:
    """NaN and both infinities are rewards; null says that there is none, and nothing else."""
    async with subject.transport.session() as env:
        await env.reset()
        for value in (math.inf, -math.inf, math.nan):
            result = await env.step({"command": "reward", "value": value})
            require(repr(result.reward) == repr(value), f"gave {value!r}, got {result.reward!r}")


@check("conformance", "reward", own=True, remedy=_TRUTH)
async def no_reward_is_none(subject: Subject) -> None:
    """A result without a reward of the environment has none: None, and never 0.0."""
    async with subject.transport.session() as env:
        result = await env.reset()
        require(result.reward is None, f"reset gave {result.reward!r}")
        result = await env.step({"command": "reward", "value": None})
        require(result.reward is None, f"step gave {result.reward!r}")
        result = await env.step({"command": "terminate"})
        require(result.reward is None, f"the last step gave {result.reward!r}")


@check("conformance", "reset", own=True, remedy=_TRUTH)
async def the_end_is_the_environments(subject: Subject) -> None:
    """An episode is over when the environment says so, and not before."""
    async with subject.transport.session() as env:
        for command in ("terminate", "truncate"):
            result = await env.reset()
            require(not result.done, "over after reset")
            result = await env.step(subject.action())
            require(not result.done, "over after a step that did not end it")
            result = await env.step({"command": command, "value": 1.0})
            require(result.done, f"not over after {command}")
            told = "reward" in subject.transport.features
            require(
                result.reward == (1.0 if told else None), f"the last reward was {result.reward!r}"
            )


@check("conformance", "ends", own=True, remedy=_TRUTH)
async def terminated_is_not_truncated(subject: Subject) -> None:
    """The end of the task and a stop are told apart."""
    async with subject.transport.session() as env:
        for command, ends in (("terminate", (True, False)), ("truncate", (False, True))):
            await env.reset()
            result = await env.step({"command": command})
            found = (result.terminated, result.truncated)
            require(found == ends, f"{command} gave terminated, truncated = {found}")


# -- seeds --------------------------------------------------------------------------------


@check("conformance", "seed", remedy=_SEEDS)
async def the_seed_is_reported(subject: Subject) -> None:
    """The seed that was asked for is the one reported; without one, the one that was drawn."""
    async with subject.transport.session() as env:
        await env.reset(seed=20)
        require(env.episode.seed == 20, f"asked for seed 20, reported {env.episode.seed!r}")
        drawn = set()
        for _ in range(3):
            await env.reset()
            seed = env.episode.seed
            require(type(seed) is int and seed >= 0, f"the seed drawn was reported as {seed!r}")
            drawn.add(seed)
        require(len(drawn) > 1, f"three resets without a seed all used {drawn}")


@check("conformance", "choice", "state", "held", own=True, remedy=_SEEDS)
async def the_seed_reaches_the_environment(subject: Subject) -> None:
    """The environment draws from the seed; the same seed gives the same draws."""
    traces = []
    for seed in (7, 7, 8):
        async with subject.transport.session() as env:
            trace = list((await env.reset(seed=seed)).observation["numbers"])
            for _ in range(3):
                trace += (await env.step({"command": "draw"})).observation["numbers"]
            require((await env.state())["seed"] == seed, "the environment got another seed")
            traces.append(trace)
    require(traces[0] == traces[1], "the same seed gave two traces")
    require(traces[0] != traces[2], "two seeds gave one trace")


@check(
    "conformance",
    "choice",
    "held",
    own=True,
    remedy="per-session generators only: never the global one",
)
async def seeds_are_not_shared(subject: Subject) -> None:
    """Sessions that run at once with one seed see the same trace, whatever the others do."""

    async def trace() -> list[float]:
        async with subject.transport.session() as env:
            drawn = list((await env.reset(seed=5)).observation["numbers"])
            for _ in range(5):
                drawn += (await env.step({"command": "draw"})).observation["numbers"]
            return drawn

    traces = await asyncio.gather(*(trace() for _ in range(4)))
    require(all(t == traces[0] for t in traces), "one seed gave different traces")


@check("conformance", "seed", remedy=_SEEDS)
async def equal_seeds_give_equal_episodes(subject: Subject) -> None:
    """Two sessions with one seed and the same actions see the same observations."""
    properties = subject.schema.get("reset", {}).get("properties", {})
    if not subject.own and properties.get("seed", {}).get("x-used") is False:
        raise Skipped("the environment's reset takes no seed")
    traces: list[list[Any]] = []
    for _ in range(2):
        subject.reseed(99)
        async with subject.transport.session() as env:
            result = await env.reset(seed=3)
            trace = [_shown(subject, result)]
            for _ in range(10):
                if result.done:
                    break
                result = await subject.step(env)
                trace.append(_shown(subject, result))
        traces.append(trace)
    for step, (one, other) in enumerate(zip(*traces, strict=False)):
        require(one == other, f"step {step} differs: {one!r:.200} and {other!r:.200}")
    require(len(traces[0]) == len(traces[1]), "one of the episodes was shorter")


def _shown(subject: Subject, result: StepResult[Any]) -> Any:
    observation = comparable(without(result.observation, subject.varying))
    if subject.own:
        observation.pop("instance", None)  # each has its own name
    reward = "NaN" if result.reward != result.reward else result.reward  # equal to itself
    return (observation, reward, result.terminated, result.truncated)


def without(value: Any, names: Collection[str]) -> Any:
    """Return a value without the named fields; readings of the clock are all alike."""
    if isinstance(value, dict):
        return {key: without(each, names) for key, each in value.items() if key not in names}
    if isinstance(value, list | tuple):
        return [without(each, names) for each in value]
    return "(a time)" if _is_now(value) else value


def _is_now(value: Any) -> bool:
    """Return whether a value is the time of day, in seconds or smaller units, or as text."""
    if isinstance(value, str):
        return value.startswith(datetime.now(UTC).strftime("%Y-%m-%dT%H:"))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    now = time.time()
    return any(abs(value / unit - now) < _CLOCK_SLACK for unit in (1, 1e3, 1e6, 1e9))


def comparable(value: Any) -> Any:
    """Return a value that compares exactly: arrays by dtype, shape and bytes, NaN as itself."""
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    if hasattr(value, "dtype") and hasattr(value, "tobytes"):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, float | bool):  # 0 is not False
        return repr(value)
    return value
