"""The messages of a connection, lent to a thread without an event loop.

A call that waits for the I/O thread costs two wake-ups. While nothing rare goes on, the thread that
calls reads and writes the messages itself; dialling, heartbeats, deadlines and coming back stay
where they are.

Rules:

- A loan is used, and ended, with its lock held. The calling thread holds it for one call. The I/O
  thread ends the loan if it finds the lock free; else it says that it wants the loan back, and the
  calling thread ends it after its call.
- From the end on no thread uses the messages that were lent. The rest is done in one turn of the
  loop: the lender puts its channels in order, messages that were read and are not for the calling
  thread are delivered, and the connection reads on.
- A call that an exception left (Ctrl-C, for one) may have cut a message in two. Then the transport
  is abandoned with the loan, and the connection comes back as after any loss.
- A loan that nobody used for a while ends, so that a connection at rest is read.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from openenv_async.client.outbox import Transport
from openenv_async.protocol.codec import WireMessage

__all__ = ["PATIENCE", "BlockingMessages", "DivertedMessages", "Loan"]

PATIENCE: Final = 0.1
"""Seconds that the calling thread waits for an answer before it leaves that to the I/O thread."""
_REST: Final = 1.0
"""Seconds without a call after which a loan ends."""


class BlockingMessages(Protocol):
    """A transport's messages, for one thread at a time that waits for them itself."""

    def send(self, message: bytes) -> None:
        """Send a message.

        Raises:
            OSError: it could not be sent, or not as a whole.
        """
        ...

    def receive(self, timeout: float, is_due: bool = False) -> bytes | memoryview | None:
        """Return the next message, whose memory is not used again; ``None`` if none came.

        Args:
            timeout: seconds to wait.
            is_due: whether the peer answers as soon as it can.

        Raises:
            OSError: the transport is gone.
        """
        ...

    def wake(self) -> None:
        """Have a ``receive`` that waits return soon; from any thread."""
        ...

    def end(self, unread: list[WireMessage], torn: bool) -> None:
        """Go on with the transport as if it had never been lent; called by the loop.

        Args:
            unread: messages to deliver first.
            torn: give the transport up instead.
        """
        ...


class Lender(Protocol):
    """The connection that lends."""

    loop: asyncio.AbstractEventLoop

    def receive(self, message: WireMessage) -> None: ...

    def divert(self, take: Callable[[WireMessage], None] | None) -> None: ...

    def is_on(self, transport: Transport) -> bool: ...

    def give_up(self, transport: Transport) -> None: ...

    def end_loan(self, heard_at: float) -> None: ...


class DivertedMessages:
    """The messages of a transport that cannot lend: the I/O thread passes them on.

    Args:
        connection: hands over what it receives from now on.
        transport: of it.
    """

    def __init__(self, connection: Lender, transport: Transport) -> None:
        self._connection = connection
        self._transport = transport
        self._come: queue.SimpleQueue[WireMessage | None] = queue.SimpleQueue()
        connection.divert(self._come.put)

    def send(self, message: bytes) -> None:
        """Have the I/O thread send a message."""
        self._connection.loop.call_soon_threadsafe(self._transport.send, message, False)

    def receive(self, timeout: float, is_due: bool = False) -> bytes | memoryview | None:
        """Wait for the I/O thread to receive one."""
        try:
            message = self._come.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            return None
        return message.encode() if isinstance(message, str) else message

    def wake(self) -> None:
        """Have ``receive`` return."""
        self._come.put(None)

    def end(self, unread: list[WireMessage], torn: bool) -> None:
        """Deliver what has come meanwhile; nothing was cut in two by an interrupt."""
        connection = self._connection
        connection.divert(None)
        while not self._come.empty():
            message = self._come.get_nowait()
            if message is not None:
                unread.append(message)
        if torn and connection.is_on(self._transport):
            connection.give_up(self._transport)
            return
        for message in unread:
            connection.receive(message)


class Loan:
    """The messages of a connection in the hands of the calling thread.

    Args:
        connection: of which they are.
        messages: as the transport lent them.
        restore: puts the lender's channels in order when the loan has ended; called by the loop.

    Attributes:
        messages: to be used with the lock held, while ``ended`` is false.
        lock: held by the calling thread for a call, and by the thread that ends the loan.
        ended: whether the messages are the connection's again, or will be in the next turn.
        wanted: whether the I/O thread waits for the end.
        heard_at: when a message came last, by ``time.monotonic``.
        uses: calls so far.
    """

    __slots__ = (
        "_connection",
        "_is_torn",
        "_restore",
        "_then",
        "_timer",
        "_unread",
        "_uses_seen",
        "ended",
        "heard_at",
        "lock",
        "messages",
        "uses",
        "wanted",
    )

    def __init__(
        self,
        connection: Lender,
        messages: BlockingMessages,
        restore: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._restore = restore
        self._unread: list[WireMessage] = []
        self._then: list[Callable[[], None]] = []
        self._is_torn = False
        self._uses_seen = 0
        self.messages = messages
        self.lock = threading.Lock()
        self.ended = False
        self.wanted = False
        self.heard_at = time.monotonic()
        self.uses = 0
        self._timer: asyncio.TimerHandle = connection.loop.call_later(_REST, self._look)

    # -- the calling thread -----------------------------------------------------------------------

    def end_in_call(self, *unread: WireMessage, torn: bool = False) -> None:
        """End the loan in the middle of a call: with the lock held.

        Args:
            unread: messages that are not for the calling thread.
            torn: the call may have cut a message in two.
        """
        self._unread += unread
        self._is_torn = self._is_torn or torn
        if not self.ended:
            self.ended = True
            self._connection.loop.call_soon_threadsafe(self._finish)

    def give_back(self) -> None:
        """End the loan after a call; idempotent. Callbacks posted to the loop next come later."""
        with self.lock:
            self.end_in_call()

    # -- the I/O thread ---------------------------------------------------------------------------

    def recall(self, then: Callable[[], None] | None = None) -> bool:
        """End the loan now, or as soon as the call that goes on is over.

        Args:
            then: called at the end, if that is not now.

        Returns:
            Whether it has ended.
        """
        self.wanted = True
        if self.lock.acquire(blocking=False):
            was_ended, self.ended = self.ended, True
            self.lock.release()
            if not was_ended:
                self._finish()
                return True
        else:
            self.messages.wake()
        if then is not None:
            self._then.append(then)
        return False

    async def over(self) -> None:
        """Return when the loan has ended and the connection goes on by itself."""
        done = self._connection.loop.create_future()

        def told() -> None:
            if not done.done():
                done.set_result(None)

        if not self.recall(told):
            await done

    def _look(self) -> None:
        """End a loan at rest."""
        if self.uses == self._uses_seen and self.recall():
            return
        self._uses_seen = self.uses
        self._timer = self._connection.loop.call_later(_REST, self._look)

    def _finish(self) -> None:
        self._timer.cancel()
        self._connection.end_loan(self.heard_at)
        try:
            self._restore()
        finally:
            self.messages.end(self._unread, self._is_torn)
            for then in self._then:
                then()
