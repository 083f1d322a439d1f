"""The files of a run: outcomes and attempts, appended by a thread, read when they are opened.

Rules:

- An outcome counts once it is written and synced (``fdatasync``). The thread takes what has
  gathered since its last sync at once, so that a sync is shared and the loop waits for no disk.
- Files are only appended to, and each opening begins a segment of its own. A last line that has
  no end is whole, and mended, or was never acknowledged, and removed. A later line replaces an
  earlier one of the same episode.
- A write that fails leaves no part of its lines behind.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import hashlib
import logging
import os
import queue
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from openenv_async.arrays import tag
from openenv_async.errors import (
    InvalidModel,
    RunBroken,
    RunError,
    RunNotWritten,
    error_class,
    error_from_wire,
    error_text,
)
from openenv_async.models import to_builtins
from openenv_async.rollouts.files import line_of, mend_last_line, trajectory_of
from openenv_async.rollouts.record import Trajectory
from openenv_async.types import EpisodeInfo, Outcome, OutcomeStatus, Task

__all__ = [
    "ATTEMPTS",
    "KEY",
    "Attempt",
    "EpisodeKey",
    "Fetched",
    "Kept",
    "ResultClass",
    "RunJournal",
    "Submitted",
    "digest_of",
    "lock_file",
    "result_class",
    "segments_of",
    "sync_folder",
    "task_digest",
    "write_all",
]

log = logging.getLogger("openenv_async.rollouts")

KEY: Final = "openenv_run"
ATTEMPTS: Final = "attempts.jsonl"
_MAX_SEGMENT: Final = 256 * 1024 * 1024
"""Bytes of a segment after which the next is begun."""
_MAX_JOINED: Final = 1024 * 1024
"""Bytes of lines that are put together to be written: copying more would delay other threads."""
_MAX_COMMIT: Final = 1024
"""Outcomes that are synced at once at most."""


class EpisodeKey(NamedTuple):
    """An episode of a run.

    Attributes:
        task: id of its task; ``#N`` for group N of a run without tasks.
        member: which of its group, from 0.
        visit: how often the task was given before it.
    """

    task: str
    member: int = 0
    visit: int = 0

    def __str__(self) -> str:
        again = f", visit {self.visit}" if self.visit else ""
        return f"task {self.task}, member {self.member}{again}"


class ResultClass(enum.StrEnum):
    """The use of an episode's result."""

    GOOD = "good"
    """The end of an episode by itself, at the first attempt."""
    DEGRADED = "degraded"
    """A real result that may be used: truncated, ended by a mistake that has a penalty, or of an
    episode that was played again since an attempt was lost."""
    UNUSABLE = "unusable"
    """A result that is not to be used: an error, a timeout, a refused task."""
    ABANDONED = "abandoned"
    """No result after as many attempts as are allowed."""
    NONE = "none"
    """No result: the episode was lost or cancelled, and is played again."""


def result_class(outcome: Outcome, lost: int = 0) -> ResultClass:
    """Return the use of an outcome's result.

    Args:
        outcome: how the episode ended.
        lost: attempts of it before that gave no result.
    """
    match outcome.status:
        case OutcomeStatus.COMPLETED:
            return ResultClass.DEGRADED if lost else ResultClass.GOOD
        case OutcomeStatus.TRUNCATED:
            return ResultClass.DEGRADED
        case OutcomeStatus.INVALID_ACTION if outcome.penalty is not None:
            return ResultClass.DEGRADED
        case OutcomeStatus.INFRA_ERROR | OutcomeStatus.CANCELLED:
            return ResultClass.NONE
        case _:
            return ResultClass.UNUSABLE


class _Place(msgspec.Struct, frozen=True):
    """The object under ``openenv_run`` of a line: which episode it is of, and its result's class.

    ``unrecorded`` says why the line has no steps; ``digest`` is of the task's public columns.
    """

    task: str
    member: int
    result: ResultClass
    visit: int = 0
    penalty: float | None = None
    recorded: bool = True
    unrecorded: str | None = None
    digest: str | None = None
    unreadable: int = 0
    model_calls: int = 0
    model_tokens: int = 0

    @property
    def key(self) -> EpisodeKey:
        return EpisodeKey(self.task, self.member, self.visit)


class _Line(msgspec.Struct):
    """The parts of a line of an outcome that the index needs."""

    openenv_run: _Place
    status: OutcomeStatus
    index: int
    attempts: int = 1
    run: str | None = None
    episode_return: Any = None


class Attempt(msgspec.Struct, omit_defaults=True):
    """A line of ``attempts.jsonl``: with ``ended`` of an attempt's end, else of its beginning."""

    task: str
    member: int
    attempt: int
    visit: int = 0
    started: float | None = None
    ended: float | None = None
    result: ResultClass | None = None
    status: str | None = None
    error: str | None = None
    lost: bool = False

    @property
    def key(self) -> EpisodeKey:
        return EpisodeKey(self.task, self.member, self.visit)


_LINES: Final = msgspec.json.Decoder(_Line)
_ATTEMPT_LINES: Final = msgspec.json.Decoder(Attempt)


@dataclass(frozen=True, slots=True)
class Kept:
    """The place of an outcome in the folder, and what is asked of it most."""

    segment: int
    offset: int
    size: int
    status: OutcomeStatus
    result: ResultClass
    index: int
    attempts: int
    digest: str | None
    episode_return: float | None


@dataclass(slots=True)
class Submitted:
    """Something for the thread to write; ``done`` is called by it, with an error or ``None``."""

    key: EpisodeKey
    attempt: Attempt
    outcome: Outcome | None = None
    result: ResultClass = ResultClass.NONE
    done: Callable[[BaseException | None], None] | None = None
    line: bytes = field(default=b"", repr=False)
    digest: str | None = None
    error: BaseException | None = None


class Fetched(NamedTuple):
    """An outcome for the thread to read; ``done`` is called by it."""

    key: EpisodeKey
    done: Callable[[Outcome | None, BaseException | None], None]


_Item: TypeAlias = Submitted | Fetched | threading.Event
"""A thing for the thread: an event is set once all before it is written."""


class RunJournal:
    """The outcomes and attempts of a run on disk.

    Args:
        path: of the run's folder.
        run: id of the run; empty where it is not known.
        writable: whether this process may mend and append.

    Attributes:
        kept: the place of each episode's outcome.
        lost: attempts of each episode that gave no result.
        begun: attempts of each episode.
        cut: attempts that ended with the process.
        first_segment: number of the segment that is written first.

    Raises:
        RunBroken: there are outcomes of another run, or a file cannot be opened.
    """

    def __init__(self, path: Path, run: str, *, writable: bool) -> None:
        self.path = path
        self.run = run
        self.kept: dict[EpisodeKey, Kept] = {}
        self.lost: Counter[EpisodeKey] = Counter()
        self.begun: Counter[EpisodeKey] = Counter()
        self.cut = 0
        self._writable = writable
        self._queue: queue.SimpleQueue[Submitted | Fetched | threading.Event | None] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None
        self._file: int | None = None
        self._size = 0
        self._attempts_file: int | None = None
        self._read()
        self.first_segment = self._segment = 1 + max(segments_of(path), default=-1)

    def close(self) -> None:
        """Write what was submitted. Idempotent."""
        self._writable = False
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()
        for name in ("_file", "_attempts_file"):
            opened = getattr(self, name)
            setattr(self, name, None)
            if opened is not None:
                os.close(opened)

    def outcome(self, key: EpisodeKey) -> Outcome:
        """Return the outcome of an episode that has one.

        Raises:
            RunBroken: it cannot be read any more.
        """
        kept = self.kept[key]
        path = _segment_path(self.path, kept.segment)
        try:
            with path.open("rb") as file:
                file.seek(kept.offset)
                trajectory = trajectory_of(file.read(kept.size))
            place = msgspec.convert(trajectory.extra.pop(KEY), _Place)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
            raise RunBroken(f"the outcome of {key} cannot be read from {path}: {exc}") from exc
        return _outcome_of(trajectory, place)

    def submit(self, submitted: Submitted | Fetched) -> None:
        """Have something written, or read."""
        if not self._writable:
            raise RunError(f"the run at {self.path} was closed, or opened to be read: open it")
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._write_all, name="openenv-run-folder", daemon=True
            )
            self._thread.start()
        self._queue.put(submitted)

    def flush(self) -> None:
        """Wait until what was submitted is written, and those who wait are told."""
        if self._thread is not None:
            written = threading.Event()
            self._queue.put(written)
            written.wait()

    def _write_all(self) -> None:
        """Write what comes, until ``None`` does; the thread."""
        ending = False
        while not ending:
            batch: list[Submitted] = []
            item = self._queue.get()
            while item is not None and not isinstance(item, threading.Event):
                if isinstance(item, Fetched):
                    self._fetch(item)
                else:
                    batch.append(item)
                if len(batch) == _MAX_COMMIT:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            ending = item is None
            if batch:
                self._commit(batch)
            if isinstance(item, threading.Event):
                item.set()

    def _fetch(self, fetched: Fetched) -> None:
        try:
            outcome, error = self.outcome(fetched.key), None
        except Exception as exc:
            outcome, error = None, exc
        with contextlib.suppress(RuntimeError):  # its loop has ended
            fetched.done(outcome, error)

    def _commit(self, batch: list[Submitted]) -> None:
        """Write a batch and sync it, then tell those who wait."""
        outcomes = []
        for each in batch:
            if each.outcome is not None and each.result is not ResultClass.NONE:
                task = each.outcome.task
                each.digest = None if task is None else task_digest(task)
                try:
                    each.line = self._line(each.key, each.outcome, each.result, each.digest)
                except Exception as exc:  # of an object of the user's: the thread goes on
                    each.error = _not_written(self.path, 1, exc)
                else:
                    outcomes.append(each)
        if outcomes:
            try:
                self._append(outcomes)
            except OSError as exc:
                for each in outcomes:
                    each.error = _not_written(self.path, len(outcomes), exc)
        with contextlib.suppress(OSError):  # only counts attempts: worth no outcome
            self._append_attempts(batch)
        for each in batch:
            if each.done is not None:
                with contextlib.suppress(RuntimeError):  # its loop has ended
                    each.done(each.error)

    def _line(
        self, key: EpisodeKey, outcome: Outcome, result: ResultClass, digest: str | None
    ) -> bytes:
        """The line of an outcome; without its steps if they cannot be written."""
        place = _Place(
            key.task,
            key.member,
            result,
            key.visit,
            outcome.penalty,
            recorded=isinstance(outcome.trajectory, Trajectory),
            digest=digest,
            unreadable=outcome.unreadable,
            model_calls=outcome.model_calls,
            model_tokens=outcome.model_tokens,
        )
        trajectory = outcome.trajectory
        if not isinstance(trajectory, Trajectory):
            trajectory = Trajectory(outcome.index)
            trajectory.begin(outcome.episode)
            trajectory.finish(outcome)
        trajectory.run = self.run
        try:
            return line_of(trajectory, **{KEY: msgspec.to_builtins(place)})
        except Exception as exc:
            reason = error_text(exc)
            log.warning("%s is kept without its steps: %s", key, reason)
            place = msgspec.structs.replace(place, recorded=False, unrecorded=reason)
            bare = Trajectory(outcome.index)
            bare.begin(outcome.episode)
            bare.finish(replace(outcome, task=None))
            bare.run, bare.task_id, bare.error_detail = self.run, trajectory.task_id, None
            return line_of(bare, **{KEY: msgspec.to_builtins(place)})

    def _append(self, batch: list[Submitted]) -> None:
        """Write lines to the segment and sync it; nothing of them is left if that fails."""
        if self._file is None or self._size >= _MAX_SEGMENT:
            self._next_segment()
        assert self._file is not None
        file, begin = self._file, self._size
        try:
            lines = [each.line for each in batch]
            joined = sum(map(len, lines)) <= _MAX_JOINED
            for data in [b"".join(lines)] if joined else lines:
                write_all(file, data)
            os.fdatasync(file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(file, begin)
            raise
        for each in batch:
            assert each.outcome is not None
            size, outcome = len(each.line), each.outcome
            self.kept[each.key] = Kept(
                self._segment,
                self._size,
                size,
                outcome.status,
                each.result,
                outcome.index,
                outcome.attempts,
                each.digest,
                outcome.episode_return,
            )
            self._size += size

    def _next_segment(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._segment += 1
        path = _segment_path(self.path, self._segment)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._size = os.fstat(self._file).st_size
        sync_folder(self.path)

    def _append_attempts(self, batch: list[Submitted]) -> None:
        if self._attempts_file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._attempts_file = os.open(self.path / ATTEMPTS, flags, 0o644)
        lines = [msgspec.json.encode(each.attempt) + b"\n" for each in batch if each.error is None]
        write_all(self._attempts_file, b"".join(lines))

    # -- reading ----------------------------------------------------------------------------------

    def _read(self) -> None:
        """Fill the index from the files; mend what a crash cut, if they may be written."""
        path = self.path
        try:
            for number, path in sorted(segments_of(self.path).items()):
                if self._writable:
                    _mended(path)
                self._read_segment(number, path)
            path = self.path / ATTEMPTS
            if path.exists():
                if self._writable:
                    _mended(path)
                self._read_attempts(path)
        except OSError as exc:
            raise RunBroken(
                f"{path} cannot be opened: {exc.strerror or exc}; see to it that this user may read"
                " and write the files of the run, and try again"
            ) from exc

    def _read_segment(self, number: int, path: Path) -> None:
        offset = 0
        with path.open("rb") as lines:
            for count, line in enumerate(lines, 1):
                begin, offset = offset, offset + len(line)
                try:
                    read = _LINES.decode(line)
                except (msgspec.MsgspecError, ValueError) as exc:
                    if line.endswith(b"\n") and not line.isspace():
                        log.warning(
                            "line %d of %s is broken, and its episode is played again: %s",
                            count,
                            path,
                            exc,
                        )
                    continue
                if self.run and read.run is not None and read.run != self.run:
                    raise RunBroken(
                        f"{path} belongs to run {read.run}, and the manifest of {self.path} to run"
                        f" {self.run}: put the files of each run into a folder of its own"
                    )
                place, value = read.openenv_run, read.episode_return
                self.kept[place.key] = Kept(
                    number,
                    begin,
                    len(line),
                    read.status,
                    place.result,
                    read.index,
                    read.attempts,
                    place.digest,
                    value if isinstance(value, int | float) else None,
                )

    def _read_attempts(self, path: Path) -> None:
        open_attempts: Counter[EpisodeKey] = Counter()
        with path.open("rb") as lines:
            for line in lines:
                try:
                    read = _ATTEMPT_LINES.decode(line)
                except (msgspec.MsgspecError, ValueError):
                    continue  # cut by a crash: it only counts
                if read.ended is None:
                    self.begun[read.key] += 1
                    open_attempts[read.key] += 1
                else:
                    open_attempts[read.key] -= 1
                    self.lost[read.key] += read.lost
        self.cut = sum(count for count in open_attempts.values() if count > 0)


def digest_of(value: Any) -> str:
    """Return a digest of plain values: the same for the same values, in whatever order of keys."""
    encoded = msgspec.json.encode(tag(to_builtins(value)), order="deterministic")
    return hashlib.sha256(encoded).hexdigest()[:16]


def task_digest(task: Task) -> str | None:
    """Return a digest of a task's public columns; ``None`` when they cannot be written."""
    try:
        return digest_of(dict(task.data))
    except (TypeError, ValueError, OverflowError, RecursionError, InvalidModel):
        return None


def _not_written(folder: Path, count: int, exc: BaseException) -> RunNotWritten:
    outcomes = "1 outcome" if count == 1 else f"{count} outcomes"
    error = RunNotWritten(
        f"{outcomes} could not be written to the run at {folder}:"
        f" {getattr(exc, 'strerror', None) or error_text(exc)}; what was finished before is there:"
        " make room, and go on with it (--resume)"
    )
    error.__cause__ = exc
    return error


def _outcome_of(trajectory: Trajectory, place: _Place) -> Outcome:
    """The outcome that a line is of."""
    error: BaseException | None = None
    if trajectory.error_code is not None:
        code, message = trajectory.error_code, trajectory.error_message or ""
        detail = dict(trajectory.error_detail or {})
        error = error_from_wire(code, message, error_class(code).retryable_by_default, detail)
    episode = None
    if trajectory.episode_id is not None and trajectory.seed is not None:
        episode = EpisodeInfo(trajectory.episode_id, trajectory.seed, trajectory.steps)
    task = None
    if trajectory.task_id is not None:
        task = Task(trajectory.task_id, trajectory.task or {})
    assert trajectory.status is not None  # every line of an outcome has one
    return Outcome(
        index=trajectory.index,
        status=trajectory.status,
        episode=episode,
        episode_return=trajectory.episode_return,
        steps=trajectory.steps,
        duration=trajectory.duration,
        trajectory=trajectory if place.recorded else None,
        error=error,
        mistakes=trajectory.mistakes,
        penalty=place.penalty,
        task=task,
        group=trajectory.group,
        member=trajectory.member,
        attempts=trajectory.attempts,
        started_at=trajectory.started_at,
        ended_at=trajectory.ended_at,
        unreadable=place.unreadable,
        model_calls=place.model_calls,
        model_tokens=place.model_tokens,
    )


def _segment_path(folder: Path, number: int) -> Path:
    return folder / f"outcomes-{number:06d}.jsonl"


def segments_of(folder: Path) -> dict[int, Path]:
    """The segments of a folder by number."""
    found = {}
    for path in folder.glob("outcomes-*.jsonl"):
        number = path.stem.removeprefix("outcomes-")
        if number.isdecimal():
            found[int(number)] = path
    return found


def lock_file(path: Path, mode: int = 0o644) -> int:
    """Return the descriptor of a file that this process alone holds, until it is closed.

    Raises:
        BlockingIOError: another process holds it; ``strerror`` says which.
        OSError: it cannot be made.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        holder = os.read(file, 200).decode(errors="replace").strip() or "another process"
        os.close(file)
        raise BlockingIOError(exc.errno, holder) from None
    with contextlib.suppress(OSError):  # for the message alone
        os.ftruncate(file, 0)
        write_all(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return file


def sync_folder(folder: Path) -> None:
    """Have the names of a folder's files on disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _mended(path: Path) -> None:
    """End the last line of a file, or remove it."""
    if path.stat().st_size:
        mend_last_line(path)


def write_all(file: int, data: bytes) -> None:
    """Write all of it: a file may take less than it is given."""
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
