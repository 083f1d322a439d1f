"""A gateway among faults, and what its journal holds of it: each answered call once.

An engine, proxies that cut connections on both sides of the gateway, and agents that ask again as
SDKs do are in this process; the gateway is another one, killed with SIGKILL and started again
while calls are under way. Each keeps books of its own, and at the end they are compared with the
journal, which is read from disk:

- each answer that an agent had whole is in the journal once, under its session, with its request;
- the journal has no other answers: a retry made no second sample. A client whose answer was cut
  after the last byte, over a connection that just ended, cannot be told from one that had it: it
  gets another sample, which is recorded as ambiguous;
- ids, log probabilities and text of each record are those that the engine sampled.

    python -m benchmarks.gateway_faults                      # 200 sessions of 20 calls, 5 kills
    python -m benchmarks.gateway_faults --soak               # 100,000 calls: memory, files, loss

The exit code is 1 when something differs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp
import msgspec
import uvicorn

from openenv_async.gateway.calls import CallRecord
from openenv_async.gateway.journal import read_journal

_TOKEN: Final = "admin-of-the-fault-run"
_MIB: Final = 2**20
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_JSON: Final = msgspec.json.Encoder().encode
_RECORDS: Final = msgspec.json.Decoder(CallRecord)
_IDS_OF_A_SAMPLE: Final = 16
_ALLOWED_GROWTH: Final = 0.1
_FAULT: Final = "the engine"
"""Words of a gateway that did not start, since a fault met its first request."""
_STARTS: Final = 10
_RESET: Final = struct.pack("ii", 1, 0)
"""The SO_LINGER of a socket that is reset when it is closed."""
_DEADLINE: Final = 120.0
"""Seconds in which an agent has to get an answer, however often it asks."""

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


@dataclasses.dataclass(frozen=True)
class Rates:
    """Shares of faults.

    Attributes:
        error: answers of the engine that are 500 or 429.
        engine_cut: answers that the engine breaks off.
        cut: pieces of a stream at which a proxy cuts a connection.
        request_cut: requests that a proxy cuts before they arrive.
    """

    error: float = 0.05
    engine_cut: float = 0.03
    cut: float = 0.015
    request_cut: float = 0.02


# -- the engine -------------------------------------------------------------------------------


def prompt_ids_of(messages: Sequence[Any]) -> list[int]:
    """Return the ids of a prompt: three for each message, by what is in it."""
    ids: list[int] = []
    for message in messages:
        mark = zlib.crc32(json.dumps(message, sort_keys=True).encode())
        ids += [mark & 0xFFFF, mark >> 16, len(ids)]
    return ids


def text_of(ids: Sequence[int]) -> str:
    """Return the text of sampled ids."""
    return "".join(f"w{each} " for each in ids)


def ids_in(text: str) -> list[int]:
    """Return the ids whose text it is."""
    return [int(each[1:]) for each in text.split()]


@dataclasses.dataclass
class Sampled:
    """A sample, in the engine's own book."""

    prompt_ids: list[int]
    ids: list[int]
    logprobs: list[float]


class Engine:
    """An engine with vLLM's token fields; no two of its samples have an id in common."""

    def __init__(self, rates: Rates, seed: int, gap: float) -> None:
        self.book: list[Sampled] = []
        self.faults: Counter[str] = Counter()
        self._rates = rates
        self._random = random.Random(seed)
        self._gap = gap

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["path"] == "/v1/models":
            await _send_json(send, 200, {"object": "list", "data": [{"id": "model"}]})
            return
        parts, more = [], True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            parts.append(event["body"])
            more = event["more_body"]
        draw = self._random.random()
        if draw < self._rates.error:
            status = 500 if draw < self._rates.error / 2 else 429
            self.faults[f"engine {status}"] += 1
            body = {"error": {"message": "a fault", "type": "fault"}}
            await _send_json(send, status, body, retry_after="0")
            return
        await self._sample(json.loads(b"".join(parts)), send)

    def draw(self, messages: Sequence[Any]) -> Sampled:
        """Sample an answer, and note it in the book."""
        first = len(self.book) * _IDS_OF_A_SAMPLE
        ids = list(range(first, first + self._random.randint(10, _IDS_OF_A_SAMPLE)))
        logprobs = [-(each % 89 + 1) / 97 for each in ids]
        self.book.append(Sampled(prompt_ids_of(messages), ids, logprobs))
        return self.book[-1]

    async def _sample(self, body: Any, send: Send) -> None:
        sampled = self.draw(body["messages"])
        ids, first = sampled.ids, sampled.ids[0]
        cut = len(ids)
        if self._random.random() < self._rates.engine_cut:
            cut = self._random.randrange(len(ids))
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        known: dict[str, Any] = {
            "id": f"cmpl-{first}",
            "object": "chat.completion.chunk",
            "model": "model",
        }
        for place, each in enumerate(ids):
            logprob = sampled.logprobs[place]
            if place == cut:
                self.faults["engine cut"] += 1
                raise ConnectionAbortedError("a fault")
            choice = {
                "index": 0,
                "delta": {"role": "assistant", "content": text_of([each])},
                "logprobs": {"content": [{"token": text_of([each]), "logprob": logprob}]},
                "token_ids": [each],
                "finish_reason": "stop" if place == len(ids) - 1 else None,
            }
            chunk = {**known, "choices": [choice]}
            if place == 0:
                chunk["prompt_token_ids"] = sampled.prompt_ids
            await _send_event(send, chunk)
            if self._gap:
                await asyncio.sleep(self._gap)
        usage = {"prompt_tokens": len(sampled.prompt_ids), "completion_tokens": len(ids)}
        await _send_event(send, {**known, "choices": [], "usage": usage})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _send_json(send: Send, status: int, body: Any, **headers: str) -> None:
    pairs = [(b"content-type", b"application/json")]
    pairs += [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _send_event(send: Send, chunk: Any) -> None:
    data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": data, "more_body": True})


@contextlib.asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[int]:
    """Serve an engine; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(engine, log_level="critical", lifespan="off", timeout_keep_alive=60)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = True
        await task


# -- the network ------------------------------------------------------------------------------


class Proxy:
    """A network that cuts connections; the address behind it may go and come again.

    Args:
        target: port behind it.
        rates: of its cuts: of any piece of an answer, also of the last one, which its sender takes
            for delivered. Half of them the sender sees as a connection that was reset, and half
            as one that was closed, as by a client that had all of it.
        seed: of its draws.
    """

    def __init__(self, target: int, rates: Rates, seed: int) -> None:
        self.port = 0
        self.target = target
        self.cuts: Counter[str] = Counter()
        self.tasks: set[asyncio.Task[None]] = set()
        self._rates = rates
        self._random = random.Random(seed)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen, until the block ends."""
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: _Carried(self), "127.0.0.1", 0, backlog=1024)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            listener.close()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    def cuts_request(self) -> bool:
        """Draw whether the next part of a request is cut."""
        if self._random.random() >= self._rates.request_cut:
            return False
        self.cuts["request"] += 1
        return True

    def cuts_answer(self, data: bytes) -> Literal["reset", "closed"] | None:
        """Draw whether a piece of an answer is cut, and what its sender sees of that."""
        draw = self._random.random()
        if draw >= self._rates.cut:
            return None
        way: Literal["reset", "closed"] = "reset" if draw < self._rates.cut / 2 else "closed"
        is_amid = b"event-stream" in data or b"data: " in data
        is_last = b"[DONE]" in data or not is_amid
        self.cuts[f"last piece, {way}" if is_last else f"answer, {way}"] += 1
        return way


class _Carried(asyncio.Protocol):
    """A connection that a proxy carries: the end that asks."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._waiting: list[bytes] = []
        self._there: asyncio.Transport | None = None
        self._here: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._here = transport
        task = asyncio.create_task(self._connect())
        self._proxy.tasks.add(task)
        task.add_done_callback(self._proxy.tasks.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            there, _ = await loop.create_connection(
                lambda: _Behind(self), "127.0.0.1", self._proxy.target
            )
        except OSError:
            self.gone()
            return
        self._there = there
        if self._here is None:
            there.abort()
        for data in self._waiting:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        if self._there is None:
            self._waiting.append(data)
        elif self._proxy.cuts_request():  # half of it arrives, and then nothing more
            self._there.write(data[: len(data) // 2])
            self._there.close()
            self.gone()
        else:
            self._there.write(data)

    def answered(self, data: bytes) -> None:
        """Carry a piece of an answer, or cut it."""
        if self._here is None:
            return
        way = self._proxy.cuts_answer(data)
        if way is None:
            self._here.write(data)
            return
        self._here.abort()
        if self._there is not None:
            if way == "reset":
                there: socket.socket = self._there.get_extra_info("socket")
                there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._there.abort()

    def gone(self) -> None:
        """End the connection after what came from behind."""
        if self._here is not None:
            self._here.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._here = None
        if self._there is not None:
            self._there.abort()


class _Behind(asyncio.Protocol):
    """A connection that a proxy carries: the end behind it."""

    def __init__(self, carried: _Carried) -> None:
        self._carried = carried

    def data_received(self, data: bytes) -> None:
        self._carried.answered(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._carried.gone()


# -- agents -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Wish:
    """A call that an agent wants one answer to, and what it had of it, in the agent's own book."""

    session: str
    messages: list[Any]
    kind: str
    text: str | None = None
    asked: int = 0


@dataclasses.dataclass(frozen=True)
class Kind:
    """The way in which a client asks again.

    Attributes:
        counts: it says how often, as the SDKs do; ``zero`` says 0 always, as one agent does.
        is_streamed: it reads a stream; a stream without its end does not count.
    """

    name: str
    counts: Literal["yes", "no", "zero"]
    is_streamed: bool


KINDS: Final = (
    Kind("SDK, streamed", "yes", True),
    Kind("SDK, whole", "yes", False),
    Kind("no count, streamed", "no", True),
    Kind("count always 0, streamed", "zero", True),
)


class Agent:
    """An agent: a conversation of a session, in which it asks until it has each answer."""

    def __init__(
        self,
        session: str,
        key: str,
        kind: Kind,
        port: int,
        seed: int,
        progress: Callable[[], None],
    ) -> None:
        self.session = session
        self.kind = kind
        self.wishes: list[Wish] = []
        self.failures: Counter[str] = Counter()
        self._key = key
        self._url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self._random = random.Random(seed)
        self._progress = progress

    async def play(self, calls: int) -> None:
        """Make a number of calls; now and then two that are equal, at the same time."""
        messages: list[Any] = [
            {"role": "system", "content": "You work. " * 30},
            {"role": "user", "content": f"task of {self.session}"},
        ]
        async with aiohttp.ClientSession() as http:
            while calls > 0:
                count = 2 if calls > 1 and self._random.random() < 0.1 else 1
                wishes = [Wish(self.session, list(messages), self.kind.name) for _ in range(count)]
                self.wishes += wishes
                async with asyncio.TaskGroup() as group:
                    for wish in wishes:
                        group.create_task(self._get(http, wish))
                calls -= count
                messages += [
                    {"role": "assistant", "content": wishes[0].text},
                    {"role": "user", "content": f"result {calls} " + "of a tool " * 20},
                ]

    async def _get(self, http: aiohttp.ClientSession, wish: Wish) -> None:
        """Ask until the answer is whole."""
        end = time.monotonic() + _DEADLINE
        wait = 0.05
        while wish.text is None:
            if time.monotonic() > end:
                raise TimeoutError(f"session {self.session} got no answer: {self.failures}")
            headers = {"authorization": f"Bearer {self._key}"}
            if self.kind.counts != "no":
                count = wish.asked if self.kind.counts == "yes" else 0
                headers["x-stainless-retry-count"] = str(count)
            wish.asked += 1
            body = {"model": "any", "messages": wish.messages, "stream": self.kind.is_streamed}
            try:
                async with http.post(self._url, json=body, headers=headers) as reply:
                    wish.text = await self._read(reply)
            except (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError) as exc:
                self.failures[type(exc).__name__] += 1
            if wish.text is None:
                await asyncio.sleep(wait * self._random.uniform(0.75, 1.0))
                wait = min(wait * 2, 1.0)
        self._progress()

    async def _read(self, reply: aiohttp.ClientResponse) -> str | None:
        """Return the text of an answer; ``None`` when it has to be asked for again."""
        if reply.status != 200:
            said = (await reply.read())[:300]
            self.failures[str(reply.status)] += 1
            if reply.status not in (408, 409, 429) and reply.status < 500:
                raise AssertionError(f"refused for good: {reply.status} {said!r}")
            return None
        if not self.kind.is_streamed:
            text = (await reply.json())["choices"][0]["message"]["content"]
            assert isinstance(text, str)
            return text
        parts: list[str] = []
        is_whole = False
        async for line in reply.content:
            if line.strip() == b"data: [DONE]":
                is_whole = True
            elif line.startswith(b"data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    self.failures["error event"] += 1
                    return None
                parts += [each["delta"].get("content") or "" for each in event["choices"]]
        if not is_whole:
            self.failures["no end"] += 1
        return "".join(parts) if is_whole else None


# -- the gateway ------------------------------------------------------------------------------


async def _copied(source: asyncio.StreamReader) -> None:
    while line := await source.readline():
        sys.stderr.buffer.write(line)
        sys.stderr.flush()


def _free_port() -> int:
    """A port that no outgoing connection takes while nobody listens at it."""
    for port in random.Random().sample(range(20_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("no port is free")


class GatewayProcess:
    """The gateway as a process that is killed and started again at the same port."""

    def __init__(self, engine: int, journal: Path, *options: str) -> None:
        self.port = _free_port()
        self.kills = 0
        self._arguments = [
            f"--engine=http://127.0.0.1:{engine}/v1",
            f"--journal={journal}",
            f"--port={self.port}",
            "--tokens=vllm",
            "--drain=10",
            *options,
        ]
        self._process: asyncio.subprocess.Process | None = None
        self._log: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and wait until it answers; again when a fault meets its first request."""
        for _ in range(_STARTS):
            if await self._started():
                return
        raise RuntimeError(f"the gateway did not start in {_STARTS} attempts")

    async def _started(self) -> bool:
        command = ["-m", "openenv_async.cli", "gateway", *self._arguments]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "OPENENV_TOKEN": _TOKEN},
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        async with asyncio.timeout(60):
            if await self._process.stdout.readline():
                self._log = asyncio.create_task(_copied(self._process.stderr))
                return True
            said = (await self._process.stderr.read()).decode()
            await self._process.wait()
        if _FAULT not in said:
            raise RuntimeError(f"the gateway did not start: {said}")
        return False

    async def kill(self) -> None:
        """End it as a failing machine would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        self.kills += 1

    async def stop(self) -> None:
        """End it in order."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(20):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def verb(self, http: aiohttp.ClientSession, method: str, path: str) -> bytes:
        """Ask for one of its verbs; returns the body."""
        url = f"http://127.0.0.1:{self.port}{path}"
        headers = {"authorization": f"Bearer {_TOKEN}"}
        async with http.request(method, url, headers=headers, json={}) as reply:
            reply.raise_for_status()
            return await reply.read()

    @property
    def pid(self) -> int:
        """Id of the process."""
        assert self._process is not None
        return self._process.pid

    @property
    def rss(self) -> int:
        """Bytes of memory that it has."""
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * _PAGE


# -- the books are compared -------------------------------------------------------------------


@dataclasses.dataclass
class Audit:
    """The differences between the journal and the books of engine and agents."""

    wishes: int = 0
    records: int = 0
    lost: int = 0
    twice: int = 0
    unwanted: int = 0
    ambiguous: int = 0
    mismatched: int = 0
    damage: int = 0
    places: list[str] = dataclasses.field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Nothing differs."""
        second = self.unwanted - self.ambiguous
        return not (self.lost or self.twice or second > 0 or self.mismatched or self.damage)


def compared(records: Sequence[CallRecord], wishes: Sequence[Wish], engine: Engine) -> Audit:
    """Compare the journal's records with what the agents had and what the engine sampled."""
    audit = Audit(wishes=len(wishes))
    by_text: dict[tuple[str, str], list[CallRecord]] = {}
    for record in records:
        if record.answer is None:
            continue
        audit.records += 1
        if not _is_as_sampled(record, engine):
            audit.mismatched += 1
            audit.places.append(f"{record.call_id} is not as the engine sampled it")
        by_text.setdefault((record.session, record.answer.text), []).append(record)
    taken: set[tuple[str, str]] = set()
    for wish in wishes:
        assert wish.text is not None
        key = (wish.session, wish.text)
        found = by_text.get(key, [])
        if len(found) != 1 or found[0].messages != wish.messages:
            audit.lost += not found
            audit.twice += len(found) > 1
            audit.mismatched += len(found) == 1
        if key in taken:
            audit.twice += 1
            audit.places.append(f"two had the same: {_told(found, records)}")
        taken.add(key)
    kinds = {each.session: each.kind for each in wishes}
    doubts = Counter(_request(each) for each in records if each.ambiguous is not None)
    for key, found in by_text.items():
        if key not in taken:
            audit.unwanted += len(found)
            for each in found:
                audit.ambiguous += doubts[_request(each)] > 0
                doubts[_request(each)] -= 1
            audit.places.append(f"nobody had it ({kinds.get(key[0])}): {_told(found, records)}")
    return audit


def _request(record: CallRecord) -> tuple[str, bytes]:
    """The session and the messages of a record: one of equal ones is like another."""
    return record.session, _JSON(record.messages)


def _told(found: Sequence[CallRecord], records: Sequence[CallRecord]) -> str:
    """Tell records and those beside them that have the same request."""
    beside = [
        f"{each.call_id} {each.deliveries} ambiguous={each.ambiguous} attempts={each.attempts}"
        f" error={each.error and each.error[0]}"
        for each in records
        if each.session == found[0].session and each.messages == found[0].messages
    ]
    return f"{', '.join(each.call_id for each in found)} of " + "; ".join(beside)


def _is_as_sampled(record: CallRecord, engine: Engine) -> bool:
    """Tell whether a record has just what the engine's book has."""
    assert record.answer is not None
    tokens = record.answer.tokens
    if not tokens.completion_ids:
        return False
    number = tokens.completion_ids[0] // _IDS_OF_A_SAMPLE
    if number >= len(engine.book):
        return False
    sampled = engine.book[number]
    return (
        tokens.completion_ids == sampled.ids == ids_in(record.answer.text)
        and tokens.logprobs == sampled.logprobs
        and tokens.prompt_ids == sampled.prompt_ids == prompt_ids_of(record.messages)
    )


# -- the runs ---------------------------------------------------------------------------------


@dataclasses.dataclass
class Report:
    """The figures of a run."""

    audit: Audit
    seconds: float
    calls: int
    asked: int
    sampled: int
    kills: int
    cuts: Counter[str]
    failures: Counter[str]
    faults: Counter[str]

    @property
    def missed(self) -> int:
        """Answers that left whole and did not arrive, of which the gateway saw no sign."""
        return self.cuts["agents' side, last piece, closed"]


async def run_faults(
    *,
    sessions: int,
    calls: int,
    kills: int,
    seed: int,
    journal: Path,
    rates: Rates | None = None,
    gap: float = 0.005,
    fsync: str = "second",
) -> Report:
    """Play sessions among faults, and compare the books."""
    rates = rates or Rates()
    engine = Engine(rates, seed, gap)
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(engine))
        behind = Proxy(port, rates, seed + 1)
        await stack.enter_async_context(behind.running())
        gateway = GatewayProcess(behind.port, journal, f"--fsync={fsync}")
        await gateway.start()
        stack.push_async_callback(gateway.stop)
        front = Proxy(gateway.port, rates, seed + 2)
        await stack.enter_async_context(front.running())
        total, done, due = sessions * calls, 0, asyncio.Event()
        marks = {total * (each + 1) // (kills + 1) for each in range(kills)}

        def progress() -> None:
            nonlocal done
            done += 1
            if done in marks:
                due.set()

        async def killing() -> None:
            for _ in range(kills):
                await due.wait()
                due.clear()
                await asyncio.sleep(random.uniform(0.0, 0.05))
                await gateway.kill()
                await gateway.start()

        agents = []
        async with aiohttp.ClientSession() as http:
            for number in range(sessions):
                opened = json.loads(await gateway.verb(http, "POST", "/sessions"))
                kind = KINDS[number % len(KINDS)]
                agents.append(
                    Agent(opened["id"], opened["key"], kind, front.port, seed + number, progress)
                )
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            group.create_task(killing())
            for agent in agents:
                group.create_task(agent.play(calls))
        seconds = time.perf_counter() - begun
        await gateway.stop()
    contents = read_journal(journal)
    wishes = [wish for agent in agents for wish in agent.wishes]
    records = [each for kept in contents.sessions.values() for each in kept.records]
    audit = compared(records, wishes, engine)
    audit.damage = len(contents.damage)
    failures: Counter[str] = Counter()
    for agent in agents:
        failures += agent.failures
    cuts: Counter[str] = Counter({f"engine side, {name}": n for name, n in behind.cuts.items()})
    cuts += Counter({f"agents' side, {name}": n for name, n in front.cuts.items()})
    return Report(
        audit,
        seconds,
        len(wishes),
        sum(wish.asked for wish in wishes),
        len(engine.book),
        gateway.kills,
        cuts,
        failures,
        engine.faults,
    )


@dataclasses.dataclass
class Soak:
    """The figures of a soak.

    Attributes:
        audit: of all sessions.
        calls, seconds: of all of it.
        growth: of the gateway's memory from a quarter of the calls to their end, as a share.
        last_file: number of the journal's file that is written at the end.
        files: that are left.
    """

    audit: Audit
    calls: int
    seconds: float
    growth: float
    last_file: int
    files: int

    @property
    def is_good(self) -> bool:
        """Nothing was lost or sampled twice, and memory stayed flat."""
        return self.audit.is_clean and not self.audit.unwanted and self.growth < _ALLOWED_GROWTH


async def run_soak(*, calls: int, at_once: int, seed: int, journal: Path) -> Soak:
    """Play many sessions one after the other, and print what the gateway holds.

    Sessions end as they do, and their files are dropped; each record is compared before.
    """
    quiet = Rates(error=0.002, engine_cut=0.001, cut=0.0, request_cut=0.0)
    engine = Engine(quiet, seed, 0.0)
    length = 20
    looks: list[tuple[int, int, int]] = []
    total = Audit()
    done = 0

    def progress() -> None:
        nonlocal done
        done += 1

    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(engine))
        gateway = GatewayProcess(port, journal, "--journal-retention=0")
        await gateway.start()
        stack.push_async_callback(gateway.stop)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        left = iter(range(calls // length))

        async def one_after_the_other() -> None:
            for number in left:
                opened = json.loads(await gateway.verb(http, "POST", "/sessions"))
                kind = KINDS[number % len(KINDS)]
                agent = Agent(
                    opened["id"], opened["key"], kind, gateway.port, seed + number, progress
                )
                await agent.play(length)
                records = await recorded(gateway, http, opened["id"])
                audit = compared(records, agent.wishes, engine)
                for field in dataclasses.fields(Audit):
                    value = getattr(total, field.name) + getattr(audit, field.name)
                    setattr(total, field.name, value)
                await gateway.verb(http, "DELETE", f"/sessions/{opened['id']}")

        async def looking() -> None:
            while True:
                files = files_of(journal)
                size = sum(files.values())
                looks.append((done, gateway.rss, size))
                print(
                    f"{done:>8} calls  {gateway.rss / _MIB:7.1f} MiB of memory"
                    f"  {len(files):>3} files, {size / _MIB:6.1f} MiB",
                    flush=True,
                )
                await asyncio.sleep(5)

        begun = time.perf_counter()
        watch = asyncio.create_task(looking())
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(one_after_the_other())
        seconds = time.perf_counter() - begun
        watch.cancel()
        await asyncio.wait([watch])
        looks.append((done, gateway.rss, 0))
        names = list(files_of(journal))
        await gateway.stop()
    settled = [memory for count, memory, _ in looks if count >= calls // 4]
    last_file = max(int(name[6:12]) for name in names)
    return Soak(total, done, seconds, settled[-1] / settled[0] - 1, last_file, len(names))


def files_of(journal: Path) -> dict[str, int]:
    """Return the sizes of a journal's files by name."""
    return {each.name: each.stat().st_size for each in journal.glob("*.journal")}


async def recorded(
    gateway: GatewayProcess, http: aiohttp.ClientSession, session: str
) -> list[CallRecord]:
    """Return the records of a session, over HTTP."""
    lines = await gateway.verb(http, "GET", f"/sessions/{session}/calls")
    return [_RECORDS.decode(line) for line in lines.splitlines()]


def show(report: Report) -> None:
    """Print the figures of a fault run."""
    audit = report.audit
    print(f"{report.calls} calls of agents in {report.seconds:.1f} s, {report.kills} kills")
    print(f"asked {report.asked} times; the engine began {report.sampled} samples")
    for name, counts in (
        ("cuts", report.cuts),
        ("engine's faults", report.faults),
        ("agents saw", report.failures),
    ):
        print(f"{name}: " + ", ".join(f"{key} {n}" for key, n in sorted(counts.items())))
    print(
        f"journal: {audit.records} answered calls for {audit.wishes} answers that agents had;"
        f" {audit.lost} lost, {audit.twice} twice, {audit.unwanted} samples besides"
        f" ({audit.ambiguous} recorded as ambiguous), {audit.mismatched} mismatched,"
        f" {audit.damage} damaged places"
    )
    print(f"{report.missed} answers were cut after their last byte, and nothing showed that")
    for place in audit.places:
        print(f"  {place}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--calls", type=int, default=20, help="of each session; of all with --soak")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--fsync", default="second")
    parser.add_argument("--soak", action="store_true", help="many calls without faults of networks")
    parser.add_argument("--at-once", type=int, default=64, help="sessions at once, with --soak")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        if args.soak:
            calls = args.calls if args.calls > 1000 else 100_000
            soak = asyncio.run(
                run_soak(calls=calls, at_once=args.at_once, seed=args.seed, journal=journal)
            )
            print(f"{soak.calls} calls in {soak.seconds:.1f} s: {soak.audit}")
            print(f"memory grew by {soak.growth:+.1%} from a quarter of the calls to their end")
            print(f"file {soak.last_file} of the journal is written; {soak.files} are left")
            return 0 if soak.is_good else 1
        report = asyncio.run(
            run_faults(
                sessions=args.sessions,
                calls=args.calls,
                kills=args.kills,
                seed=args.seed,
                journal=journal,
                fsync=args.fsync,
            )
        )
    show(report)
    return 0 if report.audit.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
