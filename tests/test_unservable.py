"""Refusals of what cannot be served, where it is made, with object, reason and remedy."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from enum import Enum
from typing import Any, Literal

import pytest

from openenv_async import Environment
from openenv_async.engine import Engine
from openenv_async.server import HTTPEnvServer, create_app
from openenv_async.server.run import serve
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.in_process import connect

Dict = dict[str, Any]


class Color(Enum):
    RED = "red"


@dataclass
class Half:
    given: InitVar[int]
    kept: int = 0


class Opaque:
    """A class that is no model."""


class Base:
    """Calls for environments whose types are at fault."""

    def reset(self) -> Any:
        raise AssertionError("never called")

    def step(self, action: Any) -> Any:
        raise AssertionError("never called")


def made(bases: tuple[Any, ...], **names: Any) -> type:
    return types.new_class("Faulty", bases, exec_body=lambda space: space.update(names))


def of(action: Any = Dict, observation: Any = Dict, state: Any = Dict) -> type:
    return made((Base, Environment[action, observation, state]))


def with_schemas(schemas: Callable[[], Any]) -> type:
    def of_class(cls: type[Any], /, **params: Any) -> Any:
        return schemas()

    return made((Base, Environment[Dict, Dict, Dict]), schemas=classmethod(of_class))


def with_calls(**calls: Any) -> type:
    return made((Base, Environment), **calls)


def five(self: Any, action: Dict) -> tuple[Dict, float, bool, bool, Dict]:
    raise AssertionError("never called")


def four(self: Any, action: Dict) -> tuple[Dict, float, bool, dict]:  # type: ignore[type-arg]  # as users write it
    raise AssertionError("never called")


def raises() -> Any:
    raise ZeroDivisionError("of the author")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError


def raises_unprintably() -> Any:
    raise Unprintable


FAULTY: dict[str, tuple[Callable[[], type], list[str]]] = {
    "a class that is no model": (lambda: of(Opaque), ["action", "Opaque"]),
    "one inside a list": (lambda: of(Dict, list[Opaque]), ["observation", "Opaque"]),
    "a state that is none": (lambda: of(state=typing.Callable), ["state", "Callable"]),
    "InitVar": (lambda: of(Dict, Half), ["observation", "InitVar"]),
    "a Literal of an enum": (lambda: of(Literal[Color.RED]), ["action", "Literal"]),
    "schemas() raises": (lambda: with_schemas(raises), ["schemas()", "of the author"]),
    "schemas() raises unprintably": (
        lambda: with_schemas(raises_unprintably),
        ["schemas()", "Unprintable"],
    ),
    "schemas() returns None": (lambda: with_schemas(lambda: None), ["schemas()", "NoneType"]),
    "schemas() returns objects": (
        lambda: with_schemas(lambda: {"action": {"x": object()}}),
        ["schemas()", "object"],
    ),
    "schemas() returns no schema": (
        lambda: with_schemas(lambda: {"action": 5}),
        ["schemas()", "'action' is not a dict but 5"],
    ),
    "schemas() returns another name": (
        lambda: with_schemas(lambda: {"actions": {}}),
        ["schemas()", "no schema 'actions'", "action, observation, state"],
    ),
    "Gymnasium's 5-tuple": (lambda: with_calls(step=five), ["tuple of 5", "StepResult("]),
    "Gym's 4-tuple": (lambda: with_calls(step=four), ["tuple of 4", "StepResult("]),
}


def check_message(error: BaseException, words: list[str]) -> None:
    for word in ("Faulty", *words):
        assert word in str(error), (word, error)


@pytest.mark.parametrize("name", FAULTY)
async def test_it_is_refused_where_it_is_made(name: str) -> None:
    make, words = FAULTY[name]
    cls = make()
    makers: tuple[Callable[[], Any], ...] = (
        lambda: Engine(EnvironmentSpec(cls)),
        lambda: create_app(cls),
        lambda: HTTPEnvServer(cls),
    )
    for maker in makers:
        with pytest.raises(TypeError) as caught:
            maker()
        check_message(caught.value, words)
    for opening in (connect, serve):
        with pytest.raises(TypeError) as caught:
            async with opening(cls):
                pass
        check_message(caught.value, words)


def test_a_reset_option_that_has_no_schema() -> None:
    def reset(self: Any, tool: Opaque | None = None) -> Any:
        raise AssertionError("never called")

    with pytest.raises(TypeError, match="reset option 'tool'"):
        create_app(with_calls(reset=reset))


def test_constructor_arguments_that_schemas_refuses() -> None:
    class Sized(Base, Environment[Dict, Dict, Dict]):
        def __init__(self, size: int = 1) -> None:
            self.size = size

        @classmethod
        def schemas(cls, size: int = 1) -> Dict:  # type: ignore[override]  # as authors write it
            if size < 0:
                raise ValueError("a size is positive")
            return {}

    create_app(Sized)
    with pytest.raises(TypeError, match=r"'size': -1.*a size is positive"):
        create_app(Sized, params={"size": -1})


class Unimported(Environment[Any, Any, Any]):
    """Annotated with what is imported only where types are checked."""

    def reset(self, at: "Place" = 0) -> Any:  # type: ignore[name-defined]  # noqa: F821, UP037
        return {"at": at}

    def step(self, action: "Move") -> Any:  # type: ignore[name-defined]  # noqa: F821, UP037
        return {"kind": type(action).__name__}


async def test_annotations_that_name_nothing_are_told(caplog: pytest.LogCaptureFixture) -> None:
    async with connect(Unimported) as env:
        await env.reset(at="any")
        assert (await env.step({})).observation == {"kind": "dict"}
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    for call, name in (("reset", "Place"), ("step", "Move")):
        start = f"the annotations of Unimported.{call}() cannot be read, and any value is taken: "
        assert any(text.startswith(start) and f"'{name}'" in text for text in told)
