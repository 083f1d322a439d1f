"""Values that user code returns, what is to become of each, and environments that return them."""

from __future__ import annotations

import collections
import enum
import math
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from openenv_async import Environment, StepResult

__all__ = ["ENDS", "PLACES", "REFUSED", "RESULTS", "REWARDS", "Returning", "ways_to_say"]

REFUSED: Any = object()
"""The verdict of what no client may get."""


class YesOrNo(enum.IntEnum):
    NO = 0
    YES = 1


class Truthy:
    def __bool__(self) -> bool:
        return True


class Raising:
    def __float__(self) -> float:
        raise KeyError("no number")

    def __bool__(self) -> bool:
        raise KeyError("no truth")

    def __repr__(self) -> str:
        raise KeyError("no text")


ENDS: dict[str, tuple[Callable[[], Any], Any]] = {
    "True": (lambda: True, True),
    "False": (lambda: False, False),
    "1": (lambda: 1, True),
    "0": (lambda: 0, False),
    "numpy bool": (lambda: np.bool_(True), True),
    "numpy integer": (lambda: np.int8(0), False),
    "array of no dimension": (lambda: np.array(True), True),
    "array of one": (lambda: np.array([False]), False),
    "integer enum": (lambda: YesOrNo.YES, True),
    "array of two": (lambda: np.array([True, False]), REFUSED),
    "empty array": (lambda: np.array([], bool), REFUSED),
    "array of 2.0": (lambda: np.array(1.0), REFUSED),
    "text": (lambda: "false", REFUSED),
    "empty text": (lambda: "", REFUSED),
    "bytes": (lambda: b"\0", REFUSED),
    "list": (lambda: ["a task"], REFUSED),
    "empty list": (list, REFUSED),
    "dict": (dict, REFUSED),
    "2": (lambda: 2, REFUSED),
    "-1": (lambda: -1, REFUSED),
    "1.0": (lambda: 1.0, REFUSED),
    "NaN": (lambda: math.nan, REFUSED),
    "None": (lambda: None, REFUSED),
    "method": (lambda: Truthy().__bool__, REFUSED),
    "function": (lambda: len, REFUSED),
    "class": (lambda: Truthy, REFUSED),
    "truthy object": (Truthy, REFUSED),
    "raising object": (Raising, REFUSED),
    "text array": (lambda: np.array("1"), REFUSED),
}
REWARDS: dict[str, tuple[Callable[[], Any], Any]] = {
    "float": (lambda: 0.1, 0.1),
    "integer": (lambda: -3, -3.0),
    "True": (lambda: True, 1.0),
    "None": (lambda: None, None),
    "NaN": (lambda: math.nan, math.nan),
    "inf": (lambda: -math.inf, -math.inf),
    "numpy float": (lambda: np.float64(2.5), 2.5),
    "numpy half": (lambda: np.float16(0.5), 0.5),
    "numpy integer": (lambda: np.uint8(200), 200.0),
    "array of no dimension": (lambda: np.array(1.5), 1.5),
    "array of one": (lambda: np.array([1.5]), 1.5),
    "Decimal": (lambda: Decimal("0.25"), 0.25),
    "Fraction": (lambda: Fraction(1, 4), 0.25),
    "array of two": (lambda: np.array([1.0, 2.0]), REFUSED),
    "empty array": (lambda: np.array([]), REFUSED),
    "text": (lambda: "1.0", REFUSED),
    "bytes": (lambda: b"1", REFUSED),
    "list": (lambda: [1.0], REFUSED),
    "complex": (lambda: 1j, REFUSED),
    "numpy complex": (lambda: np.complex64(1), REFUSED),
    "numpy text": (lambda: np.str_("1"), REFUSED),
    "text array": (lambda: np.array("1"), REFUSED),
    "too large": (lambda: 10**400, REFUSED),
    "method": (lambda: Truthy().__bool__, REFUSED),
    "raising object": (Raising, REFUSED),
}


@dataclass
class Seen:
    n: int = 0
    reward: float | None = None
    done: bool = False


@dataclass
class SeenMore(Seen):
    more: str = ""


@dataclass
class Listed:
    """Fields that merely bear the names."""

    n: int = 0
    done: list[str] = field(default_factory=lambda: ["washing up"])
    reward: str = "a biscuit"
    truncated: str = "after 10 kB"


@dataclass
class Arrays:
    done: np.ndarray | None = None
    reward: np.ndarray | None = None


@dataclass
class Progress:
    done: float = 0.7


@dataclass
class Methods:
    n: int = 0

    def done(self) -> bool:
        return True

    @property
    def truncated(self) -> list[str]:
        return ["x"]

    @property
    def reward(self) -> str:
        raise AssertionError("a property that is no field")


class Point(NamedTuple):
    x: int
    reward: float = 0.0
    done: bool = False


TimeStep = collections.namedtuple("TimeStep", "step_type reward discount observation")
OBSERVATION: dict[str, Any] = {"n": 1}
GYMNASIUM: tuple[Any, ...] = (OBSERVATION, 1.0, True, False, {})
NUMPY_FIELDS: tuple[Any, ...] = (np.int64(1), np.float32(1), np.bool_(True))
Make = Callable[[], Any]
RESULTS: dict[str, tuple[Any, Make, Any]] = {
    # declared type, result, verdict: (reward, terminated, truncated) or refused
    "dict": (dict, lambda: {"n": 1, "reward": 2, "done": True}, (2.0, True, False)),
    "truncated dict": (Any, lambda: {"done": True, "truncated": True}, (None, False, True)),
    "ordered dict": (dict, lambda: collections.OrderedDict(done=True), (None, True, False)),
    "StepResult": (Any, lambda: StepResult({}, 1, True, True), (1.0, True, True)),
    "its own fields": (Seen, lambda: Seen(1, 1.0, True), (1.0, True, False)),
    "StepResult over them": (Seen, lambda: StepResult(Seen(1, 1.0, True)), (None, False, False)),
    "names of data": (Listed, Listed, (None, False, False)),
    "names of methods": (Methods, Methods, (None, False, False)),
    "NamedTuple": (Point, lambda: Point(1, 2.0, True), (2.0, True, False)),
    "declared tuple": (tuple[int, int], lambda: (1, 2), (None, False, False)),
    "None that is declared": (dict | None, lambda: None, (None, False, False)),
    "None that is meant": (Any, lambda: StepResult(None), (None, False, False)),
    "array": (np.ndarray, lambda: np.zeros(3), (None, False, False)),
    "numpy fields": (Seen, lambda: Seen(*NUMPY_FIELDS), (1.0, True, False)),
    "arrays of one": (Arrays, lambda: Arrays(np.array(True), np.array([2])), (2.0, True, False)),
    "arrays that are not given": (Arrays, Arrays, (None, False, False)),
    "an array of two as an end": (Arrays, lambda: Arrays(np.array([True, False])), REFUSED),
    "a reward for each": (Arrays, lambda: Arrays(reward=np.array([1.0, 2.0])), REFUSED),
    "a fraction as an end": (Progress, Progress, REFUSED),
    "5-tuple": (Any, lambda: GYMNASIUM, REFUSED),
    "5-tuple, dict declared": (dict, lambda: GYMNASIUM, REFUSED),
    "5-tuple, model declared": (Seen, lambda: GYMNASIUM, REFUSED),
    "5-tuple, tuple declared": (tuple, lambda: GYMNASIUM, REFUSED),
    "5-tuple, list declared": (list, lambda: GYMNASIUM, REFUSED),
    "list of the five": (Any, lambda: list(GYMNASIUM), REFUSED),
    "4-tuple": (Any, lambda: (OBSERVATION, 1.0, True, {}), REFUSED),
    "4-tuple, dict declared": (dict, lambda: (OBSERVATION, 1.0, True, {}), REFUSED),
    "3-tuple": (Any, lambda: (OBSERVATION, 1.0, True), REFUSED),
    "pair with info": (Any, lambda: (OBSERVATION, {}), REFUSED),
    "pair with reward": (Any, lambda: (OBSERVATION, 1.0), REFUSED),
    "TimeStep": (Any, lambda: TimeStep(1, 1.0, 1.0, {}), REFUSED),
    "None": (Any, lambda: None, REFUSED),
    "None, dict declared": (dict, lambda: None, REFUSED),
    "None, model declared": (Seen, lambda: None, REFUSED),
    "StepResult of None": (dict, lambda: StepResult(None), REFUSED),
    "StepResult inside": (Any, lambda: StepResult(StepResult({})), REFUSED),
    "info that is no dict": (Any, lambda: StepResult({}, info=[1]), REFUSED),  # type: ignore[arg-type]  # the fault
    "generator": (Any, lambda: (n for n in range(3)), REFUSED),
    "class": (Any, lambda: Seen, REFUSED),
    "function": (Any, lambda: len, REFUSED),
    "object": (Any, object, REFUSED),
    "dict for a model": (Seen, lambda: {"n": 1}, REFUSED),
    "model for a dict": (dict, lambda: Seen(1), REFUSED),
    "another model": (Seen, Listed, REFUSED),
    "subclass with more": (Seen, lambda: SeenMore(1, more="x"), REFUSED),
    "text in a number": (Seen, lambda: Seen("1"), REFUSED),  # type: ignore[arg-type]  # the fault
    "text as a typed end": (Seen, lambda: Seen(1, 1.0, "false"), REFUSED),  # type: ignore[arg-type]  # the fault
    "text in a list": (list[int], lambda: [1, "2"], REFUSED),
    "text at the end of a long list": (list[int], lambda: [*range(5000), "2"], REFUSED),
    "text in a dict": (dict[str, int], lambda: {"a": "1"}, REFUSED),
    "number for text": (str, lambda: 5, REFUSED),
    "truth for a number": (int, lambda: True, REFUSED),
    "array for a dict": (dict, lambda: np.zeros(2), REFUSED),
    "object in a dict": (dict, lambda: {"n": types.SimpleNamespace()}, REFUSED),
}


def ways_to_say(kind: str, name: str) -> Any:
    """A reward or an end, in a dict and in a ``StepResult``, by the name of its case."""
    how, _, case = name.partition(" ")
    table = REWARDS if kind == "reward" else ENDS
    value = table[case][0]()
    if how == "dict":
        return {"n": 1, kind: value}
    return StepResult({"n": 1}, **{kind: value})


class Returning(Environment[dict[str, Any], Any, dict[str, Any]]):
    """Returns what the action names; sync, in threads."""

    def reset(self, name: str | None = None) -> Any:
        return {} if name is None else self.make(name)

    def step(self, action: dict[str, Any]) -> Any:
        return self.make(action["name"])

    def make(self, name: str) -> Any:
        kind, _, rest = name.partition(": ")
        return RESULTS[rest][1]() if kind == "result" else ways_to_say(kind, rest)


class InlineReturning(Returning):
    isolation = "inline"


class ProcessReturning(Returning):
    isolation = "process"


class AsyncReturning(Returning):
    async def reset(self, name: str | None = None) -> Any:
        return super().reset(name)

    async def step(self, action: dict[str, Any]) -> Any:
        return super().step(action)


PLACES: dict[str, tuple[type[Returning], int | None]] = {
    "inline": (InlineReturning, None),
    "threads": (Returning, None),
    "task": (AsyncReturning, None),
    "process": (ProcessReturning, None),
    "workers": (Returning, 1),
}
