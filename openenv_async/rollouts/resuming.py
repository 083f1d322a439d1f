"""The episodes of a collection in its run folder: those it leaves out, and those it keeps there.

Rules:

- An episode's key is that of its task (without tasks of its group), its member and its visit; the
  order of tasks is the same each time, so that visits count alike.
- An outcome is delivered when the folder has it; that of a lost or cancelled episode when its
  attempt was noted.
- Members of before are delivered again where groups are handed over whole and one of the group is
  missing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from openenv_async.deadlines import wait_uncancelled
from openenv_async.rollouts.run_facts import (
    environment_facts,
    policy_facts,
    settings_facts,
    tasks_facts,
)
from openenv_async.rollouts.run_folder import MANIFEST, RunFolder, has_played
from openenv_async.rollouts.run_journal import EpisodeKey, task_digest
from openenv_async.rollouts.schedule import Planned
from openenv_async.types import Outcome, Task

__all__ = ["Run", "RunEpisodes", "folder_of"]

Run: TypeAlias = RunFolder | str | Path
"""A run folder that is open, or the path of one: it is begun there, or gone on with."""

Deliver: TypeAlias = Callable[[Outcome | None, BaseException | None], object]
"""A function that takes an outcome which the folder has, or the error that kept it from there."""


def folder_of(run: Run) -> tuple[RunFolder, bool]:
    """Return an open run folder, and whether it was opened here. It reads: call it in a thread.

    Raises:
        TypeError: it is something else.
        RunError: the path is of no run, and none can be begun there.
    """
    if isinstance(run, RunFolder):
        return run, False
    if not isinstance(run, str | Path):
        raise TypeError(f"run must be a RunFolder or the path of one, got {type(run).__name__}")
    path = Path(run)
    has_run = path.is_dir() and (path / MANIFEST).exists() and has_played(path)
    return (RunFolder.open(path) if has_run else RunFolder.create(path)), True


class RunEpisodes:
    """The episodes of a collection in their run folder.

    Args:
        folder: of the run.
        size: episodes of a group.
        whole_groups: deliver finished members of groups that have missing ones.

    Attributes:
        folder: of the run.
        seed: that its own are counted from, if it was drawn.
    """

    def __init__(self, folder: RunFolder, size: int | None, *, whole_groups: bool) -> None:
        self.folder = folder
        self.seed: int | None = None
        self._size = size or 1
        self._whole_groups = whole_groups
        self._visits: Counter[str] = Counter()
        self._keys: dict[int, EpisodeKey] = {}
        self._group: tuple[str, int] = ("", 0)
        self._skipped: EpisodeKey | None = None
        self._environments: set[str] = set()
        self._comparing = asyncio.Lock()
        self._digest: tuple[Task, str | None] | None = None
        self.stored: Callable[[Planned, EpisodeKey], object] = lambda planned, key: None

    async def bind(
        self, wanted: int | None, policy: Any, tasks: Any, settings: Mapping[str, Any]
    ) -> None:
        """Note what the run is of, or refuse to go on with another one.

        Raises:
            RunMismatch: policy, tasks or settings are others than before.
        """
        await asyncio.to_thread(self._bind, wanted, policy, tasks, settings)

    def _bind(
        self, wanted: int | None, policy: Any, tasks: Any, settings: Mapping[str, Any]
    ) -> None:
        self.folder.bind(
            wanted=wanted,
            policy=policy_facts(policy),
            settings=settings_facts(settings),
            tasks={"group_size": self._size} if tasks is None else tasks_facts(tasks, self._size),
        )

    async def check_environment(self, client: Any, params: Mapping[str, Any] | None) -> None:
        """Refuse an environment that is another one than before.

        Raises:
            RunMismatch: it is.
        """
        facts = environment_facts(client, params)
        told = repr(facts)
        async with self._comparing:
            if told not in self._environments:
                await asyncio.to_thread(self.folder.bind, environment=facts)
                self._environments.add(told)

    # -- which are played -------------------------------------------------------------------------

    def is_wanted(self, planned: Planned) -> bool:
        """Tell whether an episode is to be played; called once for each, in order.

        Raises:
            RunMismatch: its task has other columns than when it was played.
        """
        key = self._key(planned)
        self._skipped = None
        if not self.folder.finished(key):
            self._keys[planned.index] = key
            return True
        self._skipped = key
        if planned.task is not None and planned.task.data:  # of some only the id is known
            if self._digest is None or self._digest[0] is not planned.task:
                self._digest = planned.task, task_digest(planned.task)
            self.folder.check_task(key, planned.task, self._digest[1])
        if self._whole_groups and self._size > 1:
            members = (key._replace(member=member) for member in range(self._size))
            if not all(self.folder.finished(member) for member in members):
                self.stored(planned, key)
        return False

    def return_of(self, planned: Planned) -> float | None:
        """Return what the finished episode was given that ``is_wanted`` was asked about last."""
        key = self._skipped
        return None if key is None else self.folder.return_of(key)

    def _key(self, planned: Planned) -> EpisodeKey:
        member = planned.member or 0
        if planned.task is None:
            number = planned.index if planned.group is None else planned.group
            return EpisodeKey(f"#{number}", member)
        if not member:
            name = planned.task.id
            self._group = name, self._visits[name]
            self._visits[name] += 1
        name, visit = self._group
        return EpisodeKey(name, member, visit)

    # -- what becomes of them ---------------------------------------------------------------------

    def begin(self, planned: Planned) -> None:
        """Note that an episode begins."""
        planned.attempts = self.folder.begin(self._keys[planned.index])

    def is_last_attempt(self, planned: Planned) -> bool:
        """Return whether the episode is abandoned if this attempt gives no result."""
        return self.folder.is_last_attempt(self._keys[planned.index])

    def lost(self, planned: Planned, outcome: Outcome) -> None:
        """Note that an attempt gave no result, and that the episode is played again at once."""
        self.folder.submit(self._keys[planned.index], outcome)

    def keep(self, outcome: Outcome, deliver: Deliver) -> None:
        """Have an outcome written; it is delivered then. One of no attempt is just delivered.

        Args:
            outcome: of an episode that was taken.
            deliver: is called in this loop.
        """
        loop = asyncio.get_running_loop()
        key = self._keys.pop(outcome.index)
        if outcome.started_at is None:
            loop.call_soon(deliver, outcome, None)
            return

        def done(error: BaseException | None) -> None:
            loop.call_soon_threadsafe(deliver, outcome, error)

        self.folder.submit(key, outcome, done)

    def fetch(self, planned: Planned, key: EpisodeKey, deliver: Deliver) -> None:
        """Read the outcome of an episode that is finished; it is delivered then."""
        loop = asyncio.get_running_loop()

        def done(outcome: Outcome | None, error: BaseException | None) -> None:
            if outcome is not None:
                outcome.index = planned.index
                outcome.group, outcome.member = planned.group, planned.member
                outcome.task = planned.task
            loop.call_soon_threadsafe(deliver, outcome, error)

        self.folder.fetch(key, done)


async def leave_folder(folder: RunFolder, *, opened: bool) -> None:
    """Wait until all is written, and close it if it was opened here; also when cancelled."""
    leaving = asyncio.ensure_future(asyncio.to_thread(folder.close if opened else folder.flush))
    await wait_uncancelled(leaving)
