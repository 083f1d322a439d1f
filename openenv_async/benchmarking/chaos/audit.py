"""The findings of a run under faults: the steps that ran against those that clients saw."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Audit", "ChaosReport"]


@dataclass(slots=True)
class Audit:
    """Steps and sessions, counted on both sides.

    Attributes:
        seen: steps that clients got a reply for, and could ask about.
        executed: steps that environments executed in these.
        lost: replies for steps that never ran.
        repeated: steps that ran without a reply, or more than once.
        mismatched: replies that belong to another request.
        unsure: steps whose deadline passed: they may have run, once.
        checked_by_name: replies that said the request's own number back.
        episodes: that were begun.
        resumed: how often a session went on after its connection was lost.
        typed_lost: sessions that are gone, by the code they said so with.
        unaudited: steps seen in these.
        untyped: errors that say nothing of the session's fate, by code.
    """

    seen: int = 0
    executed: int = 0
    lost: int = 0
    repeated: int = 0
    mismatched: int = 0
    unsure: int = 0
    checked_by_name: int = 0
    episodes: int = 0
    resumed: int = 0
    typed_lost: Counter[str] = field(default_factory=Counter)
    unaudited: int = 0
    untyped: Counter[str] = field(default_factory=Counter)

    def compare(self, seen: int, executed: int, unsure: int) -> None:
        """Count steps of an episode.

        Args:
            seen: those that its client got a reply for.
            executed: those that its environment executed.
            unsure: those whose deadline passed.
        """
        self.seen += seen
        self.executed += executed
        self.unsure += unsure
        self.lost += max(0, seen - executed)
        self.repeated += max(0, executed - seen - unsure)

    def check_name(self, name: str, observation: Any) -> None:
        """Count a reply that says the name of its request, or that of another one.

        Args:
            name: of the request; those of all begin with ``chaos-``.
            observation: the reply; what its arrays of bytes say counts, too.
        """
        text, own = repr(observation), name.encode()
        parts = observation.values() if isinstance(observation, dict) else ()
        arrays = [part.tobytes() for part in parts if getattr(part, "dtype", None) == "uint8"]
        foreign = any(data.count(b"chaos-") > data.count(own) + 1 for data in arrays)
        if name in text and not foreign:  # the last name in an array may be cut short
            self.checked_by_name += 1
        elif foreign or "chaos-" in text:
            self.mismatched += 1

    @property
    def passed(self) -> bool:
        """True if everything was executed and seen exactly once."""
        wrong = self.lost + self.repeated + self.mismatched + self.untyped.total()
        return wrong == 0 and self.seen > 0


@dataclass(frozen=True, slots=True)
class ChaosReport:
    """The result of one run.

    ``faults`` counts what was done, by name; ``vector`` is the number of sessions that were
    stepped together, if any were; ``transport`` is that of the connections.
    """

    target: str
    sessions: int
    connections: int
    seconds: float
    steps_per_second: float
    latency_ms: dict[str, float]
    faults: dict[str, int]
    audit: Audit
    vector: int | None = None
    transport: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        audit = {item.name: getattr(self.audit, item.name) for item in dataclasses.fields(Audit)}
        for name in ("typed_lost", "untyped"):
            audit[name] = dict(audit[name])
        report = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {**report, "audit": audit, "passed": self.audit.passed}
