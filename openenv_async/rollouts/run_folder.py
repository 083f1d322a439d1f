"""Run folders: what was finished is on disk, and a run that stopped goes on where it was.

Rules:

- An outcome is on disk before it is delivered (``run_journal``): neither the end of the process
  nor that of the machine loses one.
- An episode is known by its task, its member of the group and its visit (how often the task was
  given before), not by when it was played. It has one outcome in the folder.
- A result that is none (a lost session, a cancelled episode) is not kept, and the episode is
  played again; after ``max_attempts`` of them it is abandoned. A result that is not to be used
  is kept, and is only played again with ``retry_failed``. An attempt that ended with the process
  counts as none.
- One process writes, and holds a lock that ends with it.

Layout: ``manifest.json``, ``attempts.jsonl`` (a line when an episode begins and when an attempt
ends), ``outcomes-NNNNNN.jsonl`` (lines as in any file of trajectories, with the key
``openenv_run``), ``lock``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from openenv_async.arrays import tag
from openenv_async.endpoints.redaction import redacted_command, redacted_value
from openenv_async.errors import (
    RunBroken,
    RunError,
    RunInUse,
    RunMismatch,
    RunNotWritten,
    error_text,
    shown,
)
from openenv_async.models import to_builtins
from openenv_async.rollouts.checking import check_count
from openenv_async.rollouts.run_journal import (
    ATTEMPTS,
    KEY,
    Attempt,
    EpisodeKey,
    Fetched,
    ResultClass,
    RunJournal,
    Submitted,
    digest_of,
    lock_file,
    result_class,
    segments_of,
    sync_folder,
    task_digest,
)
from openenv_async.types import Outcome, OutcomeStatus, Task
from openenv_async.version import __version__

__all__ = ["EpisodeKey", "ResultClass", "RunFolder", "RunStatus", "result_class"]

log = logging.getLogger("openenv_async.rollouts")

MANIFEST: Final = "manifest.json"
_LOCK: Final = "lock"
_UNFINISHED: Final = "manifest.json.unfinished"
_OWN_FILES: Final = {MANIFEST, _UNFINISHED, _LOCK, ATTEMPTS}
_SCHEMA: Final = 1
MAX_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run as it stands on disk.

    Attributes:
        id: of the run.
        wanted: episodes of the whole run; ``None`` for one without an end.
        results: episodes that have an outcome, by class.
        statuses: the same by status.
        lost_attempts: attempts that gave no result.
        cut_attempts: attempts that ended with the process.
        bytes: size of the outcomes.
    """

    id: str
    wanted: int | None
    results: Mapping[str, int]
    statuses: Mapping[str, int]
    lost_attempts: int
    cut_attempts: int
    bytes: int

    @property
    def finished(self) -> int:
        """Episodes that are not played again."""
        return sum(self.results.values())

    @property
    def missing(self) -> int | None:
        """Episodes that are still to be played; ``None`` for a run without an end."""
        return None if self.wanted is None else max(0, self.wanted - self.finished)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "run": self.id,
            "wanted": self.wanted,
            "finished": self.finished,
            "missing": self.missing,
            "results": dict(self.results),
            "outcomes": dict(self.statuses),
            "lost_attempts": self.lost_attempts,
            "cut_attempts": self.cut_attempts,
            "bytes": self.bytes,
        }


class RunFolder:
    """A folder with the outcomes of a run; ``collect(..., run=folder)`` plays what is missing.

    ``create`` begins one, ``open`` goes on with one, ``view`` only reads. A context manager.

    Attributes:
        path: of the folder.
        id: of the run; it is in the record of every episode.
        manifest: digests and facts of tasks, environment, policy and settings, and more.
        max_attempts: attempts without a result after which an episode is abandoned.
        retry_failed: results that are not to be used are played again.
        force: a difference of environment, policy or settings is noted, and gone on with.
    """

    def __init__(
        self,
        path: Path,
        manifest: dict[str, Any],
        lock: int | None,
        *,
        max_attempts: int | None = None,
        retry_failed: bool = False,
        force: bool = False,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.retry_failed = retry_failed
        self.force = force
        kept_most = manifest.get("max_attempts", MAX_ATTEMPTS)
        self.max_attempts: int = kept_most if max_attempts is None else max_attempts
        self._lock = lock
        try:
            self._journal = RunJournal(path, str(manifest.get("id", "")), writable=lock is not None)
        except BaseException:
            self._unlock()
            raise
        self._playing = False
        self._again: set[EpisodeKey] = set()
        if retry_failed:
            kept = self._journal.kept
            self._again = {key for key in kept if kept[key].result in _FAILED}
            for key in self._again:
                del self._journal.lost[key]

    # -- life -------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        command: Sequence[str] | None = None,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> Self:
        """Begin a run in a folder that is new or empty, or where a run ended before it played.

        Args:
            path: of the folder.
            command: what began it, for the manifest; keys and passwords are removed from it.
            max_attempts: attempts without a result after which an episode is abandoned.

        Raises:
            RunError: there is a run already, or something else.
            RunInUse: another process is beginning one there.
            RunNotWritten: the folder cannot be made.
        """
        path = Path(path)
        max_attempts = check_count("max_attempts", max_attempts)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise RunError(
                f"{path} is a file, and a run is a folder: give another name, without a suffix"
            ) from None
        except OSError as exc:
            raise RunNotWritten(f"no run can be begun at {path}: {exc}") from exc
        there = RunError(
            f"there is a run at {path} already: go on with it (--resume, RunFolder.open), or give"
            " another folder"
        )
        if has_played(path):
            raise there
        others = sorted({each.name for each in path.iterdir()} - _OWN_FILES)
        if others:
            raise RunError(
                f"{path} has other files in it, {others[0]!r} for one: a run begins in a folder"
                " that is new or empty"
            )
        lock = _locked(path)
        if has_played(path):  # begun and ended by another process just now
            os.close(lock)
            raise there
        manifest = {
            KEY: _SCHEMA,
            "id": secrets.token_hex(8),
            "created": time.time(),
            "command": None if command is None else redacted_command(list(command)),
            "versions": {"openenv_async": __version__, "python": platform.python_version()},
            "max_attempts": max_attempts,
            "wanted": None,
            "parts": {},
            "changes": [],
        }
        try:
            _write_manifest(path, manifest)
        except BaseException:
            os.close(lock)
            raise
        return cls(path, manifest, lock)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        command: Sequence[str] | None = None,
        max_attempts: int | None = None,
        retry_failed: bool = False,
        force: bool = False,
    ) -> Self:
        """Go on with the run in a folder.

        Args:
            path: of the folder.
            command: what begins it, if it was ended before it began.
            max_attempts: instead of the run's own.
            retry_failed: play again also what has a result that is not to be used.
            force: go on with another environment, policy or settings than before; the change is
                noted in the manifest. Other tasks are another run.

        Raises:
            RunError: there is no run.
            RunBroken: its manifest cannot be read, or its files belong to several runs.
            RunInUse: another process writes to it.
        """
        path = _existing(path)
        if max_attempts is not None:
            max_attempts = check_count("max_attempts", max_attempts)
        if not (path / MANIFEST).exists() and not segments_of(path):  # ended before it began
            return cls.create(path, command=command, max_attempts=max_attempts or MAX_ATTEMPTS)
        lock = _locked(path)
        try:
            manifest = _read_manifest(path)
        except BaseException:
            os.close(lock)
            raise
        return cls(
            path,
            manifest,
            lock,
            max_attempts=max_attempts,
            retry_failed=retry_failed,
            force=force,
        )

    @classmethod
    def view(cls, path: str | Path) -> Self:
        """Read a run, also one that is being written, or whose manifest is broken.

        Raises:
            RunError: there is no run.
        """
        path = _existing(path)
        if not (path / MANIFEST).exists() and not segments_of(path):
            raise RunError(f"there is no run at {path}: it has neither a manifest nor outcomes")
        try:
            manifest = _read_manifest(path)
        except RunBroken as exc:
            log.warning("%s", exc.message)
            manifest = {}
        return cls(path, manifest, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def flush(self) -> None:
        """Wait until what was submitted is on disk."""
        self._journal.flush()

    def close(self) -> None:
        """Write what was submitted and give the lock back. Idempotent."""
        self._journal.close()
        self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    # -- what the run is --------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The id of the run; empty when its manifest cannot be read."""
        return str(self.manifest.get("id", ""))

    def bind(self, wanted: int | None = None, **parts: Mapping[str, Any]) -> None:
        """Note what the run is of, or compare it with what it was begun with.

        Args:
            wanted: episodes of the whole run; a run may be made longer or shorter.
            parts: facts by name: ``tasks``, ``environment``, ``policy``, ``settings``.

        Raises:
            RunMismatch: a part is another one; the message has the facts of before and now.
            RunNotWritten: the manifest could not be written.
        """
        manifest = self.manifest
        known: dict[str, Any] = manifest.setdefault("parts", {})
        new: dict[str, Any] = {}
        for name, facts in parts.items():
            plain = redacted_value(to_builtins(facts))
            now = {"digest": digest_of(plain), "facts": plain}
            before = known.get(name)
            if before is not None and before["digest"] == now["digest"]:
                continue
            if before is not None:
                self._check_change(name, before, now)
            new[name] = now
        known |= new
        if new or (wanted is not None and manifest.get("wanted") != wanted):
            manifest["wanted"] = wanted if wanted is not None else manifest.get("wanted")
            _write_manifest(self.path, manifest)

    def _check_change(self, name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Refuse a part that is another one than before, or note it where that is allowed.

        Raises:
            RunMismatch: it is not allowed.
        """
        old, new = before["facts"], now["facts"]
        names = [each for each in (*old, *new) if old.get(each) != new.get(each)]
        said = "; ".join(
            f"{each} was {shown(old.get(each))}, is {shown(new.get(each))}"
            for each in dict.fromkeys(names)
        )
        text = (
            f"the run at {self.path} was begun with other {_PLURAL.get(name, name)}: {said}"
            f" (digest {before['digest']}, now {now['digest']})"
        )
        if self.force and name != "tasks":
            log.warning("%s; it goes on with the new", text)
            change = {"at": time.time(), "part": name, "before": dict(before), "after": dict(now)}
            self.manifest.setdefault("changes", []).append(change)
            return
        forced = "" if name == "tasks" else ", or allow the change (--force, RunFolder.open(force))"
        raise RunMismatch(
            f"{text}: give what it was begun with, or begin another run in another folder{forced}",
            part=name,
            before=before["digest"],
            after=now["digest"],
        )

    # -- what is finished -------------------------------------------------------------------------

    def finished(self, key: EpisodeKey) -> bool:
        """Return whether an episode is not to be played again."""
        kept = self._journal.kept.get(key)
        if kept is None:
            return False
        return key not in self._again or kept.segment >= self._journal.first_segment

    def return_of(self, key: EpisodeKey) -> float | None:
        """Return what a finished episode was given; ``None`` for one that is not to be used."""
        kept = self._journal.kept.get(key)
        if kept is None or kept.result not in (ResultClass.GOOD, ResultClass.DEGRADED):
            return None
        return kept.episode_return

    @property
    def usable(self) -> int:
        """Episodes whose result is good, or real though degraded."""
        results = Counter(kept.result for kept in self._journal.kept.values())
        return results[ResultClass.GOOD] + results[ResultClass.DEGRADED]

    def is_last_attempt(self, key: EpisodeKey) -> bool:
        """Return whether an episode is abandoned if the attempt that runs gives no result.

        Attempts that ended with the process do not count.
        """
        return self._journal.lost[key] + 1 >= self.max_attempts

    def check_task(self, key: EpisodeKey, task: Task, digest: str | None = None) -> None:
        """Refuse a task that has the id of one that is finished, and other columns.

        Args:
            key: of an episode.
            task: of that episode.
            digest: of the task, where it is known.

        Raises:
            RunMismatch: it has.
        """
        kept = self._journal.kept.get(key)
        if kept is None or kept.digest is None:
            return
        now = digest or task_digest(task)
        if kept.digest == now:
            return
        raise RunMismatch(
            f"the run at {self.path} was begun with other tasks: the columns of task"
            f" {task.id!r} are not those that it was played with (digest {kept.digest}, now {now}):"
            " give the tasks of before, or begin another run in another folder",
            part="tasks",
            before=kept.digest,
            after=now,
        )

    @property
    def keys(self) -> list[EpisodeKey]:
        """The episodes that have an outcome, in the order in which these were written."""
        kept = list(self._journal.kept.items())
        kept.sort(key=lambda item: (item[1].segment, item[1].offset))
        return [key for key, _ in kept]

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes of the run, one for each episode, in the order in which they were written.

        Raises:
            RunBroken: a file was changed since the folder was opened.
        """
        for key in self.keys:
            yield self._journal.outcome(key)

    def result(self, key: EpisodeKey) -> ResultClass:
        """Return the class of an episode's result; ``NONE`` when it has none."""
        kept = self._journal.kept.get(key)
        return ResultClass.NONE if kept is None else kept.result

    def outcome(self, key: EpisodeKey) -> Outcome | None:
        """Return the outcome of one episode; ``None`` when it has none."""
        return self._journal.outcome(key) if key in self._journal.kept else None

    def fetch(
        self, key: EpisodeKey, done: Callable[[Outcome | None, BaseException | None], None]
    ) -> None:
        """Have an outcome read by the thread that writes.

        Args:
            key: of an episode that has one.
            done: called with it, or with the error, by that thread.
        """
        self._journal.submit(Fetched(key, done))

    def seed(self, drawn: int) -> int:
        """Return the seed that the run's own are counted from: the one that was drawn first.

        Args:
            drawn: is noted, and returned, if there is none yet.
        """
        known = self.manifest.get("seed")
        if isinstance(known, int):
            return known
        self.manifest["seed"] = drawn
        _write_manifest(self.path, self.manifest)
        return drawn

    def status(self) -> RunStatus:
        """Return the run as it stands on disk."""
        kept = list(self._journal.kept.values())
        return RunStatus(
            id=self.id,
            wanted=self.manifest.get("wanted"),
            results=dict(sorted(Counter(str(each.result) for each in kept).items())),
            statuses=dict(sorted(Counter(str(each.status) for each in kept).items())),
            lost_attempts=self._journal.lost.total(),
            cut_attempts=self._journal.cut,
            bytes=sum(each.size for each in kept),
        )

    # -- writing ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def playing(self) -> Iterator[None]:
        """Have the folder for one collection alone: two would play the same episodes.

        Raises:
            RunInUse: another one of this process has it.
        """
        if self._playing:
            raise RunInUse(
                f"the run at {self.path} is being played by another collection of this process:"
                " wait until it ends"
            )
        self._playing = True
        try:
            yield
        finally:
            self._playing = False

    def begin(self, key: EpisodeKey) -> int:
        """Note that an episode begins, and return how often it was begun, with this time."""
        self._journal.begun[key] += 1
        attempt = self._journal.begun[key]
        line = Attempt(key.task, key.member, attempt, key.visit, started=time.time())
        self._journal.submit(Submitted(key, line))
        return attempt

    def submit(
        self,
        key: EpisodeKey,
        outcome: Outcome,
        done: Callable[[BaseException | None], None] | None = None,
    ) -> None:
        """Have the end of an attempt written.

        Args:
            key: the episode.
            outcome: of the attempt. One of a lost or cancelled episode is not kept, until that
                is abandoned.
            done: called once it is on disk, or with the error that kept it from there; by
                another thread.
        """
        result = result_class(outcome, self._journal.lost[key])
        lost = outcome.status is OutcomeStatus.INFRA_ERROR
        if lost:
            self._journal.lost[key] += 1
            if self._journal.lost[key] >= self.max_attempts:
                result = ResultClass.ABANDONED
                log.warning(
                    "%s is abandoned after %d attempts without a result, the last of which: %s",
                    key,
                    self.max_attempts,
                    outcome.error,
                )
        attempt = Attempt(
            key.task,
            key.member,
            outcome.attempts,
            key.visit,
            outcome.started_at,
            outcome.ended_at or time.time(),
            result,
            str(outcome.status),
            None if outcome.error is None else getattr(outcome.error, "code", None),
            lost,
        )
        self._journal.submit(Submitted(key, attempt, outcome, result, done))


_FAILED: Final = frozenset({ResultClass.UNUSABLE, ResultClass.ABANDONED})
_PLURAL: Final = {"environment": "environments", "policy": "policies"}

# -- files --------------------------------------------------------------------------------------


def _existing(path: str | Path) -> Path:
    """Return the path of a folder that is there.

    Raises:
        RunError: it is not.
    """
    path = Path(path)
    if path.is_file():
        raise RunError(
            f"{path} is a file, and only a run can be gone on with: give the folder of one, which"
            " --out without a suffix makes"
        )
    if not path.is_dir():
        raise RunError(f"there is no run at {path}: begin one (--out FOLDER, RunFolder.create)")
    return path


def _locked(folder: Path) -> int:
    """Return the descriptor of a folder's lock, which this process holds now.

    Raises:
        RunInUse: another does.
        RunNotWritten: the folder cannot be written to.
    """
    try:
        return lock_file(folder / _LOCK)
    except BlockingIOError as exc:
        raise RunInUse(
            f"the run at {folder} is being written by {exc.strerror}: wait until it ends, or end it"
        ) from None
    except OSError as exc:
        raise RunNotWritten(f"the run at {folder} cannot be written to: {exc}") from exc


def has_played(folder: Path) -> bool:
    """Return whether a folder has a run that is to be gone on with.

    One that was refused before it played anything, for a column of its tasks or for its policy, has
    a manifest alone: nothing is lost when another begins there.
    """
    if not (folder / MANIFEST).exists():
        return bool(segments_of(folder))
    try:
        _read_manifest(folder)
    except RunBroken:  # or it is something else
        return True
    return bool(segments_of(folder)) or (folder / ATTEMPTS).exists()


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder.

    Raises:
        RunBroken: it is not one.
    """
    path = folder / MANIFEST
    try:
        read = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        reason = "it is not there"
    except (OSError, msgspec.MsgspecError, ValueError) as exc:
        reason = error_text(exc)
    else:
        if not isinstance(read, dict) or not isinstance(read.get("id"), str):
            reason = "it is something else"
        elif read.get(KEY) != _SCHEMA:
            reason = f"it has the schema {read.get(KEY)!r}, and this release reads {_SCHEMA}"
        elif not _is_sound(read):
            reason = "a part of it is something else"
        else:
            return read
    raise RunBroken(
        f"{path} cannot be read: {reason}. The outcomes are whole: `openenv-async export"
        f" {folder} OUT.jsonl` writes them to a file; put the manifest back, or begin another run"
    )


def _is_sound(manifest: dict[str, Any]) -> bool:
    """Tell whether what is read of a manifest is of the kind that was written."""
    parts = manifest.get("parts", {})
    return (
        isinstance(parts, dict)
        and all(
            isinstance(part, dict)
            and isinstance(part.get("digest"), str)
            and isinstance(part.get("facts"), dict)
            for part in parts.values()
        )
        and isinstance(manifest.get("wanted"), int | None)
        and isinstance(manifest.get("max_attempts", 1), int)
        and isinstance(manifest.get("changes", []), list)
    )


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest: the old one, or the whole new one, is there at any time.

    Raises:
        RunNotWritten: the disk took none; the old one is there.
    """
    text = msgspec.json.format(msgspec.json.encode(tag(to_builtins(manifest))), indent=2) + b"\n"
    unfinished = folder / _UNFINISHED
    try:
        with unfinished.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(folder / MANIFEST)
        sync_folder(folder)
    except OSError as exc:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise RunNotWritten(
            f"the manifest of the run at {folder} could not be written: {exc.strerror or exc};"
            " make room, and try again"
        ) from exc
