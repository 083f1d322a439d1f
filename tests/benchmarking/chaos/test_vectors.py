"""Vectors under faults: each slot is audited, and what goes wrong in one is its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from openenv_async.benchmarking.chaos.playing import Run
from openenv_async.benchmarking.chaos.vectors import LoadVector
from openenv_async.client.vector import Answer, VectorSessions
from openenv_async.errors import (
    DeadlineExceeded,
    EnvironmentRaised,
    InvalidAction,
    OpenEnvError,
    SessionLost,
)

TEXT = {"type": "object", "properties": {"say": {"type": "string"}}, "required": ["say"]}
COUNT = 3
"""Slots; the script is about slot 1."""


class FakeSessions:
    """Sessions that execute steps; slot 1 does what ``script`` says of its n-th.

    ``script`` maps a step's number to an error, ``"twice"``, ``"skip"``, ``"swap"`` or ``"end"``.
    """

    def __init__(self, run: Run, script: dict[int, Any], turns: int) -> None:
        self.run = run
        self.script = script
        self.turns = turns
        self.count = COUNT
        self.counts = [0] * COUNT
        self.taken = 0
        self.resets: list[int] = []
        self.refusals: list[OpenEnvError] = []
        self.unknown: dict[int, OpenEnvError] = {}
        self.answers: list[Answer] = []
        self.wire = SimpleNamespace(encode_any=lambda action: action, decode_observation=dict)

    def step(self, slots: list[int], actions: list[Any], resets: list[int]) -> None:
        self.turns -= 1
        if self.turns <= 0:
            self.run.stopped.set()
        for slot in resets:
            self.resets.append(slot)
            self.counts[slot] = 0
            error = self.refusals.pop() if self.refusals else None
            frame: Any = None if error else SimpleNamespace()
            self.answers.append(Answer(slot, frame, None, error, True))
        for slot, action in zip(slots, actions, strict=True):
            self.taken += slot == 1
            what = self.script.get(self.taken) if slot == 1 else None
            if isinstance(what, OpenEnvError):
                self.answers.append(Answer(slot, None, None, what, False))
                continue
            self.counts[slot] += {"twice": 2, "skip": 0}.get(str(what), 1)
            said = "chaos-9-1." if what == "swap" else action["say"]
            frame = SimpleNamespace(
                payload={"said": said}, terminated=what == "end", truncated=False
            )
            self.answers.append(Answer(slot, frame, None, None, False))

    def take(self, count: int, timeout: float) -> list[Answer]:
        answers, self.answers = self.answers[:2], self.answers[2:]  # they come in parts
        return answers

    def step_counts(self, slots: list[int]) -> list[Any]:
        return [self.unknown.pop(slot, self.counts[slot]) for slot in slots]


def played(script: dict[int, Any] | None = None, turns: int = 31, **changes: Any) -> FakeSessions:
    """A vector played for so many turns, the first of which are resets."""
    sessions = FakeSessions(Run(TEXT, 1), script or {}, turns)
    for name, value in changes.items():
        setattr(sessions, name, value)
    LoadVector(sessions.run, 5, cast(VectorSessions, sessions)).play()
    return sessions


@pytest.mark.parametrize("steps", [1, 19, 20, 21, 45])
def test_every_step_is_seen_and_executed_once(steps: int) -> None:
    run = played(turns=steps + 1).run
    audit, all_steps = run.audit, steps * COUNT
    assert audit.passed
    assert (audit.seen, audit.executed, audit.checked_by_name) == (all_steps,) * 3
    assert (audit.episodes, audit.unaudited, audit.unsure) == (COUNT, 0, 0)
    assert run.latencies.count == all_steps


def test_episodes_end_and_begin_while_the_others_step() -> None:
    sessions = played({5: "end", 9: "end"})
    audit = sessions.run.audit
    assert sessions.resets == [0, 1, 2, 1, 1]
    assert (audit.episodes, audit.seen, audit.executed) == (5, 88, 88)
    assert audit.passed


def test_an_episode_ends_after_200_steps() -> None:
    audit = played(turns=203).run.audit
    assert (audit.episodes, audit.seen, audit.executed) == (6, 603, 603)


@pytest.mark.parametrize(
    ("what", "counts"), [("twice", (0, 1, 0)), ("skip", (1, 0, 0)), ("swap", (0, 0, 1))]
)
def test_what_the_audit_finds(what: str, counts: tuple[int, int, int]) -> None:
    audit = played({5: what}).run.audit
    assert (audit.lost, audit.repeated, audit.mismatched) == counts
    assert not audit.passed


def test_a_step_past_its_deadline_may_have_run_once() -> None:
    audit = played({5: DeadlineExceeded("late"), 6: "twice"}).run.audit
    assert (audit.unsure, audit.seen, audit.repeated, audit.passed) == (1, 89, 0, True)


def test_an_action_that_the_environment_refuses_is_no_step() -> None:
    audit = played({5: EnvironmentRaised("no")}).run.audit
    assert (audit.unsure, audit.seen, audit.executed, audit.passed) == (0, 89, 89, True)


def test_a_lost_session_costs_its_slot_alone() -> None:
    sessions = played({25: SessionLost("gone")})
    audit = sessions.run.audit
    assert audit.typed_lost == {"session_lost": 1}
    assert sessions.resets == [0, 1, 2, 1]
    assert audit.unaudited == 4
    assert audit.seen == 2 * 30 + 20 + 4
    assert audit.passed


def test_a_session_that_cannot_be_asked_is_lost() -> None:
    sessions = played(unknown={1: SessionLost("gone")})
    audit = sessions.run.audit
    assert audit.typed_lost == {"session_lost": 1}
    assert (audit.unaudited, audit.passed) == (20, True)
    assert sessions.resets == [0, 1, 2, 1]


def test_a_reset_that_fails_is_tried_again() -> None:
    sessions = played(refusals=[SessionLost("still gone")])
    assert sessions.resets == [0, 1, 2, 0]
    assert sessions.run.audit.episodes == 3
    assert sessions.run.audit.passed


def test_another_error_says_nothing_of_the_session() -> None:
    audit = played({25: InvalidAction("no")}).run.audit
    assert audit.untyped == {"invalid_action": 1}
    assert not audit.passed
