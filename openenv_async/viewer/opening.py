"""Paths to sources: runs, files, and what a gateway keeps.

A source without lines of episodes of its own (a Parquet file that was not finished, calls and rows
of a gateway) is written as such lines to a temporary file, again when it has changed.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from openenv_async.errors import InvalidOption, OpenEnvError, error_text
from openenv_async.gateway.calls import CallRecord
from openenv_async.gateway.exports import model_calls
from openenv_async.gateway.journal import read_journal
from openenv_async.gateway.rows import TrainingRow
from openenv_async.rollouts.files import line_of, read_trajectories
from openenv_async.rollouts.record import Trajectory, Transition
from openenv_async.rollouts.run_folder import MANIFEST
from openenv_async.rollouts.run_journal import segments_of
from openenv_async.types import ModelCall
from openenv_async.viewer.sources import EpisodeSource, LinesSource, ParquetSource, RunSource

__all__ = ["open_source"]

_PARTS: Final = ".parts"
_SPOOL_INTERVAL: Final = 5.0
"""Seconds between two readings of a source that is read whole each time."""
_MAX_LINE: Final = 64 * 1024 * 1024
_FIRST_LINE: Final = 65_536
"""Bytes of a file by which a gateway's lines are known."""


def open_source(path: str | Path) -> EpisodeSource:
    """Return the source of a path; nothing is read yet.

    Args:
        path: the folder of a run, a file of trajectories (``.jsonl``, ``.parquet``), the journal
            of a gateway, or its rows or calls as ``openenv-async rows`` prints them.

    Raises:
        InvalidOption: there is nothing, or something else.
        ModuleNotFoundError: Parquet without pyarrow.
    """
    path = Path(path)
    if path.name.endswith(f".parquet{_PARTS}"):  # what a crash leaves beside the file
        path = path.with_name(path.name.removesuffix(_PARTS))
    if path.is_dir():
        if (path / MANIFEST).exists() or segments_of(path):
            return RunSource(path)
        if any(path.glob("calls-*.journal")):
            return _SpooledSource(path, "gateway journal", _episodes_of_journal)
        raise InvalidOption(
            f"{path} has neither a run nor a gateway's journal in it: give the folder of a run"
            " (rollout --out FOLDER), or a file, .jsonl or .parquet"
        )
    if path.suffix == ".parquet":
        if path.exists():
            return ParquetSource(path)
        if path.with_name(path.name + _PARTS).is_dir():
            return _SpooledSource(path, "unfinished Parquet", read_trajectories)
    if not path.exists():
        raise InvalidOption(
            f"there is no {path}: give the folder of a run, or a file, .jsonl or .parquet"
        )
    if path.suffix != ".jsonl":
        raise InvalidOption(
            f"{path.name!r} ends neither in .jsonl nor .parquet: give the folder of a run, or a"
            " file of trajectories or of a gateway's rows"
        )
    if _is_of_gateway(path):
        return _SpooledSource(path, "gateway rows", _episodes_of_lines)
    return LinesSource(path)


class _SpooledSource(LinesSource):
    """A source whose episodes are written as lines to a temporary file.

    Args:
        path: of the source.
        kind: for readers.
        episodes: reads them.
    """

    def __init__(
        self, path: Path, kind: str, episodes: Callable[[Path], Iterator[Trajectory]]
    ) -> None:
        super().__init__(path)
        self.kind = kind
        self._episodes = episodes
        self._folder = tempfile.TemporaryDirectory(prefix="openenv-view-")
        self._written = 0
        self._state: Any = None
        self._read_at = -_SPOOL_INTERVAL
        self._failed: str | None = None

    def _paths(self) -> dict[int, Path]:
        return {self._written: self._spool} if self._written else {}

    @property
    def _spool(self) -> Path:
        return Path(self._folder.name) / f"{self._written}.jsonl"

    def refresh(self, seconds: float = 1e9) -> bool:
        state = _state_of(self.path)
        if state != self._state and time.monotonic() - self._read_at >= _SPOOL_INTERVAL:
            self._write()
            self._state, self._read_at = state, time.monotonic()
        return super().refresh(seconds)

    @property
    def notices(self) -> list[str]:
        return [*super().notices, *([] if self._failed is None else [self._failed])]

    def close(self) -> None:
        self._folder.cleanup()

    def _write(self) -> None:
        """Write all episodes to a new file, in place of the one of before."""
        before = self._spool
        self._written += 1
        self._failed = None
        with self._spool.open("wb") as file:
            try:
                for episode in self._episodes(self.path):
                    file.write(line_of(episode))
            except (OSError, ValueError, TypeError, KeyError, AttributeError, OpenEnvError) as exc:
                self._failed = f"{self.path.name} is read up to a fault: {error_text(exc)}"
        before.unlink(missing_ok=True)


def _state_of(path: Path) -> Any:
    """Return what differs once something was written: names, sizes and times."""
    paths = [path, path.with_name(path.name + _PARTS)]
    for folder in [each for each in paths if each.is_dir()]:
        paths += sorted(folder.iterdir())
    found = []
    for each in paths:
        with contextlib.suppress(OSError):
            stat = each.stat()
            found.append((each.name, stat.st_size, stat.st_mtime_ns))
    return found


# -- a gateway's sessions as episodes -------------------------------------------------------------


def _is_of_gateway(path: Path) -> bool:
    """Tell whether lines are training rows or calls of a gateway, by the beginning of the first."""
    try:
        with path.open("rb") as file:
            first = file.readline(_FIRST_LINE)
    except OSError:
        return False
    return first.startswith(b'{"session":') and b'"number":' in first


def _episodes_of_journal(path: Path) -> Iterator[Trajectory]:
    """Yield the sessions of a gateway's journal as episodes."""
    for number, session in enumerate(read_journal(path).sessions.values()):
        records = list(session.records)
        yield _episode(number, session.facts.id, model_calls(records), session.facts.opened_at)


def _episodes_of_lines(path: Path) -> Iterator[Trajectory]:
    """Yield the sessions of a file with a gateway's training rows or calls as episodes.

    Lines of one session follow each other; where they do not, each part is an episode.
    """
    with path.open("rb") as file:
        lines = (read for line in file if (read := _decoded(line)) is not None)
        sessions = itertools.groupby(lines, lambda line: line.session)
        for number, (session, of_session) in enumerate(sessions):
            yield _episode_of(number, session, list(of_session))


def _decoded(line: bytes) -> TrainingRow | CallRecord | None:
    """Return a line as what it is; ``None`` of one that is broken."""
    with contextlib.suppress(msgspec.MsgspecError, ValueError):
        if b'"spans":' in line:
            return msgspec.json.decode(line, type=TrainingRow)
        return msgspec.json.decode(line, type=CallRecord)
    return None


def _episode_of(number: int, session: str, lines: list[TrainingRow | CallRecord]) -> Trajectory:
    records = [line for line in lines if isinstance(line, CallRecord)]
    rows = [line for line in lines if isinstance(line, TrainingRow)]
    began = min((record.started_at for record in records), default=0.0)
    calls = [*model_calls(records), *map(_call_of_row, rows)]
    episode = _episode(number, session, calls, began)
    rewards = [row.reward for row in rows if row.reward is not None]
    if rewards:
        episode.episode_return = rewards[0]
    for row in rows:
        episode.member = row.member
        if isinstance(row.group, int):
            episode.group = row.group
        elif row.group is not None:
            episode.task_id = row.group
    return episode


def _call_of_row(row: TrainingRow) -> ModelCall:
    """Return a training row as one call that has all that was sampled in its chain."""
    versions = row.versions
    return ModelCall(
        messages=row.messages or (),
        continues=False,
        prompt_ids=row.prompt_ids,
        completion_ids=row.completion_ids,
        logprobs=row.logprobs,
        mask=row.mask,
        finish_reason=row.spans[-1].finish_reason if row.spans else None,
        weight_version=versions[0][1] if versions else None,
        extra={
            "call": f"row {row.number}",
            "relation": row.relation,
            "chain": row.spans[0].call if row.spans else row.number,
            "parent": row.parent,
            "level": row.level,
        },
    )


def _episode(number: int, session: str, calls: list[ModelCall], began: float) -> Trajectory:
    episode: Trajectory = Trajectory(number, episode_id=session, task_id=session)
    seconds = sum(call.seconds or 0.0 for call in calls)
    episode.transitions = [Transition(0, None, None, model_calls=calls, timings={"model": seconds})]
    episode.steps = 0
    episode.duration = seconds
    episode.started_at = began or None
    failed = [call.error for call in calls if call.error]
    if failed:
        episode.error_message = failed[-1]
    return episode
