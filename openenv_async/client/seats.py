"""A session's place in ``VectorSessions``, what is asked of it and what it answers."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from openenv_async.client.channel import Channel
from openenv_async.errors import CallerError, OpenEnvError, SessionClosed
from openenv_async.protocol.frames import Begun, Observation

if TYPE_CHECKING:
    from openenv_async.client.vector import VectorSessions

__all__ = ["Answer", "ResetRequest", "Seat"]


class ResetRequest:
    """A reset of one seat.

    Attributes:
        seat: which.
        seed: as for ``EnvClient.reset``.
        options: the reset's own options, encoded.
    """

    __slots__ = ("options", "seat", "seed")

    def __init__(self, seat: int, seed: int | None, options: bytes | None) -> None:
        self.seat = seat
        self.seed = seed
        self.options = options


class Answer:
    """What a seat answered.

    Attributes:
        seat: which.
        frame: the reply; ``None`` when there is none.
        final: with ``same_step``: the reply, or the error, that ended the episode before the
            one that ``frame`` begins.
        error: why there is no ``frame``.
        again: whether it answers a reset.
    """

    __slots__ = ("again", "error", "final", "frame", "seat")

    def __init__(
        self,
        seat: int,
        frame: Observation | Begun | None,
        final: Observation | OpenEnvError | None,
        error: OpenEnvError | None,
        again: bool,
    ) -> None:
        self.seat = seat
        self.frame = frame
        self.final = final
        self.error = error
        self.again = again


class Seat:
    """A session's place; the receiver of its replies."""

    __slots__ = ("again", "broken", "channel", "final", "number", "owner", "rng", "seeded")

    def __init__(self, owner: VectorSessions, number: int) -> None:
        self.owner = owner
        self.number = number
        self.channel: Channel | None = None
        self.broken = False
        self.again = False
        self.final: Observation | OpenEnvError | None = None
        self.rng: random.Random | None = None
        self.seeded = False

    def done(self) -> bool:
        return False

    def set_result(self, frame: Any, /) -> None:
        owner = self.owner
        if owner.same_step and (frame.terminated or frame.truncated) and type(frame) is Observation:
            self.final = frame
            owner.reset_seat(self, None, None)
            return
        owner.deliver(Answer(self.number, frame, self.final, None, self.again))

    def set_exception(self, error: Any, /) -> None:
        owner = self.owner
        if not isinstance(error, CallerError) or isinstance(error, SessionClosed):
            self.broken = True
        if owner.same_step and self.broken and self.final is None and not self.again:
            self.final = error
            owner.reset_seat(self, None, None)
            return
        owner.deliver(Answer(self.number, None, self.final, error, self.again))
