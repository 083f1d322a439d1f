"""Each environment whose scores are broken is caught by the line that names its fault."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from openenv_async.checks.certify import certify
from tests.checks.certify import broken
from tests.checks.certify.catching import certified, failed

CAUGHT = {
    broken.RefusesTheRightAnswer: ("the_oracle_solves_it", "the oracle is paid 0"),
    broken.FlipsCoins: ("guesses_fail", "more than 25% of the way from 0"),
    broken.PaysIdlers: ("doing_nothing_fails", "doing nothing is paid 0.5"),
    broken.HasAFavourite: ("constants_score_at_chance", "always the answer 'teal' is paid"),
    broken.LooksForTheAnswer: ("echoing_the_prompt_scores_at_chance", "is paid 1"),
    broken.PaysWhatItCannotRead: ("nonsense_scores_at_chance", "nonsense is paid"),
    broken.TakesTheEmptyAnswer: ("ending_at_once_scores_at_chance", "is paid 1"),
    broken.PaysAgain: ("repeating_what_was_paid_scores_at_chance", "repeating what was paid is"),
    broken.TrustsTheOutput: ("cheats_score_at_chance", "forges_the_verdict is paid 1"),
    broken.StopsAtAnExit: ("cheats_score_at_chance", "exits is paid 1"),
    broken.PaysTheClumsy: ("skill_is_paid", "do not rise with skill: guesses 1"),
    broken.IsOneTask: ("difficulty_is_spread", "solves all tasks or none"),
}


@pytest.mark.parametrize(("cls", "line"), CAUGHT.items(), ids=lambda each: str(each)[:60])
async def test_it_is_caught_by_name(cls: type[broken.Good], line: tuple[str, str]) -> None:
    found = await failed(cls, line[0])
    assert list(found) == [line[0]]
    assert line[1] in found[line[0]]


async def test_an_answer_with_every_option_is_caught() -> None:
    [reason] = (await failed(broken.LooksForTheAnswer, ANSWERS_ALL)).values()
    assert "answering every option is paid 1" in reason


ANSWERS_ALL = "answering_every_option_scores_at_chance"


class CostsTheClumsy(broken.Good):
    """Code that fails costs something; a wrong answer is paid nothing."""

    def grade(self, text: str) -> float:
        return -0.5 if text == "fails" else text == self.answer


class CostsTheWrong(broken.Good):
    """A right answer is paid 1, a wrong one costs 1; guesses are right half of the time."""

    def grade(self, text: str) -> float:
        return 1.0 if text == "1" else -1.0


class PaysAnything(broken.Good):
    """Any answer is paid something."""

    def grade(self, text: str) -> float:
        return 1.0 if text == self.answer else 0.5


@pytest.mark.parametrize(
    ("cls", "low", "options", "reason"),
    [
        (CostsTheClumsy, -0.5, 1000, None),
        (CostsTheWrong, -1.0, 2, "more than 25% of the way from -1"),
        (PaysAnything, 0.0, 1000, "more than 25% of the way from 0"),
    ],
)
async def test_penalties_that_no_guess_incurs_are_not_counted_for_it(
    cls: type[broken.Good], low: float, options: int, reason: str | None
) -> None:
    def guess(observation: object, turn: Any) -> broken.Answer:
        return broken.Answer(str(turn.index % options))

    stated = dataclasses.replace(broken.STATED, return_range=(low, 1.0), guess=guess)
    certificate = await certify(cls, declaration=stated, names=["guesses_fail"], episodes=16)
    [result] = certificate.results
    assert (reason or "chance 0") in (result.reason or certificate.figures["guesses_fail"])


async def test_levels_that_are_alike_are_caught() -> None:
    stated = broken.Certification(
        return_range=(0.0, 1.0),
        skills={"multiplies": broken.multiplies},
        levels={
            "easy": {"question": "20 times 10?", "answer": "200"},
            "hard": {"question": "23 times 17?", "answer": "391"},
        },
    )
    certificate = await certify(
        broken.Good, declaration=stated, names=["difficulty_is_spread"], episodes=4
    )
    [result] = certificate.results
    assert result.reason == "no level is easier than another: multiplies: easy 1, hard 1"
    spread = broken.Certification(
        return_range=stated.return_range,
        skills={"zeros": broken.appends_a_zero},
        levels=stated.levels,
    )
    certificate = await certify(
        broken.Good, declaration=spread, names=["difficulty_is_spread"], episodes=4
    )
    assert certificate.figures == {"difficulty_is_spread": "zeros: easy 1, hard 0"}


async def test_a_policy_that_fails_is_a_finding() -> None:
    def breaks(observation: object) -> object:
        raise LookupError("no such thing")

    stated = broken.Certification(return_range=(0.0, 1.0), cheats={"breaks": breaks})
    certificate = await certified(broken.Good, "cheats_score_at_chance", declaration=stated)
    assert "no such thing" in certificate.results[0].reason


async def test_without_statements_scores_are_not_shown() -> None:
    certificate = await certified(broken.Good, declaration=broken.NOT_STATED)
    skipped = {result.name: result.reason for result in certificate.of("skipped")}
    assert skipped["the_oracle_solves_it"] == "the environment states no oracle"
    assert skipped["guesses_fail"] == "the environment states no oracle_needs"
    assert skipped["doing_nothing_fails"] == "the environment states no return_range"
    assert skipped["nonsense_scores_at_chance"] == "the environment states no answer"
    assert skipped["cheats_score_at_chance"] == "the environment states no cheats"
    assert not certificate.of("failed")
    assert certificate.verdict == "not shown"
