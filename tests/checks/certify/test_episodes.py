"""Rewards out of range, seeds that decide nothing and what sessions leave are caught by name."""

from __future__ import annotations

import os
import tempfile

import pytest

from openenv_async import StepResult
from tests.checks.certify import broken
from tests.checks.certify.catching import certified, failed

CAUGHT = {
    broken.KeepsItsSteps: ("episodes_begin_anew", "after other episodes of its session"),
    broken.SharesItsGenerator: ("seeds_decide_beside_others", "the seed differs"),
    broken.PaysByLuck: ("rewards_belong_to_steps", "when the same actions were taken again"),
}
IN_PROCESSES = {
    broken.DrawsFromASet: ("seeds_decide_across_processes", "in two processes one seed differs"),
    broken.LeavesFiles: ("sessions_leave_nothing_behind", "8 files lef… in the folder of temp"),
}


@pytest.mark.parametrize(("cls", "line"), CAUGHT.items(), ids=lambda each: str(each)[:60])
async def test_it_is_caught_by_name(cls: type[broken.Good], line: tuple[str, str]) -> None:
    found = await failed(cls, line[0])
    assert list(found) == [line[0]]
    assert line[1] in found[line[0]]


@pytest.mark.parametrize(("cls", "line"), IN_PROCESSES.items(), ids=lambda each: str(each)[:60])
async def test_it_is_caught_in_processes_of_its_own(
    cls: type[broken.Good], line: tuple[str, str]
) -> None:
    found = await failed(f"{cls.__module__}:{cls.__name__}", line[0])
    assert list(found) == [line[0]]
    assert line[1] in found[line[0]]
    left = [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("leftbybroken")]
    assert not left, "the server has a folder of its own, which is removed"


@pytest.mark.heavy
async def test_the_good_one_passes_in_processes_of_its_own() -> None:
    lines = [line for line, _ in IN_PROCESSES.values()]
    certificate = await certified("tests.checks.certify.broken:Good", *lines)
    assert certificate.verdict == "passed"


async def test_a_reward_out_of_range_is_found_in_all_that_was_played() -> None:
    found = await failed(broken.PaysTooMuch, "rewards_are_in_range", "the_oracle_solves_it")
    told = "rewards lie from 0 to 1.25, where 0 to 1 is stated"
    assert found == {"rewards_are_in_range": told.replace("from 0", "from 1.25")}


class ParsesWrong(broken.Good):
    """Its recorded parts do not make its reward."""

    def step(self, action: broken.Answer) -> StepResult[broken.Seen]:
        info = {"reward_parts": {"reward": 0.5, "style": 0.5}}
        return StepResult(broken.Seen(""), reward=0.0, terminated=True, info=info)


class PaysTheReset(broken.Good):
    def reset(  # type: ignore[override] # it says more
        self, question: str, answer: str, seed: int = 0
    ) -> StepResult[broken.Seen]:
        self.answer = answer
        return StepResult(broken.Seen(question), reward=1.0)


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (ParsesWrong, "the parts of the reward of step 0 say 0.5, and it is 0.0"),
        (PaysTheReset, "reset() gives the reward 1.0, before any step"),
    ],
)
async def test_rewards_that_belong_to_no_step(cls: type[broken.Good], reason: str) -> None:
    assert await failed(cls, "rewards_belong_to_steps") == {"rewards_belong_to_steps": reason}
