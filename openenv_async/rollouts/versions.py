"""Policies that change while episodes are played, and what is done about it.

Rules:

- Each action notes the version of the policy at which it was asked for.
- An episode that falls further behind than ``max_staleness`` is cut off before its next step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openenv_async.errors import OperationCancelled
from openenv_async.rollouts.checking import check_client
from openenv_async.rollouts.groups import StreamedEpisode
from openenv_async.rollouts.policies import Turn, bind
from openenv_async.types import Outcome

__all__ = ["PolicyWatch", "VersionedPolicy", "WatchedClient"]


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
        """The next version, from now on; ``None`` when the same object has new weights."""
        if policy is not None:
            self.policy = policy
        self.version += 1
        return self.version

    def for_episode(self, index: int) -> Callable[[Any, Turn], Any]:
        """The policy of one episode; it follows what is published."""
        policy, decide = self.policy, bind(self.policy, index)

        def act(observation: Any, turn: Turn) -> Any:
            nonlocal policy, decide
            if policy is not self.policy:
                policy, decide = self.policy, bind(self.policy, index)
            return decide(observation, turn)

        return act

    def __call__(self, observation: Any, turn: Turn) -> Any:
        """An action of the current version."""
        return bind(self.policy, turn.index)(observation, turn)


class PolicyWatch:
    """What the episodes of a stream have in common: the policy, and what version acted when."""

    def __init__(self, policy: Callable[..., Any], size: int, max_staleness: int | None) -> None:
        self._policy = policy
        self._size = size
        self._max_staleness = max_staleness
        self._versioned = hasattr(policy, "version")
        self._versions: dict[int, list[int]] = {}

    @property
    def version(self) -> int:
        """Of the policy, now."""
        return self._policy.version if self._versioned else 0  # type: ignore[attr-defined]  # it has one

    def __call__(self, observation: Any, turn: Turn) -> Any:
        return bind(self._policy, turn.index)(observation, turn)

    def for_episode(self, index: int) -> Callable[[Any, Turn], Any]:
        """The policy of one episode, with notes of its versions."""
        decide = bind(self._policy, index)
        versions = self._versions[index] = []
        if not self._versioned:
            return decide

        def act(observation: Any, turn: Turn) -> Any:
            versions.append(self.version)
            return decide(observation, turn)

        return act

    def too_old(self, version: int) -> bool:
        """Whether an episode that began with ``version`` is to be cut off."""
        return self._max_staleness is not None and self.version - version > self._max_staleness

    def episode(self, outcome: Outcome) -> StreamedEpisode:
        """The outcome with what is known of it."""
        versions = self._versions.pop(outcome.index, [])[: outcome.steps]
        group, member = divmod(outcome.index, self._size)
        stale = bool(versions) and self.too_old(versions[0])
        stale = stale or bool(getattr(outcome.error, "detail", {}).get("stale"))
        return StreamedEpisode(outcome, group, member, tuple(versions), stale)


class WatchedClient:
    """A client whose episode ends when its policy is too old."""

    def __init__(self, client: Any, watch: PolicyWatch) -> None:
        check_client(client, "stream()")
        self._client = client
        self._watch = watch
        self._version = 0

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
