"""An episode as bytes."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from finrl_env.account import Account
from finrl_env.frames import Frame
from finrl_env.metrics import DifferentialSharpe
from finrl_env.settings import Settings
from openenv_async.errors import InvalidOption

__all__ = ["Snapshot"]


class _Sent(msgspec.Struct, array_like=True):
    """A frame that came with a reset: its columns, float64 [days, n], as bytes."""

    tickers: tuple[str, ...]
    dates: tuple[str, ...]
    columns: dict[str, bytes]


class Snapshot(msgspec.Struct, array_like=True):
    """The position of an episode.

    Attributes:
        settings: of the episode.
        first, last, day: places in the market's dates.
        account: the portfolio.
        values: of the portfolio, one for each day so far.
        sharpe: of the reward of that name.
        digest: of the frame that is traded.
        sent: the frame, where it came with the reset.
    """

    settings: Settings
    first: int
    last: int
    day: int
    account: Account
    values: list[float]
    sharpe: DifferentialSharpe
    digest: bytes
    sent: _Sent | None = None

    def keep(self, frame: Frame) -> None:
        """Take a frame along that only this episode has."""
        columns = {name: each.tobytes() for name, each in frame.columns.items()}
        self.sent = _Sent(frame.tickers, frame.dates, columns)

    def frame(self) -> Frame | None:
        """Return the frame that was taken along.

        Raises:
            InvalidOption: it is not whole.
        """
        if self.sent is None:
            return None
        tickers, dates = self.sent.tickers, self.sent.dates
        try:
            columns = {
                name: np.frombuffer(data, np.float64).reshape(len(dates), len(tickers))
                for name, data in self.sent.columns.items()
            }
            return Frame(tickers, dates, columns)
        except ValueError as exc:
            raise InvalidOption(f"these bytes are not a snapshot of finrl: {exc}") from exc

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self, enc_hook=lambda array: array.tolist())

    @classmethod
    def decode(cls, data: bytes) -> Snapshot:
        """Decode what ``encode`` gave.

        Raises:
            InvalidOption: the bytes are not a snapshot.
        """
        try:
            return msgspec.msgpack.decode(data, type=cls, dec_hook=_vector)
        except (msgspec.DecodeError, ValueError) as exc:
            raise InvalidOption(f"these bytes are not a snapshot of finrl: {exc}") from exc


def _vector(kind: Any, value: Any) -> NDArray[np.float64]:
    return np.array(value, np.float64)
