"""Checks of seeds, which must mean something, and of sessions, which must be isolated."""

from __future__ import annotations

import asyncio
from itertools import zip_longest
from typing import Any, Final

from openenv_async.checks.registry import CheckFailed, Skipped, check, require
from openenv_async.checks.validation.candidate import Candidate, Session, Turn, answered, play

__all__ = ["first_difference", "played_alone", "trace"]

_STEPS: Final = 10
_SEED: Final = 11
_VARYING = (
    "; a field that is meant to vary (a duration) is named in the manifest's validation.varying"
)


async def trace(
    candidate: Candidate, env: Session, *, seed: int = _SEED, choices: int = 7
) -> list[Turn]:
    """Return the turns of one episode of drawn actions, its reset first."""
    return [
        candidate.turn(result)
        async for _, result in play(candidate, env, seed=seed, steps=_STEPS, choices=choices)
    ]


async def played_alone(candidate: Candidate) -> list[Turn]:
    """Return the turns of one episode in a session of its own."""
    async with candidate.session() as env:
        return await trace(candidate, env)


def first_difference(one: list[Turn], other: list[Turn]) -> str | None:
    """Return the place where two episodes part; ``None`` when they do not."""
    for step, (left, right) in enumerate(zip_longest(one, other)):
        if left == right:
            continue
        where = "reset()" if step == 0 else f"step {step}"
        if left is None or right is None:
            return f"one ends before {where}"
        names = ("observation", "reward", "terminated", "truncated")
        for name, before, after in zip(names, left, right, strict=True):
            if before != after:
                return _part(before, after, f"{name} of {where}")
    return None


def _part(left: Any, right: Any, path: str) -> str:
    """Return the innermost part in which two values differ, and both of it."""
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        key = next(key for key in left if left[key] != right[key])
        return _part(left[key], right[key], f"{key!r} of {path}")
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        index = next(index for index, item in enumerate(left) if item != right[index])
        return _part(left[index], right[index], f"[{index}] of {path}")
    return f"{path} is {_shown(left)} and {_shown(right)}"


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and len(value) == 3 and isinstance(value[2], bytes):
        return f"an array {value[0]} {value[1]}"  # as comparable() writes one; its bytes say little
    return f"{value!r:.80}"


@check("behaviour", remedy="draw from random.Random(seed), made in reset(seed)" + _VARYING)
async def equal_seeds_give_equal_episodes(candidate: Candidate) -> None:
    """The same seed and actions give the same episode: in a new session, and in the same one."""
    async with candidate.session() as env:
        first = await trace(candidate, env)
        again = await trace(candidate, env)
    other = await played_alone(candidate)
    for found, where in ((other, "two sessions"), (again, "two episodes of a session")):
        difference = first_difference(first, found)
        require(difference is None, f"in {where} one seed differs: {difference}")


@check("behaviour", remedy="a generator for each episode: never random.seed() or np.random.seed()")
async def sessions_share_no_randomness(candidate: Candidate) -> None:
    """Sessions that run at once with one seed see one episode, whatever others draw."""
    alone = await played_alone(candidate)
    if first_difference(alone, await played_alone(candidate)) is not None:
        raise Skipped("one seed gives different episodes already, see the check before")

    async def one(seed: int, wanted: bool) -> None:
        async with candidate.session() as env:
            found = await trace(candidate, env, seed=seed)
        difference = first_difference(alone, found) if wanted else None
        require(difference is None, f"beside other sessions the seed differs: {difference}")

    async with asyncio.TaskGroup() as group:
        for seed in range(2):
            group.create_task(one(_SEED, True))
            group.create_task(one(_SEED + 1 + seed, False))


@check(
    "behaviour", remedy="keep what belongs to an episode on the instance, not on class or module"
)
async def sessions_are_isolated(candidate: Candidate) -> None:
    """The calls of one session change neither the state nor the episode of another."""
    async with candidate.session() as env, candidate.session() as other:
        await answered(env, "reset", **{**candidate.reset_options, "seed": _SEED})
        before = candidate.state(await answered(env, "state"))
        async for _ in play(candidate, other, seed=_SEED + 5, steps=5, choices=3):
            pass
        after = candidate.state(await answered(env, "state"))
        if before != after:
            raise CheckFailed(f"another's steps changed it: {_part(before, after, 'the state')}")
    alone = await played_alone(candidate)
    if first_difference(alone, await played_alone(candidate)) is not None:
        return
    async with candidate.session() as env, candidate.session() as other:
        beside: list[Any] = []
        disturbing = play(candidate, other, seed=_SEED + 5, steps=2 * _STEPS, choices=3)
        async for _, result in play(candidate, env, seed=_SEED, steps=_STEPS, choices=7):
            beside.append(candidate.turn(result))
            await anext(disturbing, None)
        await disturbing.aclose()  # type: ignore[attr-defined]  # an async generator
    difference = first_difference(alone, beside)
    require(difference is None, f"another's steps changed the episode: {difference}")
