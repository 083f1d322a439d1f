"""Legal actions: those that an environment lists are taken, and no others."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from openenv_async.checks.conformance.episodes import comparable
from openenv_async.checks.registry import CheckFailed, Skipped, check
from openenv_async.checks.validation.candidate import Candidate, Session, answered
from openenv_async.errors import InvalidAction, InvalidObservation
from openenv_async.schemas.fit import misfit
from openenv_async.schemas.legal import (
    LEGAL_KEY,
    Choices,
    choices_of,
    flat_mask,
    legal_actions,
    tells_legal,
)
from openenv_async.schemas.refs import resolved
from openenv_async.schemas.sample import sample
from openenv_async.types import StepResult

_EPISODES: Final = 3
_STEPS: Final = 30
_TRIES: Final = 20
"""Values that are drawn from an open schema to find one that is not listed."""

Moment = tuple[Session, StepResult[Any], Sequence[Any], random.Random]
"""A session, its last result, the actions that are legal, and what draws."""


async def _moments(candidate: Candidate) -> AsyncIterator[Moment]:
    """Play some episodes of listed actions; yield each moment before one is taken.

    Raises:
        CheckFailed: a listed action is refused, or what is told does not fit.
        Skipped: nothing is told.
    """
    schema = candidate.schema.get("action") or {}
    choices = choices_of(schema)
    found = False
    async with candidate.session() as env:
        for seed in range(_EPISODES):
            rng = random.Random(seed)
            result = await answered(env, "reset", seed=seed)
            for step in range(_STEPS):
                if result.done:
                    break
                listed = _listed(result, choices, step, tells_legal(schema))
                if listed is None:
                    break
                found = True
                yield env, result, listed, rng
                action = rng.choice(listed)
                try:
                    result = await answered(env, "step", action)
                except InvalidAction as exc:
                    raise CheckFailed(
                        f"after {step} steps {action!r:.120} was listed and refused: {exc.message}"
                    ) from exc
    if not found:
        raise Skipped("the environment does not tell which actions are legal")


def _listed(
    result: StepResult[Any], choices: Choices | None, step: int, declared: bool
) -> Sequence[Any] | None:
    try:
        return legal_actions(result.info, choices, "it", declared=declared)
    except InvalidObservation as exc:
        raise CheckFailed(f"after {step} steps {exc.message}") from exc


@check("behaviour", remedy="let legal_actions() list what step() takes at that moment")
async def legal_actions_are_taken(candidate: Candidate) -> None:
    """Each action that is listed as legal is taken; a mask has an entry for each action."""
    async for _ in _moments(candidate):
        pass


@check("behaviour", remedy="raise InvalidAction in step() for what legal_actions() leaves out")
async def other_actions_are_refused(candidate: Candidate) -> None:
    """An action that is not listed as legal is refused, and the episode stays where it was."""
    schema = candidate.schema.get("action") or {}
    if schema.get(LEGAL_KEY) is not True:
        raise Skipped("the environment does not promise to refuse other actions")
    choices = choices_of(schema)
    tried = False
    async for env, result, listed, rng in _moments(candidate):
        action = _unlisted(schema, choices, result.info, listed, rng)
        if action is _NONE:
            continue
        tried = True
        try:
            await answered(env, "step", action)
        except InvalidAction:
            continue
        raise CheckFailed(f"{action!r:.120} was not listed as legal, and taken")
    if not tried:
        raise Skipped("every action of the schema is legal at every moment that was seen")


_NONE: Final = object()


def _unlisted(
    schema: Mapping[str, Any],
    choices: Choices | None,
    info: Mapping[str, Any],
    listed: Sequence[Any],
    rng: random.Random,
) -> Any:
    """Return an action of the schema that is not legal; ``_NONE`` where none is found."""
    always = _always(schema)
    mask = None
    if choices is not None:
        told = info.get("action_mask")
        mask = choices.mask_of(listed) if told is None else flat_mask(told)
    if choices is not None and mask is not None and len(mask) == choices.width:
        wrong, place = [], 0
        for number, part in enumerate(choices.parts):
            wrong += [(number, value) for i, value in enumerate(part) if not mask[place + i]]
            place += len(part)
        wrong = [each for each in wrong if always is None or misfit(each[1], always) is not None]
        if not wrong:
            return _NONE
        number, value = rng.choice(wrong)
        values = [rng.choice(part) for part in choices.parts]
        values[number] = value
        return choices.action(values)
    known = [comparable(each) for each in listed]
    for _ in range(_TRIES):
        try:
            action = sample(schema, rng)
        except ValueError:
            break
        if comparable(action) not in known and (always is None or misfit(action, always)):
            return action
    return _NONE


def _always(schema: Mapping[str, Any]) -> Any:
    """Return the schema of values that make sense at every moment; ``None`` where there is none."""
    found = resolved(schema, schema)
    if not isinstance(found, Mapping):
        return None
    if "x-sample" in found:
        return found["x-sample"]
    parts = found.get("properties", {}).values()
    said = [part["x-sample"] for part in parts if isinstance(part, Mapping) and "x-sample" in part]
    return said[0] if said else None
