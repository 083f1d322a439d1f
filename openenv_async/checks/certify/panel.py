"""The panel: policies that solve nothing and must not be paid, for any environment."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from openenv_async.certification import UNSTATED
from openenv_async.checks.certify.subject import Subject
from openenv_async.errors import InvalidModel
from openenv_async.rollouts.policies import Turn, bind
from openenv_async.schemas.legal import choices_of, legal_actions, tells_legal
from openenv_async.schemas.refs import resolved

__all__ = ["Repeats", "constants", "does_nothing", "echo", "every_option", "nonsense", "smallest"]

_TEXTS: Final = ("0", "1", "yes", "no", "true", "A", "B", "C", "D", "I do not know.")
"""Answers that are given to every question."""
_COMMON: Final = 3
"""Right answers that are given to every question: the most frequent."""
_MOST_CHOICES: Final = 24
"""Actions of a schema that are each repeated to the end."""
_MOST_OPTIONS: Final = 200
_DEEP: Final = 16
_WORDS: Final = re.compile(r"-?\d+(?:\.\d+)?|\w+")

Policy = Callable[..., Any]


def does_nothing(subject: Subject) -> Policy:
    """Return the policy that does nothing: the stated action, or the smallest one.

    Raises:
        InvalidModel: no action fits the schema.
    """
    stated = subject.stated
    if stated is not None and stated.nothing is not UNSTATED:
        action = stated.nothing
        return lambda observation: action
    schema = subject.candidate.schema.get("action") or {}
    least, choices = smallest(schema), choices_of(schema)

    def policy(observation: Any, turn: Turn) -> Any:
        legal = legal_actions(turn.result.info, choices, declared=tells_legal(schema))
        return legal[0] if legal else least

    return policy


def smallest(schema: Any) -> Any:
    """Return the smallest value that a JSON Schema allows: empty, zero, the first.

    Raises:
        InvalidModel: there is none.
    """
    return _smallest(schema, schema, 0)


def _smallest(schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    if depth > _DEEP or schema is False:
        raise InvalidModel("no value fits the schema")
    if schema is True:
        return None
    if "$ref" in schema:
        return _smallest(resolved(schema, root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return _smallest(schema[key][0], root, depth + 1)
    if "x-ndarray" in schema:
        import numpy as np

        about = schema["x-ndarray"]
        shape = [1 if size is None or size < 0 else size for size in about.get("shape") or ()]
        low = np.nan_to_num(np.asarray(about.get("low", 0), "float64"), neginf=0.0)
        return np.broadcast_to(np.maximum(low, 0), shape).astype(about.get("dtype", "float32"))
    kind = schema.get("type")
    match kind[0] if isinstance(kind, list) else kind:
        case "string":
            return " " * schema.get("minLength", 0)
        case "boolean":
            return False
        case "integer" | "number":
            low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
            return min(max(low, 0), schema.get("maximum", max(low, 0)))
        case "array":
            items = schema.get("prefixItems") or [schema.get("items", True)] * schema.get(
                "minItems", 0
            )
            return [_smallest(item, root, depth + 1) for item in items]
        case "object" | None if "properties" in schema:
            needed = schema.get("required", ())
            return {
                name: _smallest(each, root, depth + 1)
                for name, each in schema["properties"].items()
                if name in needed
            }
        case "object":
            return {}
        case _:
            return None


def constants(subject: Subject, answers: Iterable[str] = ()) -> dict[str, Any]:
    """Return actions that are each repeated to the end, by what they are called.

    Args:
        subject: whose.
        answers: the right answers of some episodes; the most frequent are among the constants.
    """
    stated = subject.stated
    found: dict[str, Any] = {}
    if stated is not None:
        found |= {f"{action!r:.60}": action for action in stated.constants}
        if stated.answer is not None:
            usual = [text for text, _ in Counter(answers).most_common(_COMMON)]
            for text in dict.fromkeys((*_TEXTS, *usual)):
                found[f"the answer {text!r:.40}"] = stated.answer(text)
    choices = choices_of(subject.candidate.schema.get("action") or {})
    if choices is not None and len(choices.parts) == 1 and choices.width <= _MOST_CHOICES:
        for value in choices.parts[0]:
            action = choices.action([value])
            found.setdefault(f"{action!r:.60}", action)
    return found


def echo(subject: Subject) -> Policy:
    """Return the policy that answers with the text of what it sees."""
    answer = subject.needed("answer")
    return lambda observation: answer("\n".join(_strings(observation)))


def every_option(subject: Subject) -> Policy:
    """Return the policy that answers with every option at once."""
    answer = subject.needed("answer")
    options = subject.statements.options or _words

    def policy(observation: Any) -> Any:
        return answer(", ".join(list(dict.fromkeys(options(observation)))[:_MOST_OPTIONS]))

    return policy


def nonsense(subject: Subject) -> Policy:
    """Return the policy that answers with letters and digits at random."""
    answer = subject.needed("answer")

    def policy(observation: Any, turn: Turn) -> Any:
        rng = random.Random(f"nonsense/{turn.index}/{turn.t}")
        letters = "abcdefghijklmnopqrstuvwxyz0123456789  "
        return answer("".join(rng.choices(letters, k=rng.randint(1, 60))))

    return policy


class Repeats:
    """A policy that does again whatever was paid last, in this episode or in one before.

    Args:
        guess: chooses as long as nothing was paid.
    """

    def __init__(self, guess: Policy) -> None:
        self._guess = guess
        self._paid: list[Any] = []

    def for_episode(self, index: int) -> Policy:
        """Return the policy of one episode."""
        guess, last = bind(self._guess, index), list[Any]()

        def policy(observation: Any, turn: Turn) -> Any:
            if last and turn.t and (turn.result.reward or 0.0) > 0:
                self._paid[:] = last
            if self._paid and turn.mistake is None:
                action = self._paid[0]
            else:
                action = guess(observation, turn)
            last[:] = [action]
            return action

        return policy

    def __call__(self, observation: Any, turn: Turn) -> Any:
        """Return the next action."""
        return self.for_episode(turn.index)(observation, turn)


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, Mapping):
        return [text for each in value.values() for text in _strings(each)]
    if isinstance(value, list | tuple):
        return [text for each in value for text in _strings(each)]
    return []


def _words(observation: Any) -> list[str]:
    """The words and numbers of an observation, and the usual answers."""
    found = _WORDS.findall("\n".join(_strings(observation)))
    return [*_TEXTS, *found]
