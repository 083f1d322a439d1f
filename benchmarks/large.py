"""The time that large replies hold the server's event loop, and the work of others meanwhile.

``python -m benchmarks.large``: a server in a process of its own, three sessions that ask for a
25 MB array at the same moment, over and over, and three that step small ones. The server samples
how late its loop wakes up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from openenv_async import EnvClient, Environment, serve

SIZE = 25_000_000
SAMPLE = 0.002


@dataclass
class Want:
    """The number of bytes to film."""

    size: int


@dataclass
class Pixels:
    """The film: uint8 [size]."""

    pixels: np.ndarray


class Camera(Environment[Want, Pixels, dict[str, Any]]):
    """Films as many bytes as it is asked for."""

    thread_safe = True

    def __init__(self) -> None:
        self._film = np.arange(SIZE, dtype=np.uint32).astype(np.uint8)

    def reset(self) -> Pixels:
        return Pixels(self._film[:1])

    def step(self, action: Want) -> Pixels:
        return Pixels(self._film[: action.size])


class InlineCamera(Camera):
    """Its step runs as its name says."""

    isolation = "inline"


class ThreadCamera(Camera):
    """Its step runs as its name says."""

    isolation = "thread"


class ProcessCamera(Camera):
    """Its step runs as its name says."""

    isolation = "process"


KINDS = {"inline": InlineCamera, "thread": ThreadCamera, "process": ProcessCamera}


class _Lag:
    """Samples of the running loop's delay, in seconds."""

    def __init__(self) -> None:
        self.samples: list[float] = []

    async def run(self) -> None:
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(SAMPLE)
            self.samples.append(time.perf_counter() - begin - SAMPLE)

    def summary(self) -> dict[str, float]:
        ordered = sorted(self.samples)
        return {
            "samples": len(ordered),
            "p50_ms": ordered[len(ordered) // 2] * 1e3,
            "p99_ms": ordered[len(ordered) * 99 // 100] * 1e3,
            "max_ms": ordered[-1] * 1e3,
        }


async def _serve(kind: str) -> None:
    lag = _Lag()
    async with serve(KINDS[kind]) as url:
        print(json.dumps({"url": url}), flush=True)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, sys.stdin.readline)  # the first steps are over
        sampling = asyncio.create_task(lag.run())
        await loop.run_in_executor(None, sys.stdin.readline)
        sampling.cancel()
        await asyncio.wait([sampling])
    print(json.dumps(lag.summary()), flush=True)


async def _measure(kind: str, seconds: float) -> dict[str, Any]:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.large", "--serve", kind),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        url = json.loads(await server.stdout.readline())["url"]
        large, small = 0, 0
        clients = [EnvClient[Want, Pixels, dict[str, Any]](url, share="large") for _ in range(3)]
        others = [EnvClient[Want, Pixels, dict[str, Any]](url, share="small") for _ in range(3)]
        await asyncio.gather(*(client.reset() for client in clients + others))
        await asyncio.gather(*(client.step(Want(SIZE)) for client in clients))
        server.stdin.write(b"\n")
        stopping = False

        async def play(client: EnvClient[Want, Pixels, dict[str, Any]]) -> None:
            nonlocal small
            while not stopping:
                await client.step(Want(1))
                small += 1

        playing = [asyncio.create_task(play(client)) for client in others]
        begin = time.perf_counter()
        while time.perf_counter() < begin + seconds:
            await asyncio.gather(*(client.step(Want(SIZE)) for client in clients))
            large += len(clients)
        elapsed = time.perf_counter() - begin
        stopping = True
        await asyncio.gather(*playing)
        server.stdin.write(b"\n")
        lag = json.loads(await server.stdout.readline())
        await asyncio.gather(*(client.close() for client in clients + others))
        return {"large_per_s": large / elapsed, "small_per_s": small / elapsed, **lag}
    finally:
        server.stdin.close()
        await server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each isolation")
    parser.add_argument("--kind", choices=KINDS, action="append", help="isolation; repeatable")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        asyncio.run(_serve(args.serve))
        return
    for kind in args.kind or KINDS:
        result = asyncio.run(_measure(kind, args.seconds))
        figures = "  ".join(f"{name} {value:.1f}" for name, value in result.items())
        print(f"{kind:8} {figures}", flush=True)


if __name__ == "__main__":
    main()
