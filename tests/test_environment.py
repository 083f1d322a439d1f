"""The contract that is read off an environment class."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import pytest

from openenv_async.environment import Contract, Environment, Isolation, read_contract

Dict = dict[str, Any]
T = TypeVar("T")


class Plain(Environment[Dict, Dict, Dict]):
    def reset(self) -> Dict:
        return {}

    def step(self, action: Dict) -> Dict:
        return action


class Async(Environment[Dict, Dict, Dict]):
    async def reset(self, seed: int = 0, *, level: int = 1) -> Dict:
        return {}

    async def step(self, action: Dict) -> Dict:
        return action


class Open(Plain):
    def reset(  # type: ignore[override] # an author may
        self, first: str, /, episode_id: str = "", size: int = 1, **more: Any
    ) -> Dict:
        return {}


def changed(base: type, **names: Any) -> type:
    return type("Changed", (base,), names)


# -- calls and options --------------------------------------------------------------------


def test_what_a_plain_class_declares() -> None:
    contract = read_contract(Plain)
    assert contract == Contract(
        reset_options={},
        any_option=False,
        takes_seed=False,
        takes_episode_id=False,
        is_async=False,
        streams=False,
        awaited=frozenset(),
        defines_state=False,
        state_is_property=False,
        isolation="thread",
    )
    assert contract.unknown_options({"b": 1, "a": 2}) == ["a", "b"]


def test_options_are_what_reset_declares_beside_seed_and_episode() -> None:
    contract = read_contract(Async)
    assert list(contract.reset_options) == ["level"]
    assert (contract.takes_seed, contract.takes_episode_id, contract.any_option) == (
        True,
        False,
        False,
    )
    assert contract.awaited == {"reset", "step"}
    assert contract.unknown_options({"level": 1, "seed": 2}) == ["seed"]


def test_any_option_takes_seed_and_episode_too() -> None:
    contract = read_contract(Open)
    assert list(contract.reset_options) == ["size"], "what is positional only is not an option"
    assert (contract.any_option, contract.takes_seed, contract.takes_episode_id) == (
        True,
        True,
        True,
    )
    assert contract.unknown_options({"whatever": 1}) == []


def test_one_coroutine_or_a_stream_makes_a_class_async() -> None:
    async def close(self: Any) -> None:
        pass

    async def step_stream(self: Any, action: Dict) -> AsyncIterator[Dict]:
        yield action

    closing = read_contract(changed(Plain, close=close))
    assert (closing.is_async, closing.awaited, closing.streams) == (
        True,
        frozenset({"close"}),
        False,
    )
    streaming = read_contract(changed(Plain, step_stream=step_stream))
    assert (streaming.is_async, streaming.awaited, streaming.streams) == (True, frozenset(), True)


def test_how_the_state_is_had() -> None:
    def state(self: Any) -> Dict:
        return {}

    assert read_contract(changed(Plain, state=state)).defines_state
    for wrap in (staticmethod, classmethod):
        found = read_contract(changed(Plain, state=wrap(state)))
        assert (found.defines_state, found.state_is_property) == (True, False)
    found = read_contract(changed(Plain, state=property(state)))
    assert (found.defines_state, found.state_is_property) == (True, True)

    class Alike:
        reset = Plain.reset
        step = Plain.step

    found = read_contract(Alike)
    assert (found.defines_state, found.state_is_property) == (False, False)


@pytest.mark.parametrize("name", ["reset", "step"])
def test_a_call_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^Changed has no {name}\(\): an environment needs one"):
        read_contract(changed(Plain, **{name: None}))


# -- decorators ---------------------------------------------------------------------------


def careless(call: Callable[..., T]) -> Callable[..., T]:
    def wrapper(*args: Any, **kwargs: Any) -> T:
        return call(*args, **kwargs)

    return wrapper


def careful(call: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(call)
    def wrapper(*args: Any, **kwargs: Any) -> T:
        return call(*args, **kwargs)

    return wrapper


def with_helper(call: Callable[..., T]) -> Callable[..., T]:
    def helper() -> None:
        pass

    def wrapper(*args: Any, **kwargs: Any) -> T:
        helper()
        return call(*args, **kwargs)

    return wrapper


def half(call: Callable[..., T]) -> Callable[..., T]:
    def wrapper(self: Any, **kwargs: Any) -> T:
        return call(self, **kwargs)

    return wrapper


@pytest.mark.parametrize("decorator", [careless, careful, with_helper])
def test_options_are_read_through_a_decorator(decorator: Any) -> None:
    def reset(self: Any, level: int = 1) -> Dict:
        return {}

    for call in (decorator(reset), decorator(decorator(reset))):
        contract = read_contract(changed(Plain, reset=call))
        assert (list(contract.reset_options), contract.any_option) == (["level"], False)


def test_a_decorator_with_a_signature_of_its_own_is_believed() -> None:
    contract = read_contract(changed(Plain, reset=half(Plain.reset)))
    assert (list(contract.reset_options), contract.any_option) == ([], True)


def test_a_closure_that_does_not_say_which_is_believed() -> None:
    def one(self: Any, a: int = 1) -> Dict:
        return {}

    def two(self: Any, b: int = 1) -> Dict:
        return {}

    def wrapper(*args: Any, **kwargs: Any) -> Dict:
        return one(*args, **kwargs) or two(*args, **kwargs)

    assert read_contract(changed(Plain, reset=wrapper)).any_option


# -- isolation ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "declared", "thread_safe", "isolation"),
    [
        (Plain, None, True, "thread"),
        (Plain, None, False, "process"),
        (Plain, "thread", True, "thread"),
        (Plain, "inline", False, "inline"),
        (Plain, "process", False, "process"),
        (Async, None, True, "inline"),
        (Async, None, False, "inline"),
        (Async, "inline", True, "inline"),
        (Async, "process", True, "process"),
    ],
)
def test_where_calls_run(
    base: type, declared: Isolation | None, thread_safe: bool, isolation: str
) -> None:
    cls = changed(base, isolation=declared, thread_safe=thread_safe)
    assert read_contract(cls).isolation == isolation


@pytest.mark.parametrize(
    ("base", "declared", "thread_safe", "words"),
    [
        (Plain, "thread", False, "declare isolation 'process' or make it safe"),
        (Async, "thread", True, "is async and declares isolation 'thread'"),
        (Plain, "container", True, "it must be one of"),
    ],
)
def test_isolations_that_cannot_be(
    base: type, declared: Any, thread_safe: bool, words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        read_contract(changed(base, isolation=declared, thread_safe=thread_safe))


# -- the base class -----------------------------------------------------------------------


def test_what_an_author_need_not_write() -> None:
    env = Plain()
    assert env.state() == {}
    assert env.close() is None
    assert Plain.schemas(any=1) == {}
    Plain.prepare_process(4, any=1)
    assert (Plain.isolation, Plain.thread_safe, Plain.owns_thread) == (None, True, False)
    assert (Plain.session_options, Plain.version) == (frozenset(), "1.0.0")


def test_reset_and_step_have_to_be_written() -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Empty", (Environment,), {})()
    waits: Callable[[Any], Awaitable[Any]] = Async.reset
    assert waits is Async.reset
