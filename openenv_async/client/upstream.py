"""The client's side of upstream's JSON dialect, as a transport under the same connection.

The frames that a ``ClientConnection`` sends are turned into upstream's messages and its replies
into frames, so that ``EnvClient`` plays on an upstream server unchanged. Upstream has one session
per socket and no request numbers, therefore:

- Each channel has a socket of its own, and one request under way on it.
- A reply that comes after its deadline cannot be told from the next one: at a deadline the
  socket is closed and the episode is lost, which is said.
- Nothing is resumed, cancelled or streamed; terminated and truncated are both ``terminated``.
- A seed is always sent, so that it can be reported; environments that take none ignore it.
- Upstream takes reward and done out of the observation. The payload of a reply is therefore
  ``[observation, reward, done]``, from which ``client.models`` puts them back where the client's
  observation type has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from websockets.asyncio.client import ClientConnection as WebSocketConnection
from websockets.exceptions import ConnectionClosed

from openenv_async.errors import (
    DeadlineExceeded,
    EnvironmentRaised,
    EnvironmentStartFailed,
    InvalidAction,
    InvalidModel,
    OpenEnvError,
    OperationUnsupported,
    ProtocolError,
    ServerBusy,
    SessionLost,
)
from openenv_async.models import PayloadCodec
from openenv_async.protocol.codec import MsgpackCodec, encode_map
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Begun,
    Cancel,
    Close,
    Closed,
    Failed,
    Frame,
    Hello,
    Observation,
    Open,
    Opened,
    Request,
    Reset,
    State,
    StateIs,
    Step,
    Welcome,
)

if TYPE_CHECKING:
    from openenv_async.client.connection import ClientConnection

__all__ = ["UpstreamTransport"]

_ERRORS: Final[dict[str, type[OpenEnvError]]] = {
    "CAPACITY_REACHED": ServerBusy,
    "EXECUTION_ERROR": EnvironmentRaised,
    "FACTORY_ERROR": EnvironmentStartFailed,
    "INVALID_JSON": ProtocolError,
    "SESSION_ERROR": SessionLost,
    "UNKNOWN_TYPE": OperationUnsupported,
    "VALIDATION_ERROR": InvalidAction,
}
_FATAL: Final = (SessionLost, ServerBusy, EnvironmentStartFailed)
_packed: Final[PayloadCodec[Any]] = PayloadCodec(Any, "msgpack")
_plain: Final[PayloadCodec[Any]] = PayloadCodec(Any, "plain")

Dialer = Callable[[], Awaitable[WebSocketConnection]]


class UpstreamTransport:
    """Speaks upstream's dialect on one socket per channel.

    Args:
        connection: whose frames these are.
        dial: opens a socket.
        spare: a socket that is open already, for the first channel.
    """

    name = "WebSocket"
    subprotocol = "openenv.v1.msgpack"
    congested = False

    def __init__(
        self, connection: ClientConnection, dial: Dialer, spare: WebSocketConnection
    ) -> None:
        self._connection = connection
        self._dial = dial
        self._spare: WebSocketConnection | None = spare
        self._codec = MsgpackCodec("server", 2**31)
        self._links: dict[int, _Link] = {}

    def send(self, message: bytes, text: bool) -> None:
        """Take the frames of a message apart."""
        for frame in self._codec.decode(message):
            match frame:
                case Hello():
                    told = encode_map({"server": "upstream", "dialect": "upstream"}, "msgpack")
                    self._later(Welcome(PROTOCOL_VERSION, "", told))
                case Open():
                    spare, self._spare = self._spare, None
                    self._links[frame.channel] = _Link(self, frame.channel, self._dial, spare)
                case Reset() | Step() | State() | Close():
                    link = self._links.get(frame.channel)
                    if link is not None:
                        link.requests.put_nowait(frame)
                case Cancel():
                    pass  # the caller does not wait any more; the reply is read and dropped
                case _:
                    pass

    def deliver(self, *frames: Frame) -> None:
        """Hand replies to the connection."""
        self._connection.receive(self._codec.encode(frames))

    def _later(self, *frames: Frame) -> None:
        asyncio.get_running_loop().call_soon(self.deliver, *frames)

    def ended(self, link: _Link) -> None:
        """A link's task is over."""
        self._links.pop(link.channel, None)

    async def drained(self) -> None:
        """One request per socket is never too much."""

    async def aclose(self, leaving: bool = True) -> None:
        """Close every socket, at which upstream's servers always end the session."""
        links = list(self._links.values())
        for link in links:
            if not link.closing:
                link.task.cancel()
        if links:
            await asyncio.wait([link.task for link in links])
        if self._spare is not None:
            await self._spare.close()


class _Link:
    """One channel: a task that opens its socket and answers its requests in order."""

    def __init__(
        self,
        transport: UpstreamTransport,
        channel: int,
        dial: Dialer,
        spare: WebSocketConnection | None,
    ) -> None:
        self.channel = channel
        self.requests: asyncio.Queue[Request] = asyncio.Queue()
        self._transport = transport
        self._dial = dial
        self._socket = spare
        self._episode_id: str | None = None
        self._seed: int | None = None
        self._steps = 0
        self.closing = False
        self.task = asyncio.create_task(self._run(), name="openenv-upstream-link")
        self.task.add_done_callback(lambda _: transport.ended(self))

    async def _run(self) -> None:
        deliver = self._transport.deliver
        try:
            if self._socket is None:
                self._socket = await self._dial()
            deliver(Opened(self.channel))
            while True:
                request = await self.requests.get()
                if isinstance(request, Close):
                    with contextlib.suppress(ConnectionClosed):
                        await self._socket.send('{"type": "close"}')
                    deliver(Closed(self.channel, request.seq))
                    return
                try:
                    deliver(await self._answer(self._socket, request))
                except _FATAL as exc:
                    deliver(self._failed(request.seq, exc), self._failed(0, exc))
                    return
                except OpenEnvError as exc:
                    deliver(self._failed(request.seq, exc))
        except OpenEnvError as exc:
            deliver(self._failed(0, exc))
        finally:
            self.closing = True
            if self._socket is not None:
                await self._socket.close()  # bounded by the socket's close timeout

    async def _answer(self, socket: WebSocketConnection, request: Request) -> Frame:
        try:
            async with asyncio.timeout(request.timeout or None):
                with contextlib.suppress(ConnectionClosed):  # what it said last can still be read
                    await socket.send(self._message(request))
                reply = await socket.recv()
        except TimeoutError:
            what = type(request).__name__.lower()
            error = DeadlineExceeded(
                f"{what}() took longer than its deadline of {request.timeout:g} s; upstream's"
                " dialect cannot stop it, so the episode is lost",
                field=what,
                value=request.timeout,
            )
            self._transport.deliver(self._failed(request.seq, error))
            raise SessionLost("the episode was abandoned after a deadline") from None
        except ConnectionClosed as exc:
            raise SessionLost(f"the upstream server closed the socket: {exc}") from None
        return self._reply(request, reply)

    def _message(self, request: Request) -> str:
        match request:
            case Reset():
                options = {} if request.payload is None else _packed.decode(request.payload)
                self._seed = secrets.randbits(31) if request.seed is None else request.seed
                self._episode_id = request.episode_id or secrets.token_hex(8)
                self._steps = 0
                named = {"seed": self._seed, "episode_id": self._episode_id}
                message = {"type": "reset", "data": {**options, **named}}
            case Step():
                message = {"type": "step", "data": _packed.decode(request.payload)}
            case _:
                message = {"type": "state"}
        return _plain.encode(message).decode()

    def _reply(self, request: Request, text: str | bytes) -> Frame:
        try:
            reply = msgspec.json.decode(text, type=dict[str, Any])
            kind, data = reply["type"], reply["data"]
            if kind == "error":
                raise _Said(self._error(data))  # which may be a ValueError itself
            if isinstance(request, State):
                payload = _packed.encode(data)
                return StateIs(
                    self.channel, request.seq, payload, self._episode_id, self._seed, self._steps
                )
            reward, done = _reward(data.get("reward")), _done(data.get("done"))
            payload = _packed.encode([data["observation"], reward, done])
        except _Said as said:
            raise said.error from None
        except (
            *(msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError),
            InvalidModel,
        ) as exc:
            raise ProtocolError(f"the upstream server sent an unreadable reply: {exc}") from None
        if isinstance(request, Reset):
            assert self._episode_id is not None
            assert self._seed is not None
            return Begun(
                self.channel, request.seq, payload, self._episode_id, self._seed, reward, done
            )
        self._steps += 1
        return Observation(self.channel, request.seq, payload, reward, done)

    def _error(self, data: dict[str, Any]) -> OpenEnvError:
        code = data.get("code")
        cls = _ERRORS.get(code if isinstance(code, str) else "", EnvironmentRaised)
        detail = {k: v for k, v in data.items() if k not in ("message", "code")}
        return cls(str(data.get("message")), upstream=detail)

    def _failed(self, seq: int, error: OpenEnvError) -> Failed:
        detail = encode_map(error.to_wire(), "msgpack")
        return Failed(self.channel, seq, error.code, error.message, error.retryable, detail)


class _Said(Exception):
    """An error that the server sent."""

    def __init__(self, error: OpenEnvError) -> None:
        self.error = error


def _reward(sent: Any) -> float | None:
    """A reward as upstream's dialect has it: a number, true or false, or what JSON cannot write."""
    if sent is None or isinstance(sent, int | float) or sent in ("NaN", "Infinity", "-Infinity"):
        return None if sent is None else float(sent)
    raise ValueError(f"its reward is not a number: {sent!r}")


def _done(sent: Any) -> bool:
    if sent is None or isinstance(sent, bool):
        return bool(sent)
    raise ValueError(f"its done is not true or false: {sent!r}")
