"""Warnings of a run while it goes on: once for each kind, with a number and a remedy.

Rules:

- A watch costs a step and an episode nothing: the running episodes are looked at once a
  second, and what a policy and an environment took is summed by the rollouts anyway.
- A kind of trouble is logged once. Later cases are counted, and are in ``Summary.warnings``.
- The event loop beats ten times a second. A thread looks at the beat, and notes what the loop's
  own thread is at when a beat is late: only another thread can tell that. A beat that is late
  while the process itself got no time (a suspended machine, one with too much to do) is nobody's.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import sysconfig
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from openenv_async.rollouts.run import Rollout
    from openenv_async.rollouts.summary import Summary

__all__ = ["LoopWatch", "RunWatch", "place_of"]

LOOK_INTERVAL: Final = 1.0
_BEAT: Final = 0.1
BLOCKED: Final = 0.5
"""Seconds that a beat of the loop may be late."""
_ENDED: Final = 20
"""Episodes that have to have ended before another is compared with them."""
_REMEMBERED: Final = 1_000
_FACTOR: Final = 10
"""The multiple of the median of the others that an episode may have."""
_LONG_STEPS: Final = 100
_LONG_SECONDS: Final = 600.0
"""Steps and seconds below which no episode is long."""
_WAITED: Final = 30.0
"""Seconds of waiting before that is worth a word."""
_MUCH: Final = 0.5
"""Share of the sessions that wait."""
_BOUND: Final = 0.9
"""Share of the episodes' time that the policy takes."""

_OURS: Final = str(Path(__file__).parents[1])
_OTHERS: Final = tuple(
    sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
"""Folders of code that only calls: Python's own, and what is installed."""


class LoopWatch:
    """A watch on an event loop: whether something blocks it, and what.

    Args:
        blocked: called in the loop's thread with the seconds and what it was, once it goes on.
        clock: gives seconds.
    """

    def __init__(
        self,
        blocked: Callable[[float, str | None], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blocked = blocked
        self._clock = clock
        self._beat = clock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._place: str | None = None
        self._busy = False

    def start(self) -> None:
        """Begin; in the thread of the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._beat = self._clock()
        self._timer = self._loop.call_later(_BEAT, self._on_beat)
        self._thread = threading.Thread(target=self._watch, name="openenv-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it. Idempotent."""
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None:
            self._thread.join()  # which ends as soon as it wakes
            self._thread = None

    def _on_beat(self) -> None:
        now = self._clock()
        late = now - self._beat - _BEAT
        self._beat = now
        if late > BLOCKED and self._busy:
            self._blocked(late, self._place)
        self._place, self._busy = None, False
        assert self._loop is not None
        self._timer = self._loop.call_later(_BEAT, self._on_beat)

    def _watch(self) -> None:
        """Look at the beat; the thread."""
        looked, used = self._clock(), time.process_time()
        while not self._ended.wait(_BEAT):
            now, using = self._clock(), time.process_time()
            # Late itself, and nothing computed: the process stood still, whatever it was at.
            stood_still = now - looked > 5 * _BEAT and using - used < (now - looked) / 2
            looked, used = now, using
            if stood_still or now - self._beat - _BEAT <= BLOCKED / 2:
                continue
            frame = sys._current_frames().get(self._loop_thread)
            if frame is None or _is_idle(frame):
                continue
            self._busy = True
            self._place = place_of(frame) or self._place


def _is_idle(frame: FrameType) -> bool:
    """Tell whether a thread waits in its loop's own selector, or is about to."""
    file = Path(frame.f_code.co_filename)
    return file.name == "selectors.py" or (
        file.parent.name == "asyncio" and file.name in ("base_events.py", "runners.py")
    )


def place_of(frame: FrameType) -> str | None:
    """Return what a thread is at, in code that is neither this package's nor a library's."""
    at: FrameType | None = frame
    while at is not None:
        code = at.f_code
        if not code.co_filename.startswith((_OURS, "<frozen", *_OTHERS)):
            return f"{code.co_qualname} ({code.co_filename}:{at.f_lineno})"
        at = at.f_back
    return None


class RunWatch:
    """A watch on the episodes of one collection.

    Args:
        summary: takes the warnings.
        running: gives the episodes under way.
        sessions: gives how many sessions there are to be, and how many of them wait for a server
            to have room.
        max_steps, timeout: that bound an episode, if they do.
        model: the policy is a language model, which nearly all of the time goes to: that is a fact
            of the summary, not a trouble.
        clock: gives seconds.
    """

    def __init__(
        self,
        summary: Summary,
        running: Callable[[], Iterable[Rollout]],
        sessions: Callable[[], tuple[int, int]],
        *,
        max_steps: int | None = None,
        timeout: float | None = None,
        model: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._summary = summary
        self._running = running
        self._sessions = sessions
        self._max_steps = max_steps
        self._timeout = timeout
        self._model = model
        self._clock = clock
        self._begun = clock()
        self._looked = self._begun
        self._steps: deque[int] = deque(maxlen=_REMEMBERED)
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._awaits = False
        self._long: set[int] = set()
        self._usual: tuple[float, float] | None = None
        self._waited = 0.0
        self._said: set[str] = set()
        self._loop_watch = LoopWatch(self._on_blocked)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watching = False

    def start(self) -> None:
        """Begin; on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._begun = self._looked = self._clock()
        self._timer = self._loop.call_later(LOOK_INTERVAL, self._on_time)

    def stop(self) -> None:
        """End it. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop_watch.stop()

    def ended(self, rollout: Rollout) -> None:
        """Note an episode that ended by itself."""
        self._steps.append(rollout.steps)
        self._seconds.append(rollout.seconds)
        self._summary.policy_seconds += rollout.policy_seconds
        self._summary.environment_seconds += rollout.environment_seconds
        self._awaits |= rollout.policy_awaits
        self._long.discard(rollout.index)

    def _on_time(self) -> None:
        if not self._watching:  # a collection of a moment needs no thread
            self._watching = True
            self._loop_watch.start()
        self.look()
        assert self._loop is not None
        self._timer = self._loop.call_later(LOOK_INTERVAL, self._on_time)

    def look(self) -> None:
        """Look at what runs, and say what is wrong with it."""
        now = self._clock()
        passed, self._looked = now - self._looked, now
        running = list(self._running())
        self._usual = None
        for rollout in running:
            self._look_at(rollout)
        self._look_at_sessions(passed)
        self._look_at_policy(running, now - self._begun)

    # -- episodes without an end --------------------------------------------------------------

    def _look_at(self, rollout: Rollout) -> None:
        if rollout.index in self._long:
            return
        why = self._too_long(rollout)
        if why is not None:
            self._long.add(rollout.index)
            wait = "the policy" if rollout.phase == "policy" else f"{rollout.phase}()"
            self._summary.warn(
                "episode_without_end",
                f"episode {rollout.index} has no end: {why}; it is in {wait}. Bound episodes with"
                " max_steps or timeout",
                rollout.index,
            )

    def _too_long(self, rollout: Rollout) -> str | None:
        usual = len(self._steps) >= _ENDED
        if self._max_steps is None and usual and rollout.steps > _LONG_STEPS:
            median, _ = self._medians()
            if rollout.steps > _FACTOR * median:
                return (
                    f"it is at step {rollout.steps:,}, where half of those that ended had at most"
                    f" {median:,g}"
                )
        if self._timeout is None and rollout.seconds > _LONG_SECONDS:
            said = f"it has run for {rollout.seconds / 60:,.0f} min"
            if not usual:
                return f"{said}, at step {rollout.steps:,}"
            _, median = self._medians()
            if rollout.seconds > _FACTOR * median:
                return f"{said}, where half of those that ended took at most {median:,.1f} s"
        return None

    def _medians(self) -> tuple[float, float]:
        """Return the medians of steps and seconds of those that ended, made once a look."""
        if self._usual is None:
            self._usual = statistics.median(self._steps), statistics.median(self._seconds)
        return self._usual

    # -- who waits for whom -------------------------------------------------------------------

    def _look_at_sessions(self, passed: float) -> None:
        there, waiting = self._sessions()
        if not there or waiting < _MUCH * there:
            self._waited = 0.0
            self._said.discard("sessions_starved")
            return
        self._waited += passed
        if self._waited >= _WAITED:
            self._say(
                "sessions_starved",
                f"{waiting:,} of {there:,} sessions have waited for a server with room for"
                f" {self._waited:,.0f} s: have more servers (servers, max_workers), let each have"
                f" more sessions, or set concurrency to {max(1, there - waiting):,}",
            )

    def _look_at_policy(self, running: list[Rollout], elapsed: float) -> None:
        if elapsed < _WAITED or self._model:
            return
        summary = self._summary
        policy = summary.policy_seconds + sum(each.policy_seconds for each in running)
        total = policy + summary.environment_seconds
        total += sum(each.environment_seconds for each in running)
        if self._awaits or any(each.policy_awaits for each in running):
            share, of = policy / total if total else 0.0, "of the time of the episodes"
            remedy = "give the model's server more, or batch its calls"
        else:  # it holds the loop while it decides
            share, of = policy / elapsed, "of the time"
            remedy = "make it async, or let it decide for many at once (BatchedPolicy)"
        if share >= _BOUND:
            self._say(
                "bound_by_policy",
                f"the policy takes {share:.0%} {of}, and the environments wait for it: more"
                f" sessions or servers make nothing faster; {remedy}",
            )

    def _say(self, kind: str, message: str) -> None:
        """Warn of a state when it begins, not each time it is seen."""
        if kind not in self._said:
            self._said.add(kind)
            self._summary.warn(kind, message)

    def _on_blocked(self, seconds: float, place: str | None) -> None:
        by = "a callable that does not await" if place is None else place
        self._summary.warn(
            "loop_blocked",
            f"the event loop was blocked for {seconds:.1f} s by {by}: no episode went on"
            " meanwhile; make it async, or hand it to asyncio.to_thread",
        )
