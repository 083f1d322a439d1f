"""Lines of a certificate on secrets: the answer is nowhere where the agent can read it.

Rules:

- A secret of an episode is looked for, as whole words, in all that its agent is told before the
  episode is over. One that is found by accident is found in other episodes as well: a secret counts
  as shown when its own episode has it clearly more often than the others.
- A text of ``_DISTINCT`` characters or more that no other episode has is shown if found once.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from openenv_async.checks.certify.subject import Subject
from openenv_async.checks.registry import Skipped, check, require
from openenv_async.checks.validation.candidate import answered
from openenv_async.checks.validation.tasks import private_columns_stay_private
from openenv_async.errors import OpenEnvError
from openenv_async.rollouts.policies import Turn, bind

__all__ = ["Seen", "described", "shown"]

_DISTINCT: Final = 8
_SURE: Final = 3.0
_WRONG: Final[tuple[Any, ...]] = ({"no_such_field_": [1, {}]}, "no such action", -1)
"""Actions that most environments refuse, to read what they say."""
_STEPS: Final = 50
"""Steps of an episode that are read."""
_STATES: Final = 16
"""Episodes whose state is read."""
_MOST: Final = 400_000
"""Characters of an episode that are looked at."""


@dataclass
class Seen:
    """All that one episode told its agent, by the kind of place, and its secrets."""

    secrets: list[str]
    texts: dict[str, str] = field(default_factory=dict)

    def add(self, place: str, value: Any) -> None:
        self.texts[place] = (self.texts.get(place, "") + "\n" + _text(value))[:_MOST]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        return repr(value)


def shown(seen: list[Seen]) -> str | None:
    """Return where secrets are shown, with one of them; ``None`` where none is."""
    for place in sorted({place for each in seen for place in each.texts}):
        there = [each for each in seen if place in each.texts]
        texts = [each.texts[place] for each in there]
        own, chance, found = 0, 0.0, ""
        for number, each in enumerate(there):
            hits = [secret for secret in each.secrets if _has(texts[number], secret)]
            if not hits:
                continue
            others = [
                any(_has(text, secret) for secret in hits)
                for other, text in enumerate(texts)
                if other != number and not set(hits) & set(there[other].secrets)
            ]
            rate = sum(others) / len(others) if others else 0.0
            if not rate and max(map(len, hits)) >= _DISTINCT:
                return f"{place} shows the answer, such as {max(hits, key=len)!r:.60}"
            own, chance, found = own + 1, chance + rate, hits[0]
        count = len(there)
        expected = chance + _SURE * math.sqrt(max(chance, 0.25))
        if own >= 3 and own > expected and own - chance > 0.05 * count:
            return (
                f"{place} shows the answer in {own} of {count} episodes, such as {found!r:.60}"
                f" ({chance:.1f} by accident)"
            )
    return None


def _has(text: str, secret: str) -> bool:
    if secret not in text:
        return False
    return re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text) is not None


async def _seen(subject: Subject, actions: Any = None) -> list[Seen]:
    """Play episodes by guesses, or with some actions, and return what their agents were told."""
    seen: dict[int, Seen] = {}
    guess = bind(subject.guess(), 0) if actions is None else None

    def policy(observation: Any, turn: Turn) -> Any:
        found = seen.get(turn.index)
        if found is None:
            found = seen[turn.index] = Seen(subject.secrets_of(turn))
            found.add("the task's listing", {} if turn.task is None else turn.task.data)
        if turn.mistake is not None:
            found.add("an error", turn.mistake.message)
        else:
            found.add("an observation", observation)
            found.add("the info", turn.result.info)
        if actions is not None:
            return actions[min(turn.t, len(actions) - 1)]
        if turn.t == 0 and turn.mistake is None and not subject.candidate.is_upstream:
            return _WRONG[turn.index % len(_WRONG)]
        assert guess is not None
        return guess(observation, turn)

    await subject.play(policy, subject.episodes, max_steps=len(actions) + 1 if actions else _STEPS)
    for each in seen.values():
        each.add("what the server tells of itself", subject.about)
    return list(seen.values())


async def _states(subject: Subject) -> list[Seen]:
    """Begin episodes, and return what their states tell."""
    seen = []
    async with subject.candidate.session() as env:
        for number in range(min(subject.episodes, _STATES)):
            options = dict(subject.candidate.reset_options)
            task = subject.listing[number % len(subject.listing)] if subject.listing else None
            if task is not None:
                options |= task.reset_options
            result = await answered(env, "reset", **{**options, "seed": number})
            found = Seen(subject.secrets_of(Turn(number, 0, env.episode, result, task=task)))
            found.add("the state", await answered(env, "state"))
            seen.append(found)
    return seen


def _need_secrets(seen: list[Seen]) -> None:
    if not any(each.secrets for each in seen):
        raise Skipped("no episode has a secret")


@check(
    "certificate",
    remedy="keep the answer out of observations, info and messages until the episode has ended;"
    " where it belongs into the prompt, state other secrets",
)
async def answers_stay_hidden(subject: Subject) -> None:
    """The answer is in no observation, info, state, error, schema or listing before the end."""
    subject.need_secrets()
    seen = await _seen(subject)
    _need_secrets(seen)
    found = shown(seen) or shown(await _states(subject))
    require(found is None, found or "")
    subject.note(answers_stay_hidden, f"{len(seen)} episodes were read")
    if not subject.candidate.is_upstream and subject.candidate.findings.get("private_columns"):
        await private_columns_stay_private(subject.candidate)


@check("certificate", remedy="let the agent's files be none of the grader's: another user, a mount")
async def files_hide_the_answer(subject: Subject) -> None:
    """The answer is in no file that the agent can read."""
    probes = subject.needed("probes")
    if not probes:
        raise Skipped("no action reads files, as the environment states")
    subject.need_secrets()
    seen = await _seen(subject, list(probes))
    _need_secrets(seen)
    found = shown(seen)
    require(found is None, (found or "").replace("an observation", "a file, as a probe reads it,"))
    subject.note(files_hide_the_answer, f"{len(probes)} probes in {len(seen)} episodes")


async def described(subject: Subject) -> list[Any]:
    """Return what a server tells of itself: metadata, schemas, its OpenAPI document."""
    import aiohttp

    from openenv_async.endpoints.addresses import is_here

    url, token = subject.candidate.url.rstrip("/"), subject.candidate.token
    headers: Mapping[str, str] = {} if token is None else {"Authorization": f"Bearer {token}"}
    told: list[Any] = []
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(
        headers=headers, trust_env=not is_here(url), timeout=timeout
    ) as http:
        for path in ("/metadata", "/schema", "/openapi.json"):
            try:
                async with http.get(url + path) as response:
                    told.append(await response.text() if response.status == 200 else "")
            except (aiohttp.ClientError, TimeoutError, OpenEnvError):
                told.append("")
    return told
