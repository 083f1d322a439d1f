"""Policies that change while episodes are played, and the episodes that may still begin then.

Rules:

- Each action notes the version of the policy at which it was asked for.
- An episode that falls further behind than ``max_staleness`` is cancelled before its next step.
- An episode that begins now is read after all those that began before it and were not read yet.
  From how many episodes the learner reads per version of its policy follows at which version that
  will be; an episode that would be too old by then does not begin.
- A group begins as a whole, or not yet.
- The number that the learner reads per version is known once it has published. Until then it is
  taken to be no more than what it has read and asks for; without any staleness allowed, half as
  many again, since episodes would else be played one after the other.
- A reader that waits for an episode gets one: if none is under way, the next begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import ceil
from typing import Any

from openenv_async.errors import OperationCancelled
from openenv_async.rollouts.checking import check_client
from openenv_async.rollouts.groups import InvalidActions, StreamedEpisode
from openenv_async.rollouts.policies import Turn, bind
from openenv_async.types import ActT, ObsT, Outcome

__all__ = ["Admission", "PolicyWatch", "VersionedPolicy", "WatchedClient"]


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

    def episode(self, outcome: Outcome[ObsT, ActT]) -> StreamedEpisode[ObsT, ActT]:
        """Return the outcome with its group and versions."""
        versions = self._versions.pop(outcome.index, [])[: outcome.steps + outcome.mistakes]
        group, member = divmod(outcome.index, self._size)
        stale = bool(versions) and self.too_old(versions[0])
        stale = stale or bool(getattr(outcome.error, "detail", {}).get("stale"))
        outcome.group, outcome.member = group, member
        if outcome.trajectory is not None:
            outcome.trajectory.group, outcome.trajectory.member = group, member
            outcome.trajectory.policy_versions = tuple(versions)
        return StreamedEpisode(
            outcome, group, member, tuple(versions), stale, self._invalid_actions
        )


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
        self._admitted = 0
        self._under_way = 0
        self._read = 0
        self._batch = 0
        self._wanted = size
        self._reader_waits = False
        self._closed = False
        self._changed = asyncio.Event()

    # -- the episodes' side -------------------------------------------------------------------

    async def admit(self) -> None:
        """Return when the next episode may begin."""
        while not self._may_begin():
            self._changed.clear()
            await self._changed.wait()
        self._admitted += 1
        self._under_way += 1

    def give_back(self) -> None:
        """Note that an admitted episode does not begin, or begins again later."""
        self._admitted -= 1
        self._under_way -= 1
        self._changed.set()

    def close(self) -> None:
        """Admit every further call: there are no more episodes."""
        self._closed = True
        self._changed.set()

    def _may_begin(self) -> bool:
        self._notice()
        if self._closed or self._admitted % self._size:
            return True
        if self._reader_waits and not self._under_way:
            return True
        batch = max(self._batch, self._wanted)
        last = self._read + self._under_way + self._size - 1
        if self._max_staleness:
            last += (batch - self._size) // 4  # the quick overtake the slow
        return last // batch <= self._max_staleness

    # -- the reader's side --------------------------------------------------------------------

    def asked(self) -> None:
        """Note that the reader waits for the next episode."""
        self._notice()
        self._reader_waits = True
        blind = not self._batch and not self._max_staleness
        more = self._read // 2 if blind else 0
        self._wanted = max(self._wanted, self._read + max(more, self._size))
        self._changed.set()

    def read(self, count: int) -> None:
        """Note that the reader was given that many episodes."""
        self._notice()
        self._reader_waits = False
        self._under_way -= count
        self._read += count
        self._changed.set()

    def dropped(self) -> None:
        """Note that an episode ended that the reader is not given."""
        self._under_way -= 1
        self._changed.set()

    def _notice(self) -> None:
        """Learn from a new version how many episodes are read for one."""
        version = self._version()
        if version == self._known:
            return
        if self._read:
            self._batch = ceil(self._read / max(1, version - self._known))
        self._known = version
        self._read = 0
        self._wanted = self._size
