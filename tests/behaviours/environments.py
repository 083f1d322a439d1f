"""Environments and servers for the tests of behaviours. Importable by worker processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Iterable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from openenv_async import EngineOptions, EnvClient, Environment, GenericEnvClient, Timeouts
from openenv_async.engine import Engine
from openenv_async.environment import Isolation
from openenv_async.server import create_app
from openenv_async.server.run import serve

Dict = dict[str, Any]
T = TypeVar("T")


# -- environments -------------------------------------------------------------------------


class Ledger(Environment[Dict, Dict, Dict]):
    """Remembers every step it executed, by the label that its reset was given.

    The reply to a step depends on all steps before it, so a lost, repeated or swapped one shows.
    """

    isolation: ClassVar[Isolation | None] = "inline"
    executed: ClassVar[dict[str, list[int]]] = {}

    def __init__(self) -> None:
        self.label = ""
        self.count = 0
        self.digest = 0

    def reset(self, label: str = "") -> Dict:
        self.label, self.count, self.digest = label, 0, 0
        self.executed[label] = []
        return {"count": 0}

    def step(self, action: Dict) -> Dict:
        self.executed[self.label].append(action["n"])
        self.count += 1
        self.digest = zlib.crc32(str(action["n"]).encode(), self.digest)
        return {"n": action["n"], "count": self.count, "digest": self.digest, "reward": 1.0}

    def state(self) -> Dict:
        return {"count": self.count}


class LedgerThread(Ledger):
    isolation: ClassVar[Isolation | None] = "thread"


class LedgerAsync(Environment[Dict, Dict, Dict]):
    """The same as a task; every third step takes a moment."""

    def __init__(self) -> None:
        self.inner = Ledger()

    async def reset(self, label: str = "") -> Dict:
        return self.inner.reset(label)

    async def step(self, action: Dict) -> Dict:
        if action["n"] % 3 == 0:
            await asyncio.sleep(0.001)
        return self.inner.step(action)


class LedgerStream(LedgerAsync):
    """Shows ``partials`` partial observations before each final one."""

    async def step_stream(self, action: Dict) -> AsyncIterator[Any]:
        from openenv_async import StepResult

        for index in range(action.get("partials", 0)):
            yield {"index": index}
            if index % 50 == 0:
                await asyncio.sleep(0)
        yield StepResult(await self.step(action))


class Commanded(Environment[Dict, Dict, Dict]):
    """Sync; does what ``action["do"]`` says, good or bad."""

    isolation: ClassVar[Isolation | None] = "thread"
    working: ClassVar[int] = 0
    closed: ClassVar[int] = 0

    def __init__(self, poison: Any = None) -> None:
        self.steps = 0
        self.kept: Any = poison

    def reset(self) -> Dict:
        self.steps = 0
        return {"pid": os.getpid()}

    def step(self, action: Dict) -> Dict:
        self.steps += 1
        result = getattr(self, "do_" + action.get("do", "nothing"))(action)
        return {"steps": self.steps, "pid": os.getpid(), "result": result}

    def close(self) -> None:
        type(self).closed += 1

    def do_nothing(self, action: Dict) -> None:
        pass

    def do_spin(self, action: Dict) -> None:
        ends = time.monotonic() + action.get("seconds", 3600)
        while time.monotonic() < ends:
            pass

    def do_sleep(self, action: Dict) -> None:
        cls = Commanded
        cls.working += 1
        try:
            time.sleep(action["seconds"])
        finally:
            cls.working -= 1

    def do_say(self, action: Dict) -> None:
        for line in range(action["lines"]):
            sys.stdout.write(f"line {line}\n")
        sys.stdout.flush()
        sys.stderr.write(action.get("last", ""))
        sys.stderr.flush()

    def do_die(self, action: Dict) -> None:
        self.do_say({"lines": 60, "last": "the very last line\n"})
        os.kill(os.getpid(), signal.SIGKILL)

    def do_os_exit(self, action: Dict) -> None:
        os._exit(action["code"])

    def do_memory(self, action: Dict) -> None:
        import resource

        have = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        limit = have + 64 * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        self.kept = [bytes(1 << 20) for _ in range(1 << 20)]

    def do_raise(self, action: Dict) -> None:
        raise {
            "Exception": Exception,
            "BaseException": BaseException,
            "SystemExit": SystemExit,
            "KeyboardInterrupt": KeyboardInterrupt,
            "GeneratorExit": GeneratorExit,
            "CancelledError": asyncio.CancelledError,
            "StopIteration": StopIteration,
        }[action["type"]]("on purpose")

    def do_sys_exit(self, action: Dict) -> None:
        sys.exit(7)

    def do_print(self, action: Dict) -> None:
        for _ in range(action["megabytes"]):
            sys.stdout.write("x" * ((1 << 20) - 1) + action.get("end", "\n"))
        sys.stdout.flush()

    def do_fork(self, action: Dict) -> int:
        child = os.fork()
        if child == 0:
            time.sleep(action["seconds"])
            os._exit(0)
        return child

    def do_close_fds(self, action: Dict) -> None:
        os.closerange(3, 1024)

    def do_scribble(self, action: Dict) -> None:
        """Write garbage on every socket."""
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                    os.write(int(name), action["text"].encode())

    def do_pollute(self, action: Dict) -> None:
        """Change everything global that a process has."""
        import tests.behaviours.environments as here

        os.chdir(tempfile.gettempdir())
        os.environ["POLLUTED"] = "yes"
        random.seed(1)
        here.POLLUTED = "yes"
        Path("polluted-by-a-session").write_text("yes")

    def do_look(self, action: Dict) -> Dict:
        import tests.behaviours.environments as here

        return {
            "cwd": os.getcwd(),
            "environ": os.environ.get("POLLUTED"),
            "random": random.random(),
            "module": here.POLLUTED,
        }


POLLUTED = "no"


class CommandedProcess(Commanded):
    isolation: ClassVar[Isolation | None] = "process"


class ProcessLeaver(Environment[Dict, Dict, Dict]):
    """Starts programs and does not wait for them, one of them in a session of its own."""

    isolation: ClassVar[Isolation | None] = "process"

    def reset(self) -> Dict:
        return {"pid": os.getpid()}

    def step(self, action: Dict) -> Dict:
        started = [
            subprocess.Popen(["sleep", "300"], start_new_session=own) for own in (False, True)
        ]
        return {"pids": [child.pid for child in started]}


class UnsafeByDefault(Commanded):
    """Says nothing of its isolation but that it is not safe in threads."""

    isolation: ClassVar[Isolation | None] = None
    thread_safe = False


class CommandedInline(Commanded):
    isolation: ClassVar[Isolation | None] = "inline"


class Stubborn(Environment[Dict, Dict, Dict]):
    """Async, and that ignores cancellation for ``seconds``."""

    cancelled: ClassVar[int] = 0
    closed: ClassVar[int] = 0

    async def reset(self) -> Dict:
        return {}

    async def step(self, action: Dict) -> Dict:
        ends = time.monotonic() + action.get("seconds", 0.0)
        while (left := ends - time.monotonic()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                Stubborn.cancelled += 1
        return {"woke": True}

    async def close(self) -> None:
        Stubborn.closed += 1


class Sleeper(Environment[Dict, Dict, Dict]):
    """Async; sleeps as it is told."""

    async def reset(self, seconds: float = 0.0) -> Dict:
        await asyncio.sleep(seconds)
        return {}

    async def step(self, action: Dict) -> Dict:
        await asyncio.sleep(action.get("seconds", 0.0))
        return {"slept": True, "data": "x" * action.get("size", 0)}


class Counted(Environment[Dict, Dict, Dict]):
    """Ends after so many steps, each of which takes ``seconds``."""

    isolation: ClassVar[Isolation | None] = "thread"

    def __init__(self, steps: int = 5, seconds: float = 0.05) -> None:
        self.steps, self.seconds, self.left = steps, seconds, 0

    def reset(self) -> Dict:
        self.left = self.steps
        return {"left": self.left}

    def step(self, action: Dict) -> Dict:
        time.sleep(self.seconds)
        self.left -= 1
        return {"left": self.left, "done": self.left == 0, "reward": 1.0}

    def state(self) -> Dict:
        return {"left": self.left}


class CountedInline(Counted):
    isolation: ClassVar[Isolation | None] = "inline"


class CountedAsync(Counted):
    isolation: ClassVar[Isolation | None] = None

    async def reset(self) -> Dict:  # type: ignore[override]  # an async environment
        return super().reset()

    async def step(self, action: Dict) -> Dict:  # type: ignore[override]
        await asyncio.sleep(self.seconds)
        self.left -= 1
        return {"left": self.left, "done": self.left == 0, "reward": 1.0}


class Blob(Environment[Dict, Dict, Dict]):
    """Observations of any size, at once."""

    isolation: ClassVar[Isolation | None] = "inline"

    def reset(self) -> Dict:
        return {}

    def step(self, action: Dict) -> Dict:
        return {"data": "x" * action.get("size", 0)}


# -- servers and clients ------------------------------------------------------------------


@contextlib.asynccontextmanager
async def served(
    env: Any,
    *,
    port: int = 0,
    timeouts: Timeouts | None = None,
    **options: Any,
) -> AsyncIterator[tuple[str, Engine]]:
    """A server in this loop: its address and its engine."""
    settings = EngineOptions(timeouts=timeouts or Timeouts(), **options)
    app = create_app(env, options=settings)
    async with serve(app, options=settings, port=port) as url:
        yield url, app.state.openenv.engine


@contextlib.asynccontextmanager
async def served_process(
    target: str, *arguments: str, open_files: int = 0
) -> AsyncIterator[tuple[str, Any]]:
    """``openenv-async serve`` as a process: its address and the process."""
    limits = ["prlimit", f"--nofile={open_files}"] if open_files else []
    process = await asyncio.create_subprocess_exec(
        *limits,
        sys.executable,
        "-m",
        "openenv_async.cli",
        "serve",
        f"tests.behaviours.environments:{target}",
        "--json",
        *(() if "--port" in arguments else ("--port", "0")),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            line = await process.stdout.readline()
        yield json.loads(line)["url"], process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # else it warns when collected


def client(url: str, **options: Any) -> GenericEnvClient:
    """A client with short deadlines of its own, for environments of dicts."""
    options.setdefault("timeouts", Timeouts(close=2.0))
    return GenericEnvClient(url, **options)


@contextlib.asynccontextmanager
async def clients(url: str, count: int, **options: Any) -> AsyncIterator[list[GenericEnvClient]]:
    """``count`` open sessions; closed all at once at the end."""
    made = [client(url, **options) for _ in range(count)]
    try:
        await gather(c.open() for c in made)
        yield made
    finally:
        await asyncio.gather(*(c.close() for c in made), return_exceptions=True)


async def gather(calls: Iterable[Awaitable[T]]) -> list[T]:
    return await asyncio.gather(*calls)


async def outcomes(calls: Iterable[Awaitable[T]]) -> list[T | BaseException]:
    return await asyncio.gather(*calls, return_exceptions=True)


def reconnects(made: Iterable[EnvClient[Any, Any, Any]]) -> int:
    """How often the connections of these clients came back."""
    found = {c.connection for c in made if c.connection is not None}
    return sum(connection.reconnects for connection in found)


def rss() -> int:
    """Bytes this process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
