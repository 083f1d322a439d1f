"""Specifications of what is served, from classes, factories and instances; and refusals."""

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
from openenv_async.targets.served import connect

Dict = dict[str, Any]


class Color(Enum):
    RED = "red"


@dataclass
class Half:
    given: InitVar[int]
    kept: int = 0


class Opaque:
    """A class that cannot be a model."""


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

    def step(self, action: "Move") -> Any:  # type: ignore[name-defined]  # noqa: UP037, F821
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


# -- classes, factories and instances -----------------------------------------------------


@dataclass
class Go:
    to: int = 0


@dataclass
class Seen:
    at: int = 0


class Walk(Environment[Go, Seen, Dict]):
    """Walks.

    More of it.
    """

    session_options = frozenset({"start"})

    def __init__(self, start: int = 0, step: int = 1) -> None:
        self.at, self.by = start, step

    def reset(self, level: int = 1, near: Literal["a", "b"] = "a") -> Seen:
        return Seen(self.at)

    def step(self, action: Go) -> Seen:
        return Seen(self.at)


def make_walk(start: int = 5) -> Walk:
    return Walk(start)


def make_something() -> Any:
    return Walk()


def test_a_class_says_its_types_name_and_description() -> None:
    spec = EnvironmentSpec(Walk)
    assert (spec.types["action"], spec.types["observation"], spec.types["state"]) == (
        Go,
        Seen,
        Dict,
    )
    assert (spec.name, spec.version) == ("Walk", "1.0.0")
    assert spec.description == "Walks.\n\nMore of it."
    assert EnvironmentSpec(Walk, name="other").name == "other"
    assert not spec.is_instance


def test_types_that_are_given_count_more() -> None:
    spec = EnvironmentSpec(Walk, Dict, Dict, Go)
    assert (spec.types["action"], spec.types["observation"], spec.types["state"]) == (
        Dict,
        Dict,
        Go,
    )


def test_a_factory_says_what_it_makes() -> None:
    import functools

    for factory in (make_walk, functools.partial(make_walk, start=7)):
        spec = EnvironmentSpec(factory)
        assert spec.cls is Walk
        assert isinstance(spec.build(), Walk)
    assert EnvironmentSpec(functools.partial(Walk, start=7)).build().at == 7
    with pytest.raises(TypeError, match="'make_something' does not say what it makes"):
        EnvironmentSpec(make_something)


def test_an_instance_is_what_it_is() -> None:
    env = Walk(3)
    spec = EnvironmentSpec(env)
    assert spec.is_instance
    assert spec.build() is env
    with pytest.raises(ValueError, match="built already: an instance takes no params"):
        EnvironmentSpec(env, params={"start": 1})


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("http://127.0.0.1:8000", "a server's address is for a client"),
        (types, "name its class, such as types.MyEnvironment"),
        (3, r"3 \(int\) is not an environment"),
        (Environment, "Environment is abstract: it lacks reset, step"),
    ],
)
def test_what_is_not_an_environment_is_told(env: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        EnvironmentSpec(env)


def test_a_client_is_not_an_environment() -> None:
    from openenv_async import GenericEnvClient

    for client in (GenericEnvClient, GenericEnvClient("http://127.0.0.1:1")):
        with pytest.raises(TypeError, match="GenericEnvClient is a client"):
            EnvironmentSpec(client)


# -- arguments and options ----------------------------------------------------------------


def test_arguments_are_those_of_the_server_and_the_opened_ones_of_clients() -> None:
    spec = EnvironmentSpec(Walk, params={"step": 2})
    made = spec.build({"start": 9})
    assert (made.at, made.by) == (9, 2)
    with pytest.raises(ValueError, match=r"no session option 'step' \(it takes: start\)"):
        spec.build({"step": 3})


def test_an_argument_that_there_is_not_has_a_suggestion() -> None:
    with pytest.raises(ValueError, match="it takes start, step; did you mean 'start'"):
        EnvironmentSpec(Walk, params={"strat": 1})
    with pytest.raises(TypeError, match="params must be a dict"):
        EnvironmentSpec(Walk, params=["start"])  # type: ignore[arg-type] # the test


def test_an_argument_that_nobody_gives_is_told_before_a_session() -> None:
    class Needs(Walk):
        def __init__(self, start: int, path: str) -> None:
            super().__init__(start)

    spec = EnvironmentSpec(Needs)
    with pytest.raises(ValueError, match="without its argument 'path'"):
        spec.check()
    EnvironmentSpec(Needs, params={"path": "x"}).check()


def test_reset_options_are_converted_or_refused() -> None:
    spec = EnvironmentSpec(Walk)
    assert spec.check_options({"level": "3", "near": "b"}) == {"level": 3, "near": "b"}
    for options, words in (
        ({"lvel": 1}, r"takes no option 'lvel' \(it takes: seed, episode_id, level and near\)"),
        ({"level": "x"}, "reset option 'level' of Walk"),
        ({"near": "c"}, "reset option 'near' of Walk"),
    ):
        with pytest.raises(ValueError, match=words):
            spec.check_options(dict(options))


def test_a_reset_option_without_a_default_is_needed() -> None:
    class Needs(Walk):
        def reset(self, level: int, near: Any = None) -> Seen:  # type: ignore[override]
            return Seen()

    spec = EnvironmentSpec(Needs)
    with pytest.raises(ValueError, match="needs the option 'level'"):
        spec.check_options({})
    assert spec.check_options({"level": 1}) == {"level": 1}


# -- schemas and copies -------------------------------------------------------------------


def test_the_schema_says_what_reset_takes() -> None:
    reset = EnvironmentSpec(Walk).schema["reset"]
    assert reset["additionalProperties"] is False
    assert reset["properties"]["level"] == {"type": "integer", "default": 1}
    assert reset["properties"]["near"]["enum"] == ["a", "b"]
    assert reset["properties"]["seed"]["x-used"] is False

    class Seeded(Walk):
        def reset(self, seed: int | None = None, **more: Any) -> Seen:  # type: ignore[override]
            return Seen()

    reset = EnvironmentSpec(Seeded).schema["reset"]
    assert reset["properties"]["seed"]["x-used"] is True
    assert reset["additionalProperties"] is True


def test_equal_contracts_have_one_digest() -> None:
    digest = EnvironmentSpec(Walk).schema_hash
    assert digest == EnvironmentSpec(Walk, params={"start": 4}).schema_hash
    assert len(digest) == 16
    assert digest != EnvironmentSpec(Walk, observation=Go).schema_hash


def test_a_codec_is_made_once() -> None:
    spec = EnvironmentSpec(Walk)
    assert spec.codec("action", "msgpack") is spec.codec("action", "msgpack")
    assert spec.codec("action", "msgpack") is not spec.codec("action", "json")


def test_a_copy_for_another_process_is_the_same() -> None:
    import pickle

    spec = EnvironmentSpec(Walk, params={"start": 4}, name="named")
    copied = pickle.loads(pickle.dumps(spec))
    assert (copied.name, copied.params, copied.cls) == ("named", {"start": 4}, Walk)
    assert copied.schema_hash == spec.schema_hash


def test_a_state_of_another_type_is_refused() -> None:
    class Stated(Environment[Go, Seen, Seen]):
        def reset(self) -> Seen:
            return Seen()

        def step(self, action: Go) -> Seen:
            return Seen()

        def state(self) -> Seen:
            return Seen()

    spec = EnvironmentSpec(Stated)
    spec.check_state(Seen(1))
    with pytest.raises(Exception, match="is a `return` missing"):
        spec.check_state(None)
    with pytest.raises(Exception, match="not of its declared type, a Go"):
        spec.check_state(Go())


def test_what_all_sessions_share_is_loaded_by_a_class_method_alone() -> None:
    loaded: list[Any] = []

    class Shares(Walk):
        @classmethod
        def prepare_process(cls, sessions: int, **params: Any) -> None:
            loaded.append((sessions, params))

    EnvironmentSpec(Shares, params={"start": 1}).prepare(4)
    assert loaded == [(4, {"start": 1})]

    class Own:
        reset, step = Walk.reset, Walk.step

        def prepare_process(self) -> None:
            raise AssertionError("a method of instances, which is another thing")

    EnvironmentSpec(Own).prepare(4)


def test_what_clients_are_told_of_package_and_parameters() -> None:
    class Maze(Environment[int, int, int]):
        def __init__(self, size: int = 3, api_key: str = "", board: Any = None) -> None:
            self.size = size

        def reset(self) -> int:
            return 0

        def step(self, action: int) -> int:
            return action

    spec = EnvironmentSpec(Maze, params={"size": 4, "api_key": "hunter2", "board": object()})
    assert spec.told_params == {"size": 4, "api_key": "***", "board": "object"}
    assert spec.package is None
    assert EnvironmentSpec("CartPole-v1").told_params == {}
    Maze.__module__ = "msgspec.fake"
    assert str(EnvironmentSpec(Maze).package).startswith("msgspec 0.")
