"""Decisions of a pool: slots, starts and ends of workers, without I/O, clock or tasks.

Rules:

- A *slot* is room for one session on one worker. Asking for one gives a ticket; a ticket that was
  granted a slot is a lease, with the same number.
- Facts are told by methods (``ask``, ``ready``, ``died``, …). None of them decides anything.
  ``plan`` then says what to do: which tickets get a slot where, how many workers to start,
  which to end, and when to look again. The scheduler takes a plan as carried out.
- First come, first served. The least loaded worker serves, the oldest of equals, so that under
  little demand the younger ones fall idle and can be ended.
- A worker is starting, ready, draining (serves its leases, gets no more) or gone.
- Every second of a worker is counted once: starting, used, idle or wasted.
"""

from __future__ import annotations

import enum
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import ceil, inf
from typing import TYPE_CHECKING, Any, Final

from openenv_async.rollouts.checking import check_count

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "Plan",
    "PoolSettings",
    "PoolStatistics",
    "ProviderRules",
    "Scheduler",
    "Seconds",
    "WorkerEntry",
    "WorkerPhase",
]

_MAX_WORKERS: Final = 8
_ANY_NUMBER: Final = 1 << 20
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_MAX_DOUBLINGS: Final = 10
_SHORT_LIFE: Final = 5.0
"""A worker that dies sooner counts as a failed start."""


class WorkerPhase(enum.Enum):
    """The stage of a worker's life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class ProviderRules:
    """The workers that one provider may be asked for.

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
    """The next things to do.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Arguments of ``EnvPool``, by the same names, checked.

    Raises:
        TypeError, ValueError: one of them makes no sense.
    """

    max_workers: int | None
    sessions_per_worker: int
    min_workers: int
    warm_workers: int
    idle_ttl: float | None
    max_lifetime: float | None
    max_uses: int | None
    acquire_timeout: float | None
    start_timeout: float
    connections: int

    def __post_init__(self) -> None:
        for name in ("max_workers", "sessions_per_worker", "max_uses", "connections"):
            if (count := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_count(name, count))
        for name in ("min_workers", "warm_workers"):
            count = check_count(name, getattr(self, name), 0)
            object.__setattr__(self, name, count)
            if count > (self.max_workers or count):
                raise ValueError(
                    f"{name} must be 0 to {self.max_workers} (max_workers), got {count}"
                )
        for name in ("idle_ttl", "max_lifetime", "acquire_timeout", "start_timeout"):
            seconds = getattr(self, name)
            if isinstance(seconds, bool | str):
                raise TypeError(f"{name} must be a number of seconds, got {seconds!r}")
            if seconds is not None and not seconds >= 0:
                raise ValueError(f"{name} must be at least 0 seconds, got {seconds!r}")

    def scheduler(self, owned: Sequence[bool]) -> Scheduler:
        """Return an empty scheduler with these rules.

        Args:
            owned: of each provider, whether it starts and ends its workers.
        """
        return Scheduler(
            [self._rules(each) for each in owned],
            min_workers=self.min_workers,
            warm_workers=self.warm_workers,
            idle_ttl=self.idle_ttl,
            max_lifetime=self.max_lifetime,
            max_uses=self.max_uses,
        )

    def _rules(self, owned: bool) -> ProviderRules:
        most = self.max_workers
        if most is None:
            most = max(_MAX_WORKERS, self.min_workers) if owned else _ANY_NUMBER
        return ProviderRules(most, self.sessions_per_worker, free=not owned)


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A pool at one moment.

    Attributes:
        ready, starting, draining: workers now; draining ones take no more sessions.
        capacity: slots of the ready ones.
        sessions: slots that are held.
        waiting: callers that wait for one.
        sessions_leased: slots given so far.
        workers_started, starts_failed, workers_died, workers_ended: so far; the pool ended the
            last kind itself.
        peak_workers: most workers at once, starting ones included.
        seconds: of all workers together: starting, used, idle, wasted.
    """

    ready: int
    starting: int
    draining: int
    capacity: int
    sessions: int
    waiting: int
    sessions_leased: int
    workers_started: int
    starts_failed: int
    workers_died: int
    workers_ended: int
    peak_workers: int
    seconds: Seconds

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def add_to(self, table: Table) -> None:
        """Add rows to a table of two columns."""
        table.add_row("workers started", f"{self.workers_started:,}")
        for name in ("starts_failed", "workers_died"):
            if count := getattr(self, name):
                table.add_row(name.replace("_", " "), f"{count:,}")
        for name in ("used", "idle", "starting", "wasted"):
            table.add_row(f"worker seconds {name}", f"{getattr(self.seconds, name):.1f}")


class Scheduler:
    """Workers, leases and waiting callers.

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
        self._failures = [0] * len(self.sources)
        self._leased = self._started = self._failed = self._died = self._ended = self._peak = 0
        self._tickets = itertools.count(1)
        self._ids = itertools.count(1)

    # -- facts --------------------------------------------------------------------------------

    def ask(self) -> int:
        """Ask for a slot; return the ticket."""
        ticket = next(self._tickets)
        self.waiting[ticket] = None
        return ticket

    def withdraw(self, ticket: int) -> None:
        """Forget a ticket: its caller waits no longer."""
        del self.waiting[ticket]

    def release(self, lease: int, now: float) -> None:
        """End a lease. Nothing happens for one whose worker died."""
        worker = self.workers.get(self.holders.pop(lease, 0))
        if worker is None:
            return
        begun = worker.leases.pop(lease)
        assert begun <= now
        if not worker.leases:
            self._account(worker, now, used=True)
            worker.idle_since = now

    def revoke(self, lease: int, now: float) -> None:
        """Take back a slot that was granted to a caller that waits no longer."""
        self._leased -= 1
        self.release(lease, now)

    def ready(self, worker_id: int, now: float, capacity: int | None = None) -> None:
        """Note that a start succeeded.

        Args:
            worker_id: of the worker.
            now: seconds.
            capacity: slots that its server really has, where it says so.
        """
        worker = self.workers[worker_id]
        assert worker.phase is WorkerPhase.STARTING
        self.seconds.starting += now - worker.since
        worker.since = worker.ready_at = worker.idle_since = now
        worker.phase = WorkerPhase.READY
        self._started += 1
        if capacity is not None:
            worker.capacity = max(1, min(worker.capacity, capacity))

    def start_failed(self, worker_id: int, now: float, jitter: float = 1.0) -> None:
        """Note that a start failed, and start nothing at its source for a while.

        Args:
            worker_id: of the worker; nothing of it is left.
            now: seconds.
            jitter: factor of the pause, so that many pools do not try again at one time.
        """
        self._failed += 1
        self._pause(self.workers[worker_id].source, now, jitter)
        self.start_abandoned(worker_id, now)

    def start_abandoned(self, worker_id: int, now: float) -> None:
        """Note that a start was cancelled, and left nothing behind."""
        worker = self.workers.pop(worker_id)
        assert worker.phase is WorkerPhase.STARTING
        self.seconds.wasted += now - worker.since

    def is_short_lived(self, worker_id: int, now: float) -> bool:
        """Tell whether a worker that dies now counts as one that did not start."""
        return now - self.workers[worker_id].ready_at < _SHORT_LIFE

    def died(self, worker_id: int, now: float, jitter: float = 1.0) -> list[int]:
        """Note that a worker died.

        Args:
            worker_id: of the worker.
            now: seconds.
            jitter: as for ``start_failed``.

        Returns:
            The leases that were on it. None of them is left to release.
        """
        short_lived = self.is_short_lived(worker_id, now)
        worker = self.workers.pop(worker_id)
        self._died += 1
        if short_lived:
            self._pause(worker.source, now, jitter)
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

    def _pause(self, source: int, now: float, jitter: float) -> None:
        """Start nothing at a source for a while, longer with each failure."""
        if now < self._held_until[source]:
            return  # failures at one time count as one
        doublings = min(self._failures[source], _MAX_DOUBLINGS)
        pause = min(_FIRST_PAUSE * 2**doublings, _LONGEST_PAUSE)
        self._failures[source] += 1
        self._held_until[source] = now + pause * jitter

    def forgive(self, now: float) -> None:
        """Forget the failures of sources whose workers have been up for long enough."""
        for worker in self.workers.values():
            if now - worker.ready_at >= _SHORT_LIFE:
                self._failures[worker.source] = 0

    def drain(self, worker_id: int) -> None:
        """Give a worker no more sessions; it is ended when the last one has ended."""
        worker = self.workers[worker_id]
        assert worker.phase is not WorkerPhase.STARTING
        worker.phase = WorkerPhase.DRAINING

    def leaves(self, worker_id: int) -> bool:
        """Tell whether a worker drains for another reason than that its sessions are used up."""
        worker = self.workers[worker_id]
        return worker.phase is WorkerPhase.DRAINING and not self._used_up(worker)

    def full(self, worker_id: int, until: float) -> None:
        """Note that a server refused a session: others play there, too."""
        self.workers[worker_id].full_until = until

    def rest(self, worker_id: int, until: float) -> None:
        """Prefer other workers until then: a session failed at this one."""
        self.workers[worker_id].rests_until = until

    def set_room(self, source: int, room: int | None) -> None:
        """Note how many more workers a source can make; ``None``: any number."""
        self._rooms[source] = inf if room is None else room

    # -- decisions ----------------------------------------------------------------------------

    def plan(self, now: float) -> Plan:
        """Return the next things to do, which the scheduler takes as done."""
        plan = Plan()
        self._grant(plan, now)
        self._retire(plan, now)
        self._start(plan, now)
        self._end_idle(plan, now)
        self._leased += len(plan.grants)
        self._ended += len(plan.ends)
        self._peak = max(self._peak, len(self.workers))
        return plan

    def _grant(self, plan: Plan, now: float) -> None:
        if not self.waiting:
            return
        ready = [worker for worker in self.workers.values() if worker.phase is WorkerPhase.READY]
        for ticket in list(self.waiting):
            best = min(
                (worker for worker in ready if self._has_room(worker, now)),
                key=lambda worker: (
                    worker.rests_until > now,
                    len(worker.leases) / worker.capacity,
                    worker.id,
                ),
                default=None,
            )
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

    def _has_room(self, worker: WorkerEntry, now: float) -> bool:
        return (
            len(worker.leases) < worker.capacity
            and worker.full_until <= now
            and not self._used_up(worker)
        )

    def _used_up(self, worker: WorkerEntry) -> bool:
        return worker.uses >= self._max_uses and not self.sources[worker.source].free

    def _retire(self, plan: Plan, now: float) -> None:
        """Drain workers that have served their time; end those that have drained."""
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
        """End the longest idle of the workers that are not needed."""
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
        """Return the seconds so far, those of live workers included."""
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

    def statistics(self, now: float) -> PoolStatistics:
        """Return the counts now and so far."""
        workers = list(self.workers.values())
        phases = Counter(worker.phase for worker in workers)
        return PoolStatistics(
            ready=phases[WorkerPhase.READY],
            starting=phases[WorkerPhase.STARTING],
            draining=phases[WorkerPhase.DRAINING],
            capacity=sum(w.capacity for w in workers if w.phase is WorkerPhase.READY),
            sessions=len(self.holders),
            waiting=len(self.waiting),
            sessions_leased=self._leased,
            workers_started=self._started,
            starts_failed=self._failed,
            workers_died=self._died,
            workers_ended=self._ended,
            peak_workers=self._peak,
            seconds=self.seconds_at(now),
        )

    def close(self, now: float) -> list[int]:
        """End everything; return the workers that were ready. Leases and tickets are gone."""
        ended = []
        for worker in list(self.workers.values()):
            if worker.phase is WorkerPhase.STARTING:
                self.start_abandoned(worker.id, now)
                continue
            self._account(worker, now, used=bool(worker.leases))
            del self.workers[worker.id]
            ended.append(worker.id)
        self.waiting.clear()
        self.holders.clear()
        return ended
