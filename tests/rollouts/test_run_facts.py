"""The facts of a run: the same for the same thing, others for another."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from openenv_async.rollouts import Mixture, RandomPolicy, Retire, TaskSet, VersionedPolicy
from openenv_async.rollouts.run_facts import (
    environment_facts,
    policy_facts,
    settings_facts,
    tasks_facts,
)
from openenv_async.rollouts.run_journal import digest_of


def first(observation: Any) -> int:
    return 0


def second(observation: Any) -> int:
    return 1


def scaled(observation: Any, *, factor: int) -> int:
    return factor


@dataclass
class Threshold:
    limit: float
    weights: Any = None

    def __call__(self, observation: Any) -> int:
        return int(observation > self.limit)


class Described:
    def describe(self) -> dict[str, Any]:
        return {"model": "m"}

    def __call__(self, observation: Any) -> int:
        return 0


def made(text: str) -> Any:
    """A function whose source is nowhere."""
    space: dict[str, Any] = {}
    exec(compile(text, "<made>", "exec"), space)
    return space["policy"]


SAME = [
    (first, first),
    (Threshold(1.0, object()), Threshold(1.0, object())),
    (functools.partial(scaled, factor=1), functools.partial(scaled, factor=1)),
    (VersionedPolicy(first), VersionedPolicy(first, version=7)),
    (RandomPolicy({}), RandomPolicy({})),
    (RandomPolicy({}, seed=3), RandomPolicy({}, seed=3)),
    (made("def policy(o): return 1"), made("def policy(o): return 1")),
    (Described(), Described()),
]
OTHERS = [
    (first, second),
    (Threshold(1.0), Threshold(2.0)),
    (functools.partial(scaled, factor=1), functools.partial(scaled, factor=2)),
    (VersionedPolicy(first), VersionedPolicy(second)),
    (RandomPolicy({}, seed=3), RandomPolicy({}, seed=4)),
    (RandomPolicy({}, seed=3), RandomPolicy({"type": "integer"}, seed=3)),
    (made("def policy(o): return 1"), made("def policy(o): return 2")),
    (made("def policy(o): return (lambda: 1)()"), made("def policy(o): return (lambda: 2)()")),
    (Threshold(1.0).__call__, Threshold(1.0).__eq__),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_policy_has_the_same_facts(one: Any, other: Any) -> None:
    assert policy_facts(one) == policy_facts(other)
    json.dumps(policy_facts(one))


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_another_policy_has_others(one: Any, other: Any) -> None:
    assert policy_facts(one) != policy_facts(other)


def test_a_policy_tells_its_own_facts() -> None:
    assert policy_facts(Described()) == {"policy": f"{__name__}:Described", "model": "m"}


def test_tasks_are_known_by_their_content(tmp_path: Path) -> None:
    rows = [{"id": "a", "question": "?"}, {"id": "b", "question": "!"}]
    assert tasks_facts(rows, 8) == tasks_facts([dict(row) for row in rows], 8)
    assert tasks_facts(rows, 8) != tasks_facts(rows, 4)
    assert tasks_facts(rows) != tasks_facts(rows[::-1])
    file = tmp_path / "tasks.jsonl"
    file.write_text("{}\n")
    before = tasks_facts(file)
    assert before == tasks_facts(str(file))
    assert before["file"] == "tasks.jsonl"
    file.write_text("{}\n{}\n")
    assert tasks_facts(file) != before
    as_they_are = tasks_facts(TaskSet(rows))
    assert as_they_are == tasks_facts(rows)
    assert as_they_are != tasks_facts(TaskSet(rows, private=("question",)))
    assert tasks_facts(TaskSet(rows, columns={"question": "prompt"}))["columns"] == {
        "question": "prompt"
    }
    assert tasks_facts(Mixture({"a": TaskSet(rows), "b": TaskSet("train")}))["parts"] == [
        as_they_are,
        {"split": "train"},
    ]
    assert tasks_facts("train") == {"split": "train"}
    assert tasks_facts(iter(rows)) == {"kind": "list_iterator"}
    assert tasks_facts([object()]) == {"rows": 1, "digest": None}


def test_tasks_are_known_by_their_order_too() -> None:
    rows = [{"id": "a"}, {"id": "b"}]

    def mixed(names: str = "ab", weights: tuple[float, ...] = (1, 3), seed: int = 0) -> Any:
        sources = {name: TaskSet(rows) for name in names}
        return tasks_facts(Mixture(sources, weights=weights, seed=seed))

    assert mixed() == mixed()
    for other in (mixed(weights=(3, 1)), mixed(seed=1), mixed("ac"), mixed("a", (1,))):
        assert digest_of(other) != digest_of(mixed())
    one = tasks_facts(TaskSet(rows))
    others = [
        TaskSet(rows, shuffle=0),
        TaskSet(rows, shuffle=1),
        TaskSet(rows, sampler=[1, 0]),
        TaskSet(rows, retire=Retire(solved=1.0)),
        TaskSet(rows, retire=Retire(hopeless=0.0)),
    ]
    assert len({digest_of(each) for each in (one, *map(tasks_facts, others))}) == 6
    assert tasks_facts(TaskSet(rows, epochs=2)) == one  # a run may be made longer


def test_long_settings_are_digests() -> None:
    facts = settings_facts({"max_steps": 3, "seeds": list(range(100)), "options": {"a": [1]}})
    assert facts["max_steps"] == 3
    assert facts["options"] == {"a": [1]}
    assert facts["seeds"]["length"] == 100


async def test_an_environment_is_what_its_server_says() -> None:
    from openenv_async import connect_in_process
    from tests.rollouts.environments import Counting

    async with connect_in_process(Counting) as env:
        facts = environment_facts(env, {"size": 3})
    assert facts["name"] == "Counting"
    assert len(facts["schema"]) >= 16
    assert facts["params"] == {"size": 3}
    assert environment_facts(object(), None) == {"client": "builtins:object"}
