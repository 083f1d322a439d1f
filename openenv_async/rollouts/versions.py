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
- A learner that publishes while its reader waits does not wait for episodes: its versions come by
  the clock. Then a group that would probably be too old when it ends waits for the next version,
  where more groups come whole in the same time by that. The seconds that groups took decide, and
  those between versions.
- A reader that waits for an episode gets one: if none is under way, the next begins.
- No admission is kept by who waits for a session: one that has a session takes it over.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from openenv_async.errors import OperationCancelled
from openenv_async.rollouts.checking import check_client
from openenv_async.rollouts.groups import InvalidActions, StreamedEpisode
from openenv_async.rollouts.policies import Turn, bind
from openenv_async.rollouts.run_facts import policy_facts
from openenv_async.types import ActT, ObsT, Outcome

__all__ = ["Admission", "PolicyWatch", "VersionedPolicy", "WatchedClient"]

_NEWEST: Final = 0.3
"""Weight of the last version in what is known of the learner's pace."""
_SPANS: Final = 64
"""Groups whose seconds are kept."""
_OVERDUE: Final = 1.5
"""Intervals after which a version is not to be expected at its time."""
_LOOKS: Final = 16
"""Times that an overdue version is looked for in one interval."""
_SOONEST: Final = 0.05
"""Seconds between two looks at least, however often versions come."""


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
    """The policy, or the agent, that a stream's episodes share, and the versions that acted.

    Attributes:
        begun: episodes that have begun.
        begun_at: time of the clock at which each of them began that was not handed over yet.
    """

    def __init__(
        self,
        policy: Any,
        size: int,
        max_staleness: int | None,
        invalid_actions: InvalidActions | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        is_agent: bool = False,
    ) -> None:
        self.begun = 0
        self.begun_at: dict[int, float] = {}
        self._clock = clock
        self._policy = policy
        self._is_agent = is_agent
        self._invalid_actions = invalid_actions
        self._size = size
        self._max_staleness = max_staleness
        self._versions: dict[int, list[int]] = {}
        self.in_groups = False

    @property
    def version(self) -> int:
        """The policy's version now; 0 while it has none."""
        return getattr(self._policy, "version", None) or 0

    @property
    def _versioned(self) -> bool:
        return getattr(self._policy, "version", None) is not None

    @property
    def corrects_mistakes(self) -> bool:
        """True if the policy can make something of being told a mistake."""
        return getattr(self._policy, "corrects_mistakes", False) is True

    def __call__(self, observation: Any, turn: Turn) -> Any:
        return bind(self._policy, turn.index)(observation, turn)

    def for_episode(self, index: int) -> Callable[[Any, Turn], Any]:
        """Return the policy of one episode, with notes of its beginning and its versions."""
        decide = bind(self._policy, index)
        versions = self._begin(index)
        if not self._versioned:
            return decide

        def act(observation: Any, turn: Turn) -> Any:
            versions.append(self.version)
            return decide(observation, turn)

        return act

    def agent_decides(self, index: int, step: int) -> OperationCancelled | None:
        """Note the version of a decision of an episode's agent; return why it is not to go on.

        Args:
            index: of the episode.
            step: how many were taken before.
        """
        versions = self._versions[index] if step else self._begin(index)
        if self._versioned:
            versions.append(self.version)
            if self.too_old(versions[0]):
                return self._cancelled(versions[0])
        return None

    def check_age(self, version: int) -> None:
        """Refuse another step of an episode that began with ``version``.

        Raises:
            OperationCancelled: it is too old.
        """
        if self.too_old(version):
            raise self._cancelled(version)

    def _begin(self, index: int) -> list[int]:
        """Note the beginning of an episode, and return the list of its versions."""
        self.begun += index not in self.begun_at
        self.begun_at.setdefault(index, self._clock())
        versions = self._versions[index] = []
        return versions

    def _cancelled(self, version: int) -> OperationCancelled:
        return OperationCancelled(
            f"the policy is at version {self.version}, this episode began at {version}", stale=True
        )

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
            outcome.trajectory.policy_versions = self._noted(outcome)

    def _noted(self, outcome: Outcome[Any, Any]) -> tuple[int, ...]:
        """Return the version of each decision that is recorded: not of an agent's mistakes."""
        decisions = outcome.steps + (0 if self._is_agent else outcome.mistakes)
        return tuple(self._versions.get(outcome.index, ())[:decisions])

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
            versions = self._noted(outcome)
            stale = bool(versions) and self.too_old(versions[0])
        stale = stale or bool(getattr(outcome.error, "detail", {}).get("stale"))
        if outcome.index in self._versions:
            self.finish(outcome)
            del self._versions[outcome.index]
        outcome.group, outcome.member = group, member
        return StreamedEpisode(outcome, group, member, versions, stale, self._invalid_actions)

    def judge(self, episode: StreamedEpisode[Any, Any]) -> None:
        """Mark an episode that has become too old since it ended."""
        if episode.versions and self.too_old(episode.versions[0]):
            episode.stale = True


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
        self._watch.check_age(self._version)
        return await self._client.step(action)


class Pace:
    """The measured pace of a learner, and of the groups of episodes that it reads.

    Args:
        version: tells the version of the policy.
        max_staleness: versions that an episode may be behind when it is read.
        clock: tells the time in seconds.

    Attributes:
        rate: episodes read for one version; ``None`` before the first was published.
        interval: seconds between two versions; ``None`` before the second was published.
        by_the_clock: the last version was published while a reader waited.
    """

    def __init__(
        self, version: Callable[[], int], max_staleness: int, clock: Callable[[], float]
    ) -> None:
        self.rate: float | None = None
        self.interval: float | None = None
        self.by_the_clock = False
        self._version = version
        self._max_staleness = max_staleness
        self._clock = clock
        self._known = version()
        self._published: float | None = None
        self._spans: deque[tuple[float, bool]] = deque(maxlen=_SPANS)
        self._latest = math.inf

    @property
    def batch(self) -> int:
        """Episodes that the learner reads for one version; 0 while that is not known."""
        return 0 if self.rate is None else math.ceil(self.rate - 1e-6)

    @property
    def since(self) -> float:
        """Seconds since the last version was noticed."""
        return 0.0 if self._published is None else self._clock() - self._published

    def notice(self, read: int, waits: bool) -> bool:
        """Learn from a new version, and tell whether there is one.

        Args:
            read: episodes read for the last one.
            waits: whether the reader waits.
        """
        version = self._version()
        if version == self._known:
            return False
        passed, self._known = version - self._known, version
        if passed > 0:  # else the learner went back to an earlier one, which tells nothing
            if read or self.rate is not None:
                self.rate = _mean(self.rate, read / passed)
            if self._published is not None:
                self.interval = _mean(self.interval, self.since / passed)
        self._published = self._clock()
        self.by_the_clock = waits
        self._decide()
        return True

    def played(self, seconds: float, stale: bool) -> None:
        """Note how long a group took from its first reset to its last end.

        Args:
            seconds: how long.
            stale: it was too old by then, or cancelled for its age.
        """
        self._spans.append((seconds, stale))
        self._decide()

    def ends_in_time(self) -> bool:
        """Tell whether it is worth while that a group begins now, not with the next version."""
        if not self.by_the_clock or self.interval is None:
            return True  # the learner waits for its episodes, and publishes no version before
        since = self.since
        return since <= self._latest or since > _OVERDUE * self.interval

    def look_again(self) -> float | None:
        """Return the seconds until a version may be there that nobody tells of."""
        if not self.by_the_clock or self.interval is None:
            return None
        return max(self.interval - self.since, self.interval / _LOOKS, _SOONEST)

    def remedy(self) -> str:
        """Return what to do against episodes that are too old, in numbers as far as known."""
        if self.interval and self._spans:
            slow = sorted(seconds for seconds, _ in self._spans)[int(0.9 * len(self._spans))]
            needed = math.ceil(slow / self.interval)
            if needed > self._max_staleness:
                return (
                    f"one in ten takes {slow:.3g} s or longer, a version {self.interval:.3g} s:"
                    f" allow max_staleness={needed}, or publish less often"
                )
        return "play fewer at once (concurrency), publish less often or allow more"

    def _decide(self) -> None:
        """Set the seconds after a version until which it is worth while to begin a group.

        Of the groups that ended in time, a share p would still do so if begun now. With m the mean
        of their seconds and w those to the next version, p groups in m seconds are weighed against
        one in m + w. Nothing is gained by waiting while p is 1.
        """
        self._latest = math.inf
        if not self._spans or self.interval is None:
            return
        usable = (self._max_staleness + 1) * self.interval
        ended = sorted(span for span, stale in self._spans if span <= usable and not stale)
        if not ended:
            self._latest = self.interval / _LOOKS  # a few, to see whether it is still so
            return
        mean = math.fsum(ended) / len(ended)
        self._latest = usable - ended[-1]
        for number, span in enumerate(ended[:-1], 1):
            worth = mean + self.interval - mean * len(ended) / number
            self._latest = max(self._latest, min(usable - span, worth))


def _mean(mean: float | None, value: float) -> float:
    return value if mean is None else mean + _NEWEST * (value - mean)


class Admission:
    """Admission of one stream's episodes.

    It decides without awaiting anything; only ``admit`` waits, for a decision to change.

    Args:
        version: tells the version of the policy.
        size: episodes of a group.
        max_staleness: versions that an episode may be behind when it is read.
        clock: tells the time in seconds, as the event loop does.

    Attributes:
        pace: the measured pace.
    """

    def __init__(
        self,
        version: Callable[[], int],
        size: int,
        max_staleness: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pace = Pace(version, max_staleness, clock)
        self._size = size
        self._max_staleness = max_staleness
        self._outstanding = 0
        """Episodes of groups that were admitted and not read yet, begun or not."""
        self._owed = 0
        """Those among them that no task has taken yet, or that are to begin again."""
        self._granted = 0
        """Those among them whose task has no session yet."""
        self._read = 0
        self._wanted = size
        self._reader_waits = False
        self._closed = False
        self._waiting: tuple[dict[asyncio.Future[None], None], ...] = ({}, {})
        """Tasks without a session that wait, and those with one, each in their order."""
        self._timer: asyncio.TimerHandle | None = None

    # -- the episodes' side -------------------------------------------------------------------

    async def admit(self, *, ready: bool = True) -> None:
        """Return when the next episode may begin.

        Args:
            ready: the caller has a session to play it on. One that has not opens it, and then
                has to ``claim`` the episode.
        """
        waiting = self._waiting[ready]
        while not self._admits(ready):
            woken = asyncio.get_running_loop().create_future()
            waiting[woken] = None
            self._look_again()
            try:
                await woken
            except asyncio.CancelledError:
                waiting.pop(woken, None)
                self._wake()  # this wake-up may have been meant for another
                raise
        self._wake()

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
        self._wake()

    def joined(self) -> None:
        """Note that an episode waits to be read that was played before, and not admitted."""
        self._outstanding += 1

    def close(self) -> None:
        """Admit every further call: there are no more episodes."""
        self._closed = True
        self._wake()

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
        self._granted += not ready
        return True

    def _may_begin(self) -> bool:
        self._notice()
        if self._closed or self._owed:
            return True
        if self._reader_waits and self._outstanding <= 0:
            return True
        if self._reader_waits and self.pace.by_the_clock:
            return self.pace.ends_in_time()  # it is read at once: nothing is ahead of it
        batch = max(self.pace.batch, self._wanted)
        last = self._read + self._outstanding + self._size - 1
        return last // batch <= self._max_staleness

    def _wake(self) -> None:
        """Have the next task that waits ask again, if it is admitted; it wakes the one after it."""
        without, ready = self._waiting
        if ready and (self._granted or self._may_begin()):
            waiting = ready
        elif without and self._may_begin():
            waiting = without
        else:
            self._look_again()
            return
        woken = next(iter(waiting))
        del waiting[woken]
        if woken.done():  # its task is cancelled, and wakes the next
            return
        woken.set_result(None)

    def _look_again(self) -> None:
        """Set the timer that looks for a version of which nobody tells, while a task waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        seconds = self.pace.look_again()
        if seconds is not None and not self._closed and any(self._waiting):
            self._timer = asyncio.get_running_loop().call_later(seconds, self._wake)

    # -- the reader's side --------------------------------------------------------------------

    def asked(self) -> None:
        """Note that the reader waits for the next episode."""
        self._notice()
        self._reader_waits = True
        blind = self.pace.rate is None and not self._max_staleness
        more = self._read // 2 if blind else 0
        self._wanted = max(self._wanted, self._read + max(more, self._size))
        self._wake()

    def read(self, count: int) -> None:
        """Note that the reader was given that many episodes."""
        self._notice()
        self._reader_waits = False
        self._outstanding -= count
        self._read += count
        self._wake()

    def dropped(self) -> None:
        """Note that an episode ended that the reader is not given."""
        self._outstanding -= 1
        self._wake()

    def _notice(self) -> None:
        """Begin to count anew with a new version."""
        if self.pace.notice(self._read, self._reader_waits):
            self._read = 0
            self._wanted = self._size
