"""Environments whose calls raise what they are told to, and exceptions of every bad kind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from openenv_async import Environment
from openenv_async.errors import (
    EnvironmentDied,
    GoingAway,
    InvalidAction,
    OpenEnvError,
    ProtocolError,
    ServerBusy,
    SessionLost,
)

__all__ = ["CLASSES", "GOES_ON", "MAKERS", "Raiser"]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class EndsTheProgramWhenPrinted(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class ClaimsAnotherClass(Exception):
    @property  # type: ignore[misc]  # the lie
    def __class__(self) -> Any:
        raise RuntimeError("no class")


class TextIsNoText(Exception):
    def __str__(self) -> Any:
        return 5


class Liar(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]  # the lie
        raise RuntimeError("no name")


class Nameless(Exception, metaclass=Liar):
    pass


class Panic(BaseException):
    """An error of the kind that extension modules raise."""


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(lambda: one + two)

    def __reduce__(self) -> NoReturn:
        raise TypeError("not me")


class AuthorsOwn(OpenEnvError):
    code = "tests_authors_own"


class NotWhole(InvalidAction):
    code = "tests_not_whole"

    def __init__(self) -> None:  # without super().__init__()
        pass


class BadWire(OpenEnvError):
    code = "tests_bad_wire"

    def to_wire(self) -> dict[str, Any]:
        raise SystemExit(4)


def with_detail(detail: Any, kind: type[OpenEnvError] = InvalidAction) -> BaseException:
    error = kind("mine")
    error.detail = detail
    return error


def with_message(message: Any) -> BaseException:
    error = InvalidAction("mine")
    error.message = message
    return error


def deep() -> Any:
    tree: Any = []
    for _ in range(200):
        tree = [tree]
    return {"deep": tree}


def caused() -> BaseException:
    error = ValueError("outside")
    error.__cause__ = Unprintable()
    error.__context__ = error
    error.add_note("a note")
    return error


def in_a_long_chain() -> BaseException:
    error = ValueError("0")
    for number in range(1, 3000):
        following = ValueError(str(number))
        following.__cause__ = error
        error = following
    return error


CLASSES: dict[str, type[BaseException]] = {
    kind.__name__: kind
    for kind in (
        *(Exception, ValueError, StopIteration, StopAsyncIteration, RecursionError, MemoryError),
        *(OSError, TimeoutError, AssertionError, NotImplementedError, KeyError),
        *(BaseException, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError),
        *(Unprintable, EndsTheProgramWhenPrinted, ClaimsAnotherClass, TextIsNoText, Panic),
    )
}
MAKERS: dict[str, Callable[[], BaseException]] = {
    **CLASSES,
    "Nameless": Nameless,
    "Unpicklable": lambda: Unpicklable(1, 2),
    "a group": lambda: ExceptionGroup("two", [ValueError("a"), Unprintable()]),
    "a base group": lambda: BaseExceptionGroup("two", [KeyboardInterrupt(), SystemExit(1)]),
    "huge": lambda: ValueError("x" * 5_000_000),
    "surrogates": lambda: ValueError("lone \udc80 half"),
    "no UTF-8": lambda: UnicodeDecodeError("utf-8", b"\xff" * 100, 0, 1, "why"),
    "caused": caused,
    "a long chain": in_a_long_chain,
    "ServerBusy": lambda: ServerBusy("mine is full"),
    "SessionLost": lambda: SessionLost("mine is gone"),
    "ProtocolError": lambda: ProtocolError("mine"),
    "GoingAway": lambda: GoingAway("mine"),
    "with an object": lambda: InvalidAction("no", thing=object()),
    "AuthorsOwn": lambda: AuthorsOwn("mine"),
    "NotWhole": NotWhole,
    "BadWire": lambda: BadWire("mine"),
    "detail that is a list": lambda: with_detail([1]),
    "detail that is deep": lambda: with_detail(deep()),
    "failure with a deep detail": lambda: with_detail(deep(), EnvironmentDied),
    "detail with a key that is no text": lambda: with_detail({1: 2}),
    "detail with a huge number": lambda: with_detail({"n": 10**400}),
    "message that is no text": lambda: with_message(5),
    "message with surrogates": lambda: with_message("\udc80"),
    "huge message": lambda: with_message("x" * 10**6),
}
GOES_ON: dict[str, str] = {
    "with an object": "invalid_action",
    "AuthorsOwn": "tests_authors_own",
    "detail that is deep": "invalid_action",
    "failure with a deep detail": "environment_died",
    "detail with a key that is no text": "invalid_action",
    "detail with a huge number": "invalid_action",
    "message with surrogates": "invalid_action",
    "huge message": "invalid_action",
}
"""Errors of this package that go on as they are, and their codes."""


@dataclass
class Sharp:
    """Raises while it is encoded or read."""

    name: str

    @property
    def reward(self) -> float:
        raise MAKERS[self.name]()


class Number:
    """A reward whose float() raises."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __float__(self) -> float:
        raise MAKERS[self.name]()


def act(action: dict[str, Any]) -> Any:
    """Return what an action asks for."""
    if "raise" in action:
        raise MAKERS[action["raise"]]()
    if "reward" in action:
        return {"reward": Number(action["reward"])}
    if "done" in action:
        import numpy as np

        return {"done": np.array([True, False])}
    return {"ok": True}


class Raiser(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Sync, in threads."""

    session_options = frozenset({"built", "closed"})

    def __init__(self, built: str | None = None, closed: str | None = None) -> None:
        if built is not None:
            raise MAKERS[built]()
        self.closed = closed
        self.next_state: str | None = None

    def reset(self, name: str | None = None, state: str | None = None) -> dict[str, Any]:
        self.next_state = state
        if name is not None:
            raise MAKERS[name]()
        return {}

    def step(self, action: dict[str, Any]) -> Any:
        return act(action)

    def state(self) -> dict[str, Any]:
        if self.next_state is not None:
            raise MAKERS[self.next_state]()
        return {}

    def close(self) -> None:
        if self.closed is not None:
            raise MAKERS[self.closed]()


class InlineRaiser(Raiser):
    isolation = "inline"


class ProcessRaiser(Raiser):
    isolation = "process"


class AsyncRaiser(Raiser):
    """In a task."""

    async def step(self, action: dict[str, Any]) -> Any:
        task = asyncio.current_task()
        assert task is not None
        if "cancel" in action:
            task.cancel()
        if "later" in action:
            asyncio.get_running_loop().call_later(0.001, task.cancel)
            await asyncio.sleep(5)
        if "hang" in action:
            await asyncio.sleep(60)
        if "leave" in action:  # it comes when nothing runs
            asyncio.get_running_loop().call_later(0.001, task.cancel)
            return {}
        if "swallow" in action:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            return {}
        await asyncio.sleep(0)
        return act(action)

    async def step_stream(self, action: dict[str, Any]) -> AsyncIterator[Any]:
        yield {"shown": 1}
        yield await self.step(action)
