"""One environment instance and the requests it answers.

A host checks the lifecycle, decodes, calls the environment and encodes, all in the place where
the environment lives: on the loop, in a thread, in another process. It knows no socket and no
session; requests and replies are protocol frames. Only one request runs at a time.

Every exception of the environment ends here, as a ``Failed`` reply.
"""

from __future__ import annotations

import asyncio
import secrets
import traceback
import typing
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from openenv_async.engine.requests import HostReply, HostRequest, Wire, failed, operation
from openenv_async.errors import (
    EnvironmentRaised,
    EnvironmentStartFailed,
    InvalidAction,
    InvalidModel,
    InvalidObservation,
    InvalidOption,
    OpenEnvError,
    ProtocolError,
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
from openenv_async.protocol.lifecycle import Phase, refuse
from openenv_async.spec import EnvironmentSpec
from openenv_async.types import StepResult

__all__ = ["Emit", "Host", "bad_action", "environment_raised"]

Emit = Callable[[bytes, bool], Any]
"""Sends one partial observation: encoded payload, whether it is of the declared type."""

_RAISED: Final = (Exception, SystemExit)


class Host:
    """Runs one environment instance.

    Args:
        spec: how to build it and what it is.
        debug: put the traceback of an environment's exception into the reply.
    """

    __slots__ = (
        "_awaits_step",
        "_closed",
        "_debug",
        "_extract",
        "_step",
        "env",
        "episode_id",
        "phase",
        "seed",
        "spec",
        "steps",
    )

    def __init__(self, spec: EnvironmentSpec, debug: bool = False) -> None:
        self.spec = spec
        self.env: Any = None
        self.phase = Phase.FRESH
        self.episode_id: str | None = None
        self.seed: int | None = None
        self.steps = 0
        self._extract = spec.extract
        self._step: Any = None
        self._awaits_step = "step" in spec.contract.awaited
        self._debug = debug
        self._closed = False

    # -- sync environments ------------------------------------------------------------------

    def handle(self, request: HostRequest, wire: Wire) -> HostReply:
        """Answer one request of a sync environment; never raises."""
        if type(request) is Step and self.phase is Phase.RUNNING:
            try:
                action = wire.decode_action(request.payload)
            except OpenEnvError as exc:
                return self._fail(request, bad_action(exc), wire)
            try:
                result = self._step(action)
            except BaseException as exc:
                return self.raised(request, exc, wire)
            return self._observed(request, result, wire)
        try:
            call = self._prepare(request, wire)
            result = call() if call is not None else None
        except BaseException as exc:
            return self.raised(request, exc, wire)
        return self._finish(request, result, wire)

    # -- async environments -----------------------------------------------------------------

    async def step_async(self, request: Step, wire: Wire) -> HostReply:
        """As ``handle_async``, for the step that does not stream: the hot path."""
        if self.phase is not Phase.RUNNING or not self._awaits_step:
            return await self.handle_async(request, wire, _no_emit)
        try:
            action = wire.decode_action(request.payload)
        except OpenEnvError as exc:
            return self._fail(request, bad_action(exc), wire)
        try:
            result = await self._step(action)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            return self.raised(request, exc, wire)
        return self._observed(request, result, wire)

    async def handle_async(self, request: HostRequest, wire: Wire, emit: Emit) -> HostReply:
        """Answer one request of an async environment; raises nothing but cancellation."""
        try:
            if type(request) is Step and request.credit and self.spec.contract.streams:
                result = await self._stream(request, wire, emit)
            else:
                call = self._prepare(request, wire)
                result = call() if call is not None else None
                if operation(request) in self.spec.contract.awaited:
                    result = await result if result is not None else None
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            return self.raised(request, exc, wire)
        return self._finish(request, result, wire)

    async def _stream(self, request: Step, wire: Wire, emit: Emit) -> Any:
        """Run ``step_stream``: emit what is surely partial, return the final one.

        A ``StepResult`` and whatever is yielded last are final; a value that is not of the
        declared observation type is partial; one that is of it is held until the next comes,
        or an error shows that it was not the last.
        """
        refused = refuse(self.phase, "step")
        if refused is not None:
            raise refused
        action = self._decode_action(request, wire)
        declared = self.spec.types["observation"]
        declared = typing.get_origin(declared) or declared
        checkable = isinstance(declared, type) and not typing.is_typeddict(declared)
        held: Any = None
        holding = False
        stream: AsyncIterator[Any] = self.env.step_stream(action)
        try:
            async for item in stream:
                if holding:
                    await emit(wire.encode_observation(held), True)
                if isinstance(item, StepResult):
                    return item
                holding = not checkable or isinstance(item, declared)
                held = item
                if not holding:
                    await emit(wire.encode_any(item), False)
        except Exception:
            if holding:
                await emit(wire.encode_observation(held), True)
            raise
        finally:
            await stream.aclose()  # type: ignore[attr-defined]  # an async generator
        if not holding:
            raise InvalidObservation(
                f"step_stream() of {self.spec.name} ended without a final observation"
            )
        return held

    # -- both -------------------------------------------------------------------------------

    def _decode_action(self, request: Step, wire: Wire) -> Any:
        try:
            return wire.decode_action(request.payload)
        except OpenEnvError as exc:
            raise bad_action(exc) from None

    def _prepare(self, request: HostRequest, wire: Wire) -> Callable[[], Any] | None:
        """Check and decode; what to call, or ``None`` when there is nothing to call."""
        match request:
            case Open():
                options = wire.decode_any(request.payload) if request.payload else None
                self._build(options)
                return None
            case Reset():
                self._require("reset")
                return self._prepare_reset(request, wire)
            case Step():
                self._require("step")
                action = self._decode_action(request, wire)
                return lambda: self._step(action)
            case State():
                self._require("state")
                if self.spec.contract.state_is_property:
                    return lambda: self.env.state
                return getattr(self.env, "state", dict)
            case Close():
                if self._closed:
                    return None
                self._closed = True
                self.phase = Phase.CLOSED
                return None if self.spec.is_instance else getattr(self.env, "close", None)

    def _require(self, operation: str) -> None:
        refused = refuse(self.phase, operation)
        if refused is not None:
            raise refused

    def _build(self, options: Any) -> None:
        if options is not None and not isinstance(options, dict):
            raise InvalidOption("session options must be a map of names to values")
        try:
            self.env = self.spec.build(options)
        except OpenEnvError:
            raise
        except _RAISED as exc:
            raise EnvironmentStartFailed(
                f"{self.spec.name} could not be built: {type(exc).__name__}: {exc}",
                phase="open",
                env=self.spec.name,
                raised=type(exc).__name__,
            ) from exc
        self._step = self.env.step

    def _prepare_reset(self, request: Reset, wire: Wire) -> Callable[[], Any]:
        options = wire.decode_any(request.payload) if request.payload is not None else {}
        if not isinstance(options, dict):
            raise InvalidOption("reset options must be a map of names to values")
        if request.seed is not None and request.seed < 0:
            raise InvalidOption(f"seed must not be negative, got {request.seed}", option="seed")
        episode_id = request.episode_id
        if episode_id is not None and not 0 < len(episode_id) <= 255:
            raise InvalidOption("episode_id must have 1 to 255 characters", option="episode_id")
        kwargs = self.spec.check_options(options)
        self.seed = secrets.randbits(31) if request.seed is None else request.seed
        self.episode_id = episode_id or secrets.token_hex(8)
        self.steps = 0
        self.phase = Phase.FRESH
        if self.spec.contract.takes_seed:
            kwargs["seed"] = self.seed
        if self.spec.contract.takes_episode_id:
            kwargs["episode_id"] = self.episode_id
        return lambda: self.env.reset(**kwargs)

    def _finish(self, request: HostRequest, result: Any, wire: Wire) -> HostReply:
        match request:
            case Step():
                return self._observed(request, result, wire)
            case Reset():
                return self._begun(request, result, wire)
            case State():
                try:
                    payload = wire.encode_state(result)
                except OpenEnvError as exc:
                    return self._fail(request, self._bad_value("state", exc), wire)
                return StateIs(
                    request.channel, request.seq, payload, self.episode_id, self.seed, self.steps
                )
            case Open():
                return Opened(request.channel)
            case Close():
                return Closed(request.channel, request.seq)

    def _observed(self, request: Step, result: Any, wire: Wire) -> HostReply:
        self.steps += 1
        try:
            observation, reward, terminated, truncated, info = self._extract(result)
            payload = wire.encode_observation(observation)
            extra = None if info is None else wire.encode_any(info)
        except (OpenEnvError, TypeError) as exc:
            return self._fail(request, self._bad_value("step", exc), wire)
        if terminated or truncated:
            self.phase = Phase.ENDED
        return Observation(
            request.channel, request.seq, payload, reward, terminated, truncated, extra
        )

    def _begun(self, request: Reset, result: Any, wire: Wire) -> HostReply:
        assert self.episode_id is not None
        assert self.seed is not None
        try:
            observation, reward, terminated, truncated, info = self._extract(result)
            payload = wire.encode_observation(observation)
            extra = None if info is None else wire.encode_any(info)
        except (OpenEnvError, TypeError) as exc:
            return self._fail(request, self._bad_value("reset", exc), wire)
        self.phase = Phase.ENDED if terminated or truncated else Phase.RUNNING
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

    # -- failures ---------------------------------------------------------------------------

    def raised(self, request: HostRequest, exc: BaseException, wire: Wire) -> Failed:
        """The reply for an exception: ours as it is, the environment's wrapped.

        Extensions in other languages raise what is no ``Exception`` (a Rust panic); it must not
        take the thread or the task with it.
        """
        if isinstance(exc, KeyboardInterrupt | GeneratorExit):
            raise exc
        what = operation(request)
        error = exc if isinstance(exc, OpenEnvError) else environment_raised(self.spec, what, exc)
        if self._debug:
            error.detail["traceback"] = "".join(traceback.format_exception(exc))
        return self._fail(request, error, wire)

    def _fail(self, request: HostRequest, error: OpenEnvError, wire: Wire) -> Failed:
        error.add_context(env=self.spec.name, phase=operation(request))
        return failed(request, error, wire.format)

    def _bad_value(self, what: str, exc: Exception) -> OpenEnvError:
        return InvalidObservation(
            f"{what}() of {self.spec.name} returned what cannot be sent: {exc}"
        )


def environment_raised(spec: EnvironmentSpec, what: str, exc: BaseException) -> EnvironmentRaised:
    """The error of an exception that the environment's ``what()`` let through."""
    return EnvironmentRaised(
        f"{what}() of {spec.name} raised {type(exc).__name__}: {exc}",
        raised=type(exc).__name__,
        text=str(exc),
        phase=what,
    )


async def _no_emit(payload: bytes, whole: bool) -> None:
    """For requests that do not stream."""


def bad_action(exc: OpenEnvError) -> OpenEnvError:
    """Decoding errors of an action, named as such."""
    if isinstance(exc, InvalidModel | ProtocolError):
        return InvalidAction(f"invalid action: {exc.message}", **exc.detail)
    return exc
