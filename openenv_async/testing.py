"""Tools for tests of environments and servers: a checker, a clock, misbehaving environments.

``ConformanceEnvironment`` does on command whatever a server has to cope with; the conformance
suite drives it over every transport. ``BenchEnvironment`` and its kin are what ``bench`` serves.
NumPy is imported only by an environment that was asked for an array.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
import random
import re
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from openenv_async.environment import Environment, Isolation
from openenv_async.tasks import TaskTable

if TYPE_CHECKING:
    from openenv_async.checks.conformance import Result

__all__ = [
    "BenchAction",
    "BenchAsyncEnvironment",
    "BenchEnvironment",
    "BenchObservation",
    "BenchThreadEnvironment",
    "ConformanceAction",
    "ConformanceEnvironment",
    "ConformanceObservation",
    "ConformanceState",
    "ManualClock",
    "ManualTimer",
    "assert_examples_run",
    "check_environment",
    "served_application",
    "step_in_workers",
]


# -- time ---------------------------------------------------------------------------------


class ManualTimer:
    """A timer of a ``ManualClock``."""

    __slots__ = ("callback", "cancelled", "when")

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Stop the timer: it will not fire."""
        self.cancelled = True


class ManualClock:
    """A clock that stands still until it is told to move; called, it gives its time in seconds.

    ``Deadlines(clock, clock.call_at)`` runs on it without a loop and without waiting.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._timers: list[tuple[float, int, ManualTimer]] = []
        self._order = itertools.count()

    def __call__(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> ManualTimer:
        """Return a timer that fires when the clock is moved to ``when`` or past it."""
        timer = ManualTimer(when, callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    @property
    def armed(self) -> int:
        """Timers that would still fire."""
        return sum(not timer.cancelled for _, _, timer in self._timers)

    def advance(self, seconds: float) -> None:
        """Move on, stopping at every timer on the way."""
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                self.now = max(self.now, when)
                timer.callback()
        self.now = max(self.now, end)


# -- conformance --------------------------------------------------------------------------


@dataclass
class ConformanceAction:
    """One command.

    Attributes:
        command: what to do.

            - ``echo``: give ``text`` and ``data`` back.
            - ``reward``: reward ``value``, which may be ``None``.
            - ``terminate``, ``truncate``: end the episode, with reward ``value``.
            - ``draw``: three numbers of the episode's own generator.
            - ``raise``: raise ``RuntimeError(text)``.
            - ``sleep``: sleep for ``value`` seconds; a cancellation is counted in the state.
            - ``blob``: ``count`` bytes of text.
            - ``array``: a uint8 array [count] of 0, 1, 2, … modulo 256.
            - ``unsendable``: an observation that no codec can encode.
            - ``stream``: ``count`` partial observations, then the final one; with ``text`` set,
              ``RuntimeError(text)`` after them instead.
    """

    command: str = "echo"
    value: float | None = None
    text: str = ""
    count: int = 0
    data: Any = None


@dataclass
class ConformanceObservation:
    """The result of a command. ``steps`` counts the calls of ``step`` in this episode."""

    text: str = ""
    steps: int = 0
    instance: str = ""
    numbers: list[float] = field(default_factory=list)
    data: Any = None
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False


@dataclass
class ConformanceState:
    """The environment's account of itself; ``live`` names every instance not yet closed."""

    instance: str
    label: str
    steps: int
    resets: int
    cancelled: int
    seed: int | None
    live: list[str]


PRIVATE: Final = "PRIVATE-part-of-a-task"
"""The private column of every task of the conformance environment."""


class ConformanceEnvironment(
    Environment[ConformanceAction, ConformanceObservation, ConformanceState]
):
    """An environment that does what its actions say, so that a server can be judged from outside.

    Args:
        fail: raise ``RuntimeError(fail)`` in the constructor.
        label: kept, and shown by ``state``.
    """

    session_options = frozenset({"fail", "label"})
    tasks: ClassVar[TaskTable] = TaskTable(
        {
            "train": [{"id": f"task-{n}", "text": f"text {n}", "key": PRIVATE} for n in range(40)],
            "test": [{"id": "last", "text": "text of the last", "key": PRIVATE}],
        },
        private=["key"],
    )
    name = "ConformanceEnvironment"
    live: ClassVar[set[str]] = set()

    def __init__(self, fail: str = "", label: str = "") -> None:
        if fail:
            raise RuntimeError(fail)
        self.instance = uuid.uuid4().hex[:12]
        self.label = label
        self.steps = self.resets = self.cancelled = 0
        self.seed: int | None = None
        self.random = random.Random(0)
        self.live.add(self.instance)

    async def reset(
        self, *, seed: int | None = None, text: str = "", fail: str = "", key: str = ""
    ) -> ConformanceObservation:
        """Begin; ``fail`` makes it raise, and ``key``, a task's private part, is not shown."""
        self.resets += 1
        self.steps = 0
        self.seed = seed
        self.random = random.Random(seed)
        if fail:
            raise RuntimeError(fail)
        return self._shown(text or "ready", numbers=self._drawn())

    async def step(self, action: ConformanceAction) -> ConformanceObservation:
        """Obey."""
        self.steps += 1
        match action.command:
            case "echo":
                return self._shown(action.text, data=action.data)
            case "reward":
                return self._shown(reward=action.value)
            case "terminate":
                return self._shown(reward=action.value, terminated=True)
            case "truncate":
                return self._shown(reward=action.value, truncated=True)
            case "draw":
                return self._shown(numbers=self._drawn())
            case "raise":
                raise RuntimeError(action.text)
            case "sleep":
                try:
                    await asyncio.sleep(action.value or 0.0)
                except asyncio.CancelledError:
                    self.cancelled += 1
                    raise
                return self._shown("slept")
            case "blob":
                return self._shown("x" * action.count)
            case "array":
                import numpy as np

                return self._shown(data=(np.arange(action.count) % 256).astype(np.uint8))
            case "unsendable":
                return self._shown(data=object())
            case "stream":
                if action.text:
                    raise RuntimeError(action.text)
                return self._shown(str(action.count), reward=1.0)
            case other:
                raise ValueError(f"unknown command {other!r}")

    async def step_stream(
        self, action: ConformanceAction
    ) -> AsyncIterator[ConformanceObservation | dict[str, Any]]:
        """Obey; ``stream`` shows its partial observations first, as maps."""
        try:
            for index in range(action.count if action.command == "stream" else 0):
                yield {"text": str(index)}
                if action.value:
                    await asyncio.sleep(action.value)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        yield await self.step(action)

    async def state(self) -> ConformanceState:
        """Return its account of itself."""
        return ConformanceState(
            self.instance,
            self.label,
            self.steps,
            self.resets,
            self.cancelled,
            self.seed,
            sorted(self.live)[:1000],
        )

    async def close(self) -> None:
        """Leave the list of live instances."""
        self.live.discard(self.instance)

    def _drawn(self) -> list[float]:
        return [self.random.random() for _ in range(3)]

    def _shown(self, text: str = "", **fields: Any) -> ConformanceObservation:
        return ConformanceObservation(text, self.steps, self.instance, **fields)


# -- benchmarks ---------------------------------------------------------------------------


@dataclass(slots=True)
class BenchAction:
    """The message of the load generator."""

    message: str = ""


@dataclass(slots=True)
class BenchObservation:
    """The message back, with a uint8 array [obs_bytes] where one was asked for."""

    message: str
    frame: Any = None
    reward: float | None = None


class BenchEnvironment(Environment[BenchAction, BenchObservation, dict[str, Any]]):
    """Short sync steps that cost next to nothing, called straight from the reader.

    Args:
        obs_bytes: size of the array in every observation; 0 for none.
    """

    isolation: ClassVar[Isolation | None] = "inline"

    def __init__(self, obs_bytes: int = 0) -> None:
        self.frame: Any = None
        if obs_bytes:
            import numpy as np

            self.frame = (np.arange(obs_bytes) * 37 % 256).astype(np.uint8)

    def reset(self) -> BenchObservation:
        """Begin."""
        return BenchObservation("ready", self.frame)

    def step(self, action: BenchAction) -> BenchObservation:
        """Echo; the audit of ``bench --chaos`` finds its messages in the array, too."""
        frame = self.frame
        if frame is not None and action.message.startswith("chaos-"):
            import numpy as np

            name, size = action.message.encode(), len(frame)
            frame = np.frombuffer((name * (size // len(name) + 1))[:size], np.uint8)
        return BenchObservation(action.message, frame, 1.0)


class BenchThreadEnvironment(BenchEnvironment):
    """The same in the shared thread pool."""

    isolation: ClassVar[Isolation | None] = "thread"


class BenchAsyncEnvironment(Environment[BenchAction, BenchObservation, dict[str, Any]]):
    """The same as an async environment: a task for every session.

    Args:
        obs_bytes: size of the array in every observation; 0 for none.
        step_seconds: how long a step sleeps.
    """

    def __init__(self, obs_bytes: int = 0, step_seconds: float = 0.0) -> None:
        self._inner = BenchEnvironment(obs_bytes)
        self._seconds = step_seconds

    async def reset(self) -> BenchObservation:
        """Begin."""
        return self._inner.reset()

    async def step(self, action: BenchAction) -> BenchObservation:
        """Echo, after the sleep that was asked for."""
        if self._seconds:
            await asyncio.sleep(self._seconds)
        return self._inner.step(action)


# -- the checker --------------------------------------------------------------------------


async def check_environment(
    env: Any,
    *args: Any,
    params: Mapping[str, Any] | None = None,
    actions: list[Any] | None = None,
    seed: int = 0,
    varying: Collection[str] = (),
) -> list[Result]:
    """Put one environment through every generic check, in process and in both wire formats.

    Then it is served by a thread of this process and put through the checks of behaviour that
    ``openenv-async validate`` makes, so that what one of the two fails the other fails.

    Args:
        env: as for ``create_app``.
        *args: as for ``create_app``.
        params: constructor arguments.
        actions: plain actions to play with; by default drawn from the action schema.
        seed: of the actions drawn.
        varying: names of fields that may differ between equal episodes.

    Returns:
        The results, failures included; see ``openenv_async.checks``. A clean environment
        has none with ``status == "failed"``.
    """
    from openenv_async.checks.conformance import InProcessTransport, Suite
    from openenv_async.engine import Engine
    from openenv_async.spec import EnvironmentSpec

    results: list[Result] = []
    spec = EnvironmentSpec(env, *args, params=params)
    engine = Engine(spec)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(engine.aclose)
        for format in ("msgpack", "json"):
            transport = InProcessTransport(engine, format)
            suite = Suite(
                transport, schema=engine.spec.schema, actions=actions, seed=seed, varying=varying
            )
            results += await suite.run()
    results += await _behaviour(env, args, params, tuple(actions or ()), frozenset(varying))
    return results


async def _behaviour(
    env: Any,
    args: tuple[Any, ...],
    params: Mapping[str, Any] | None,
    actions: tuple[Any, ...],
    varying: frozenset[str],
) -> list[Result]:
    """Make the checks of behaviour on a server in a thread: a blocked loop must be seen."""
    from openenv_async.checks.validation.candidate import Candidate
    from openenv_async.checks.validation.run import check_served
    from openenv_async.client.loop_thread import LoopThread
    from openenv_async.server.run import serve

    server = serve(env, *args, params=params)
    thread = LoopThread()
    try:
        url = await asyncio.to_thread(thread.run, server.__aenter__())
        try:
            return await check_served(Candidate(url=url, actions=actions, varying=varying))
        finally:
            await asyncio.to_thread(thread.run, server.__aexit__(None, None, None))
    finally:
        await asyncio.to_thread(thread.stop)


# -- tests of environments ----------------------------------------------------------------

_EXAMPLES: Final = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def served_application(module: str, *expressions: str, **variables: str) -> list[str]:
    """Import a module's ``app`` in a process of its own and return what expressions say of it.

    An application reads its environment variables when it is imported, so a test of them needs a
    process.

    Args:
        module: the module that has ``app``.
        *expressions: Python on ``spec``, the specification of what the application serves.
        **variables: environment variables of the process.

    Returns:
        Each expression's value as text.

    Raises:
        CalledProcessError: the process failed.
    """
    code = (
        f"from {module} import app; spec = app.state.openenv.spec; "
        f"print({', '.join(expressions)}, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


async def assert_examples_run(readme: Path, url: str) -> None:
    """Assert that the Python examples of a page run against a server and print what they say.

    Args:
        readme: the page. An example prints each comment that stands behind two spaces.
        url: takes the place of ``http://127.0.0.1:8000`` in the examples.
    """
    for block in _examples(readme):
        expected = [line.rpartition("# ")[2] for line in block.splitlines() if "  # " in line]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", block.replace("http://127.0.0.1:8000", url)),
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await process.communicate()
        assert process.returncode == 0, f"this example failed:\n{block}"
        lines = printed.decode().splitlines()
        assert [line for line in expected if line not in lines] == [], f"it printed {lines}"


def _examples(readme: Path) -> list[str]:
    blocks: list[str] = _EXAMPLES.findall(readme.read_text(encoding="utf-8"))
    assert blocks, f"{readme} has no Python example"
    return blocks


async def step_in_workers(env: Any, client: Callable[[str], Any], action: Any) -> list[Any]:
    """Return the observations of one step in four sessions on two worker processes.

    Args:
        env: as for ``create_app``.
        client: the environment's client class.
        action: the action of that step.
    """
    from openenv_async.engine import EngineOptions
    from openenv_async.server.run import serve

    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve(env, options=EngineOptions(workers=2)))
        sessions = [await stack.enter_async_context(client(url)) for _ in range(4)]
        await asyncio.gather(*(session.reset(seed=0) for session in sessions))
        results = await asyncio.gather(*(session.step(action) for session in sessions))
    return [result.observation for result in results]
