"""Both ends of the protocol joined by a wire that the test moves by hand."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, TypeVar

import msgspec

from openenv_async import Environment, Limits, Timeouts
from openenv_async.client.connection import ClientConnection
from openenv_async.deadlines import Deadlines
from openenv_async.engine import Engine, EngineOptions, ServerConnection
from openenv_async.protocol.codec import FrameCodec, encode_map, frame_codec
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Failed,
    Frame,
    Hello,
    Open,
    Opened,
    Reset,
    Step,
)
from openenv_async.spec import EnvironmentSpec
from openenv_async.testing import ManualClock

Format = Literal["msgpack", "json"]
T = TypeVar("T")


def pack(value: Any, format: str = "msgpack") -> bytes:
    """A payload, without the package's own codecs."""
    return msgspec.msgpack.encode(value) if format == "msgpack" else msgspec.json.encode(value)


def unpack(payload: bytes | memoryview | None, format: str = "msgpack") -> Any:
    if payload is None:
        return None
    return msgspec.msgpack.decode(payload) if format == "msgpack" else msgspec.json.decode(payload)


def default_interrupt() -> None:
    """For ``preexec_fn``: SIGINT as a terminal's child has it, however the tests were started."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def plain(frame: Any, format: str = "msgpack") -> dict[str, Any]:
    """A frame as a dict with its payloads decoded, to compare across formats and buffers."""
    fields = {name: getattr(frame, name) for name in frame.__struct_fields__}
    for name in ("payload", "info", "final"):
        if name in fields:
            fields[name] = unpack(fields[name], format)
    return {"kind": type(frame).__name__, **fields}


def token(number: int) -> str:
    """The session id or secret of a number."""
    return f"{number:032x}"


def make_engine(
    env: Any,
    *,
    clock: ManualClock | None = None,
    options: EngineOptions | None = None,
    **changes: Any,
) -> Engine:
    """An engine of this loop; on ``clock`` when one is given."""
    engine = Engine(EnvironmentSpec(env), options or EngineOptions(**changes))
    if clock is not None:
        engine._start()
        engine.clock = clock
        engine._deadlines = Deadlines(clock, clock.call_at)
    return engine


class Peer:
    """A raw client of a ``ServerConnection``: it sends frames and keeps what comes back."""

    def __init__(
        self, engine: Engine, format: Format = "msgpack", hello: bool = True, **offer: Any
    ) -> None:
        subprotocol = f"openenv.v1.{format}"
        limits = engine.options.limits
        self.engine = engine
        self.format = format
        self.codec: FrameCodec = frame_codec(subprotocol, "client", 1 << 30)
        self.inbox: list[Any] = []
        self.welcome: Any = None
        self._arrived = asyncio.Event()
        codec = frame_codec(
            subprotocol,
            "server",
            limits.max_message_size,
            limits.max_frames,
            limits.max_bad_frames,
        )
        self.was_cut = False
        self.connection = ServerConnection(engine, codec, self._wake, self._cut)
        if hello:
            self.send(Hello(PROTOCOL_VERSION, encode_map(offer, format)))
            self.welcome = self.inbox.pop(0)

    def _wake(self) -> None:
        self.collect()

    def _cut(self) -> None:
        self.was_cut = True

    def collect(self) -> None:
        for message in self.connection.take():
            self.inbox += self.codec.decode(message)
        self._arrived.set()

    def send(self, *frames: Frame) -> None:
        self.send_raw(self.codec.encode(frames))

    def send_raw(self, message: bytes | str) -> None:
        self.connection.receive(message)
        self.collect()

    def take(self) -> list[Any]:
        """What has come so far."""
        inbox, self.inbox = self.inbox, []
        return inbox

    async def next(self) -> Any:
        """The next frame, waited for."""
        while not self.inbox:
            self._arrived.clear()
            async with asyncio.timeout(10):
                await self._arrived.wait()
        return self.inbox.pop(0)

    async def open(self, number: int = 1, **fields: Any) -> Any:
        """Open session ``number`` on the channel of the same number."""
        options = fields.pop("options", None)
        payload = None if options is None else pack(options, self.format)
        self.send(Open(number, token(number), token(number + 1000), payload=payload, **fields))
        return await self.next()

    async def begin(self, number: int = 1, **fields: Any) -> Any:
        """Open session ``number`` and reset it."""
        opened = await self.open(number)
        assert isinstance(opened, Opened), opened
        self.send(Reset(number, 1, 0, **fields))
        return await self.next()

    def step(self, seq: int, action: Any, channel: int = 1, ack: int = 0, **fields: Any) -> None:
        self.send(Step(channel, seq, ack, pack(action, self.format), **fields))

    async def stepped(self, seq: int, action: Any, channel: int = 1, **fields: Any) -> Any:
        self.step(seq, action, channel, seq - 1, **fields)
        return await self.next()

    def detail(self, frame: Failed) -> dict[str, Any]:
        detail: dict[str, Any] = unpack(frame.payload, self.format) or {}
        return detail

    def close(self) -> None:
        self.connection.lost(left=True)


class Pipe:
    """One transport of a ``Wire``: the messages under way, and the server's end."""

    congested = False
    name = "memory"

    def __init__(self, engine: Engine, format: Format) -> None:
        self.subprotocol = f"openenv.v1.{format}"
        codec = frame_codec(self.subprotocol, "server", engine.options.limits.max_message_size)
        self.server = ServerConnection(engine, codec, lambda: None, self.cut)
        self.to_server: list[bytes] = []
        self.to_client: list[bytes] = []
        self.open = True

    def send(self, message: bytes, text: bool) -> None:
        self.to_server.append(message)

    async def drained(self) -> None:
        return

    async def aclose(self, leaving: bool = True) -> None:
        if self.open:
            self.open = False
            self.server.lost(left=leaving)

    def cut(self) -> None:
        self.open = False


class Wire:
    """A client ``ClientConnection`` and an engine; messages move when ``pump`` is called.

    ``pipe.to_server`` and ``pipe.to_client`` hold what is under way: a test may drop, repeat or
    look at it, or ``cut`` the pipe; the connection then dials again.
    """

    def __init__(
        self,
        engine: Engine,
        format: Format = "msgpack",
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.engine = engine
        self.format = format
        self.dials = 0
        self.client = ClientConnection(
            "wire", limits or Limits(), timeouts or Timeouts(), self._redial
        )
        self.pipe = Pipe(engine, format)

    async def _redial(self, connection: ClientConnection) -> Pipe:
        if self.dials:
            self.pipe = Pipe(self.engine, self.format)
        self.dials += 1
        return self.pipe

    async def start(self) -> ClientConnection:
        starting = asyncio.ensure_future(self.client.start())
        while not starting.done():
            await self.pump()
        await starting
        return self.client

    async def pump(self, turns: int = 1) -> None:
        """Move everything that is under way, and run the loop until nothing moves."""
        for _ in range(turns):
            await settle()
            self.deliver_to_server()
            await settle()
            self.deliver_to_client()
            await settle()

    def deliver_to_server(self) -> None:
        pipe = self.pipe
        messages, pipe.to_server = pipe.to_server, []
        for message in messages:
            if pipe.open:
                pipe.server.receive(message)

    def deliver_to_client(self) -> None:
        pipe = self.pipe
        pipe.to_client += pipe.server.take()
        messages, pipe.to_client = pipe.to_client, []
        for message in messages:
            if pipe.open:
                self.client.receive(message)

    def cut(self) -> None:
        """The network fails: what is under way is gone, both ends are told."""
        pipe = self.pipe
        if pipe.open:
            pipe.open = False
            pipe.to_server.clear()
            pipe.to_client.clear()
            pipe.server.lost()
            self.client.lost(pipe)


async def settle(turns: int = 5) -> None:
    """Let everything that is ready run."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Run the loop until ``condition`` holds, for what real threads or sockets bring about."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nothing here could set an event
            await asyncio.sleep(0.001)


async def gather_all(calls: Iterable[Awaitable[T]]) -> list[T | BaseException]:
    return await asyncio.gather(*calls, return_exceptions=True)


class Gate:
    """Holds the steps of `Gated` until a test opens it."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()
        self.ended = asyncio.Event()
        self.steps = 0
        self.cancelled = 0


class Gated(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Its steps wait for the gate."""

    gate: Gate

    async def reset(self) -> dict[str, Any]:
        return {}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.gate.entered.set()
        try:
            await self.gate.opened.wait()
        except asyncio.CancelledError:
            self.gate.cancelled += 1
            raise
        finally:
            self.gate.ended.set()
        self.gate.steps += 1
        return {"steps": self.gate.steps}


def gated() -> tuple[type[Gated], Gate]:
    """An environment of its own for a test, and its gate."""
    gate = Gate()
    return type("Gated", (Gated,), {"gate": gate}), gate


class Counter(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Counts its steps; called straight from the reader."""

    isolation = "inline"

    def __init__(self) -> None:
        self.count = 0

    def reset(self, *, seed: int | None = None) -> dict[str, Any]:
        self.count = 0
        return {"count": 0, "seed": seed}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        if action.get("fail"):
            raise RuntimeError(action["fail"])
        self.count += 1
        return {
            "count": self.count,
            "nonce": action.get("nonce"),
            "reward": action.get("reward"),
            "terminated": action.get("end", False),
        }

    def state(self) -> dict[str, Any]:
        return {"count": self.count}
