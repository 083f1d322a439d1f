"""One environment instance and the requests it answers.

A runner checks the lifecycle, decodes, calls the environment and encodes, all in the place where
the environment lives: on the loop, in a thread, in another process. It knows no socket and no
session; requests and replies are protocol frames. Only one request runs at a time.

Every exception of the environment ends here, as a ``Failed`` reply: whatever its class, and
whatever it does when it is printed. A result of the environment is read by ``results``. An
awaitable that came out of a call taken for a sync one makes the reply ``Unfinished``: the session
awaits it in a task.

A reset that names a task gets the columns of that task. Tasks may be in a large file, so one that
would be looked for on the loop is looked for in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import secrets
import typing
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

from openenv_async.engine.legal import LegalActionsFailed, LegalReader
from openenv_async.engine.requests import (
    Codecs,
    RunnerReply,
    RunnerRequest,
    Unfinished,
    failed,
    operation,
)
from openenv_async.environment import Environment
from openenv_async.errors import (
    CallerError,
    EnvironmentFailure,
    EnvironmentRaised,
    EnvironmentStartFailed,
    EpisodeEnded,
    EpisodeNotStarted,
    GoingAway,
    InvalidAction,
    InvalidModel,
    InvalidObservation,
    InvalidOption,
    OpenEnvError,
    OperationUnsupported,
    ProtocolError,
    ResponderFailed,
    bounded,
    exception_name,
    exception_text,
    sendable,
    traceback_text,
)
from openenv_async.models.observed import NotAPicture, picture_of
from openenv_async.models.results import (
    BadResult,
    Extracted,
    ResultReader,
    Unawaited,
    is_awaitable,
)
from openenv_async.protocol.frames import (
    Begun,
    Close,
    Closed,
    Failed,
    Observation,
    Open,
    Opened,
    Reset,
    State,
    StateIs,
    Step,
)
from openenv_async.protocol.lifecycle import LENIENT, START, TRANSITIONS, Move, Phase, advance
from openenv_async.spec import EnvironmentSpec
from openenv_async.telemetry.spans import Span, begin, is_on
from openenv_async.telemetry.tracing import TraceContext, current
from openenv_async.types import Limits, StepResult

__all__ = [
    "ROW_FIELD",
    "ROW_STEP",
    "Emit",
    "EnvironmentRunner",
    "Telling",
    "TracedRunner",
    "bad_action",
    "environment_raised",
    "row_field",
]

Emit = Callable[[bytes, bool], Any]
"""A function that sends a partial observation: payload, and whether it is of the declared type."""

ROW_STEP: Final = "_openenv_row_step"
"""A method of a host that returns a step of five values, those of a ``StepResult``, or ``None``."""
ROW_FIELD: Final = "_openenv_row_field"
"""A class method of a host whose models have this one field of any type, or ``None``: its row step
takes and returns the value of that in place of the model."""
_ENVIRONMENTS_OWN: Final = (
    *(EnvironmentFailure, ResponderFailed, InvalidAction, InvalidOption, InvalidModel),
    *(EpisodeEnded, EpisodeNotStarted, OperationUnsupported),
)
"""Errors of this package that an environment may raise. The others say something of the server
or the connection, which is not the environment's to say."""
_DEFAULT_LIMIT: Final = Limits().max_error_size


@dataclass(slots=True)
class Telling:
    """The share of exceptions that an engine's replies tell, one for all its runners.

    Attributes:
        debug: put the traceback of an environment's exception into the reply.
        max_error_size: characters of an exception's text and of its traceback.
        in_worker: put it there in any case, for the server to log and take out.
        draining: why no further episode begins, once that is so.
    """

    debug: bool = False
    max_error_size: int = _DEFAULT_LIMIT
    in_worker: bool = False
    draining: str | None = None


class EnvironmentRunner:
    """One environment instance, and the calls of it.

    Args:
        spec: how to build it and what it is.
        telling: what its replies tell of exceptions.

    Attributes:
        trouble: the traceback of the last exception of the environment, for the log.
    """

    __slots__ = (
        "_awaits_step",
        "_known",
        "_moves",
        "_read",
        "_step",
        "_telling",
        "env",
        "episode_id",
        "phase",
        "seed",
        "spec",
        "steps",
        "trouble",
    )

    def __init__(
        self,
        spec: EnvironmentSpec,
        telling: Telling = Telling(),  # noqa: B008  # nobody drains it
    ) -> None:
        self.spec = spec
        self.env: Any = None
        self.phase = START
        self._moves = TRANSITIONS
        self.episode_id: str | None = None
        self.seed: int | None = None
        self.steps = 0
        self.trouble: str | None = None
        self._read: ResultReader | LegalReader = spec.read
        self._known = spec.read.known
        self._step: Any = None
        self._awaits_step = "step" in spec.contract.awaited
        self._telling = telling

    # -- sync environments ------------------------------------------------------------------

    def handle(self, request: RunnerRequest, codecs: Codecs) -> RunnerReply | Unfinished:
        """Answer one request of a sync environment; never raises."""
        if type(request) is Step and self.phase is Phase.RUNNING:
            try:
                action = codecs.decode_action(request.payload)
            except BaseException as exc:
                return self.refused_action(request, exc, codecs)
            try:
                result = self._step(action)
            except BaseException as exc:
                return self.raised(request, exc, codecs)
            # The common case of _observed: a call of its own would cost each step more than the
            # reading does.
            read = self._known.get(type(result))
            if read is None:
                return self._observed(request, result, codecs)
            try:
                observation, reward, terminated, truncated, info = read(result)
                payload = codecs.encode_observation(observation)
                extra = None if info is None else codecs.encode_info(info)
            except BaseException as exc:
                return self.unread(request, result, exc, codecs)
            self.steps += 1
            if terminated or truncated:
                self._move(Move.END)
            return Observation(
                request.channel, request.seq, payload, reward, terminated, truncated, extra
            )
        try:
            call = self._prepare(request, codecs)
        except BaseException as exc:
            return self._refused(request, exc, codecs)
        try:
            result = call() if call is not None else None
        except BaseException as exc:
            return self.raised(request, exc, codecs)
        return self._finish(request, result, codecs)

    # -- rows of column frames, which ``rows`` runs --------------------------------------------

    def row_step(
        self, field: str | None = None
    ) -> tuple[Callable[[Any], Any], dict[type, Any] | None]:
        """Return what steps the environment, and the readers of its results by their type.

        There are none where the environment is a host whose step returns the five values of a
        ``StepResult``.

        Args:
            field: actions are the values of this field of their type; see ``row_field``.
        """
        spec = self.spec
        own = getattr(self.env, ROW_STEP, None)
        is_declared = field is not None or spec.types["observation"] is Any
        if is_declared and not spec.contract.tells_legal and _row_field(type(self.env)) == field:
            step = None if own is None else own()
            if step is not None:
                return step, None
        if field is None:
            return self._step, self._known
        model, step_model = spec.types["action"], self._step  # of a subclass that a factory made
        return (lambda value: step_model(model(**{field: value}))), self._known

    def reader_of(self, kind: type) -> Callable[[Any], Extracted]:
        """Return the reader of results of a type that was not met before."""
        return self._read[kind]

    def read_values(self, values: Any) -> Extracted:
        """Read the five values of a host's step, as those of a ``StepResult`` are read."""
        result = StepResult(*values)
        field = _row_field(type(self.env))
        if field is not None:
            result.observation = self.spec.types["observation"](**{field: result.observation})
        return self._read[StepResult](result)

    def begin_row(self, request: Reset, codecs: Codecs) -> Extracted | Failed | Unfinished:
        """Begin an episode; ``begun_row`` follows once the observation is encoded."""
        try:
            call = self._prepare(request, codecs)
        except BaseException as exc:
            return self._refused(request, exc, codecs)
        assert call is not None
        try:
            result = call()
        except BaseException as exc:
            return self.raised(request, exc, codecs)
        if is_awaitable(result):
            return Unfinished(request, result)
        try:
            return self._read[type(result)](result)
        except BaseException as exc:
            return self.unfit(request, exc, codecs)

    def begun_row(self) -> None:
        """Go on after a reset whose observation is encoded."""
        self._move(Move.BEGIN)

    def end_row(self) -> None:
        """End the episode after a step, or after the reset that ended it at once."""
        self._move(Move.END)

    def unread(
        self, request: RunnerRequest, result: Any, exc: BaseException, codecs: Codecs
    ) -> Failed | Unfinished:
        """Return the reply to a step whose result cannot be read or sent."""
        if type(exc) is Unawaited:
            return Unfinished(request, result)
        self.steps += 1
        return self.unfit(request, exc, codecs)

    # -- async environments -----------------------------------------------------------------

    async def step_async(self, request: Step, codecs: Codecs) -> RunnerReply | Unfinished:
        """Answer one step of an async environment that does not stream: the hot path."""
        if self.phase is not Phase.RUNNING or not self._awaits_step:
            return await self.handle_async(request, codecs, _no_emit)
        try:
            action = codecs.decode_action(request.payload)
        except BaseException as exc:
            return self.refused_action(request, exc, codecs)
        try:
            result = await self._step(action)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as exc:
            return self.raised(request, exc, codecs)
        return self._observed(request, result, codecs)

    async def handle_async(
        self, request: RunnerRequest, codecs: Codecs, emit: Emit
    ) -> RunnerReply | Unfinished:
        """Answer one request of an async environment.

        Raises:
            CancelledError, GeneratorExit: for the session's task to judge.
        """
        if type(request) is Step and request.credit and self.spec.contract.streams:
            return await self._stream(request, codecs, emit)
        try:
            call = self._prepare(request, codecs)
        except BaseException as exc:
            return self._refused(request, exc, codecs)
        try:
            result: Any = call() if call is not None else None
            while is_awaitable(result):
                result = await result
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as exc:
            return self.raised(request, exc, codecs)
        return self._finish(request, result, codecs)

    async def finish(self, unfinished: Unfinished, codecs: Codecs) -> RunnerReply | Unfinished:
        """Await what a call returned, and answer its request.

        Raises:
            CancelledError, GeneratorExit: for the session's task to judge.
        """
        try:
            result = await unfinished.awaitable
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as exc:
            return self.raised(unfinished.request, exc, codecs)
        return self._finish(unfinished.request, result, codecs)

    async def _stream(self, request: Step, codecs: Codecs, emit: Emit) -> RunnerReply:
        """Run ``step_stream``: emit what is surely partial, answer with the final one.

        A ``StepResult`` and whatever is yielded last are final; a value that is not of the
        declared observation type is partial; one that is of it is held until the next comes,
        or an error shows that it was not the last. Each is encoded and read at once,
        since the environment may use the same object again.
        """
        try:
            self._move(Move.STEP)
            action = self._decode_action(request, codecs)
        except BaseException as exc:
            return self._refused(request, exc, codecs)
        declared = self.spec.types["observation"]
        declared = typing.get_origin(declared) or declared
        checkable = _is_checkable(declared)
        held: bytes | None = None
        final: RunnerReply | None = None
        stream: AsyncIterator[Any] | None = None
        try:
            stream = self.env.step_stream(action)
            while is_awaitable(stream):
                stream = await stream  # type: ignore[misc]  # an async function that returns one
            if not hasattr(type(stream), "__aiter__"):
                raise InvalidObservation(
                    f"step_stream() of {self.spec.name} returned a {type(stream).__name__}:"
                    " make it an async generator (`async def` with `yield`)"
                )
            async for item in stream:
                if held is not None:
                    await emit(held, True)
                    held = None
                if isinstance(item, StepResult):
                    return self._observed(request, item, codecs)  # type: ignore[return-value]  # it is not awaitable
                if not checkable or isinstance(item, declared):
                    held, final = self._held(request, item, codecs)
                else:
                    await emit(codecs.encode_any(item), False)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as exc:
            if held is not None:
                await emit(held, True)
            return self.raised(request, exc, codecs, sent="step_stream")
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                try:
                    await close()
                except Exception as exc:
                    final = self.raised(request, exc, codecs, sent="step_stream")
                    held = b""
        if held is None or final is None:
            return self._fail(
                request,
                InvalidObservation(
                    f"step_stream() of {self.spec.name} ended without a final observation"
                ),
                codecs,
            )
        if isinstance(final, Observation):
            self._count(final)
        return final

    def _held(self, request: Step, item: Any, codecs: Codecs) -> tuple[bytes, RunnerReply]:
        """Return what was yielded, as a partial observation and as the reply if it is the last."""
        try:
            observation, reward, terminated, truncated, info = self._read[type(item)](item)
            extra = None if info is None else codecs.encode_info(info)
        except Exception as exc:
            return codecs.encode_observation(item), self.unfit(request, exc, codecs)
        payload = codecs.encode_observation(observation)
        return payload, Observation(
            request.channel, request.seq, payload, reward, terminated, truncated, extra
        )

    def _count(self, final: Observation) -> None:
        self.steps += 1
        if final.terminated or final.truncated:
            self._move(Move.END)

    # -- both -------------------------------------------------------------------------------

    def _decode_action(self, request: Step, codecs: Codecs) -> Any:
        try:
            return codecs.decode_action(request.payload)
        except OpenEnvError as exc:
            raise bad_action(exc) from None

    def _prepare(self, request: RunnerRequest, codecs: Codecs) -> Callable[[], Any] | None:
        """Check and decode; what to call, or ``None`` when there is nothing to call."""
        match request:
            case Open():
                options = codecs.decode_any(request.payload) if request.payload else None
                self._build(options)
                if request.lenient:
                    self._moves = LENIENT
                return None
            case Reset():
                advance(self.phase, Move.RESET)  # before its options are looked at
                return self._prepare_reset(request, codecs)
            case Step():
                self._move(Move.STEP)
                action = self._decode_action(request, codecs)
                return lambda: self._step(action)
            case State():
                self._move(Move.STATE)
                if not request.render:
                    return self._state
                if not self.spec.contract.renders:
                    raise OperationUnsupported(
                        f"{self.spec.name} has no render(): add one that returns a uint8 array"
                        " [height, width, 3] or a text"
                    )
                render: Callable[[], Any] = self._method("render")
                return render
            case Close():
                if self.phase is Phase.CLOSED:
                    return None
                self._move(Move.CLOSE)
                return None if self.spec.is_instance else self._method("close")

    def _state(self) -> Any:
        """Return what ``state()`` returns, or what the property or attribute ``state`` is."""
        if self.spec.contract.state_is_property:
            return self.env.state
        state = getattr(self.env, "state", dict)
        if inspect.isroutine(state) or (callable(state) and "state" not in _attributes(self.env)):
            return state()
        method = getattr(type(self.env), "state", None)
        if inspect.isroutine(method) and method is not Environment.state:
            return self._method("state")()  # which the attribute only has the name of
        return state

    def _method(self, name: str) -> Any:
        """Return a call of the environment, also one that an attribute of its name hides."""
        found = getattr(self.env, name, None)
        if found is None or callable(found):
            return found
        method: Any = getattr(type(self.env), name, None)
        return method.__get__(self.env) if hasattr(method, "__get__") else method

    def _move(self, move: Move) -> None:
        self.phase = advance(self.phase, move, self._moves)

    def _build(self, options: Any) -> None:
        if options is not None and not isinstance(options, dict):
            raise InvalidOption("session options must be a map of names to values")
        try:
            self.env = self.spec.build(options)
        except BaseException as exc:
            if self._is_its_own(exc):
                raise
            name, text = exception_name(exc), exception_text(exc, self._telling.max_error_size)
            raise EnvironmentStartFailed(
                f"{self.spec.name} could not be built: {name}: {text}",
                phase="open",
                env=self.spec.name,
                raised=name,
            ) from exc
        step = self._step = self._method("step")
        own = getattr(type(self.env), "step", None)
        if own is not None and getattr(step, "__func__", None) is own:
            pass  # no look at the attributes: it gives the instance a dict, slower to read
        elif "step" in _attributes(self.env) and callable(self.env.step):
            self._awaits_step = inspect.iscoroutinefunction(step)
        if self.spec.contract.tells_legal:
            self._read = LegalReader(self.spec.read, self._method("legal_actions"), self.spec.name)
            self._known = self._read.known

    def _prepare_reset(self, request: Reset, codecs: Codecs) -> Callable[[], Any]:
        if self._telling.draining is not None:
            raise GoingAway(
                f"the server is going away: {self._telling.draining}; it begins no further episode"
            )
        options = codecs.decode_any(request.payload) if request.payload is not None else {}
        if not isinstance(options, dict):
            raise InvalidOption("reset options must be a map of names to values")
        if request.seed is not None and request.seed < 0:
            raise InvalidOption(f"seed must not be negative, got {request.seed}", option="seed")
        episode_id = request.episode_id
        if episode_id is not None and not 0 < len(episode_id) <= 255:
            raise InvalidOption("episode_id must have 1 to 255 characters", option="episode_id")
        if not self.spec.names_task(options):
            return self._resetting(request, self.spec.check_options(options))
        if self._must_not_block(options):
            return functools.partial(self._reset_to_task, request, options)
        return self._resetting(request, self.spec.with_task(options))

    def _must_not_block(self, options: dict[str, Any]) -> bool:
        """Return whether this runs on the loop, and looking a task up may take long."""
        contract, tasks = self.spec.contract, self.spec.tasks
        assert tasks is not None
        if contract.is_async:
            return True
        return contract.isolation == "inline" and not tasks.is_ready(options.get("split"))

    async def _reset_to_task(self, request: Reset, options: dict[str, Any]) -> Any:
        assert self.spec.tasks is not None
        find = functools.partial(self.spec.with_task, options)
        kwargs = await self.spec.tasks.in_thread(find)
        result = self._resetting(request, kwargs)()
        while is_awaitable(result):
            result = await result
        return result

    def _resetting(self, request: Reset, kwargs: dict[str, Any]) -> Callable[[], Any]:
        """Note the episode, and return the call that begins it."""
        self.seed = secrets.randbits(31) if request.seed is None else request.seed
        self.episode_id = request.episode_id or secrets.token_hex(8)
        self.steps = 0
        self._move(Move.RESET)
        if self.spec.contract.takes_seed:
            kwargs["seed"] = self.seed
        if self.spec.contract.takes_episode_id:
            kwargs["episode_id"] = self.episode_id
        reset = self._method("reset")
        return lambda: reset(**kwargs)

    def _finish(
        self, request: RunnerRequest, result: Any, codecs: Codecs
    ) -> RunnerReply | Unfinished:
        if type(request) is Step:
            return self._observed(request, result, codecs)
        if is_awaitable(result):
            return Unfinished(request, result)
        match request:
            case Reset():
                return self._begun(request, result, codecs)
            case State():
                return self._told(request, result, codecs)
            case Open():
                return Opened(request.channel)
            case _:
                return Closed(request.channel, request.seq)

    def _observed(self, request: Step, result: Any, codecs: Codecs) -> RunnerReply | Unfinished:
        try:
            try:
                read = self._known[type(result)]
            except KeyError:
                read = self._read[type(result)]
            observation, reward, terminated, truncated, info = read(result)
            payload = codecs.encode_observation(observation)
            extra = None if info is None else codecs.encode_info(info)
        except BaseException as exc:
            return self.unread(request, result, exc, codecs)
        self.steps += 1
        if terminated or truncated:
            self._move(Move.END)
        return Observation(
            request.channel, request.seq, payload, reward, terminated, truncated, extra
        )

    def _begun(self, request: Reset, result: Any, codecs: Codecs) -> RunnerReply:
        assert self.episode_id is not None
        assert self.seed is not None
        try:
            read: Extracted = self._read[type(result)](result)
            observation, reward, terminated, truncated, info = read
            payload = codecs.encode_observation(observation)
            extra = None if info is None else codecs.encode_info(info)
        except BaseException as exc:
            return self.unfit(request, exc, codecs)
        self._move(Move.END if terminated or truncated else Move.BEGIN)
        return Begun(
            request.channel,
            request.seq,
            payload,
            self.episode_id,
            self.seed,
            reward,
            terminated,
            truncated,
            extra,
        )

    def _told(self, request: State, state: Any, codecs: Codecs) -> RunnerReply:
        rendered = request.render
        try:
            if rendered:
                payload = codecs.encode_any(picture_of(state))
            else:
                self.spec.check_state(state)
                payload = codecs.encode_state(state)
        except BaseException as exc:
            return self.unfit(request, exc, codecs)
        facts = (self.episode_id, self.seed, self.steps)
        return StateIs(request.channel, request.seq, payload, *facts, rendered)

    # -- failures ---------------------------------------------------------------------------

    def raised(
        self, request: RunnerRequest, exc: BaseException, codecs: Codecs, sent: str = ""
    ) -> Failed:
        """The reply for an exception of the environment, those included that end programs.

        Args:
            request: what was asked.
            exc: an error that an environment may raise goes on as it is, another is wrapped.
            codecs: the codecs.
            sent: the call, where it has another name than the request.
        """
        if self._is_its_own(exc):
            # A caller's mistake may come with every other action, and no log has its traceback.
            if self._telling.debug or not issubclass(type(exc), CallerError):
                self.trouble = traceback_text(exc, self._telling.max_error_size)
            own = self._own(request, exc, codecs)
            if own is not None:
                return own
        self.trouble = traceback_text(exc, self._telling.max_error_size)
        what = sent or operation(request)
        error = environment_raised(self.spec, what, exc, self._telling.max_error_size)
        error.phase = operation(request)  # the call may have another name
        return self._fail(request, error, codecs)

    def _own(self, request: RunnerRequest, exc: Any, codecs: Codecs) -> Failed | None:
        """The reply of an error that goes on as it is; ``None`` when it is not whole.

        An author's subclass may have forgotten ``super().__init__()``, or overridden what is
        asked here.
        """
        try:
            exc.message = sendable(bounded(exc.message, self._telling.max_error_size))
            self._add_penalty(exc)
            return self._fail(request, exc, codecs)
        except BaseException:
            return None

    def _is_its_own(self, exc: BaseException) -> bool:
        """Return whether an environment may raise it: some of our errors, and an author's."""
        kind = type(exc)
        if not issubclass(kind, OpenEnvError):
            return False
        if issubclass(kind, _ENVIRONMENTS_OWN) or kind in (OpenEnvError, CallerError):
            return True
        return not kind.__module__.startswith("openenv_async.")

    def _refused(self, request: RunnerRequest, exc: BaseException, codecs: Codecs) -> Failed:
        """The reply for a request that was not run: what is wrong with it, or with the start."""
        if not issubclass(type(exc), OpenEnvError):
            return self.raised(request, exc, codecs)
        assert isinstance(exc, OpenEnvError)
        if issubclass(type(exc), EnvironmentFailure):
            cause = exc.__cause__ or exc
            self.trouble = traceback_text(cause, self._telling.max_error_size)
        return self._own(request, exc, codecs) or self.raised(
            request, RuntimeError(exc.code), codecs
        )

    def refused_action(self, request: Step, exc: BaseException, codecs: Codecs) -> Failed:
        if issubclass(type(exc), OpenEnvError):
            error = bad_action(exc)  # type: ignore[arg-type]  # it is one
        else:
            text = exception_text(exc, self._telling.max_error_size)
            error = InvalidAction(f"invalid action: {exception_name(exc)}: {text}")
        self._add_penalty(error)
        return self._fail(request, error, codecs)

    def _add_penalty(self, error: OpenEnvError) -> None:
        """Say in the error of a refused action what the environment gives for it."""
        penalty = self.spec.invalid_action_reward
        if penalty is not None and isinstance(error, InvalidAction):
            error.detail.setdefault("reward", penalty)

    def unfit(self, request: RunnerRequest, exc: BaseException, codecs: Codecs) -> Failed:
        """The reply for a result that cannot be read or sent."""
        what = f"{operation(request)}() of {self.spec.name} returned"
        kind = type(exc)
        if kind is LegalActionsFailed and exc.__cause__ is not None:
            return self.raised(request, exc.__cause__, codecs, sent="legal_actions")
        if kind is BadResult or kind is NotAPicture:
            text = f"{what} {exc}"
        elif kind is Unawaited:
            text = f"{what} an awaitable that nobody awaits: make it `async def`"
        elif issubclass(kind, OpenEnvError):
            text = f"{what} what cannot be sent: {exc.message}"  # type: ignore[attr-defined]  # ours
        else:  # of a property, a __post_init__ or a __float__ of the environment's
            self.trouble = traceback_text(exc, self._telling.max_error_size)
            shown = exception_text(exc, self._telling.max_error_size)
            text = f"{what} what cannot be sent: {exception_name(exc)}: {shown}"
        error = InvalidObservation(bounded(text, self._telling.max_error_size))
        return self._fail(request, error, codecs)

    def _fail(self, request: RunnerRequest, error: OpenEnvError, codecs: Codecs) -> Failed:
        error.add_context(env=self.spec.name, phase=operation(request))
        telling = self._telling
        if self.trouble is not None and (telling.debug or telling.in_worker):
            error.detail["traceback"] = self.trouble
        if self.episode_id is not None and issubclass(type(error), EnvironmentFailure):
            error.detail["episode_id"] = self.episode_id
        return failed(request, error, codecs.format)


def row_field(spec: EnvironmentSpec) -> str | None:
    """Return the field whose values rows take and return in place of models, if there is one."""
    return None if spec.contract.tells_legal else _row_field(spec.cls)


def _row_field(cls: Any) -> str | None:
    told = getattr(cls, ROW_FIELD, None)
    field: str | None = None if told is None else told()
    return field


class TracedRunner(EnvironmentRunner):
    """The runner of sessions whose client sent a trace context, and of all while spans are made.

    Other sessions pay nothing. While spans are made, the session is one, and each call a child of
    it, or of the context that came with the call; the environment's code runs inside that.
    """

    __slots__ = ("_session", "trace")

    def __init__(
        self,
        spec: EnvironmentSpec,
        telling: Telling,
        trace: TraceContext,
    ) -> None:
        super().__init__(spec, telling)
        self.trace = trace
        self._session: Span | None = None

    def handle(self, request: RunnerRequest, codecs: Codecs) -> RunnerReply | Unfinished:
        """Answer one request of a sync environment, inside the trace."""
        with self._inside(request) as inside:
            return inside.told(super().handle(request, codecs))

    async def step_async(self, request: Step, codecs: Codecs) -> RunnerReply | Unfinished:
        """Answer one step of an async environment, inside the trace."""
        with self._inside(request) as inside:
            return inside.told(await super().step_async(request, codecs))

    async def handle_async(
        self, request: RunnerRequest, codecs: Codecs, emit: Emit
    ) -> RunnerReply | Unfinished:
        """Answer one request of an async environment, inside the trace."""
        with self._inside(request) as inside:
            return inside.told(await super().handle_async(request, codecs, emit))

    async def finish(self, unfinished: Unfinished, codecs: Codecs) -> RunnerReply | Unfinished:
        """Finish as ``EnvironmentRunner.finish`` does, inside the trace."""
        with self._inside(unfinished.request) as inside:
            return inside.told(await super().finish(unfinished, codecs))

    def ended(self, reason: OpenEnvError | None) -> None:
        """End the span of the session."""
        span, self._session = self._session, None
        if span is not None:
            span.end(None if reason is None else (reason.code, reason.message))

    def _inside(self, request: RunnerRequest) -> _Inside:
        if type(request) is Open and self._session is None and is_on():
            facts = {"openenv.environment": self.spec.name}
            self._session = begin("session", self.trace, facts, serves=True)
        parent = self.trace
        if self._session is not None and (type(request) is Open or parent.traceparent is None):
            parent = self._session.context
            if self.trace.traceparent is not None:
                self.trace = parent  # calls over WebSocket bring none of their own
        return _Inside(self, request, parent)


class _Inside:
    """A block inside a trace, and inside a span of the call while spans are made."""

    __slots__ = ("_before", "_parent", "_request", "_runner", "_span", "_stack")

    def __init__(self, runner: TracedRunner, request: RunnerRequest, parent: TraceContext) -> None:
        self._runner = runner
        self._request = request
        self._parent = parent
        self._span: Span | None = None
        self._stack: contextlib.ExitStack | None = None

    def __enter__(self) -> _Inside:
        context = self._parent
        if is_on():
            self._span = begin(operation(self._request), context)
        if self._span is not None:
            context = self._span.context
            self._stack = contextlib.ExitStack()
            self._stack.enter_context(self._span.inside())
        self._before = current.set(context)
        return self

    def told(self, reply: RunnerReply | Unfinished) -> RunnerReply | Unfinished:
        """Note what came of it in its span; return the reply."""
        span, runner = self._span, self._runner
        if span is not None:
            facts: dict[str, Any] = {"openenv.episode.id": runner.episode_id}
            if isinstance(reply, Begun | Observation):
                facts |= {
                    "openenv.step": runner.steps,
                    "openenv.reward": reply.reward,
                    "openenv.terminated": reply.terminated or None,
                    "openenv.truncated": reply.truncated or None,
                }
            span.note(facts)
            if isinstance(reply, Failed):
                span.end((reply.code, reply.message))
        return reply

    def __exit__(self, *exc: object) -> None:
        current.reset(self._before)
        if self._stack is not None:
            self._stack.close()
        if self._span is not None:
            self._span.end()


def _attributes(env: Any) -> Any:
    """The instance's own attributes."""
    return getattr(env, "__dict__", ())


def _is_checkable(declared: Any) -> bool:
    """Return whether it can be told that a value is of this type: not of Any or a TypedDict."""
    try:
        isinstance(None, declared)
    except Exception:  # an author's metaclass may raise anything
        return False
    return isinstance(declared, type)


def environment_raised(
    spec: EnvironmentSpec, what: str, exc: BaseException, limit: int = _DEFAULT_LIMIT
) -> EnvironmentRaised:
    """The error of an exception that the environment's ``what()`` let through."""
    name, text = exception_name(exc), exception_text(exc, limit)
    return EnvironmentRaised(
        f"{what}() of {spec.name} raised {name}: {text}",
        raised=name,
        text=text,
        phase="step" if what == "step_stream" else what,
    )


async def _no_emit(payload: bytes, whole: bool) -> None:
    """The sink of partials for requests that do not stream."""


def bad_action(exc: OpenEnvError) -> OpenEnvError:
    """Decoding errors of an action, named as such."""
    if isinstance(exc, InvalidModel | ProtocolError):
        return InvalidAction(f"invalid action: {exc.message}", **exc.detail)
    return exc
