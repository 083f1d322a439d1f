"""An environment that does what its action says, and requests for it in columns or in rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium_env.environment import GymnasiumEnvironment, InlineGymnasiumEnvironment

from openenv_async import Environment, StepResult
from openenv_async.environment import Isolation
from openenv_async.errors import InvalidAction
from openenv_async.protocol.columns import (
    apart,
    fields,
    pack_channels,
    pack_numbers,
    replies_of,
    stacked,
)
from openenv_async.protocol.frames import (
    Begun,
    Failed,
    Frame,
    ObservationColumns,
    Reset,
    StateIs,
    Step,
    StepColumns,
)
from tests.helpers import pack, unpack

RESET = -1
"""Stands for an action: the row begins an episode."""
SHARED = np.zeros(2, np.float32)
"""An array that every environment uses again."""


def _raise(error: BaseException) -> Any:
    raise error


async def _later(value: Any) -> Any:
    return value


def _shared(count: int) -> Any:
    SHARED[:] = count
    return SHARED


def _array(count: int, *shape: int, dtype: str = "<f4") -> Any:
    return np.full(shape, count, dtype)


BEHAVIOURS: list[Callable[[int], Any]] = [
    lambda n: StepResult(_array(n, 2), float(n)),
    lambda n: StepResult(_array(n, 2), float(n), True),
    lambda n: StepResult(_array(n, 2), None, False, True),
    lambda n: StepResult(_array(n, 2), float("nan")),
    lambda n: StepResult(_array(n, 2), np.float32(n), np.bool_(False)),  # type: ignore[arg-type]  # NumPy's own
    lambda n: StepResult(_array(n, 2), 1.0, False, False, {"n": n}),
    lambda n: StepResult(_array(n, 2), 1.0, False, False, {"bad": object()}),
    lambda n: StepResult(_array(n, 2), "much"),  # type: ignore[arg-type]  # a mistake
    lambda n: StepResult(_array(n, 2), 1.0, "no"),  # type: ignore[arg-type]  # a mistake
    lambda n: StepResult(_array(n, 3), 1.0),
    lambda n: StepResult(_array(n, 2, dtype="<f8"), 1.0),
    lambda n: _array(n, 2),
    lambda n: _array(n),
    lambda n: _array(n, 0),
    lambda n: _array(n, 2, 2)[:, ::-1],
    lambda n: _array(n, 2, dtype=">f4"),
    lambda n: np.array(["text", "much"]),
    lambda n: np.array([object()]),
    lambda n: np.ma.masked_array([1.0, 2.0], [True, False]),
    lambda n: _shared(n),
    lambda n: StepResult(n, 1.0),
    lambda n: StepResult(2**70, 1.0),
    lambda n: StepResult(n % 2 == 0, 1.0),
    lambda n: StepResult(n / 2, 1.0),
    lambda n: {"a": _array(n, 2), "n": n},
    lambda n: {"a": _array(n, 2), "n": {"m": n}},
    lambda n: {"n": n, "a": _array(n, 2)},
    lambda n: {"a": _array(n, 3), "n": n},
    lambda n: {"done": True, "reward": 2.0},
    lambda n: {"a": object()},
    lambda n: {},
    lambda n: {1: n},
    lambda n: "text",
    lambda n: None,
    lambda n: (1, 2.0, False, False, {}),
    lambda n: StepResult(StepResult(1)),
    lambda n: _raise(RuntimeError("broken")),
    lambda n: _raise(InvalidAction("not that")),
    lambda n: _raise(KeyboardInterrupt()),
    lambda n: _later(StepResult(_array(n, 2), 3.0)),
    lambda n: _later(object()),
]


class Odd(Environment[Any, Any, Any]):
    """Action ``i`` asks for the result ``BEHAVIOURS[i]``; a reset with the seed ``i`` too."""

    isolation: ClassVar[Isolation | None] = "inline"
    owns_thread = True  # so that it is built at once, however long that took before
    invalid_action_reward = -1.0

    def __init__(self) -> None:
        self.count = 0

    def reset(self, seed: int = 0) -> Any:
        self.count = 0
        return BEHAVIOURS[seed % len(BEHAVIOURS)](0)

    def step(self, action: Any) -> Any:
        self.count += 1
        return BEHAVIOURS[action](self.count)

    def state(self) -> dict[str, int]:
        return {"count": self.count}


Row = tuple[int, int, int, int]
"""Channel, number, action or ``RESET``, and the seed of a reset."""


def in_rows(rows: list[Row], field: str | None = None) -> list[Frame]:
    """The requests of rows, one by one; their actions are numbers, or models with this field."""
    return [
        Reset(channel, seq, seq - 1, None, seed)
        if action == RESET
        else Step(channel, seq, seq - 1, _packed(action, field))
        for channel, seq, action, seed in rows
    ]


def in_columns(rows: list[Row], form: int = 0, field: str | None = None) -> StepColumns:
    """The same requests as one frame."""
    actions = [action for _, _, action, _ in rows if action != RESET]
    begins = [action == RESET for _, _, action, _ in rows]
    if form:
        column = apart([_packed(action, field) for action in actions])
    else:
        column = stacked(np.array(actions, np.int64))
        column = column if field is None else fields({field: column})
    return StepColumns(
        pack_channels([row[0] for row in rows]),
        pack_numbers([row[1] for row in rows]),
        column,
        None,
        bytes(begins) if any(begins) else None,
        np.array([row[3] for row in rows if row[2] == RESET], "<i8").tobytes() or None,
    )


def _packed(action: int, field: str | None) -> bytes:
    return pack(action if field is None else {field: action})


def told(frames: list[Any]) -> list[dict[str, Any]]:
    """Say what frames say, column frames row by row, by channel and number."""
    each: list[Any] = []
    for frame in frames:
        each += replies_of(frame) if isinstance(frame, ObservationColumns) else [frame]
    each.sort(key=lambda frame: (frame.channel, getattr(frame, "seq", 0)))
    return [normal(frame) for frame in each]


def normal(frame: Any) -> dict[str, Any]:
    """A frame to compare, without what is drawn at random."""
    said = {name: getattr(frame, name) for name in frame.__struct_fields__}
    if isinstance(frame, Begun | StateIs):
        said["episode_id"] = "drawn"
    if isinstance(frame, Failed):
        details: Mapping[str, Any] = unpack(frame.payload) or {}
        said["payload"] = {k: v for k, v in details.items() if k not in ("episode_id", "traceback")}
    return {"kind": type(frame).__name__} | {key: repr(value) for key, value in said.items()}


GYMNASIUM_RESULTS: list[Callable[[Any], Any]] = [
    lambda o: (o, 1.0, False, False, {}),
    lambda o: (o, 1.0, True, False, {}),
    lambda o: (o, 1, False, True, {"n": 1}),
    lambda o: (o, np.float64(2), np.bool_(False), False, {}),
    lambda o: (o, None, False, False, {}),
    lambda o: (o, float("nan"), False, False, {}),
    lambda o: (o, "much", False, False, {}),
    lambda o: (o, 1.0, "no", False, {}),
    lambda o: (o, 1.0, False, False, None),
    lambda o: (o, 1.0, False, {}),
    lambda o: [o, 1.0, False, False, {}],
    lambda o: None,
    lambda o: (o.astype("<f8"), 1.0, False, False, {}),
    lambda o: (o.tolist(), 1.0, False, False, {}),
    lambda o: (o[:1], 1.0, False, False, {}),
    lambda o: (None, 1.0, False, False, {}),
    lambda o: (o, 1.0, False, False, {"bad": object()}),
    lambda o: _raise(RuntimeError("broken")),
    lambda o: _raise(InvalidAction("not that")),
]


class OddGymnasium(gymnasium.Env[Any, Any]):
    """Action ``i`` asks for the result ``GYMNASIUM_RESULTS[i]``."""

    isolation = "inline"
    owns_thread = True
    action_space = gymnasium.spaces.Discrete(len(GYMNASIUM_RESULTS))
    observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        assert type(action) is np.int64
        return GYMNASIUM_RESULTS[action](np.ones(2, np.float32))


gymnasium.register(
    "OddRows-v0", f"{__name__}:OddGymnasium", disable_env_checker=True, order_enforce=False
)


class OddModels(InlineGymnasiumEnvironment):
    """The same with models of one field."""

    owns_thread = True

    def __init__(self) -> None:
        super().__init__("OddRows-v0")


class OddSubclass(OddModels):
    """One with a step of its own, which the factory of ``OddModels`` makes."""

    def step(self, action: Any) -> Any:
        result = GymnasiumEnvironment.step(self, action)
        result.info = {**(result.info or {}), "own": True}
        return result


def made_odd() -> OddModels:
    """Make what is more than the annotation says."""
    return OddSubclass()
