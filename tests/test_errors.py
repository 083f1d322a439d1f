"""The exception tree, its way over the wire, and exceptions of user code as text."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from openenv_async import errors
from openenv_async.errors import (
    CallerError,
    ConnectionLost,
    DeadlineExceeded,
    EnvironmentFailure,
    EnvironmentRaised,
    InvalidAction,
    OpenEnvError,
    PeerError,
    ProviderError,
    ResponderFailed,
    ServerBusy,
    ServerError,
    SessionLost,
    TransportError,
    WorkerDied,
    bounded,
    error_class,
    error_facts,
    error_from_wire,
    error_text,
    exception_name,
    exception_text,
    raised_again,
    sendable,
    shown,
    signal_name,
    traceback_text,
)


def tree(cls: type[OpenEnvError]) -> list[type[OpenEnvError]]:
    return [cls, *(each for sub in cls.__subclasses__() for each in tree(sub))]


CLASSES = [cls for cls in tree(OpenEnvError) if cls.__module__ == errors.__name__]
ROOTS = (
    CallerError,
    EnvironmentFailure,
    DeadlineExceeded,
    PeerError,
    TransportError,
    ServerError,
    ProviderError,
    ResponderFailed,
)

# -- every class --------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_class_keeps_the_rules(cls: type[OpenEnvError]) -> None:
    assert "code" in cls.__dict__
    assert cls.code == cls.code.lower()
    assert 400 <= cls.http_status < 600
    assert isinstance(cls.retryable_by_default, bool)
    assert error_class(cls.code) is cls
    assert cls.__doc__
    assert cls is OpenEnvError or issubclass(cls, ROOTS)
    assert cls.__name__ in errors.__all__


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_it_crosses_the_wire_and_pickles(cls: type[OpenEnvError]) -> None:
    error = cls("it failed", retryable=True, env="Echo", exit_code=3, limit=[1, 2])
    for copied in (
        pickle.loads(pickle.dumps(error)),
        error_from_wire(cls.code, error.message, error.retryable, error.to_wire()),
    ):
        assert type(copied) is cls
        assert (str(copied), copied.message, copied.retryable) == ("it failed", "it failed", True)
        assert (copied.env, copied.exit_code, copied.phase) == ("Echo", 3, None)
        assert copied.detail == {"limit": [1, 2]}


def test_codes_are_unique() -> None:
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes) > 30


def test_a_code_that_exists_or_is_missing_is_refused() -> None:
    with pytest.raises(TypeError, match="'invalid_action' belongs to InvalidAction already"):
        type("Twice", (CallerError,), {"code": "invalid_action"})
    with pytest.raises(TypeError, match="Nameless must define its own wire code"):
        type("Nameless", (CallerError,), {})
    assert error_class("invalid_action") is InvalidAction


def test_timeouts_and_losses_are_those_of_python_too() -> None:
    assert issubclass(DeadlineExceeded, TimeoutError)
    assert issubclass(ConnectionLost, ConnectionError)
    assert issubclass(InvalidAction, ValueError)


def test_retryable_is_the_class_s_unless_it_is_given() -> None:
    assert ServerBusy("full").retryable
    assert not ServerBusy("full", retryable=False).retryable
    assert not InvalidAction("no").retryable
    assert InvalidAction("no", retryable=True).retryable


# -- context ------------------------------------------------------------------------------


def test_context_that_is_known_stays() -> None:
    error = EnvironmentRaised("x", session_id="s1", oom=False)
    assert error.add_context(session_id="other", request_id=0, phase=None) is error
    assert error.context() == {"session_id": "s1", "request_id": 0, "oom": False}
    with pytest.raises(TypeError, match="unknown error context 'colour'"):
        error.add_context(colour="red")


def test_the_wire_has_detail_and_context() -> None:
    error = SessionLost("gone", env="Echo", last_step=7)
    assert error.to_wire() == {"last_step": 7, "env": "Echo"}


def test_a_code_of_a_newer_peer_is_kept() -> None:
    error = error_from_wire("made_later", "text", True, None)
    assert type(error) is OpenEnvError
    assert error.detail == {"code": "made_later"}
    assert error_from_wire("error", "text", False, None).detail == {}


def test_a_detail_named_like_an_argument_does_no_harm() -> None:
    error = error_from_wire("invalid_action", "text", False, {"message": 1, "retryable": 2, "a": 3})
    assert (error.message, error.retryable, error.detail) == ("text", False, {"a": 3})


# -- values and exceptions as text --------------------------------------------------------


class Unprintable(Exception):
    def __str__(self) -> str:
        raise SystemExit("of its own")

    __repr__ = __str__


class Liar(Exception):
    def __str__(self) -> Any:
        class Text(str):
            def __len__(self) -> int:
                raise RuntimeError("no")

        return Text("a text")


def test_lone_surrogates_are_escaped() -> None:
    assert sendable("plain") == "plain"
    assert sendable("é") == "é"
    assert sendable("a\udc80") == "a\\udc80"
    assert OpenEnvError("a\udc80").message == "a\\udc80"


def test_a_value_is_shown_short_and_with_its_type() -> None:
    assert shown(3) == "3 (int)"
    assert shown(None) == "None"
    assert shown("a\n b") == "'a\\n b'"
    assert shown([1, 2]) == "[1, 2] (list)"
    assert shown("x" * 58) == f"'{'x' * 58}'"
    assert shown("x" * 59) == f"'{'x' * 56}…"
    assert shown("secret", secret=True) == "a value of type str"

    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert shown(Odd()) == "a value of type Odd"


def test_the_message_of_an_exception() -> None:
    assert error_text(ValueError("a\udc80")) == "a\\udc80"

    class Odd(Exception):
        def __str__(self) -> str:
            raise KeyError("x")

    assert error_text(Odd()) == "Odd, whose message cannot be read: KeyError"


def test_a_record_gets_the_facts_of_an_error() -> None:
    """Context and plain details of ours, the traceback of what it came from, or of any other."""

    def raised(error: Exception, cause: Exception | None = None) -> Exception:
        try:
            raise error from cause
        except Exception as exc:
            return exc

    died = WorkerDied("gone", exit_code=137, oom=True, container_id="c1", log_tail="the last", n=3)
    assert error_facts(died) == {
        "n": 3, "container_id": "c1", "exit_code": 137, "oom": True, "log_tail": "the last",
    }  # fmt: skip
    sent = EnvironmentRaised("boom", traceback="of the server", phase="step", odd=object())
    assert error_facts(raised(sent, raised(KeyError("k")))) == {
        "traceback": "of the server", "phase": "step",
    }  # fmt: skip
    caused = error_facts(raised(EnvironmentRaised("boom"), raised(KeyError("k"))))
    assert caused["traceback"].splitlines()[-1] == "KeyError: 'k'"
    assert "KeyError: 'k'" in error_facts(raised(KeyError("k")))["traceback"]
    assert error_facts(KeyError("never raised")) == {}


def test_text_is_bounded() -> None:
    assert bounded("12345", 5) == "12345"
    assert bounded("123456", 5) == "12345… (6 characters, cut at Limits.max_error_size = 5)"
    assert exception_text(ValueError("x" * 10), 3).startswith("xxx… (10 characters")


def test_an_exception_that_raises_when_it_is_printed() -> None:
    told = exception_text(Unprintable(), 100)
    assert told == "(its text cannot be read: str() raised SystemExit)"
    assert exception_text(Liar(), 100) == "a text"
    try:
        raise Unprintable
    except Unprintable as exc:
        text = traceback_text(exc, 10_000)
    assert "in test_an_exception_that_raises_when_it_is_printed" in text
    assert "Unprintable" in text.splitlines()[-1]


def test_a_metaclass_cannot_lie_about_the_name() -> None:
    class Meta(type):
        __name__ = "Other"

    class Real(Exception, metaclass=Meta):
        pass

    assert exception_name(Real()) == "Real"


def test_a_traceback_has_the_causes_and_its_middle_is_cut() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner
    except ValueError as exc:
        whole = traceback_text(exc, 10_000)
        cut = traceback_text(exc, 100)
        exact = traceback_text(exc, len(whole))
    assert "KeyError: 'inner'" in whole
    assert whole.endswith("ValueError: outer")
    assert exact == whole
    assert cut.startswith(whole[:25])
    assert cut.endswith(whole[-75:])
    assert f"… {len(whole) - 100} characters cut (Limits.max_error_size = 100) …" in cut


# -- one error for several callers --------------------------------------------------------


def test_another_caller_gets_a_copy_with_cause_and_traceback() -> None:
    try:
        raise InvalidAction("no", env="Echo") from KeyError("x")
    except InvalidAction as exc:
        exc.add_note("a note")
        error = exc
    again = raised_again(error)
    assert again is not error
    assert (type(again), str(again), again.env) == (InvalidAction, "no", "Echo")
    assert again.__cause__ is error.__cause__
    assert again.__suppress_context__
    assert again.__traceback__ is error.__traceback__
    assert again.__notes__ == ["a note"]
    again.add_note("another")
    assert error.__notes__ == ["a note"]


def test_what_is_added_to_one_of_the_copies_is_not_said_of_the_others() -> None:
    error = SessionLost("gone", limit=3)
    first, second = raised_again(error), raised_again(error)
    first.detail["last_acknowledged_step"] = 1
    second.add_context(session_id="b")
    assert (first.detail, first.session_id) == ({"limit": 3, "last_acknowledged_step": 1}, None)
    assert (error.detail, second.detail) == ({"limit": 3}, {"limit": 3})


class TakesTwo(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class Slotted(Exception):
    __slots__ = ("held",)


def test_what_no_copy_would_equal_is_raised_itself() -> None:
    for error in (TakesTwo("a", "b"), Slotted("x")):
        assert raised_again(error) is error
    plain = ConnectionResetError(104, "reset")
    again = raised_again(plain)
    assert again is not plain
    assert (again.errno, again.strerror) == (104, "reset")


async def test_two_tasks_raise_their_own() -> None:
    error = ServerBusy("full")

    async def raise_it() -> None:
        raise raised_again(error)

    first, second = await asyncio.gather(raise_it(), raise_it(), return_exceptions=True)
    assert first is not second
    assert error.__traceback__ is None


def test_signals_without_a_name() -> None:
    assert signal_name(15) == "SIGTERM"
    assert signal_name(4000) == "signal 4000"
