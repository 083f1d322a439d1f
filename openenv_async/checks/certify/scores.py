"""Lines of a certificate on scores: solving pays, and nothing else does."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final

from openenv_async.checks.certify import panel
from openenv_async.checks.certify.subject import TOLERANCE, Returns, Subject, score_of
from openenv_async.checks.registry import CheckFailed, Skipped, check, require
from openenv_async.errors import InvalidModel
from openenv_async.rollouts.policies import bind

__all__ = ["LANGUAGE_CHANCE"]

LANGUAGE_CHANCE: Final = 0.25
"""The part of the way from nothing to the highest return that guesses may be paid in texts."""
_APART: Final = 0.1
"""The part of the range of returns by which guesses must lie below what the oracle needs."""
_SPREAD: Final = 0.1
"""The part of the range by which the easiest level must be solved better than the hardest."""
_MANY: Final = 3
"""Constants that are named in a finding."""

_PAYS = "pay for the solution alone: look at what the grader compares, and at shaping rewards"


async def _stays_at_chance(subject: Subject, policies: Mapping[str, Any]) -> str:
    """Return what was measured of policies that must not be paid; told as a finding if one is."""
    limit, chance = await subject.limit(), await subject.chance()
    scores: dict[str, Returns] = {}
    for name, policy in policies.items():
        try:
            scores[name] = await subject.measured(policy, limit)
        except CheckFailed as exc:
            raise CheckFailed(f"{name}: {exc}") from exc
    paid = {name: score for name, score in scores.items() if score.exceeds(limit)}
    worst = sorted(paid, key=lambda name: -paid[name].mean)[:_MANY]
    told = "; ".join(f"{name} is paid {scores[name]}" for name in worst)
    require(not paid, f"{told}, where chance is {chance:.3g} and {limit:.3g} is the most")
    best = max(scores, key=lambda name: scores[name].mean)
    label = "" if len(scores) == 1 else f"; the best of {len(scores)} is {best}"
    return f"{scores[best]}, chance {chance:.3g}{label}"


def _made(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except InvalidModel as exc:
        raise Skipped(exc.message) from exc


# -- the oracle, nothing and chance ------------------------------------------------------------


@check("certificate", remedy="play one task by the oracle and look at what the grader says to it")
async def the_oracle_solves_it(subject: Subject) -> None:
    """The policy that knows the answers reaches the return that it must."""
    oracle, needed = subject.needed("oracle"), subject.needed("oracle_needs")
    found = await subject.measured(oracle, needed, privileged=True)
    subject.note(the_oracle_solves_it, f"{found}, needs {needed:.3g}")
    require(found.mean >= needed, f"the oracle is paid {found}, and needs {needed:.3g}")


@check("certificate", remedy=_PAYS)
async def guesses_fail(subject: Subject) -> None:
    """Valid answers at random are paid clearly less than the oracle needs."""
    needed, span = subject.needed("oracle_needs"), subject.span
    high = float(subject.needed("return_range")[1])
    chance, low = await subject.chance(), await subject.nothing()
    subject.note(guesses_fail, f"chance {chance:.3g}")
    require(
        chance <= needed - _APART * span,
        f"guesses are paid {chance:.3g}, where the oracle needs {needed:.3g}",
    )
    part = (chance - low) / (high - low)
    require(
        subject.statements.answer is None or part <= LANGUAGE_CHANCE,
        f"guesses are paid {chance:.3g}, more than {LANGUAGE_CHANCE:.0%} of the way from"
        f" {low:g}: make answers longer, or offer more options",
    )


@check("certificate", remedy=_PAYS)
async def random_actions_fail(subject: Subject) -> None:
    """Actions drawn from the schema are paid no more than guesses."""
    policies = {"a random policy": subject.random()}
    subject.note(random_actions_fail, await _stays_at_chance(subject, policies))


@check("certificate", remedy=_PAYS)
async def doing_nothing_fails(subject: Subject) -> None:
    """Doing nothing to the end is paid no more than guesses."""
    policy = _made(lambda: panel.does_nothing(subject))
    subject.note(doing_nothing_fails, await _stays_at_chance(subject, {"doing nothing": policy}))


@check(
    "certificate",
    remedy="balance the answers, and give no reward for an action that fits every task",
)
async def constants_score_at_chance(subject: Subject) -> None:
    """One action, repeated in every episode, is paid no more than guesses."""
    answers: list[str] = []

    def reads(observation: Any, turn: Any) -> Any:
        if turn.t == 0:
            answers.extend(subject.secrets_of(turn)[:1])
        return guess(observation, turn)

    stated = subject.statements
    if stated.answer is not None:
        guess = bind(subject.guess(), 0)
        with contextlib.suppress(CheckFailed):  # another line tells of it
            await subject.play(reads, subject.episodes, max_steps=1)
    actions = _made(lambda: panel.constants(subject, answers))
    if not actions:
        raise Skipped("no constants are known: the environment states none, nor an answer")
    policies = {
        f"always {name}": (lambda observation, action=action: action)
        for name, action in actions.items()
    }
    subject.note(constants_score_at_chance, await _stays_at_chance(subject, policies))


# -- cheats ------------------------------------------------------------------------------------


@check("certificate", remedy="compare the whole answer, not whether it contains the right one")
async def echoing_the_prompt_scores_at_chance(subject: Subject) -> None:
    """An answer that repeats what was seen is paid no more than guesses."""
    policies = {"echoing the prompt": panel.echo(subject)}
    subject.note(echoing_the_prompt_scores_at_chance, await _stays_at_chance(subject, policies))


@check("certificate", remedy="take one answer: refuse lists, or divide by what they list")
async def answering_every_option_scores_at_chance(subject: Subject) -> None:
    """An answer that has every option in it is paid no more than guesses."""
    policies = {"answering every option": panel.every_option(subject)}
    subject.note(answering_every_option_scores_at_chance, await _stays_at_chance(subject, policies))


@check("certificate", remedy="an answer that cannot be read must be paid nothing")
async def nonsense_scores_at_chance(subject: Subject) -> None:
    """Letters at random as the answer are paid no more than guesses."""
    policies = {"nonsense": panel.nonsense(subject)}
    subject.note(nonsense_scores_at_chance, await _stays_at_chance(subject, policies))


@check("certificate", remedy="an empty answer must be paid nothing, and compare equal to nothing")
async def ending_at_once_scores_at_chance(subject: Subject) -> None:
    """An empty answer as the first action is paid no more than guesses."""
    action = subject.needed("answer")("")
    policies = {"ending at once": lambda observation: action}
    subject.note(ending_at_once_scores_at_chance, await _stays_at_chance(subject, policies))


@check("certificate", remedy="pay a state once: an action that is repeated must not earn again")
async def repeating_what_was_paid_scores_at_chance(subject: Subject) -> None:
    """Repeating the action that was paid last is paid no more than guesses."""
    policies = {"repeating what was paid": panel.Repeats(subject.guess())}
    subject.note(
        repeating_what_was_paid_scores_at_chance, await _stays_at_chance(subject, policies)
    )


@check("certificate", remedy="keep tests and grader where the agent's code does not run")
async def cheats_score_at_chance(subject: Subject) -> None:
    """The cheats that the environment names, such as patching its grader, are not paid."""
    cheats = subject.statements.cheats
    if not cheats:
        raise Skipped("the environment states no cheats")
    subject.note(cheats_score_at_chance, await _stays_at_chance(subject, cheats))


# -- skill and difficulty ----------------------------------------------------------------------


@check("certificate", remedy="look at the tasks that the weaker policy is paid for")
async def skill_is_paid(subject: Subject) -> None:
    """The scripted policies are paid in the order of their skill."""
    skills = subject.statements.skills
    if len(skills) < 2:
        raise Skipped("the environment states fewer than two skills")
    scores = {name: await subject.measured(policy) for name, policy in skills.items()}
    told = ", ".join(f"{name} {score}" for name, score in scores.items())
    subject.note(skill_is_paid, told)
    means = [score.mean for score in scores.values()]
    rising = all(one < other for one, other in itertools.pairwise(means))
    require(rising, f"the scores do not rise with skill: {told}")


@check("certificate", remedy="let levels change what makes a task hard, and mix them")
async def difficulty_is_spread(subject: Subject) -> None:
    """Tasks differ in difficulty: a scripted policy solves the easy ones better than the hard."""
    stated = subject.statements
    if not stated.skills:
        raise Skipped("the environment states no skills to measure difficulty with")
    if not stated.levels and subject.split is None:
        raise Skipped("the environment has no tasks and states no levels: it is one task")
    span = subject.span
    if stated.levels:
        told: list[str] = []
        for name, policy in stated.skills.items():
            scores = {
                level: await subject.measured(policy, options=options)
                for level, options in stated.levels.items()
            }
            told.append(f"{name}: " + ", ".join(f"{k} {v.mean:.3g}" for k, v in scores.items()))
            means = [score.mean for score in scores.values()]
            if means[0] - means[-1] >= _SPREAD * span:
                subject.note(difficulty_is_spread, told[-1])
                return
        raise CheckFailed(f"no level is easier than another: {'; '.join(told)}")
    low = stated.return_range[0]  # type: ignore[index]  # span has found it
    for name, policy in stated.skills.items():
        outcomes = await subject.play(policy, 2 * subject.episodes)
        parts = [(score_of(outcome) - low) / span for outcome in outcomes]
        solved = sum(part >= 1 - TOLERANCE for part in parts) / len(parts)
        if TOLERANCE < solved < 1 - TOLERANCE or max(parts) - min(parts) >= 0.5 > solved > 0:
            text = f"{name} solves {solved:.0%} of the tasks"
            subject.note(difficulty_is_spread, text)
            return
    raise CheckFailed("every scripted policy solves all tasks or none")
