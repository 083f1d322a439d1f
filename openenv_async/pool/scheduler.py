"""Who holds which slot: plain bookkeeping, without I/O, clock or tasks.

Rules:

- A *slot* is room for one session on one worker. Who wants one asks and gets a ticket; a ticket
  that was granted a slot is a lease, with the same number.
- Facts are told by methods (``ask``, ``ready``, ``died``, …). None of them decides anything.
  ``plan`` then says what to do: which tickets get a slot where, how many workers to start,
  which to end, and when to look again. What it says, the scheduler takes as done.
- First come, first served. The least loaded worker serves, the oldest of equals, so that under
  little demand the younger ones fall idle and can be ended.
- A worker is starting, ready, draining (serves its leases, gets no more) or gone.
- Every second of a worker is counted once: starting, used, idle or wasted.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Final

__all__ = ["Plan", "ProviderRules", "Scheduler", "Seconds", "WorkerEntry", "WorkerPhase"]


class WorkerPhase(enum.Enum):
    """Where a worker stands."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class ProviderRules:
    """What one provider may be asked for.

    Attributes:
        max_workers: workers of it at once.
        sessions: slots of each.
        free: whether its workers cost nothing: all are taken at once and none is ended.
    """

    max_workers: int
    sessions: int
    free: bool = False


@dataclass(slots=True)
class WorkerEntry:
    """One worker in the scheduler. ``leases`` maps each to when it began."""

    id: int
    source: int
    since: float
    capacity: int
    phase: WorkerPhase = WorkerPhase.STARTING
    leases: dict[int, float] = field(default_factory=dict)
    uses: int = 0
    ready_at: float = inf
    idle_since: float = inf
    full_until: float = -inf
    rests_until: float = -inf


@dataclass(slots=True)
class Plan:
    """What to do now.

    Attributes:
        grants: pairs of ticket and worker.
        starts: pairs of worker and source.
        ends: workers to end.
        wake_at: when to plan again though nothing happened; ``inf``: never.
    """

    grants: list[tuple[int, int]] = field(default_factory=list)
    starts: list[tuple[int, int]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    wake_at: float = inf


@dataclass(slots=True)
class Seconds:
    """Seconds of all workers, each counted once.

    Attributes:
        starting: from the start to the first readiness.
        used: with at least one session.
        idle: ready, without any.
        wasted: of starts that failed, and of the sessions that ran when their worker died.
    """

    starting: float = 0.0
    used: float = 0.0
    idle: float = 0.0
    wasted: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.starting + self.used + self.idle + self.wasted


class Scheduler:
    """Workers, leases and who waits.

    Args:
        sources: the providers; a worker is started at the first that has room.
        min_workers: workers that are kept, used or not.
        warm_workers: of those that are kept, this many more than are used.
        idle_ttl: seconds after which an idle worker that is not kept is ended; ``None``: never.
        max_lifetime: seconds after which a worker gets no more sessions; ``None``: never.
        max_uses: sessions after which it gets no more; ``None``: any number.
    """

    def __init__(
        self,
        sources: Sequence[ProviderRules],
        *,
        min_workers: int = 0,
        warm_workers: int = 0,
        idle_ttl: float | None = None,
        max_lifetime: float | None = None,
        max_uses: int | None = None,
    ) -> None:
        self.sources: Final = list(sources)
        self.workers: dict[int, WorkerEntry] = {}
        self.waiting: dict[int, None] = {}
        self.holders: dict[int, int] = {}
        self.seconds = Seconds()
        self._min_workers = min_workers
        self._warm_workers = warm_workers
        self._idle_ttl = inf if idle_ttl is None else idle_ttl
        self._max_lifetime = inf if max_lifetime is None else max_lifetime
        self._max_uses = inf if max_uses is None else max_uses
        self._rooms: list[float] = [inf] * len(self.sources)
        self._held_until: list[float] = [-inf] * len(self.sources)
        self._tickets = itertools.count(1)
        self._ids = itertools.count(1)

    # -- facts --------------------------------------------------------------------------------

    def ask(self) -> int:
        """Somebody wants a slot: the ticket."""
        ticket = next(self._tickets)
        self.waiting[ticket] = None
        return ticket

    def withdraw(self, ticket: int) -> None:
        """Whoever waited with this ticket does not any more."""
        del self.waiting[ticket]

    def release(self, lease: int, now: float) -> None:
        """A lease ended. One whose worker died is none any more: nothing happens."""
        worker = self.workers.get(self.holders.pop(lease, 0))
        if worker is None:
            return
        begun = worker.leases.pop(lease)
        assert begun <= now
        if not worker.leases:
            self._account(worker, now, used=True)
            worker.idle_since = now

    def ready(self, worker_id: int, now: float, capacity: int | None = None) -> None:
        """A start succeeded.

        Args:
            worker_id: which.
            now: seconds.
            capacity: slots that its server really has, where it says so.
        """
        worker = self.workers[worker_id]
        assert worker.phase is WorkerPhase.STARTING
        self.seconds.starting += now - worker.since
        worker.since = worker.ready_at = worker.idle_since = now
        worker.phase = WorkerPhase.READY
        if capacity is not None:
            worker.capacity = max(1, min(worker.capacity, capacity))

    def start_failed(self, worker_id: int, now: float) -> None:
        """A start failed, and left nothing behind."""
        worker = self.workers.pop(worker_id)
        assert worker.phase is WorkerPhase.STARTING
        self.seconds.wasted += now - worker.since

    def died(self, worker_id: int, now: float) -> list[int]:
        """A worker is gone: the leases that were on it. None of them is left to release."""
        worker = self.workers.pop(worker_id)
        leases = list(worker.leases)
        if leases:
            lost_since = max(worker.since, min(worker.leases.values()))
            self.seconds.wasted += now - lost_since
            self._account(worker, lost_since, used=True)
        else:
            self._account(worker, now, used=False)
        for lease in leases:
            del self.holders[lease]
        return leases

    def drain(self, worker_id: int) -> None:
        """A worker is to get no more sessions; it is ended when the last one has ended."""
        worker = self.workers[worker_id]
        assert worker.phase is not WorkerPhase.STARTING
        worker.phase = WorkerPhase.DRAINING

    def leaves(self, worker_id: int) -> bool:
        """Tell whether a worker drains for another reason than that its sessions are used up."""
        worker = self.workers[worker_id]
        return worker.phase is WorkerPhase.DRAINING and not self._used_up(worker)

    def full(self, worker_id: int, until: float) -> None:
        """A server refused a session though the scheduler knows of room: others play there too."""
        self.workers[worker_id].full_until = until

    def rest(self, worker_id: int, until: float) -> None:
        """A session failed at a worker: until then it serves only if no other can."""
        self.workers[worker_id].rests_until = until

    def hold(self, source: int, until: float) -> None:
        """Start nothing at a source until then."""
        self._held_until[source] = until

    def set_room(self, source: int, room: int | None) -> None:
        """How many more workers a source can make; ``None``: any number."""
        self._rooms[source] = inf if room is None else room

    # -- decisions ----------------------------------------------------------------------------

    def plan(self, now: float) -> Plan:
        """What to do now; the scheduler takes it as done."""
        plan = Plan()
        self._grant(plan, now)
        self._retire(plan, now)
        self._start(plan, now)
        self._end_idle(plan, now)
        return plan

    def _grant(self, plan: Plan, now: float) -> None:
        if not self.waiting:
            return
        ready = [worker for worker in self.workers.values() if worker.phase is WorkerPhase.READY]
        for ticket in list(self.waiting):
            best: WorkerEntry | None = None
            best_key: tuple[bool, float, int] = (True, inf, 0)
            for worker in ready:
                load = len(worker.leases)
                if load >= worker.capacity or worker.full_until > now or self._used_up(worker):
                    continue
                key = (worker.rests_until > now, load / worker.capacity, worker.id)
                if best is None or key < best_key:
                    best, best_key = worker, key
            if best is None:
                break
            del self.waiting[ticket]
            if not best.leases:
                self._account(best, now, used=False)
            best.leases[ticket] = now
            best.uses += 1
            best.idle_since = inf
            self.holders[ticket] = best.id
            plan.grants.append((ticket, best.id))
        for worker in ready:
            if self.waiting and worker.full_until > now:
                plan.wake_at = min(plan.wake_at, worker.full_until)

    def _used_up(self, worker: WorkerEntry) -> bool:
        return worker.uses >= self._max_uses and not self.sources[worker.source].free

    def _retire(self, plan: Plan, now: float) -> None:
        """Drain what has served its time; end what has drained."""
        for worker in list(self.workers.values()):
            if worker.phase is WorkerPhase.READY and not self.sources[worker.source].free:
                ends_at = worker.ready_at + self._max_lifetime
                if self._used_up(worker) or ends_at <= now:
                    worker.phase = WorkerPhase.DRAINING
                else:
                    plan.wake_at = min(plan.wake_at, ends_at)
            if worker.phase is WorkerPhase.DRAINING and not worker.leases:
                self._end_one(plan, worker, now)

    def _start(self, plan: Plan, now: float) -> None:
        counts = [0] * len(self.sources)
        slots = idle = alive = 0
        for worker in self.workers.values():
            counts[worker.source] += 1
            if worker.phase is WorkerPhase.DRAINING:
                continue
            alive += 1
            if worker.phase is WorkerPhase.STARTING:
                slots += worker.capacity
                idle += 1
            elif not worker.leases:
                idle += 1
        for source, rules in enumerate(self.sources):
            while (waiting := len(self.waiting)) > slots or self._wants_more(
                rules, alive, idle, waiting
            ):
                if counts[source] >= rules.max_workers or self._rooms[source] < 1:
                    break
                if self._held_until[source] > now:
                    plan.wake_at = min(plan.wake_at, self._held_until[source])
                    break
                worker = WorkerEntry(next(self._ids), source, now, rules.sessions)
                self.workers[worker.id] = worker
                self._rooms[source] -= 1
                plan.starts.append((worker.id, source))
                counts[source] += 1
                slots += worker.capacity
                alive += 1
                idle += 1

    def _wants_more(self, rules: ProviderRules, alive: int, idle: int, waiting: int) -> bool:
        if rules.free or alive < self._min_workers:
            return True
        return self._warm_workers > 0 and idle - ceil(waiting / rules.sessions) < self._warm_workers

    def _end_idle(self, plan: Plan, now: float) -> None:
        """End the longest idle of what nobody needs."""
        alive = [
            worker for worker in self.workers.values() if worker.phase is not WorkerPhase.DRAINING
        ]
        idle = [
            worker
            for worker in alive
            if worker.phase is WorkerPhase.READY and not worker.leases
        ]  # fmt: skip
        spare = min(len(alive) - self._min_workers, len(idle) - self._warm_workers)
        idle = [worker for worker in idle if not self.sources[worker.source].free]
        # The youngest of those that are idle equally long: the oldest is the first to serve.
        idle.sort(key=lambda worker: (worker.idle_since, -worker.id))
        for worker in idle[: max(0, spare)]:
            ends_at = worker.idle_since + self._idle_ttl
            if ends_at > now:
                plan.wake_at = min(plan.wake_at, ends_at)
            elif not self.waiting:
                self._end_one(plan, worker, now)

    def _end_one(self, plan: Plan, worker: WorkerEntry, now: float) -> None:
        self._account(worker, now, used=False)
        del self.workers[worker.id]
        plan.ends.append(worker.id)

    def _account(self, worker: WorkerEntry, now: float, *, used: bool) -> None:
        """Count the seconds since the last change."""
        if used:
            self.seconds.used += now - worker.since
        else:
            self.seconds.idle += now - worker.since
        worker.since = now

    # -- sums ---------------------------------------------------------------------------------

    def seconds_at(self, now: float) -> Seconds:
        """The seconds so far, those of the workers that live included."""
        sums = Seconds(*(getattr(self.seconds, name) for name in Seconds.__slots__))
        for worker in list(self.workers.values()):
            spent = now - worker.since
            if worker.phase is WorkerPhase.STARTING:
                sums.starting += spent
            elif worker.leases:
                sums.used += spent
            else:
                sums.idle += spent
        return sums

    def close(self, now: float) -> list[int]:
        """End everything: the workers that were ready. Leases and tickets are gone."""
        ended = []
        for worker in list(self.workers.values()):
            if worker.phase is WorkerPhase.STARTING:
                self.start_failed(worker.id, now)
                continue
            self._account(worker, now, used=bool(worker.leases))
            del self.workers[worker.id]
            ended.append(worker.id)
        self.waiting.clear()
        self.holders.clear()
        return ended
