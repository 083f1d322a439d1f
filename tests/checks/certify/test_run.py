"""A certificate: its lines, verdict and digest, of classes, servers and statements of others."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from openenv_async import Environment, serve
from openenv_async.checks.certify import CHECKS, certify
from openenv_async.errors import InvalidModel, InvalidOption
from tests.checks.certify import broken
from tests.checks.certify.catching import certified
from tests.checks.certify.test_episodes import CAUGHT as EPISODES
from tests.checks.certify.test_episodes import IN_PROCESSES
from tests.checks.certify.test_scores import CAUGHT as SCORES


async def test_the_good_one_passes_every_line() -> None:
    certificate = await certified(broken.Good)
    alone = ["seeds_decide_across_processes", "sessions_leave_nothing_behind"]
    assert [result.name for result in certificate.of("skipped")] == alone
    assert {result.name for result in certificate.of("passed")} == {*CHECKS} - {*alone}
    assert certificate.results[-1].name == "rewards_are_in_range"
    assert certificate.verdict == "passed"
    assert certificate.figures["the_oracle_solves_it"] == "1 (of 32 episodes), needs 0.98"
    assert certificate.digest_of == "source"
    again = await certified(broken.Good, "the_oracle_solves_it")
    assert again.digest == certificate.digest


def test_there_are_ten_that_are_broken_and_five_were_reported() -> None:
    classes = {
        cls
        for _, cls in inspect.getmembers(broken, inspect.isclass)
        if issubclass(cls, broken.Good) and cls is not broken.Good
    }
    elsewhere = {
        broken.ShowsItsState,
        broken.TellsInTheInfo,
        broken.LeavesItsTestsAbout,
        broken.PaysTooMuch,
    }
    assert classes == {*SCORES, *EPISODES, *IN_PROCESSES, *elsewhere}
    assert len(classes) >= 10
    assert len([cls for cls in classes if "https://github.com/" in (cls.__doc__ or "")]) >= 5


async def test_of_a_server_what_its_tasks_hide_is_not_shown() -> None:
    async with serve(broken.Good) as url:
        certificate = await certified(url, declaration=broken.STATED, episodes=8)
    results = {result.name: result for result in certificate.results}
    assert results["doing_nothing_fails"].status == "passed"
    assert results["skill_is_paid"].status == "passed"
    assert results["seeds_decide_beside_others"].status == "passed"
    for name in ("answers_stay_hidden", "seeds_decide_across_processes"):
        assert results[name].status == "skipped"
    assert certificate.digest_of == "server"


async def test_of_a_server_without_statements_there_is_no_verdict() -> None:
    async with serve(broken.Good) as url:
        certificate = await certified(url, "the_oracle_solves_it", "seeds_decide_the_episode")
    assert [result.status for result in certificate.results] == ["skipped", "passed"]
    assert certificate.verdict == "not shown"
    assert not certificate.is_passed


async def test_lines_and_statements_that_make_no_sense() -> None:
    with pytest.raises(InvalidOption, match="there is no check 'all_is_well'"):
        await certify(broken.Good, names=["all_is_well"])

    class States(broken.Good):
        certification = "good"  # type: ignore[assignment] # it is refused

    with pytest.raises(InvalidModel, match="the certification of States is 'good', not a Cert"):
        await certify(States)


class Sized(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """An environment that pays as much as its argument says."""

    isolation = "inline"

    def __init__(self, pay: float = 0.0) -> None:
        self.pay = pay

    @classmethod
    def certification_for(cls, **params: Any) -> broken.Certification:
        return broken.Certification(
            oracle=lambda observation: {}, return_range=(0.0, 1.0), params={"pay": 1.0}
        )

    def reset(self) -> dict[str, Any]:
        return {}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return {"reward": self.pay, "done": True}


@pytest.mark.parametrize(("params", "verdict"), [(None, "passed"), ({"pay": 0.5}, "failed")])
async def test_it_is_certified_with_its_own_arguments_unless_others_are_given(
    params: dict[str, float] | None, verdict: str
) -> None:
    certificate = await certified(Sized, "the_oracle_solves_it", params=params)
    assert certificate.verdict == verdict
    assert certificate.params == {"pay": 1.0, **(params or {})}
