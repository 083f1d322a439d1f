"""The native WebSocket endpoint, which carries the messages of a ``ServerConnection``."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Any, Final

from openenv_async.endpoints.alertness import Alertness
from openenv_async.endpoints.segments import Segment
from openenv_async.engine import Engine, ServerConnection
from openenv_async.engine.shared import SharedConnection
from openenv_async.protocol.blocks import SHARED_MEMORY
from openenv_async.protocol.codec import WireMessage, frame_codec
from openenv_async.protocol.frames import StepColumns
from openenv_async.server.auth import caller_of
from openenv_async.server.local import LOCAL_EXTENSION
from openenv_async.server.transport import AsgiTransport, Receive, Scope, Send, Transport
from openenv_async.telemetry.tracing import trace_of

__all__ = ["NativeSocket"]

_NORMAL_CLOSURE: Final = 1000
_POLICY_VIOLATION: Final = 1008
_MAX_REASON: Final = 123
"""Bytes of a close frame's reason."""
_SLICE: Final = 16
"""Frames handled before the replies so far are sent."""
_LONG: Final = 0.01
"""Seconds of work after which others have the loop, if a message is not done by then."""
_PAUSE: Final = 2
"""Loop turns between two pieces of work where a large payload waits to be sent: timers that came
due meanwhile stand behind the first."""


def _granted_segment(scope: Scope, size: int) -> Segment | None:
    """Return memory to share with a client of this machine that wants it, which it is sent."""
    local = scope.get("extensions", {}).get(LOCAL_EXTENSION)
    if local is None or SHARED_MEMORY not in local.wants:
        return None
    segment = Segment.create(size)
    if segment is not None:
        local.grant(SHARED_MEMORY, {"size": segment.size}, [segment.take_fd()])
    return segment


class NativeSocket:
    """One WebSocket that speaks ``openenv.v1``.

    Replies that are ready when a message has been handled go out at once, in one message.
    Those that come later are gathered: they leave a loop turn after the first of them, with all
    that became ready in between.

    After steps of many environments that ran on the loop, a vector's or those of a column frame, it
    turns for a moment instead of sleeping if the client was quick with its last message: see
    ``endpoints.alertness``.

    Args:
        engine: its sessions answer.
        subprotocol: of the messages.
        scope, receive, send: of ASGI.
        headers: of the answer that accepts it.
    """

    def __init__(
        self,
        engine: Engine,
        subprotocol: str,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self._engine = engine
        self._headers = headers
        self._subprotocol = subprotocol
        self._receive = receive
        self._send = send
        direct: Transport | None = scope.get("extensions", {}).get("openenv.transport")
        self._transport: Transport = AsgiTransport(send) if direct is None else direct
        self._loop = asyncio.get_running_loop()
        self._stats = engine.stats
        self._task: asyncio.Task[None] | None = None
        self._is_cut = False
        self._refusal: str | None = None
        self._pumping: asyncio.Handle | None = None
        self._going: asyncio.Handle | None = None
        self._held = False
        self._alertness = Alertness() if engine.executor.direct else None
        self._is_vector = engine.spec.is_vector
        self._is_turning = False
        self._waiting: deque[tuple[Sequence[Any], int]] = deque()
        limits = engine.options.limits
        self._max_unsent = limits.max_unsent_size
        codec = frame_codec(
            subprotocol,
            "server",
            limits.max_message_size,
            limits.max_frames,
            limits.max_bad_frames,
        )
        self._text = codec.text
        segment = _granted_segment(scope, limits.max_shared_size)
        if segment is None:
            made = ServerConnection(engine, codec, self._wake, self._cut, self._refuse)
        else:
            made = SharedConnection(
                engine, codec, self._wake, self._cut, self._refuse, segment=segment
            )
        self.connection: ServerConnection = made
        self.connection.trace = trace_of(scope["headers"])
        self.connection.caller = caller_of(scope)
        self._account = self.connection.account = engine.account_of(self.connection.caller)

    async def run(self) -> None:
        """Accept and serve until the peer is gone."""
        transport = self._transport
        transport.attach(self)
        self._task = asyncio.current_task()
        left = False
        try:
            accept = {"type": "websocket.accept", "subprotocol": self._subprotocol}
            await self._send({**accept, "headers": self._headers} if self._headers else accept)
            self.connection.expect_hello()
            while True:
                event = await self._receive()
                if event["type"] != "websocket.receive":
                    left = event.get("code") == _NORMAL_CLOSURE
                    return
                message = event.get("bytes")
                self.take(event["text"] if message is None else message)
                await transport.settled()
        except OSError:
            return  # the peer went away while we were sending
        except asyncio.CancelledError:
            if not (self._is_cut or self._refusal) or self._task is None:
                raise
            self._task.uncancel()
            if self._refusal and not self._is_cut:
                await self._close(self._refusal)
        finally:
            self.connection.lost(left)
            self._task = None
            for handle in (self._pumping, self._going):
                if handle is not None:
                    handle.cancel()
            await transport.aclose()

    # -- the transport's side ----------------------------------------------------------------------

    def take(self, message: WireMessage) -> None:
        """Take a message, and answer what can be answered at once."""
        self._stats.bytes_in += len(message)
        alertness = self._alertness
        if alertness is not None and alertness.begun is not None:
            alertness.end()
        frames = self.connection.decode(message)
        if self._held:
            self._waiting.append((frames, 0))
        else:
            self._work(frames, 0)
            if (
                alertness is not None
                and (self._is_vector or (frames and type(frames[-1]) is StepColumns))
                and alertness.begin()
                and not self._is_turning
            ):
                self._is_turning = True
                self._turn(alertness)

    def congestion(self, congested: bool) -> None:
        """The peer began to read slower than we write, or has caught up."""
        self.connection.sending_since = self._engine.clock() if congested else inf
        if not congested:
            if self.connection.pending:
                self._wake()
            self._go_on_soon()

    # -- inside -------------------------------------------------------------------------------

    def _work(self, frames: Sequence[Any], at: int) -> None:
        """Handle frames in slices, so that the client works on the first replies meanwhile."""
        connection, stop = self.connection, len(frames)
        pause_at = inf
        while at < stop:
            at = connection.handle(frames, at, min(at + _SLICE, stop))
            if connection.ready or connection.large:
                self._write_batches()
                if connection.ready or connection.large:
                    self._hold(frames, at)
                    return
            if at < stop:
                now = self._loop.time()
                if now >= pause_at:
                    self._hold(frames, at)
                    return
                pause_at = min(pause_at, now + _LONG)

    def _turn(self, alertness: Alertness) -> None:
        """Keep the loop awake; it looks for what has come, also from others, at each turn."""
        self._is_turning = self._task is not None and alertness.goes_on()
        if self._is_turning:
            self._loop.call_soon(self._turn, alertness)

    def _hold(self, frames: Sequence[Any], at: int) -> None:
        """Leave the rest for later: large payloads go out in pieces, others have turns between.

        Of a peer that asks and does not read nothing more is taken, until it does or is cut.
        """
        self._waiting.appendleft((frames, at))
        self._held = True
        self._transport.hold()
        if self.connection.pending:
            self._wake()
        self._go_on_soon()

    def _go_on_soon(self) -> None:
        """Take more of the peer, unless too much waits for it already.

        While it reads as fast as this side writes it may have more, so that its small requests
        need not wait for its large replies.
        """
        most = self._max_unsent
        if self._transport.congested:
            most //= 4
        if self._held and self._going is None and self.connection.unsent <= most:
            self._going = self._loop.call_soon(self._go_on, _PAUSE - 1)

    def _go_on(self, turns: int) -> None:
        self._going = None
        if not self._held or self._task is None:
            return
        if turns:
            self._going = self._loop.call_soon(self._go_on, turns - 1)
            return
        self._held = False
        while self._waiting and not self._held:
            self._work(*self._waiting.popleft())
        if not self._held:
            self._transport.release()

    def _cut(self) -> None:
        """The peer is dead or does not read: end, whatever is being sent."""
        self._is_cut = True
        if self._task is not None:
            self._transport.abort(self._task)

    def _refuse(self, reason: str) -> None:
        """The peer sends nonsense: say the reason, and no more."""
        self._refusal = reason
        if self._task is not None:
            self._loop.call_soon(self._task.cancel)

    async def _close(self, reason: str) -> None:
        """Close with what is still to be said, as far as the peer reads."""
        with contextlib.suppress(OSError):
            self._write_batches()
            if not self._transport.congested:
                await self._send(
                    {
                        "type": "websocket.close",
                        "code": _POLICY_VIOLATION,
                        "reason": reason[:_MAX_REASON],
                    }
                )

    def _wake(self) -> None:
        if self._pumping is None:
            self._pumping = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Send what is ready; others have the loop between two large pieces."""
        self._pumping = None
        if self._task is None or self._transport.congested:
            return  # the transport tells when it has room
        self._write_batches()
        if not self._transport.congested:
            for message in self.connection.take_piece():
                self._stats.bytes_out += len(message)
                if self._account is not None:
                    self._account.send(len(message))
                self._transport.write(message, self._text)
        if self.connection.pending:
            self._wake()
        if self._held:
            self._go_on_soon()

    def _write_batches(self) -> None:
        """Write what is ready but large payloads, as far as the peer reads."""
        connection, transport, account = self.connection, self._transport, self._account
        while connection.ready and not transport.congested:
            message = connection.take_batch()
            self._stats.bytes_out += len(message)
            if account is not None:
                account.send(len(message))
            transport.write(message, self._text)
