"""Frames of pixels on one machine: in shared memory, over TCP, and as an earlier revision does.

    python -m benchmarks.pixels --base c39159a
    python -m benchmarks.pixels --soak 600

Sixteen sessions of one client step as fast as they can an environment that only marks its array
and gives it back, always the same one; the client reads the mark. They are played in two ways: as
sixteen tasks that each await their own step, and as one ``GymVectorEnv``, which steps them
together; there the environment is one of Gymnasium's, served by the package ``gymnasium_env`` of
each revision. A round measures every side once, each with a server and a client process of its own
on the same two cores, in turns of who goes first. Printed are medians with their ranges, the ratio
to the earlier revision within a round, and CPU time of both ends.

``--soak`` steps through shared memory for so many seconds, keeps some of the arrays for a while as
a replay buffer does, and prints the server's resident size as it goes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from openenv_async import EnvClient, Environment, serve

SIZES: Final = (28_224, 100_800, 1_000_000)
SESSIONS: Final = 16
ROOT: Final = Path(__file__).resolve().parents[1]
SHARED, TCP, BASE = "shared memory", "TCP", "earlier"
AS: Final = {"sessions": "sessions of a task each", "vector": "sessions as one GymVectorEnv"}
WAYS: Final = tuple(AS)


@dataclass
class Mark:
    """The value that the first and the last pixel get."""

    value: int


@dataclass
class Picture:
    """A picture: uint8 [size]."""

    pixels: np.ndarray


SIZE: Final = [SIZES[0]]
"""Bytes of the pictures that this process films."""


class Camera(Environment[Mark, Picture, dict[str, Any]]):
    """Films always the same, into the same array."""

    isolation = "inline"

    def __init__(self) -> None:
        self._pixels = np.arange(SIZE[0], dtype=np.uint32).astype(np.uint8)

    def reset(self) -> Picture:
        return Picture(self._pixels)

    def step(self, action: Mark) -> Picture:
        self._pixels[0] = self._pixels[-1] = action.value
        return Picture(self._pixels)


def run(main: Any) -> None:
    """Run on uvloop where it is installed, whatever the revision does by itself."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def filmed() -> Any:
    """The camera as an environment of Gymnasium's, in the class that serves it."""
    import gymnasium
    from gymnasium_env.environment import InlineGymnasiumEnvironment

    class Films(gymnasium.Env[Any, Any]):
        def __init__(self) -> None:
            self._pixels = np.arange(SIZE[0], dtype=np.uint32).astype(np.uint8)
            self.action_space = gymnasium.spaces.Discrete(256)
            self.observation_space = gymnasium.spaces.Box(0, 255, (SIZE[0],), np.uint8)

        def reset(self, **keywords: Any) -> tuple[np.ndarray, dict[str, Any]]:
            super().reset(**keywords)
            return self._pixels, {}

        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            self._pixels[0] = self._pixels[-1] = action
            return self._pixels, 0.0, False, False, {}

    gymnasium.register(
        "Films-v0", lambda **_: Films(), order_enforce=False, disable_env_checker=True
    )

    class Filmed(InlineGymnasiumEnvironment):
        def __init__(self) -> None:
            super().__init__("Films-v0")

        @classmethod
        def schemas(cls) -> dict[str, Any]:  # type: ignore[override]  # of the one id
            return super().schemas("Films-v0")

    return Filmed


async def be_server(size: int, way: str) -> None:
    SIZE[0] = size
    async with serve(filmed() if way == "vector" else Camera) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def measured(options: argparse.Namespace, steps: int, seconds: float, cpu: list[float]) -> None:
    """Print the rate of so many steps, and the CPU time of both ends for one."""
    here, there = cpu
    figures = {
        "rate": steps / seconds,
        "client_us": (time.process_time() - here) / steps * 1e6,
        "server_us": (cpu_of(options.server) - there) / steps * 1e6,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


async def be_client(options: argparse.Namespace) -> None:
    keywords: dict[str, Any] = {"local": False} if options.tcp else {}
    clients = [
        EnvClient[Mark, Picture, dict[str, Any]](options.url, **keywords) for _ in range(SESSIONS)
    ]
    await asyncio.gather(*(client.reset() for client in clients))
    steps = 0
    ends_at = time.perf_counter() + options.warmup

    async def play(client: EnvClient[Mark, Picture, dict[str, Any]], first: int) -> None:
        nonlocal steps
        kept: deque[Any] = deque(maxlen=options.keep or 1)
        mark = first
        while time.perf_counter() < ends_at:
            mark = (mark + 1) & 255
            pixels = (await client.step(Mark(mark))).observation.pixels
            if pixels[0] != mark or pixels[-1] != mark:
                raise RuntimeError("the picture is another one")
            steps += 1
            if options.keep:
                kept.append((mark, pixels))
                if kept[0][1][0] != kept[0][0]:
                    raise RuntimeError("a picture that was kept has changed")
            if options.pace:
                await asyncio.sleep(options.pace)

    async def play_all() -> None:
        await asyncio.gather(*(play(client, i) for i, client in enumerate(clients)))

    await play_all()
    steps, begun = 0, time.perf_counter()
    cpu = [time.process_time(), cpu_of(options.server)]
    ends_at = begun + options.seconds
    await play_all()
    measured(options, steps, time.perf_counter() - begun, cpu)
    await asyncio.gather(*(client.close() for client in clients))


def be_vector(options: argparse.Namespace) -> None:
    from openenv_async.integrations.gymnasium import GymVectorEnv

    source: Any = options.url
    if options.tcp:
        source = EnvClient[Mark, Picture, dict[str, Any]](options.url, local=False)
    env = GymVectorEnv(source, SESSIONS, copy=False)
    env.reset()
    marks = np.arange(SESSIONS)

    def play_until(ends_at: float) -> int:
        nonlocal marks
        batches = 0
        while time.perf_counter() < ends_at:
            marks = (marks + 1) & 255
            pixels = env.step(marks)[0]
            if (pixels[:, 0] != marks).any() or (pixels[:, -1] != marks).any():
                raise RuntimeError("a picture is another one")
            batches += 1
        return batches * SESSIONS

    play_until(time.perf_counter() + options.warmup)
    begun = time.perf_counter()
    cpu = [time.process_time(), cpu_of(options.server)]
    steps = play_until(begun + options.seconds)
    measured(options, steps, time.perf_counter() - begun, cpu)
    env.close()


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_of(pid: int) -> dict[str, int]:
    """MiB that are resident: all, and those of shared memory."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "RssShmem"):
            found[name] = int(value.split()[0]) // 1024
    return found


@contextlib.contextmanager
def server(root: Path, size: int, way: str) -> Iterator[tuple[str, int]]:
    """A server of the revision in ``root``: its address and process."""
    arguments = ["--role", "server", "--size", str(size), "--way", way]
    process = started(root, *arguments, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        yield url, process.pid
    finally:
        process.stdin.close()
        process.wait()


def started(root: Path, *arguments: str, **keywords: Any) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(root), str(root / "environments" / "gymnasium")])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, **keywords
    )


def measure(
    way: str, side: str, root: Path, size: int, options: argparse.Namespace
) -> dict[str, float]:
    with server(root, size, way) as (url, pid):
        arguments = ["--role", way, "--url", url, "--server", str(pid)]
        arguments += ["--seconds", str(options.seconds), "--warmup", str(options.warmup)]
        arguments += ["--tcp"] if side == TCP else []
        client = started(root, *arguments)
        told, _ = client.communicate()
        if client.returncode:
            raise SystemExit(f"the client of {side!r} failed ({way})")
    figures: dict[str, float] = json.loads(told.splitlines()[-1])
    return figures


def spread(values: list[float], digits: int = 0) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def compare(options: argparse.Namespace, base: Path | None) -> None:
    sides = {SHARED: ROOT, TCP: ROOT, **({BASE: base} if base is not None else {})}
    for way in options.way or WAYS:
        for size in options.size or SIZES:
            found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
            for number in range(options.rounds):
                order = list(sides.items())
                for side, root in order if number % 2 == 0 else reversed(order):
                    found[side].append(measure(way, side, root, size, options))
            tell(f"{size:,} bytes, {SESSIONS} {AS[way]}", found)


def tell(title: str, found: dict[str, list[dict[str, float]]]) -> None:
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    sys.stdout.write(f"\n{title} (load {load})\n")
    for side, rounds in found.items():
        line = f"  {side:14} {spread([m['rate'] for m in rounds]):34} steps/s"
        for end in ("server", "client"):
            line += f"  {end} {statistics.median(m[f'{end}_us'] for m in rounds):.1f} µs"
        if BASE in found and side != BASE:
            pairs = list(zip(rounds, found[BASE], strict=True))
            line += f"  × {spread([now['rate'] / before['rate'] for now, before in pairs], 2)}"
            line += f", by CPU {statistics.median(cost(b) / cost(n) for n, b in pairs):.2f}"
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def cost(figures: dict[str, float]) -> float:
    """Microseconds of CPU that a step takes of both ends."""
    return figures["server_us"] + figures["client_us"]


def soak(options: argparse.Namespace) -> None:
    size = (options.size or SIZES)[0]
    with server(ROOT, size, "sessions") as (url, pid):
        arguments = ["--role", "sessions", "--url", url, "--server", str(pid)]
        arguments += ["--seconds", str(options.soak), "--keep", "20", "--pace", str(options.pace)]
        client = started(ROOT, *arguments)
        seen = []
        begun = time.monotonic()
        while client.poll() is None:
            time.sleep(options.soak / 20)
            if client.poll() is None:
                seen.append(rss_of(pid)["VmRSS"])
                told = ", ".join(f"{name} {mib} MiB" for name, mib in rss_of(pid).items())
                sys.stdout.write(f"{time.monotonic() - begun:6.0f} s  server {told}\n")
                sys.stdout.flush()
        assert client.stdout is not None
        sys.stdout.write(client.stdout.read())
        steady = seen[1:]
        sys.stdout.write(
            f"after a tenth {seen[1]} MiB, at the end {seen[-1]} MiB;"
            f" from then on {min(steady)} to {max(steady)} MiB\n"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", help="an earlier revision: a commit, or a folder that has it")
    parser.add_argument("--size", type=int, action="append", help="bytes; repeatable")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="measured, of each run")
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--way", choices=WAYS, action="append", help="repeatable; both if left out")
    parser.add_argument("--soak", type=float, help="seconds")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds between steps of --soak")
    for name in ("--role", "--url"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--server", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--tcp", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "server":
        [options.size], [options.way] = options.size, options.way
    return options


def main() -> None:
    options = parse()
    if options.role == "server":
        run(be_server(options.size, options.way))
    elif options.role == "sessions":
        run(be_client(options))
    elif options.role == "vector":
        be_vector(options)
    elif options.soak:
        soak(options)
    else:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # inherited by both ends
        with contextlib.ExitStack() as stack:
            base = None
            if options.base is not None and Path(options.base).is_dir():
                base = Path(options.base).resolve()
            elif options.base is not None:
                from benchmarks.revisions import checked_out

                base = stack.enter_context(checked_out(options.base))
            compare(options, base)


if __name__ == "__main__":
    main()
