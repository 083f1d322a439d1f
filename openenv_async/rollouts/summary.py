"""The summary of a batch of rollouts, kept up as its outcomes arrive."""

from __future__ import annotations

import logging
import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from openenv_async.endpoints.redaction import redacted
from openenv_async.errors import InvalidObservation
from openenv_async.notebook import brief, grid
from openenv_async.rollouts.record import error_text
from openenv_async.telemetry.terminal import plain_text
from openenv_async.types import EpisodeInfo, Outcome, OutcomeStatus, Task, Trajectory

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Failure", "Reservoir", "RunWarning", "Summary"]

log = logging.getLogger("openenv_async.rollouts")

_SAMPLES: Final = 16_384
_MAX_REASONS: Final = 100
"""Reasons that a summary tells apart; what comes further counts as other ones."""
_OTHERS: Final = "other reasons"
_VARYING: Final = re.compile(r"\b0x[0-9a-f]+\b|\b(?=[0-9a-f-]*\d)[0-9a-f-]{8,}\b|\d+(\.\d+)?", re.I)
"""Parts of a message that differ from one episode to the next: addresses, ids, numbers."""
PERCENTILES: Final = (50, 90, 99)


class Reservoir:
    """A bounded random sample of a stream of numbers (Vitter's algorithm R).

    Args:
        size: numbers kept at most.
    """

    __slots__ = ("_rng", "_size", "count", "samples")

    def __init__(self, size: int = _SAMPLES) -> None:
        self._size = size
        self._rng = random.Random(0).random
        self.count = 0
        self.samples: list[float] = []

    def add(self, value: float) -> None:
        """Add one number."""
        self.count += 1
        if self.count <= self._size:
            self.samples.append(value)
        else:
            place = int(self._rng() * self.count)
            if place < self._size:
                self.samples[place] = value

    def percentile(self, percent: float) -> float | None:
        """Return the nearest-rank percentile of the sample; ``None`` when it is empty."""
        if not self.samples:
            return None
        ordered = sorted(self.samples)
        return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@dataclass(slots=True)
class Failure:
    """Episodes that failed for one reason.

    Attributes:
        status: of each of them.
        code: the wire code of an ``OpenEnvError``, else the name of the exception's class.
        reason: the first line of the first one's message.
        count: how many.
        first_episode: the least index among them.
        seed, task_id: of that episode, where it has them.
        command: the command line that plays that episode again, where the caller knows one.
        log_tail: what the first of their workers to have said anything had written last.
    """

    status: str
    code: str
    reason: str
    count: int
    first_episode: int
    log_tail: str | None = None
    seed: int | None = None
    task_id: str | None = None
    command: str | None = None


@dataclass(slots=True)
class RunWarning:
    """Something of a run that is not as it should be, though no episode may have failed of it.

    Attributes:
        kind: ``reward_not_finite``, ``episode_without_end``, ``loop_blocked``,
            ``sessions_starved``, ``quota_reached`` or ``bound_by_policy``.
        message: of the first case, with the remedy.
        count: cases.
        episode: of the first case, where it is of one.
    """

    kind: str
    message: str
    count: int = 1
    episode: int | None = None


class _RecordedError(Exception):
    """An error as a record has it."""

    code: str
    log_tail: str | None


class Summary:
    """Counts, returns and latencies of many outcomes.

    Returns of failed episodes and of episodes without any reward do not enter: ``None`` is not 0.
    An infinite return counts among the returns and in their range; mean and deviation are those
    of the finite ones.

    Attributes:
        total: episodes asked for, where known.
        episodes: outcomes so far.
        steps: steps in them.
        statuses: outcomes by status.
        errors: the first error message of each failing status.
        unwritten: episodes that could not be written to a file, as far as they were counted.
        unwritten_reason: why the first of them could not.
        unfinished_reason: why the file could not be closed, though its episodes are on the disk.
        latencies: seconds per step call as the caller saw it.
        refused: times a session had to wait because the server was full.
        retried: times an episode was begun again, see ``collect``.
        running: episodes under way.
        mistakes: refused actions and unreadable replies of the policy.
        unreadable: of them the replies that are not an action.
        policy_seconds, environment_seconds: that episodes which ended had waited, all together, for
            actions and for the results of steps.
        wasted_steps: steps of failed episodes, and of attempts that were repeated.
        model_calls, model_tokens: of agents that play by themselves, as far as a gateway knows.
    """

    def __init__(self, total: int | None = None) -> None:
        self.total = total
        self.episodes = 0
        self.steps = 0
        self.statuses: Counter[OutcomeStatus] = Counter()
        self.errors: dict[OutcomeStatus, str] = {}
        self.unwritten = 0
        self.unwritten_reason: str | None = None
        self.unfinished_reason: str | None = None
        self.latencies = Reservoir()
        self.refused = 0
        self.retried = 0
        self.running = 0
        self.mistakes = 0
        self.unreadable = 0
        self.wasted_steps = 0
        self.model_calls = 0
        self.model_tokens = 0
        self.policy_seconds = 0.0
        self.environment_seconds = 0.0
        self._tasks: set[int] = set()
        self._groups: set[int] = set()
        self._begun: float | None = None
        self._ended: float | None = None
        self._failures: dict[tuple[str, str, str], Failure] = {}
        self._repeated_steps = 0
        self._warnings: dict[str, RunWarning] = {}
        self._returns = 0
        self._finite = 0
        self._mean = 0.0
        self._squares = 0.0
        self._min = math.inf
        self._max = -math.inf

    def start(self) -> None:
        """Start the clock; done by ``collect``. Later calls change nothing."""
        if self._begun is None:
            self._begun = time.perf_counter()

    def add(self, outcome: Outcome) -> None:
        """Add one outcome."""
        self.start()
        self._ended = time.perf_counter()
        self.episodes += 1
        self.steps += outcome.steps
        self.statuses[outcome.status] += 1
        self.mistakes += outcome.mistakes
        self.unreadable += outcome.unreadable
        self.model_calls += outcome.model_calls
        self.model_tokens += outcome.model_tokens
        if outcome.started_at is not None:
            if outcome.task is not None:
                self._tasks.add(hash((outcome.task.split, outcome.task.id)))
            if outcome.member:  # a group of one is an episode
                self._groups.add(outcome.group or 0)
        if outcome.error is not None and outcome.status not in self.errors:
            self.errors[outcome.status] = redacted(error_text(outcome.error))
        if not outcome.status.usable:
            if not outcome.invalid_action:  # which a trainer may keep
                self.wasted_steps += outcome.steps
            self._add_failure(outcome)
        value = outcome.episode_return
        error = outcome.error
        bad = error.detail.get("reward") if isinstance(error, InvalidObservation) else None
        if bad is not None or (value is not None and math.isinf(value)):
            self._warn_of_reward(outcome.index, bad)
        if value is not None:
            self._returns += 1
            if math.isfinite(value):
                self._finite += 1
                delta = value - self._mean
                self._mean += delta / self._finite
                self._squares += delta * (value - self._mean)
            self._min = min(self._min, value)
            self._max = max(self._max, value)

    def add_record(self, record: Trajectory) -> None:
        """Add an episode that was read from a file; the clock does not run for it."""
        status = record.status or OutcomeStatus.CANCELLED
        error = None
        if record.error_code is not None:
            error = _RecordedError(record.error_message or "")
            error.code = record.error_code
            error.log_tail = (record.error_detail or {}).get("log_tail")
        episode = None
        if record.episode_id is not None and record.seed is not None:
            episode = EpisodeInfo(record.episode_id, record.seed)
        mistakes = (step.mistake for step in record.transitions if step.mistake is not None)
        self.add(
            Outcome(
                record.index,
                status,
                episode,
                record.episode_return,
                record.steps,
                record.duration,
                error=error,
                mistakes=record.mistakes,
                task=None if record.task_id is None else Task(record.task_id),
                unreadable=sum(mistake.kind == "unreadable_reply" for mistake in mistakes),
            )
        )

    def _warn_of_reward(self, index: int, reward: str | None) -> None:
        said = "an infinite reward" if reward is None else f"the reward {reward}"
        then = "enters no mean" if reward is None else "has no return and counts as failed"
        self.warn(
            "reward_not_finite",
            f"episode {index} was given {said}: it {then}; have the environment give a finite"
            " number, or None for no reward",
            index,
        )

    def add_unwritten(self, error: BaseException) -> None:
        """Count an episode that could not be written."""
        self.unwritten += 1
        self.unwritten_reason = self.unwritten_reason or error_text(error)

    def warn(self, kind: str, message: str, episode: int | None = None) -> None:
        """Note a case of something that is wrong; the first of its kind is logged.

        Args:
            kind: in a word.
            message: with a number and the remedy.
            episode: index of the episode, if it is of one.
        """
        known = self._warnings.get(kind)
        if known is not None:
            known.count += 1
            return
        self._warnings[kind] = RunWarning(kind, redacted(message), 1, episode)
        log.warning("%s", redacted(message))

    @property
    def warnings(self) -> list[RunWarning]:
        """Cases of what was wrong while it ran, one for each kind."""
        return list(self._warnings.values())

    def add_repeated(self, steps: int) -> None:
        """Count an attempt that is played again, and the steps it had."""
        self.retried += 1
        self.wasted_steps += steps
        self._repeated_steps += steps

    def _add_failure(self, outcome: Outcome) -> None:
        error = outcome.error
        if error is None:
            code, text = "cancelled", "stopped: enough episodes had ended, or the time was over"
        else:
            code = str(getattr(error, "code", type(error).__name__))
            text = error_text(error).strip() or type(error).__name__
        reason = text.splitlines()[0]
        key = (str(outcome.status), code, _VARYING.sub("#", reason))
        if key not in self._failures and len(self._failures) >= _MAX_REASONS:
            key, code, reason = ("", "", ""), "", _OTHERS
        failure = self._failures.get(key)
        if failure is None:
            status = str(outcome.status) if reason != _OTHERS else ""
            failure = Failure(status, code, redacted(reason), 0, outcome.index)
            self._failures[key] = failure
        failure.count += 1
        if failure.count == 1 or outcome.index < failure.first_episode:
            failure.first_episode = outcome.index
            failure.seed = None if outcome.episode is None else outcome.episode.seed
            failure.task_id = None if outcome.task is None else outcome.task.id
        if failure.log_tail is None and getattr(error, "log_tail", None):
            failure.log_tail = redacted(str(getattr(error, "log_tail", "")))

    @property
    def failure_reasons(self) -> list[Failure]:
        """Failed episodes by reason, the most frequent first."""
        return sorted(self._failures.values(), key=lambda each: (-each.count, each.first_episode))

    @property
    def duration(self) -> float:
        """Seconds from the start to the last outcome."""
        if self._begun is None or self._ended is None:
            return 0.0
        return self._ended - self._begun

    @property
    def steps_per_second(self) -> float | None:
        """Steps by wall time."""
        return self.steps / self.duration if self.duration > 0 else None

    @property
    def tasks(self) -> int:
        """Different tasks that were played."""
        return len(self._tasks)

    @property
    def groups(self) -> int:
        """Groups of several episodes that were begun."""
        return len(self._groups)

    @property
    def failures(self) -> int:
        """Outcomes that cannot be trained on."""
        return sum(count for status, count in self.statuses.items() if not status.usable)

    @property
    def waste(self) -> float | None:
        """Share of the steps that no episode that can be trained on has; ``None`` without any."""
        played = self.steps + self._repeated_steps
        return self.wasted_steps / played if played else None

    @property
    def returns(self) -> int:
        """Episodes that have a return."""
        return self._returns

    @property
    def return_mean(self) -> float | None:
        """Mean of the finite returns; ``None`` without any."""
        return self._mean if self._finite else None

    @property
    def return_std(self) -> float | None:
        """Standard deviation of the finite returns (of the population)."""
        return math.sqrt(self._squares / self._finite) if self._finite else None

    @property
    def return_min(self) -> float | None:
        """The least return."""
        return self._min if self._returns else None

    @property
    def return_max(self) -> float | None:
        """The greatest return."""
        return self._max if self._returns else None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values; infinity, which JSON lacks, is a text."""
        return {
            "episodes": self.episodes,
            "tasks": self.tasks,
            "groups": self.groups,
            "steps": self.steps,
            "duration": self.duration,
            "steps_per_second": self.steps_per_second,
            "returns": self._returns,
            "return_mean": _json_number(self.return_mean),
            "return_std": _json_number(self.return_std),
            "return_min": _json_number(self.return_min),
            "return_max": _json_number(self.return_max),
            "outcomes": {str(status): count for status, count in sorted(self.statuses.items())},
            "errors": {str(status): text for status, text in sorted(self.errors.items())},
            "failures": [asdict(failure) for failure in self.failure_reasons],
            "step_latency": {
                f"p{percent}": self.latencies.percentile(percent) for percent in PERCENTILES
            },
            "mistakes": {
                "refused_action": self.mistakes - self.unreadable,
                "unreadable_reply": self.unreadable,
                "per_episode": self.mistakes / self.episodes if self.episodes else None,
            },
            "model": {
                "calls": self.model_calls,
                "tokens": self.model_tokens,
                "calls_per_episode": self.model_calls / self.episodes if self.episodes else None,
                "tokens_per_episode": self.model_tokens / self.episodes if self.episodes else None,
            },
            "waited": {"policy": self.policy_seconds, "environment": self.environment_seconds},
            "waste": self.waste,
            "warnings": [asdict(warning) for warning in self._warnings.values()],
            "refused": self.refused,
            "retried": self.retried,
            "unwritten": self.unwritten,
            "unwritten_reason": self.unwritten_reason,
        }

    def table(self, title: str | None = None) -> Table:
        """Return a table for a terminal."""
        table = _two_columns(title)
        table.add_row("episodes", f"{self.episodes:,}")
        if self.tasks:
            table.add_row("tasks", f"{self.tasks:,}")
        if self.groups:
            table.add_row("groups", f"{self.groups:,}")
        table.add_row("steps", f"{self.steps:,}")
        rate = self.steps_per_second
        table.add_row("steps/s", "-" if rate is None else f"{rate:,.0f}")
        table.add_row("duration", f"{self.duration:.2f} s")
        self._add_results(table)
        if self.model_calls:
            calls, tokens = self.model_calls, self.model_tokens
            table.add_row("model calls", f"{calls:,}, {calls / self.episodes:,.1f} an episode")
            table.add_row("model tokens", f"{tokens:,}, {tokens / self.episodes:,.0f} an episode")
        waited = self.policy_seconds + self.environment_seconds
        if waited:
            table.add_row("time in policy", f"{self.policy_seconds / waited:.0%}")
            table.add_row("in environments", f"{self.environment_seconds / waited:.0%}")
        for percent in PERCENTILES:
            latency = self.latencies.percentile(percent)
            text = "-" if latency is None else f"{latency * 1e3:.2f} ms"
            table.add_row(f"step latency p{percent}", text)
        if self.refused:
            table.add_row("waits for capacity", f"{self.refused:,}")
        if self.retried:
            table.add_row("played again", f"{self.retried:,}")
        if self.unwritten:
            table.add_row("not written", f"{self.unwritten:,}")
        return table

    def _repr_html_(self) -> str:
        """Return its tables, for notebooks."""
        tables = [grid("summary", ("", ""), _cells(self.table()))]
        failures = self.failure_table()
        if failures is not None:
            headings = [str(column.header) for column in failures.columns]
            tables.append(grid("failures", headings, _cells(failures)))
        warnings = [(each.kind, brief(each.message), each.count) for each in self.warnings]
        if warnings:
            tables.append(grid("warnings", ("kind", "message", "count"), warnings))
        return "".join(tables)

    def record_table(self, title: str | None = None) -> Table:
        """Return a table of what was added by ``add_record``: without rates and times."""
        table = _two_columns(title)
        table.add_row("episodes", f"{self.episodes:,}")
        table.add_row("steps", f"{self.steps:,}")
        self._add_results(table)
        return table

    def _add_results(self, table: Table) -> None:
        if self._finite:
            table.add_row("return", f"{self.return_mean:.3f} ± {self.return_std:.3f}")
        if self._returns:
            table.add_row("return range", f"{self._min:g} to {self._max:g}")
        else:
            table.add_row("return", "none given")
        for status, count in sorted(self.statuses.items()):
            table.add_row(str(status), f"{count:,}")
        if self.mistakes:
            table.add_row("actions refused", f"{self.mistakes - self.unreadable:,}")
            table.add_row("replies unreadable", f"{self.unreadable:,}")
            table.add_row("mistakes an episode", f"{self.mistakes / self.episodes:.2f}")
        if self.waste:
            table.add_row("steps wasted", f"{self.waste:.1%}")

    def failure_table(self) -> Table | None:
        """Return a table of the failures and their reasons; ``None`` without any."""
        if not self._failures:
            return None
        from rich.table import Table

        table = Table(title="failures", title_justify="left")
        table.add_column("count", justify="right")
        table.add_column("first episode", justify="right")
        table.add_column("status")
        table.add_column("reason", overflow="fold")
        tasks = any(failure.task_id for failure in self._failures.values())
        if tasks:
            table.add_column("its task", overflow="fold")
        for failure in self.failure_reasons:
            reason = f"{failure.code}: {failure.reason}" if failure.code else failure.reason
            table.add_row(
                f"{failure.count:,}",
                str(failure.first_episode),
                failure.status,
                plain_text(reason),
                *([plain_text(failure.task_id or "")] if tasks else []),
            )
        return table


def _cells(table: Table) -> Iterator[tuple[str, ...]]:
    """The texts of the cells of a table, row by row."""
    columns = ([str(cell) for cell in column.cells] for column in table.columns)
    return zip(*columns, strict=True)


def _two_columns(title: str | None) -> Table:
    from rich.table import Table

    heading = None if title is None else plain_text(title)
    table = Table(title=heading, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right", overflow="fold")  # a path is of no use in part
    return table


def _json_number(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return "Infinity" if value > 0 else "-Infinity"
