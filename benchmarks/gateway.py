"""Calls through a gateway: this project's, rLLM's and LiteLLM's, beside none, on one engine.

``python -m benchmarks.gateway``: the engine is ``tests.engine_stub`` in a process of its own, which
answers at once for calls a second, and after 200 ms for what a gateway adds to a call's time. All
gateways run at the same time and are measured in turn, round after round. Each connection has a
session of its own, and asks for its next answer when it has the one before, with a message that it
did not send before. To measure times, the connections begin one after the other over the
engine's 200 ms, as agents that know nothing of each other do, and, in rows of their own, all at
once: such a call waits for the work on those before it, whatever stands between.

- the floor forwards bytes and looks at none (``benchmarks.gateway_floor``): two more hops;
- ours keeps each call in its journal, synced every second, with ids and log probabilities;
- ``rllm-model-gateway`` keeps them in SQLite, as it comes;
- ``litellm``'s proxy keeps nothing, and asks the engine for no ids.

The environments of the others are made under ``benchmarks/.venvs`` (``OPENENV_PEER_RLLM`` and
``OPENENV_PEER_LITELLM`` name interpreters to use instead).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from benchmarks.compare import ROOT, read_json_line, rss_kib
from benchmarks.driver import process_cpu_seconds, raise_file_limit
from openenv_async.event_loop import new_event_loop
from tests.peers import ensure_peer

__all__ = ["main"]

RLLM: Final = ("rllm-model-gateway==0.1.0",)
LITELLM: Final = ("litellm[proxy]==1.108.7",)
_START: Final = 120.0
"""Seconds that a gateway may take to listen."""
_MODEL: Final = "scripted-1"
_ANSWER: Final = (
    "The parser reads one line at a time, and the last one has no end: add a case for it, then run"
    " the tests once more."
)
_SYSTEM: Final = (
    "You are an agent that mends programs. " + 40 * "Read a file before you change it. "
)
_MEMORY_SESSIONS: Final = 4096
_DELAY: Final = 0.2
"""Seconds after which the engine answers where times of calls are measured."""


@dataclass
class Side:
    """A gateway, or none.

    Attributes:
        name: in the table.
        url: address of its server, without a path.
        pid: of its process; ``None`` for the engine itself.
        token: that opens sessions, where it takes one.
    """

    name: str
    url: str
    pid: int | None = None
    token: str = ""

    def paths(self, count: int) -> list[tuple[str, str]]:
        """Return the path and the key of so many sessions, opened where there are any."""
        if self.name == "ours":
            return [("/v1/chat/completions", self._opened()) for _ in range(count)]
        if self.name == "rllm":
            names = [secrets.token_hex(8) for _ in range(count)]
            return [(f"/sessions/{name}/v1/chat/completions", "none") for name in names]
        return [("/v1/chat/completions", self.token or "none")] * count

    def _opened(self) -> str:
        request = urllib.request.Request(
            f"{self.url}/sessions",
            b"{}",
            {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(json.load(answer)["key"])


@dataclass
class Figures:
    """Measurements of one side and workload, one of each round."""

    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)


# -- the client -----------------------------------------------------------------------------------


class _Connection(asyncio.Protocol):
    """A connection on which calls are made one after the other."""

    def __init__(self, path: str, key: str, host: str, is_streamed: bool) -> None:
        self.seconds: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        body: dict[str, Any] = {
            "model": _MODEL,
            "messages": [
                {"role": "system", "content": _SYSTEM},
                {"role": "user", "content": "call NUMBER"},
            ],
        }
        if is_streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        self._body = json.dumps(body).encode()
        self._number = 0
        self._until = 0.0
        self._sent = 0.0
        self._data = b""
        self._lost: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def begin(self, until: float) -> None:
        """Make calls until a time of the loop's clock."""
        self.seconds, self._until = [], until
        if self._lost is None:
            self._send()
        else:
            self._fail(self._lost)

    def _send(self) -> None:
        self._number += 1
        body = self._body.replace(b"NUMBER", b"%d" % self._number)
        self._sent = time.perf_counter()
        self.transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        if not self._is_whole():
            return
        if not self._data.startswith(b"HTTP/1.1 200"):
            self._fail(RuntimeError(self._data[:2000].decode(errors="replace")))
            return
        self._data = b""
        self.seconds.append(time.perf_counter() - self._sent)
        if time.perf_counter() < self._until:
            self._send()
        elif not self.done.done():
            self.done.set_result(None)

    def _is_whole(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._data[:end].lower()
        place = head.find(b"content-length:")
        if place >= 0:
            return len(self._data) >= end + 4 + int(head[place + 15 :].split(b"\r\n", 1)[0])
        return self._data.endswith(b"\r\n0\r\n\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc or ConnectionError("the server closed the connection")
        self._fail(self._lost)

    def close(self) -> None:
        """Make no more calls, also where they have not begun."""
        self._lost = self._lost or ConnectionError("the measurement has ended")
        self.transport.abort()

    def _fail(self, exc: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(exc)


async def _connected(side: Side, count: int, is_streamed: bool) -> list[_Connection]:
    host, _, port = side.url.removeprefix("http://").partition(":")
    paths = await asyncio.to_thread(side.paths, count)
    loop = asyncio.get_running_loop()
    made = []
    for path, key in paths:

        def make(path: str = path, key: str = key) -> _Connection:
            return _Connection(path, key, host, is_streamed)

        made.append((await loop.create_connection(make, host, int(port)))[1])
    return made


async def _calls(
    side: Side, count: int, is_streamed: bool, seconds: float, spread: float
) -> tuple[list[float], float, float]:
    """Return the seconds of each call, those of the gateway's CPU, and those that passed."""
    loop = asyncio.get_running_loop()
    connections = await _connected(side, count, is_streamed)
    try:
        for length in (min(1.0, seconds / 2), seconds):  # warmed up, then measured
            cpu = _cpu_of(side.pid)
            begun = time.perf_counter()
            for each in connections:
                each.done = loop.create_future()
            for number, each in enumerate(connections):
                loop.call_later(number * spread / count, each.begin, begun + length)
            await asyncio.gather(*(each.done for each in connections))
            passed = time.perf_counter() - begun
            cpu = _cpu_of(side.pid) - cpu
        return [second for each in connections for second in each.seconds], cpu, passed
    finally:
        for each in connections:
            each.close()
        await asyncio.gather(*(each.done for each in connections), return_exceptions=True)


def _cpu_of(pid: int | None) -> float:
    return 0.0 if pid is None else process_cpu_seconds(pid)


def measured(
    side: Side, count: int, is_streamed: bool, seconds: float, into: Figures, spread: float = 0.0
) -> None:
    """Make calls on so many connections for some seconds, and note what they cost.

    Args:
        side: what is asked.
        count: connections.
        is_streamed: the kind of answers.
        seconds: after some for warming up.
        into: what they are added to.
        spread: seconds over which the connections make their first calls, evenly: an engine's
            time, so that calls come one by one and not all at once whenever it answers.
    """
    loop = new_event_loop()
    try:
        times, cpu, passed = loop.run_until_complete(
            _calls(side, count, is_streamed, seconds, spread)
        )
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    times.sort()
    into.per_s.append(len(times) / passed)
    into.cpu_us.append(cpu / len(times) * 1e6)
    into.p50_ms.append(statistics.median(times) * 1e3)
    into.p99_ms.append(times[int(len(times) * 0.99)] * 1e3)


# -- the servers ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _process(command: Sequence[str], log: Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """A server in a process group of its own; it is ended, and its log shown if it failed."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environ},
            start_new_session=True,
        )
        try:
            yield process
        except Exception:
            sys.stderr.write(log.read_text()[-3000:])
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.stdout.close()


@contextlib.contextmanager
def engine(folder: Path, delay: float) -> Iterator[str]:
    """An engine that answers after some seconds; its address without a path."""
    command = [sys.executable, "-m", "tests.engine_stub", "--answer", _ANSWER]
    command += ["--delay", str(delay), "--no-calls"]
    with _process(command, folder / "engine.log") as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip().removesuffix("/v1")


@contextlib.contextmanager
def floor(folder: Path, engine: str) -> Iterator[Side]:
    """A proxy that forwards bytes."""
    host, _, port = engine.removeprefix("http://").partition(":")
    command = [sys.executable, "-m", "benchmarks.gateway_floor", host, port]
    with _process(command, folder / "floor.log") as process:
        yield Side("floor", str(read_json_line(process, _START)["url"]), process.pid)


@contextlib.contextmanager
def ours(folder: Path, engine: str) -> Iterator[Side]:
    """This project's gateway with its journal."""
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "openenv_async.cli", "gateway", "--engine", f"{engine}/v1"]
    command += ["--journal", str(folder / "journal"), "--port", "0", "--json"]
    with _process(command, folder / "ours.log", OPENENV_TOKEN=token) as process:
        told = read_json_line(process, _START)
        yield Side("ours", str(told["url"]), process.pid, token)


@contextlib.contextmanager
def rllm(folder: Path, engine: str) -> Iterator[Side]:
    """The gateway of rLLM with its SQLite store."""
    port = _free_port()
    command = [ensure_peer("rllm", RLLM), "-m", "rllm_model_gateway", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--worker", f"{engine}/v1"]
    command += ["--db-path", str(folder / "rllm.db"), "--log-level", "WARNING"]
    with _process(command, folder / "rllm.log") as process:
        side = Side("rllm", f"http://127.0.0.1:{port}", process.pid)
        _await(f"{side.url}/health", process)
        yield side


@contextlib.contextmanager
def litellm(folder: Path, engine: str) -> Iterator[Side]:
    """LiteLLM's proxy with one worker."""
    port = _free_port()
    config = folder / "litellm.yaml"
    params = {"model": f"openai/{_MODEL}", "api_base": f"{engine}/v1", "api_key": "none"}
    config.write_text(
        json.dumps({"model_list": [{"model_name": _MODEL, "litellm_params": params}]})
    )
    command = [str(Path(ensure_peer("litellm", LITELLM)).parent / "litellm"), "--config"]
    command += [str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    key = f"sk-{secrets.token_hex(16)}"
    settings = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": key,
    }
    with _process(command, folder / "litellm.log", **settings) as process:
        side = Side("litellm", f"http://127.0.0.1:{port}", process.pid, key)
        _await(f"{side.url}/health/liveliness", process)
        yield side


_GATEWAYS: Final = {"floor": floor, "ours": ours, "rllm": rllm, "litellm": litellm}


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _await(url: str, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + _START
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{url} does not answer") from None
            time.sleep(0.2)


# -- the tables -----------------------------------------------------------------------------------


@contextlib.contextmanager
def sides(names: Sequence[str], delay: float) -> Iterator[list[Side]]:
    """The engine, and the named gateways before it, all running."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateways-")))
        url = stack.enter_context(engine(folder, delay))
        made = [Side("none", url)]
        for name, make in _GATEWAYS.items():
            if name in names:
                made.append(stack.enter_context(make(folder, url)))
        yield made


def throughput(args: argparse.Namespace) -> None:
    """Print calls a second and CPU per call, with an engine that answers at once."""
    workloads = [(count, streamed) for count in args.connections for streamed in (False, True)]
    figures = {(name, each): Figures() for name in args.sides for each in workloads}
    with sides(args.sides, 0.0) as running:
        for _ in range(args.rounds):
            for count, streamed in workloads:
                for side in running:
                    into = figures[side.name, (count, streamed)]
                    measured(side, count, streamed, args.seconds, into)
    print("| connections | answers | gateway | calls/s | of ours | gateway CPU µs/call | p50 ms |")
    print("|---|---|---|---|---|---|---|")
    for count, streamed in workloads:
        for name in args.sides:
            each = figures[name, (count, streamed)]
            ratio = ""
            if "ours" in args.sides:
                mine = figures["ours", (count, streamed)].per_s
                ratio = f"{_median(a / b for a, b in zip(each.per_s, mine, strict=True)):.2f}"
            kind = "streamed" if streamed else "whole"
            print(
                f"| {count} | {kind} | {name} | {_spread(each.per_s, 0)} | {ratio}"
                f" | {_median(each.cpu_us):.0f} | {_median(each.p50_ms):.1f} |"
            )


def latency(args: argparse.Namespace) -> None:
    """Print what a gateway adds to the time of a call that takes its engine 200 ms."""
    workloads = [
        (count, streamed, spread)
        for count in args.at
        for spread in ((_DELAY, 0.0) if count > 1 else (0.0,))
        for streamed in (False, True)
    ]
    names = ["none", *(name for name in args.sides if name != "none")]
    figures = {(name, each): Figures() for name in names for each in workloads}
    with sides(names, _DELAY) as running:
        for _ in range(args.rounds):
            for count, streamed, spread in workloads:
                for side in running:
                    into = figures[side.name, (count, streamed, spread)]
                    measured(side, count, streamed, args.seconds, into, spread)
    print("Added times are medians of the differences of each round, with their 95 % intervals.\n")
    print(
        "| connections | begin | answers | gateway | p50 ms | added p50 | p99 ms | added p99"
        " | gateway CPU µs/call |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for count, streamed, spread in workloads:
        bare = figures["none", (count, streamed, spread)]
        begin = "alone" if count == 1 else "spread" if spread else "at once"
        for name in names:
            each = figures[name, (count, streamed, spread)]
            p50, p99 = (
                _interval([a - b for a, b in zip(mine, without, strict=True)])
                for mine, without in ((each.p50_ms, bare.p50_ms), (each.p99_ms, bare.p99_ms))
            )
            kind = "streamed" if streamed else "whole"
            print(
                f"| {count} | {begin} | {kind} | {name} | {_median(each.p50_ms):.2f} | {p50}"
                f" | {_median(each.p99_ms):.2f} | {p99} | {_median(each.cpu_us):.0f} |"
            )


def memory(args: argparse.Namespace) -> None:
    """Print the memory of our gateway without sessions and with many open."""
    with sides(["ours"], 0.0) as [_, side]:
        assert side.pid is not None
        side.paths(16)
        before = rss_kib(side.pid)
        side.paths(_MEMORY_SESSIONS)
        after = rss_kib(side.pid)
    print(
        f"{_MEMORY_SESSIONS} sessions: {(after - before) / 1024:.1f} MiB more than 16,"
        f" {after / 1024:.1f} MiB in all"
    )


def _median(values: Any) -> float:
    return float(statistics.median(list(values)))


def _interval(values: Sequence[float]) -> str:
    """Return the median, and the values between which that of all rounds lies.

    In 95 of 100 measurements, by how many of independent rounds are below a median; the lowest and
    the highest where there are too few for that.
    """
    ordered, count = sorted(values), len(values)
    below, outside = 0, 0.5**count
    while (more := outside + math.comb(count, below + 1) * 0.5**count) <= 0.025:
        below, outside = below + 1, more
    return f"{_median(values):.2f} ({ordered[below]:.2f} to {ordered[-1 - below]:.2f})"


def _spread(values: Sequence[float], digits: int) -> str:
    middle = f"{statistics.median(values):,.{digits}f}"
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


_PARTS: Final = {"throughput": throughput, "latency": latency, "memory": memory}


def main() -> None:
    """Measure, and print a table of each part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--only", action="append", choices=[*_PARTS])
    names = ["none", *_GATEWAYS]
    parser.add_argument("--sides", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--connections", type=int, nargs="+", default=[64, 512], help="of calls a second"
    )
    parser.add_argument(
        "--at",
        type=int,
        nargs="+",
        default=[1, 8, 64],
        help="connections, where times are measured",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured, of each")
    args = parser.parse_args()
    raise_file_limit()
    for name, part in _PARTS.items():
        if args.only is None or name in args.only:
            part(args)
            print(flush=True)


if __name__ == "__main__":
    main()
