"""An episode as bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from openenv_async.errors import InvalidOption
from openspiel_env.table import Move

__all__ = ["Snapshot"]


class Snapshot(msgspec.Struct, array_like=True):
    """The position of an episode.

    Attributes:
        settings: of the episode, but for its opponents.
        opponent: its name.
        opponents: names of the players' own ones.
        news: moves in words, each with its player.
        seed: with which the game was loaded.
        log: every move so far, chance included; ``pending`` those of a simultaneous node.
        random: position of the generator.
        mover: who moved last for the client.
        last_moves: player and move, the latest last.
    """

    settings: dict[str, Any]
    opponent: str
    seed: int
    log: list[Move]
    pending: list[int]
    random: int
    steps: int
    mover: int
    last_moves: list[tuple[int, int]]
    returns: list[float]
    opponents: dict[str, str] = {}
    news: list[tuple[int, str]] = []

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Snapshot:
        """Decode what ``encode`` gave.

        Raises:
            InvalidOption: the bytes are not a snapshot.
        """
        try:
            return msgspec.msgpack.decode(data, type=cls)
        except msgspec.DecodeError as exc:
            raise InvalidOption(f"these bytes are not a snapshot of openspiel: {exc}") from exc
