"""Validation as a whole: results, what cannot be checked, and what both checkers say."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any

import pytest

from openenv_async import Environment, EnvPool, GenericEnvClient, serve
from openenv_async.checks.validation import CHECKS, Result, legal, tasks, validate
from openenv_async.client.loop_thread import LoopThread
from openenv_async.errors import InvalidAction, InvalidOption, TargetNotFound
from openenv_async.testing import check_environment
from tests.checks.validation.broken import BROKEN, RaisesInStep, RewardsNothingFinite
from tests.checks.validation.caught import names_of

MODULE = "tests.checks.validation.broken"
BEHAVIOUR = [name for name, check in CHECKS.items() if check.kind == "behaviour"]


def by_name(results: list[Result]) -> dict[str, Result]:
    return {result.name: result for result in results}


async def test_a_call_that_fails_in_every_check_is_mended_once() -> None:
    async with serve(RaisesInStep) as url:
        results = await validate(url)
    first, *others = (result for result in results if result.status == "failed")
    assert first.name == "episodes_run_over_native_msgpack"
    assert first.remedy == CHECKS[first.name].remedy
    assert len(others) > 10
    for result in others:
        if result.name != "episodes_run_over_upstream":  # its errors are texts
            assert result.remedy.startswith(f"mend what {first.name} found"), result


async def test_equal_rewards_that_are_no_number_are_equal() -> None:
    async with serve(RewardsNothingFinite) as url:
        results = await validate(url)
    assert [result.name for result in results if result.status == "failed"] == [
        "rewards_are_numbers"
    ]
    checked = await check_environment(RewardsNothingFinite)
    assert {r.name for r in checked if r.status == "failed"} == {"rewards_are_numbers"}


@pytest.mark.parametrize("name", ["Good", "Counts"])
async def test_a_good_environment_fails_nothing(name: str) -> None:
    seen: list[Result] = []
    results = await validate(f"{MODULE}:{name}", on_result=seen.append)
    assert [result for result in results if result.status == "failed"] == []
    assert seen == results
    assert {r.name for r in results} == {*CHECKS, "the_server_starts"}
    passed = {result.name for result in results if result.status == "passed"}
    silent = names_of(tasks)  # neither declares any
    silent |= names_of(legal) if name == "Good" else set()  # it does not tell what is legal
    quick = {"deadlines_are_honoured", "cancelling_is_honoured"}
    assert passed >= set(BEHAVIOUR) - quick - silent


async def test_actions_and_varying_fields_can_be_told() -> None:
    [cls] = [cls for cls in BROKEN if cls.__name__ == "IgnoresItsSeed"]
    async with serve(cls) as url:
        names = ["equal_seeds_give_equal_episodes"]
        good = await validate(url, names=names, varying=["numbers"], actions=[{"by": 1}])
        bad = await validate(url, names=["rewards_are_numbers"], actions=[{"by": "far"}])
    assert good[-1].status == "passed"
    # A refused action is not a failure; where all were refused, nothing was seen of the rewards.
    assert bad[-1].status == "skipped"
    assert "by" in bad[-1].reason


async def test_what_is_not_there_is_said() -> None:
    with pytest.raises(InvalidOption, match="there is no check 'nothing'"):
        await validate("echo", names=["nothing"])
    with pytest.raises(TargetNotFound, match="there is no environment 'no-such-thing'"):
        await validate("no-such-thing")


async def test_a_server_that_does_not_start_is_a_finding() -> None:
    results = by_name(await validate(f"{MODULE}:Good", params={"color": 1}))
    assert results["the_server_starts"].status == "failed"
    assert "color" in results["the_server_starts"].reason
    assert results["rewards_are_numbers"].status == "skipped"


# -- what the two checkers say of one environment ------------------------------------------------


class BlocksInOneStep(Environment[Any, dict[str, Any], Any]):
    """Async, and computes for long in the only step of its episodes."""

    async def reset(self) -> dict[str, Any]:
        return {"ready": True}

    async def step(self, action: int) -> dict[str, Any]:
        time.sleep(0.4)  # noqa: ASYNC251  # which is what is to be found
        return {"ready": False, "done": True}


class RefusesAll(Environment[Any, dict[str, Any], Any]):
    """An environment that takes only one word, which is never drawn."""

    def reset(self) -> dict[str, Any]:
        return {"say": "please"}

    def step(self, action: str) -> dict[str, Any]:
        if action != "please":
            raise InvalidAction(f"say please, not {action!r:.20}")
        return {"say": "thanks", "reward": 1.0}


class RefusesSome(RefusesAll):
    """An environment that refuses about half of the actions that its schema allows."""

    def step(self, action: str) -> dict[str, Any]:
        if len(action) % 2:
            raise InvalidAction("an even number of letters")
        return {"say": "thanks", "reward": 1.0}


class TellsTheTime(RefusesAll):
    """Its observations have the time of day, and a duration."""

    def step(self, action: str) -> dict[str, Any]:
        return {"at": time.time(), "took": time.perf_counter()}


class GivesText(RefusesAll):
    """Its reward is text."""

    def step(self, action: str) -> dict[str, Any]:
        return {"reward": "much"}


class GivesATuple(RefusesAll):
    """An environment that returns what Gymnasium's do, and is none of them."""

    def step(self, action: str) -> Any:
        return {"say": ""}, 1.0, False, False, {}


class GivesNoNumber(RefusesAll):
    """Its reward is not a number."""

    def step(self, action: str) -> dict[str, Any]:
        return {"reward": float("nan")}


AGREED: list[tuple[Any, set[str], dict[str, Any]]] = [
    (BlocksInOneStep, {"slow_calls_delay_nobody"}, {}),
    (RefusesAll, set(), {}),
    (RefusesAll, set(), {"actions": ["please"]}),
    (RefusesSome, set(), {}),
    (TellsTheTime, set(), {"varying": ["took"]}),
    (TellsTheTime, {"equal_seeds_give_equal_episodes"}, {}),
    (GivesText, {"rewards_are_numbers"}, {}),
    (GivesATuple, {"the_end_is_respected"}, {}),
    (GivesNoNumber, {"rewards_are_numbers"}, {}),
]


@pytest.mark.parametrize(("cls", "wrong", "options"), AGREED)
async def test_both_checkers_fail_the_same_environments(
    cls: Any, wrong: set[str], options: dict[str, Any]
) -> None:
    found = []
    found.append(await check_environment(cls, **options))
    thread = LoopThread()  # not this loop, which an environment that blocks would block
    server = serve(cls)
    url = await asyncio.to_thread(thread.run, server.__aenter__())
    try:
        found.append(await validate(url, sessions=4, **options))
    finally:
        await asyncio.to_thread(thread.run, server.__aexit__(None, None, None))
        await asyncio.to_thread(thread.stop)
    for results in found:
        failed = {result.name: result.reason for result in results if result.status == "failed"}
        assert failed.keys() >= wrong, failed
        assert bool(failed) == bool(wrong), failed
    if cls is RefusesAll and not options:
        for results in found:
            told = [result.reason for result in results if "every action" in result.reason]
            assert told
            assert all("say please" in reason for reason in told)


async def test_checks_of_the_folder_need_no_server() -> None:
    results = await validate(f"{MODULE}:Good", names="files_are_there")
    assert [(each.name, each.subject, each.status) for each in results] == [
        ("files_are_there", "folder", "skipped")
    ]


async def test_several_servers_are_checked_one_by_one() -> None:
    async with serve(RewardsNothingFinite) as bad, serve(RefusesSome) as good:
        results = await validate([bad, good], names=["rewards_are_numbers"])
    assert [(each.subject, each.name, each.status) for each in results] == [
        (f"server {bad}", "the_server_starts", "passed"),
        (f"server {bad}", "rewards_are_numbers", "failed"),
        (f"server {good}", "the_server_starts", "passed"),
        (f"server {good}", "rewards_are_numbers", "passed"),
    ]


async def test_clients_and_pools_are_validated_at_their_servers() -> None:
    async with serve(RewardsNothingFinite) as url, EnvPool.from_urls(url) as pool:
        for target in (pool, GenericEnvClient(url), functools.partial(GenericEnvClient, url)):
            results = await validate(target, names=["rewards_are_numbers"])
            assert [each.status for each in results] == ["passed", "failed"]
