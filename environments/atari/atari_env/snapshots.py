"""An episode as bytes."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from atari_env.settings import Settings
from openenv_async.errors import InvalidOption

__all__ = ["Snapshot"]


class Snapshot(msgspec.Struct, array_like=True):
    """The state of an episode.

    Attributes:
        settings: of the episode.
        mode, difficulty: as chosen.
        console: ALE's own state.
        frames: the frame stack, the oldest first.
        random: inner state of the Mersenne twister that draws the sticky actions.
        last_action: what a sticky action repeats.
        goes_on: the episode ended with a life and the next one goes on with the game.
    """

    settings: Settings
    mode: int
    difficulty: int
    console: bytes
    frames: list[NDArray[np.uint8]]
    random: tuple[int, ...]
    last_action: int
    score: float
    lives: int
    episode_frame_number: int
    goes_on: bool = False

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self, enc_hook=_plain)

    @classmethod
    def decode(cls, data: bytes) -> Snapshot:
        """Decode what ``encode`` gave.

        Raises:
            InvalidOption: the bytes are not a snapshot.
        """
        try:
            return msgspec.msgpack.decode(data, type=cls, dec_hook=_array)
        except (msgspec.DecodeError, ValueError, TypeError) as exc:
            raise InvalidOption(f"these bytes are not a snapshot of atari: {exc}") from exc


def _plain(array: NDArray[np.uint8]) -> tuple[tuple[int, ...], bytes]:
    return array.shape, array.tobytes()


def _array(kind: Any, value: Any) -> NDArray[np.uint8]:
    shape, data = value
    return np.frombuffer(data, np.uint8).reshape(shape)
