"""Lines of a certificate on episodes: their rewards, their seeds, what they leave behind."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from typing import Any, Final

from openenv_async.checks.certify.subject import Subject
from openenv_async.checks.registry import Skipped, check, require
from openenv_async.checks.validation.candidate import answered
from openenv_async.checks.validation.seeds import (
    equal_seeds_give_equal_episodes,
    first_difference,
    played_alone,
    sessions_are_isolated,
    sessions_share_no_randomness,
    trace,
)
from openenv_async.checks.validation.timing import closing_releases
from openenv_async.errors import OpenEnvError
from openenv_async.rubrics import PARTS

__all__: list[str] = []

_REPLAYED: Final = 4
"""Episodes that are played again action by action."""
_STEPS: Final = 200
"""Steps that are played again of each of them."""
_SESSIONS: Final = 8
_PREFIX: Final = 3
"""Letters that the names of files of one kind have in common."""
_ROUNDING: Final = 1e-9

_SEEDS = "draw from random.Random(seed) of the episode; never from sets, hashes, time or globals"


# -- rewards -----------------------------------------------------------------------------------


@check("certificate", remedy="clip the reward, or state the range that it has")
async def rewards_are_in_range(subject: Subject) -> None:
    """Every reward and every return of all that was played is a number of the stated range."""
    ranges = {"reward": subject.statements.rewards, "return": subject.statements.return_range}
    found = {"reward": subject.rewards, "return": subject.returns}
    if not any(ranges.values()):
        raise Skipped("the environment states no range of its rewards")
    if not found["reward"][2]:
        await subject.play(subject.guess(), subject.episodes)
        found = {"reward": subject.rewards, "return": subject.returns}
    if not found["reward"][2]:
        raise Skipped("no reward was given")
    told = []
    for name, stated in ranges.items():
        if stated is None or not found[name][2]:
            continue
        low, high, count = found[name]
        slack = _ROUNDING * max(1.0, *map(abs, stated))
        require(not math.isnan(low), f"a {name} is NaN")
        require(
            stated[0] - slack <= low and high <= stated[1] + slack,
            f"{name}s lie from {low:g} to {high:g}, where {stated[0]:g} to {stated[1]:g} is stated",
        )
        told.append(f"{count} {name}s from {low:.3g} to {high:.3g}")
    subject.note(rewards_are_in_range, ", ".join(told))


@check(
    "certificate",
    remedy="compute the reward of a step from the episode so far, and give none with reset()",
)
async def rewards_belong_to_steps(subject: Subject) -> None:
    """The same actions after the same reset are paid alike, step by step; recorded parts add up."""
    played = await subject.play(subject.guess(), _REPLAYED)
    steps = parts = 0
    async with subject.candidate.session() as env:
        for outcome in played:
            record = outcome.trajectory
            assert record is not None
            require(
                not record.reset_reward,
                f"reset() gives the reward {record.reset_reward}, before any step",
            )
            options = dict(subject.statements.reset_options if subject.stated else {})
            if outcome.task is not None:
                options |= outcome.task.reset_options
            result = await answered(env, "reset", **{**options, "seed": record.seed})
            for step in record.transitions[:_STEPS]:
                if step.mistake is not None or result.done:
                    continue
                try:
                    result = await env.step(step.action)
                except OpenEnvError as exc:
                    require(False, f"step {step.t} was taken, and again it raised {exc.message}")
                require(
                    _same(result.reward, step.reward),
                    f"step {step.t} was paid {step.reward}, and {result.reward} when the same"
                    " actions were taken again",
                )
                steps += 1
                if isinstance(step.info.get(PARTS), dict):
                    parts += 1
                    whole = next(iter(step.info[PARTS].values()), None)
                    require(
                        _same(whole, step.reward),
                        f"the parts of the reward of step {step.t} say {whole}, and it is"
                        f" {step.reward}",
                    )
    if not steps:
        raise Skipped("no step of these episodes was taken")
    more = f", {parts} with recorded parts" if parts else ""
    subject.note(rewards_belong_to_steps, f"{steps} steps were taken twice{more}")


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return (one or 0.0) == (other or 0.0)
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


# -- seeds -------------------------------------------------------------------------------------


@check("certificate", remedy=_SEEDS)
async def seeds_decide_the_episode(subject: Subject) -> None:
    """One seed and the same actions give one episode: in new sessions and in the same one."""
    await equal_seeds_give_equal_episodes(subject.candidate)


@check("certificate", remedy=_SEEDS)
async def seeds_decide_across_processes(subject: Subject) -> None:
    """Two servers of the environment, in processes of their own, play one seed alike."""
    if subject.other is None:
        raise Skipped("a second process can be started of an environment by name or folder alone")
    there = dataclasses.replace(
        subject.candidate, url=subject.other.url, token=subject.other.token, pid=subject.other.pid
    )
    for seed in (11, 12, 13):
        async with subject.candidate.session() as env, there.session() as other:
            one = await trace(subject.candidate, env, seed=seed)
            found = first_difference(one, await trace(there, other, seed=seed))
        require(found is None, f"in two processes one seed differs: {found}")


@check("certificate", remedy=_SEEDS)
async def seeds_decide_beside_others(subject: Subject) -> None:
    """A seed gives its episode whatever other sessions do meanwhile, step by step."""
    await sessions_share_no_randomness(subject.candidate)
    await sessions_are_isolated(subject.candidate)


# -- what stays --------------------------------------------------------------------------------


@check("certificate", remedy="let reset() begin anew with everything that an episode changes")
async def episodes_begin_anew(subject: Subject) -> None:
    """An episode is the same in a new session and after other episodes of a session."""
    fresh = await played_alone(subject.candidate)
    if first_difference(fresh, await played_alone(subject.candidate)) is not None:
        raise Skipped("one seed gives different episodes already, see seeds_decide_the_episode")
    async with subject.candidate.session() as env:
        for seed in range(3):
            await trace(subject.candidate, env, seed=100 + seed, choices=seed)
        found = first_difference(fresh, await trace(subject.candidate, env))
    require(found is None, f"after other episodes of its session a seed differs: {found}")


@check("certificate", remedy="free in close() what the constructor and reset() took")
async def sessions_leave_nothing_behind(subject: Subject) -> None:
    """Closed sessions leave no open file, thread, process or temporary file behind."""
    candidate, folder = subject.candidate, subject.temporary
    if candidate.pid is None or folder is None:
        raise Skipped("only of a server that was started here, of a name or folder")
    made: list[set[str]] = []
    for first in (0, _SESSIONS):  # what is kept for all sessions is made once
        before = set(os.listdir(folder))
        for seed in range(first, first + _SESSIONS):
            async with candidate.session() as env:
                await trace(candidate, env, seed=seed)
        made.append(set(os.listdir(folder)) - before)
    await closing_releases(candidate)  # some are removed a little after the session
    left = set(os.listdir(folder))
    one, other = (Counter(name[:_PREFIX] for name in names & left) for names in made)
    kind, count = ((one & other).most_common(1) or [("", 0)])[0]
    require(
        count < _SESSIONS,
        f"{_SESSIONS} sessions that were closed left {count} files {kind}… in the folder of"
        " temporary files",
    )
