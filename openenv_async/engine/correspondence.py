"""What a session owes its client, whichever door the client is at.

Rules:

- Every reply is kept until acknowledged; who asks again gets the same one.
- ``codecs`` is the format of the running request and of its reply: the door's when it started.
  A reply that a door with another format must deliver is converted for it.
- Without a door replies are kept all the same, for a client that comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from openenv_async.engine.interfaces import ReplySink
from openenv_async.engine.requests import Codecs, RunnerRequest, error_frame, failed
from openenv_async.engine.resends import LARGE, another_request, is_same_request, remembered
from openenv_async.engine.streaming import PartialStream
from openenv_async.engine.transcode import transcode
from openenv_async.errors import InvalidObservation, OpenEnvError
from openenv_async.models import Format
from openenv_async.protocol.frames import Closed, Failed, Frame, Open, Reply, Request, Step
from openenv_async.protocol.replies import ReplyLog

if TYPE_CHECKING:
    from openenv_async.engine.engine import Engine

__all__ = ["Correspondence"]

_REPLY_OVERHEAD: Final = 512
"""Bytes that a kept reply counts beside its payload, for its message and the request's action."""


class Correspondence:
    """The half of a session that faces its client: a door, and what was said through it.

    A base class and no part of ``Session``, so that a step pays for no further object.

    Attributes:
        channel: the session's number at the door.
        log: the numbers taken, and the replies that may be asked for again.
        sink: the door; ``None`` while the client is away.
        stream: what the last step that streamed has shown.
        codecs: the codecs of the running request.
    """

    __slots__ = ("channel", "codecs", "engine", "id", "log", "secret", "sink", "stream")

    def __init__(self, engine: Engine, open: Open, sink: ReplySink) -> None:
        self.engine = engine
        self.id = open.session
        self.secret = open.secret
        self.channel = open.channel
        self.sink: ReplySink | None = sink
        self.codecs: Codecs = sink.codecs
        self.log: ReplyLog[Reply] = ReplyLog(
            engine.options.limits.max_retained_size, engine.retained
        )
        self.stream: PartialStream | None = None

    def answer(self, request: Request, reply: Reply) -> None:
        """Keep the reply of a request and send it."""
        payload = None if type(reply) is Closed else reply.payload  # type: ignore[union-attr]  # only Closed has none
        size = 0 if payload is None else len(payload)
        codecs = self.codecs
        asked: Any = request
        if type(request) is not Step or len(request.payload) > LARGE:
            asked = remembered(request)
        self.log.keep(request.seq, reply, size + _REPLY_OVERHEAD, codecs.format, asked)
        sink = self.sink
        if sink is not None:
            if sink.codecs is not codecs:
                reply = self._converted(reply, codecs.format, sink.codecs.format)
            reply.channel = self.channel
            sink.send(reply, size)

    def refuse(self, request: Request, error: OpenEnvError) -> None:
        """Answer a request with an error."""
        self.engine.count_error(error.code)
        self.answer(request, self.failure(request, error))

    def send(self, frame: Frame, format: Format | None = None) -> None:
        """Send what is not kept, or is already; ``format`` is that of its payload."""
        sink = self.sink
        if sink is not None:
            frame = self._converted(frame, format or self.codecs.format, sink.codecs.format)
            frame.channel = self.channel  # type: ignore[attr-defined]  # every session frame has one
            payload = getattr(frame, "payload", None)
            sink.send(frame, 0 if payload is None else len(payload))

    def repeat(self, seq: int) -> None:
        """Send again what the client may lack of the answer to request ``seq``."""
        kept, stream = self.log.get(seq), self.stream
        format = self.codecs.format if kept is None else kept.format
        for partial in () if stream is None else tuple(stream.kept):
            if partial.seq == seq:
                self.send(partial, format)
        if kept is not None:
            self.send(kept.reply, format)

    def check_resent(self, request: Request, running: RunnerRequest | None) -> None:
        """Tell a request that was taken before, and comes again, from another one.

        Args:
            request: the one that came.
            running: the one of this number, if it is not answered yet.

        Raises:
            ProtocolError: its number belongs to another request.
        """
        sink = self.sink
        kept = self.log.get(request.seq)
        first: Any = running if kept is None else kept.request
        if first is None or sink is None:
            return
        format = self.codecs.format if kept is None else kept.format
        spec = self.engine.spec
        if not is_same_request(spec, first, format, request, sink.codecs.format):
            raise another_request(request.seq)

    def failure(self, request: RunnerRequest, error: OpenEnvError) -> Failed:
        """The reply that carries ``error``, which is told where it happened."""
        return failed(request, self.located(error), self.codecs.format)

    def located(self, error: OpenEnvError) -> OpenEnvError:
        """The error, told which session and environment it is about."""
        return error.add_context(session_id=self.id, env=self.engine.spec.name)

    def _converted(self, frame: Any, source: Format, target: Format) -> Any:
        """A reply for a door that speaks another format than the one it was made in."""
        if source == target:
            return frame
        try:
            return transcode(self.engine.spec, frame, source, target)
        except OpenEnvError as exc:
            error = InvalidObservation(f"the reply cannot be sent in this format: {exc.message}")
            return error_frame(frame.channel, frame.seq, self.located(error), target)
