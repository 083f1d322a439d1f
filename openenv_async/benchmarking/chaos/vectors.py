"""Vectors of a run: many sessions stepped together, each audited as one that plays alone.

A slot whose episode ended, or whose session is gone, begins again in the same call in which the
others step.
"""

from __future__ import annotations

import time
from typing import Any, Final

from openenv_async.benchmarking.chaos.playing import AUDIT, EPISODE, LOST, Run
from openenv_async.client.vector import Answer, VectorSessions
from openenv_async.errors import DeadlineExceeded, EnvironmentRaised, OpenEnvError

__all__ = ["LoadVector"]

_PATIENCE: Final = 300.0
"""Seconds after which a vector without an answer counts as hung; each call has a deadline."""
_PAUSE: Final = 0.02
"""Seconds before another try, where sessions were lost."""


class _Slot:
    """The episode of one slot: what was sent and seen since it was audited."""

    __slots__ = ("audited", "begins", "due", "name", "prefix", "seen", "sent", "turns", "unsure")

    def __init__(self, number: int) -> None:
        self.prefix = f"chaos-{number}-"
        self.name = ""
        self.sent = 0
        self.due = False
        self.begins = True
        self.begin()

    def begin(self) -> None:
        self.turns = self.seen = self.unsure = self.audited = 0


class LoadVector:
    """A vector that plays episodes in every slot and audits each. Its calls block.

    Args:
        run: shared by all.
        first: number of the first slot; the others count on from it.
        sessions: the vector.
    """

    def __init__(self, run: Run, first: int, sessions: VectorSessions) -> None:
        self._run = run
        self._sessions = sessions
        self._slots = [_Slot(first + i) for i in range(sessions.count)]

    def play(self) -> None:
        """Play until the run stops.

        Raises:
            DeadlineExceeded: an answer never came.
        """
        run, slots = self._run, self._slots
        while not run.stopped.is_set():
            lost = self._turn()
            stops = run.stopped.is_set()
            asked = [i for i, slot in enumerate(slots) if slot.due or (stops and not slot.begins)]
            if asked:
                lost = self._ask(asked) or lost
            if lost:
                time.sleep(_PAUSE)

    def _turn(self) -> bool:
        """Step or reset every slot; return whether a session was lost."""
        run, slots = self._run, self._slots
        steps = [i for i, slot in enumerate(slots) if not slot.begins]
        begins = [i for i, slot in enumerate(slots) if slot.begins]
        encode = self._sessions.wire.encode_any
        actions = [encode(self._action(slots[i])) for i in steps]
        began = time.perf_counter()
        self._sessions.step(steps, actions, begins)
        lost = False
        left = len(slots)
        while left:
            answers = self._sessions.take(1, _PATIENCE)
            left -= len(answers)
            took = time.perf_counter() - began
            with run.lock:
                for answer in answers:
                    lost = self._answered(slots[answer.slot], answer, took) or lost
        return lost

    def _action(self, slot: _Slot) -> Any:
        action, field_name = self._run.action()
        slot.sent += 1
        slot.name = ""
        if field_name is not None:
            slot.name = f"{slot.prefix}{slot.sent}."
            action = {**action, field_name: slot.name}
        return action

    def _answered(self, slot: _Slot, answer: Answer, seconds: float) -> bool:
        """Count an answer; return whether it says that the session is gone."""
        audit, frame, error = self._run.audit, answer.frame, answer.error
        if answer.again:
            if error is not None:
                return self._lost(slot, error)
            audit.episodes += 1
            slot.begins = False
            slot.begin()
            return False
        slot.turns += 1
        slot.due = slot.turns % AUDIT == 0
        if frame is not None:
            self._run.latencies.add(seconds)
            slot.seen += 1
            self._check_name(slot, frame)
            slot.begins = frame.terminated or frame.truncated or slot.turns >= EPISODE
            slot.due = slot.due or slot.begins
        elif isinstance(error, DeadlineExceeded):
            slot.unsure += 1
        elif not isinstance(error, EnvironmentRaised):  # it did not like the action: no step
            assert error is not None
            return self._lost(slot, error)
        return False

    def _check_name(self, slot: _Slot, frame: Any) -> None:
        if slot.name:
            observation = self._sessions.wire.decode_observation(frame.payload)
            self._run.audit.check_name(slot.name, observation)

    def _lost(self, slot: _Slot, error: OpenEnvError) -> bool:
        audit = self._run.audit
        (audit.typed_lost if isinstance(error, LOST) else audit.untyped)[error.code] += 1
        audit.unaudited += slot.seen
        slot.begin()
        slot.begins, slot.due = True, False
        return True

    def _ask(self, numbers: list[int]) -> bool:
        """Compare what was executed with what was seen; return whether a session was lost."""
        counts = self._sessions.step_counts(numbers)
        lost = False
        with self._run.lock:
            for number, count in zip(numbers, counts, strict=True):
                slot = self._slots[number]
                slot.due = False
                if isinstance(count, OpenEnvError):
                    lost = self._lost(slot, count)
                    continue
                self._run.audit.compare(slot.seen, count - slot.audited, slot.unsure)
                slot.audited = count
                slot.seen = slot.unsure = 0
        return lost
