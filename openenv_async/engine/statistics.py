"""Counters of an engine, and a measure on a sample of steps of what takes their time.

Rules:

- A step that is not sampled costs nothing. Even testing a counter in each would cost 10 to 20 ns,
  and sampling every 128th another 17; so a timer of the server's arms a few sessions once
  a second, whatever the load.
- An armed session has a ``StepTimer`` in the place of its executor until its next request, which
  is run with codecs that look at the clock (2 µs more for that one).
- Samples are gathered in a deque, for they come from threads too, and are counted on the loop.

*Queue* is from the moment a step was taken to the moment its action is decoded, *env* is the
environment's own code, *serialize* is decoding the action and encoding the observation. Of
an environment in a worker process only *env* is known: from sending the request to having its
reply.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from openenv_async.engine.requests import Codecs, RunnerRequest
from openenv_async.protocol.frames import Step

if TYPE_CHECKING:
    from openenv_async.engine.interfaces import Call, Executor

__all__ = ["PHASES", "EngineStats", "Histogram", "StepTimer", "TimedCodecs"]

PHASES: Final = ("queue", "env", "serialize")
_BOUNDS: Final = (
    *(1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3),
    *(1.0, 3.0, 10.0, 30.0, 60.0, 300.0),
)


@dataclass(slots=True)
class EngineStats:
    """Plain counters since the start, read at scrape time; ``errors`` by code."""

    opened: int = 0
    closed: int = 0
    refused: int = 0
    steps: int = 0
    duplicates: int = 0
    timeouts: int = 0
    expired: int = 0
    abandoned: int = 0
    cut: int = 0
    resumed: int = 0
    peak_sessions: int = 0
    bad_frames: int = 0
    column_frames: int = 0
    connections: int = 0
    connections_opened: int = 0
    local_connections: int = 0
    local_connections_opened: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    shared_payloads: int = 0
    shared_bytes: int = 0
    shared_full: int = 0
    workers_started: int = 0
    workers_died: int = 0
    errors: dict[str, int] = field(default_factory=dict)


class Histogram:
    """Durations in seconds, counted by size."""

    __slots__ = ("counts", "sum")

    bounds: Final = _BOUNDS
    """Upper ends of all buckets but the last, in seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.counts[bisect_left(_BOUNDS, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        """The number of them."""
        return sum(self.counts)


_Sample = tuple[float | None, float, float | None]


class TimedCodecs(Codecs):
    """The codecs of one format, looking at the clock for one step."""

    __slots__ = ("_began", "_codecs", "_decoded", "_samples", "_started")

    def __init__(self, codecs: Codecs, samples: deque[_Sample]) -> None:
        self.format = codecs.format
        self.place = codecs.place
        self.encode_state = codecs.encode_state
        self.decode_any = codecs.decode_any
        self.encode_any = codecs.encode_any
        self.encode_info = codecs.encode_info
        self.decode_action = self._decode
        self.encode_observation = self._encode
        self._codecs = codecs
        self._samples = samples
        self._started = self._decoded = 0.0
        self._began = perf_counter()

    def _decode(self, payload: Any) -> Any:
        self._started = perf_counter()
        action = self._codecs.decode_action(payload)
        self._decoded = perf_counter()
        return action

    def _encode(self, observation: Any) -> bytes:
        returned = perf_counter()
        payload = self._codecs.encode_observation(observation)
        now = perf_counter()
        self.encode_observation = self._codecs.encode_observation
        self.decode_action = self._codecs.decode_action
        if self._decoded:
            env, decoded = returned - self._decoded, self._decoded - self._started
            self._samples.append((self._started - self._began, env, decoded + now - returned))
        return payload

    def replied(self) -> None:
        """Note that the reply of a step that was run elsewhere is here."""
        self._samples.append((None, perf_counter() - self._began, None))


class StepTimer:
    """A stand-in for the executor of a session for one request; all sessions have the same."""

    executor: Executor
    direct = False

    def __init__(self) -> None:
        self.timed = True
        self._samples: deque[_Sample] = deque()
        self._histograms = tuple(Histogram() for _ in PHASES)

    def arm(self, sessions: Iterable[Call], executor: Executor) -> None:
        """Time the next step of each of these sessions that ``executor`` runs."""
        self._count()
        self.executor, self.timed = executor, executor.timed
        for session in sessions:
            if session.executor is executor:
                session.executor = self

    def _count(self) -> None:
        samples, histograms = self._samples, self._histograms
        while samples:
            for histogram, seconds in zip(histograms, samples.popleft(), strict=True):
                if seconds is not None:
                    histogram.add(seconds)

    @property
    def histograms(self) -> dict[str, Histogram]:
        """The durations counted so far, by phase."""
        self._count()
        return dict(zip(PHASES, self._histograms, strict=True))

    # -- as an executor -----------------------------------------------------------------------

    def start(self, call: Call, request: RunnerRequest) -> None:
        """Hand back to the real executor, with a clock in the codecs of a step."""
        call.executor = self.executor
        if type(request) is Step and not request.credit:
            call.codecs = TimedCodecs(call.codecs, self._samples)
        self.executor.start(call, request)

    def interrupt(self, call: Call) -> bool:
        """Interrupt what the real executor runs."""
        return self.executor.interrupt(call)

    def credited(self, call: Call, units: int) -> None:
        """Let a step of the real executor go on."""
        self.executor.credited(call, units)

    def abandon(self, call: Call) -> None:
        """Abandon what the real executor runs."""
        self.executor.abandon(call)

    async def aclose(self) -> None:
        """Close the real executor."""
        await self.executor.aclose()
