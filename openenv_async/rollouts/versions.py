"""Policies that change while episodes are played, and the episodes that may still begin then.

Rules:

- Each action notes the version of the policy at which it was asked for.
- An episode that falls further behind than ``max_staleness`` is cancelled before its next step.
- An episode that begins now is read after all those that began before it and were not read yet.
  From how many episodes the learner reads per version of its policy follows at which version that
  will be; an episode that would be too old by then does not begin.
- A group begins as a whole, or not yet. A member of a group that has begun, also one that is
  played again, begins before any new group.
- Of the episodes that have ended, the reader is given those that began first.
- The number that the learner reads per version is known once it has published; it is a mean in
  which the last version counts for three tenths. Until then it is taken to be no more than what it
  has read and asks for; without any staleness allowed, half as many again, since episodes would
  else be played one after the other.
- A reader that waits for an episode gets one: if none is under way, the next begins.
- No admission is kept by who waits for a session: one that has a session takes it over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import ceil
from typing import Any, Final

from openenv_async.errors import OperationCancelled
from openenv_async.rollouts.checking import check_client
from openenv_async.rollouts.groups import InvalidActions, StreamedEpisode
from openenv_async.rollouts.policies import Turn, bind
from openenv_async.rollouts.run_facts import policy_facts
from openenv_async.types import ActT, ObsT, Outcome

__all__ = ["Admission", "PolicyWatch", "VersionedPolicy", "WatchedClient"]

_NEWEST: Final = 0.3
"""Weight of the last version in the number of episodes that are read for one."""


class VersionedPolicy:
    """A policy that a learner replaces while rollouts use it.

    Args:
        policy: the first one.
        version: its number.
    """

    def __init__(self, policy: Callable[..., Any], version: int = 0) -> None:
        self.policy = policy
        self.version = version

    def publish(self, policy: Callable[..., Any] | None = None) -> int:
        """Begin the next version and return its number.

        Args:
            policy: the new one; ``None`` when the same object has new weights.
        """
        if policy is not None:
            self.policy = policy
        self.version += 1
        return self.version

    @property
    def corrects_mistakes(self) -> bool:
        """True if the current policy can make something of being told a mistake."""
        return getattr(self.policy, "corrects_mistakes", False) is True

    def for_episode(self, index: int) -> Callable[[Any, Turn], Any]:
        """Return the policy of one episode; it follows what is published."""
        policy, decide = self.policy, bind(self.policy, index)

        def act(observation: Any, turn: Turn) -> Any:
            nonlocal policy, decide
            if policy is not self.policy:
                policy, decide = self.policy, bind(self.policy, index)
            return decide(observation, turn)

        return act

    def __call__(self, observation: Any, turn: Turn) -> Any:
        """Return an action of the current version."""
        return bind(self.policy, turn.index)(observation, turn)


class PolicyWatch:
    """The policy that a stream's episodes share, and the versions that acted."""

    def __init__(
        self,
        policy: Callable[..., Any],
        size: int,
        max_staleness: int | None,
        invalid_actions: InvalidActions | None = None,
    ) -> None:
        self._policy = policy
        self._invalid_actions = invalid_actions
        self._size = size
        self._max_staleness = max_staleness
        self._versioned = hasattr(policy, "version")
        self._versions: dict[int, list[int]] = {}
        self.in_groups = False

    @property
    def version(self) -> int:
        """The policy's version now."""
        return self._policy.version if self._versioned else 0  # type: ignore[attr-defined]  # it has one

    @property
    def corrects_mistakes(self) -> bool:
        """True if the policy can make something of being told a mistake."""
        return getattr(self._policy, "corrects_mistakes", False) is True

    def __call__(self, observation: Any, turn: Turn) -> Any:
        return bind(self._policy, turn.index)(observation, turn)

    def for_episode(self, index: int) -> Callable[[Any, Turn], Any]:
        """Return the policy of one episode, with notes of its versions."""
        decide = bind(self._policy, index)
        versions = self._versions[index] = []
        if not self._versioned:
            return decide

        def act(observation: Any, turn: Turn) -> Any:
            versions.append(self.version)
            return decide(observation, turn)

        return act

    def too_old(self, version: int) -> bool:
        """Tell whether an episode that began with ``version`` is to be cancelled."""
        return self._max_staleness is not None and self.version - version > self._max_staleness

    def describe(self) -> dict[str, Any]:
        """Return what the policy is, for the manifest of a run."""
        return policy_facts(self._policy)

    def finish(self, outcome: Outcome) -> None:
        """Note in an outcome and its record its group and versions."""
        group, member = divmod(outcome.index, self._size)
        outcome.group, outcome.member = group, member
        if outcome.trajectory is not None:
            outcome.trajectory.group, outcome.trajectory.member = group, member
            versions = self._versions.get(outcome.index, [])[: outcome.steps + outcome.mistakes]
            outcome.trajectory.policy_versions = tuple(versions)

    def episode(self, outcome: Outcome[ObsT, ActT]) -> StreamedEpisode[ObsT, ActT]:
        """Return the outcome with its group and versions.

        One that was played before, and comes from a run's folder, has those of its record; the
        versions of now are others, and it is not stale.
        """
        group, member = divmod(outcome.index, self._size)
        if outcome.index not in self._versions and outcome.trajectory is not None:
            versions = tuple(outcome.trajectory.policy_versions)
            stale = False
        else:
            noted = self._versions.get(outcome.index, [])
            versions = tuple(noted[: outcome.steps + outcome.mistakes])
            stale = bool(versions) and self.too_old(versions[0])
        stale = stale or bool(getattr(outcome.error, "detail", {}).get("stale"))
        if outcome.index in self._versions:
            self.finish(outcome)
            del self._versions[outcome.index]
        outcome.group, outcome.member = group, member
        return StreamedEpisode(outcome, group, member, versions, stale, self._invalid_actions)


class WatchedClient:
    """A client whose episode ends when its policy is too old."""

    def __init__(self, client: Any, watch: PolicyWatch) -> None:
        check_client(client, "stream()")
        self._client = client
        self._watch = watch
        self._version = watch.version

    @property
    def episode(self) -> Any:
        return getattr(self._client, "episode", None)

    @property
    def leaving(self) -> bool:
        return getattr(self._client, "leaving", False)

    @property
    def connection(self) -> Any:
        return getattr(self._client, "connection", None)

    async def open(self) -> None:
        if hasattr(self._client, "open"):
            await self._client.open()

    async def close(self) -> None:
        close = getattr(self._client, "close", None)
        if close is not None:
            await close()

    async def reset(self, **arguments: Any) -> Any:
        self._version = self._watch.version
        return await self._client.reset(**arguments)

    async def step(self, action: Any) -> Any:
        watch = self._watch
        if watch.too_old(self._version):
            raise OperationCancelled(
                f"the policy is at version {watch.version}, this episode began at {self._version}",
                stale=True,
            )
        return await self._client.step(action)


class Admission:
    """Admission of one stream's episodes.

    It decides without awaiting anything; only ``admit`` waits, for a decision to change.

    Args:
        version: tells the version of the policy.
        size: episodes of a group.
        max_staleness: versions that an episode may be behind when it is read.
    """

    def __init__(self, version: Callable[[], int], size: int, max_staleness: int) -> None:
        self._version = version
        self._size = size
        self._max_staleness = max_staleness
        self._known = version()
        self._outstanding = 0
        """Episodes of groups that were admitted and not read yet, begun or not."""
        self._owed = 0
        """Those among them that no task has taken yet, or that are to begin again."""
        self._granted = 0
        """Those among them whose task has no session yet."""
        self._read = 0
        self._rate: float | None = None
        self._wanted = size
        self._reader_waits = False
        self._closed = False
        self._changed = asyncio.Event()

    # -- the episodes' side -------------------------------------------------------------------

    async def admit(self, *, ready: bool = True) -> None:
        """Return when the next episode may begin.

        Args:
            ready: the caller has a session to play it on. One that has not opens it, and then
                has to ``claim`` the episode.
        """
        while not self._admits(ready):
            self._changed.clear()
            await self._changed.wait()

    def claim(self) -> bool:
        """Tell whether the episode is still there that was admitted before a session was open."""
        if self._closed:
            return True
        if not self._granted:
            return False
        self._granted -= 1
        return True

    def give_back(self) -> None:
        """Note that an admitted episode does not begin, or begins again later."""
        self._owed += 1
        self._changed.set()

    def close(self) -> None:
        """Admit every further call: there are no more episodes."""
        self._closed = True
        self._changed.set()

    def _admits(self, ready: bool) -> bool:
        if self._closed:
            return True
        if not self._may_begin():
            if not ready or not self._granted:
                return False
            self._granted -= 1  # of a task that still waits for its session
            return True
        if not self._owed:
            self._outstanding += self._size
            self._owed = self._size
        self._owed -= 1
        if not ready:
            self._granted += 1
            self._changed.set()  # others may have a session for it
        return True

    def _may_begin(self) -> bool:
        self._notice()
        if self._closed or self._owed:
            return True
        if self._reader_waits and self._outstanding <= 0:
            return True
        batch = max(self._batch, self._wanted)
        last = self._read + self._outstanding + self._size - 1
        return last // batch <= self._max_staleness

    @property
    def _batch(self) -> int:
        """Episodes that the learner reads for one version; 0 while that is not known."""
        return 0 if self._rate is None else ceil(self._rate - 1e-6)

    # -- the reader's side --------------------------------------------------------------------

    def asked(self) -> None:
        """Note that the reader waits for the next episode."""
        self._notice()
        self._reader_waits = True
        blind = self._rate is None and not self._max_staleness
        more = self._read // 2 if blind else 0
        self._wanted = max(self._wanted, self._read + max(more, self._size))
        self._changed.set()

    def read(self, count: int) -> None:
        """Note that the reader was given that many episodes."""
        self._notice()
        self._reader_waits = False
        self._outstanding -= count
        self._read += count
        self._changed.set()

    def dropped(self) -> None:
        """Note that an episode ended that the reader is not given."""
        self._outstanding -= 1
        self._changed.set()

    def _notice(self) -> None:
        """Learn from a new version how many episodes are read for one."""
        version = self._version()
        if version == self._known:
            return
        passed = version - self._known
        if passed > 0 and (self._read or self._rate is not None):
            rate = self._read / passed
            self._rate = rate if self._rate is None else self._rate + _NEWEST * (rate - self._rate)
        self._known = version
        self._read = 0
        self._wanted = self._size
