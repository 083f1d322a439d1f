"""The exception tree: one class per decision a caller can make.

Every class has a unique wire ``code``; the same table gives the HTTP status and the code used
in the upstream dialect. An error crosses any transport as (code, message, detail, retryable) and
comes back as the same class with the same context, and pickles.

Roots name the culprit: the caller, the environment, the peer, the transport, the server, the
provider.
Timeouts are also ``TimeoutError``, connection loss is also ``ConnectionError``.
"""

from __future__ import annotations

import copy
import signal
import traceback
from typing import Any, ClassVar, Final, TypeVar

__all__ = [
    "AccessRefused",
    "AgentFailed",
    "AgentRefused",
    "BudgetExhausted",
    "CallRefused",
    "CallerError",
    "ConnectFailed",
    "ConnectionLost",
    "DeadlineExceeded",
    "EnvironmentDied",
    "EnvironmentFailure",
    "EnvironmentRaised",
    "EnvironmentStartFailed",
    "EpisodeEnded",
    "EpisodeNotStarted",
    "GoingAway",
    "InvalidAction",
    "InvalidCompletion",
    "InvalidModel",
    "InvalidObservation",
    "InvalidOption",
    "InvalidTasks",
    "JournalFailed",
    "NoReward",
    "OpenEnvError",
    "OperationCancelled",
    "OperationUnsupported",
    "OriginRefused",
    "PayloadTooLarge",
    "PeerError",
    "ProtocolError",
    "ProviderError",
    "QuotaReached",
    "ResourceLimit",
    "ResponderFailed",
    "ResponderRateLimited",
    "ResponderUnavailable",
    "RunBroken",
    "RunError",
    "RunInUse",
    "RunMismatch",
    "RunNotWritten",
    "ServerBusy",
    "ServerError",
    "SessionBusy",
    "SessionClosed",
    "SessionLost",
    "SessionNotFound",
    "TargetNotFound",
    "TransportError",
    "Unauthorized",
    "UnreadableReply",
    "VersionMismatch",
    "WorkerDied",
    "WorkerStartFailed",
    "WrongTarget",
    "error_class",
]

_CONTEXT: Final = (
    "session_id",
    "request_id",
    "env",
    "container_id",
    "phase",
    "exit_code",
    "oom",
    "log_tail",
    "server_version",
)
_REGISTRY: Final[dict[str, type[OpenEnvError]]] = {}
_TRACEBACK: Final = 16 * 1024
_PLAIN: Final = (bool, int, float, str, type(None))
E = TypeVar("E", bound=BaseException)


class OpenEnvError(Exception):
    """Base of every error this package raises on purpose.

    Attributes:
        message: what went wrong and the remedy, in one sentence.
        retryable: whether the same call may succeed later with nothing else changed.
        detail: further facts as plain values (limits, sizes, names).
        session_id, request_id, env, container_id, phase: where it happened, each ``None`` when
            unknown. ``phase`` is one of connect, open, reset, step, state, close.
        exit_code, oom, log_tail, server_version: of the process in which it happened, each
            ``None`` when unknown.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    upstream_code: ClassVar[str] = "EXECUTION_ERROR"
    retryable_by_default: ClassVar[bool] = False

    session_id: str | None
    request_id: int | None
    env: str | None
    container_id: str | None
    phase: str | None
    exit_code: int | None
    oom: bool | None
    log_tail: str | None
    server_version: str | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        code = cls.__dict__.get("code")
        if code is None:
            raise TypeError(f"{cls.__name__} must define its own wire code")
        if code in _REGISTRY:
            raise TypeError(f"wire code {code!r} belongs to {_REGISTRY[code].__name__} already")
        _REGISTRY[code] = cls

    def __init__(self, message: str, *, retryable: bool | None = None, **detail: Any) -> None:
        message = sendable(message)
        super().__init__(message)
        self.message = message
        self.retryable = self.retryable_by_default if retryable is None else retryable
        for name in _CONTEXT:
            setattr(self, name, detail.pop(name, None))
        self.detail: dict[str, Any] = detail

    def context(self) -> dict[str, Any]:
        """The known context fields, without the unknown ones."""
        return {name: value for name in _CONTEXT if (value := getattr(self, name)) is not None}

    def add_context(self, **context: Any) -> OpenEnvError:
        """Fill context fields that are still unknown; returns self."""
        for name, value in context.items():
            if name not in _CONTEXT:
                raise TypeError(f"unknown error context {name!r}")
            if getattr(self, name) is None:
                setattr(self, name, value)
        return self

    def to_wire(self) -> dict[str, Any]:
        """``detail`` and context merged, as they travel in a Failed frame."""
        return {**self.detail, **self.context()}

    def __reduce__(self) -> Any:
        return (_rebuild, (type(self), self.message, self.retryable, self.to_wire()))


_REGISTRY[OpenEnvError.code] = OpenEnvError


def sendable(text: str) -> str:
    """``text`` as UTF-8 can carry it: file names in messages may hold lone surrogates."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def shown(value: Any, *, secret: bool = False) -> str:
    """A value for a message: short, with its type, whatever its ``repr`` does."""
    kind = type(value).__name__
    if secret:
        return f"a value of type {kind}"
    try:
        text = " ".join(repr(value).split())
    except Exception:
        return f"a value of type {kind}"
    if len(text) > 60:
        text = f"{text[:57]}…"
    return text if value is None or isinstance(value, str) else f"{text} ({kind})"


def error_text(error: BaseException) -> str:
    """The message of an exception, also of one whose ``__str__`` raises."""
    try:
        return sendable(str(error))
    except Exception as exc:
        return f"{type(error).__name__}, whose message cannot be read: {type(exc).__name__}"


def error_facts(error: BaseException) -> dict[str, Any]:
    """Facts of an error that its code and message do not have, for a record: plain values.

    Of an ``OpenEnvError`` its context and details, of any other exception its traceback, cut as
    ``Limits.max_error_size`` cuts by default. Facts that are not plain are left out.
    """
    if not isinstance(error, OpenEnvError):
        return {"traceback": traceback_text(error, _TRACEBACK)} if error.__traceback__ else {}
    facts = {name: error.detail[name] for name in error.detail if name not in _CONTEXT}
    plain = {name: value for name, value in facts.items() if isinstance(value, _PLAIN)}
    if "traceback" not in plain and error.__cause__ is not None:
        plain["traceback"] = traceback_text(error.__cause__, _TRACEBACK)
    return plain | error.context()


# -- exceptions of user code as text ------------------------------------------------------------
#
# One may raise when it is printed, claim another class, or hold gigabytes of text: the functions
# look at its real type, catch all that its own methods raise, and cut long text.

_type_name: Final = type.__dict__["__name__"].__get__
"""The name that a type was made with: a metaclass cannot lie about it."""


def exception_name(exc: BaseException) -> str:
    """The name of its class."""
    name: str = _type_name(type(exc))
    return name


def exception_text(exc: BaseException, limit: int) -> str:
    """Its text, or what kept it from having one.

    Args:
        exc: any exception.
        limit: characters at most (``Limits.max_error_size``); more are cut, which is said.
    """
    try:
        text = str(exc)
        if type(text) is not str:
            text = str.__str__(text)
    except BaseException as second:  # raised by its __str__: nothing of it may get out
        return f"(its text cannot be read: str() raised {exception_name(second)})"
    return bounded(sendable(text), limit)


def traceback_text(exc: BaseException, limit: int) -> str:
    """Its traceback as Python prints it, with those of its causes.

    Args:
        exc: any exception.
        limit: characters at most (``Limits.max_error_size``); the middle of more is cut.
    """
    try:
        text = "".join(traceback.format_exception(exc))
    except BaseException:  # raised by its own methods or those of a cause
        frames = "".join(traceback.format_tb(exc.__traceback__))
        text = (
            f"Traceback (most recent call last):\n{frames}"
            f"{exception_name(exc)}: {exception_text(exc, limit)}\n"
        )
    text = sendable(text).rstrip("\n")
    if len(text) <= limit:
        return text
    cut = f"\n… {len(text) - limit} characters cut (Limits.max_error_size = {limit}) …\n"
    return text[: limit // 4] + cut + text[-(limit - limit // 4) :]


def signal_name(number: int) -> str:
    """Return the name of the signal that ended a process, such as ``SIGKILL``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def bounded(text: str, limit: int) -> str:
    """``text``, cut at ``limit`` characters."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text):,} characters, cut at Limits.max_error_size = {limit})"


def raised_again(error: E) -> E:
    """An error for one more of several callers: a copy, as one object is not raised by two tasks.

    Type, attributes, causes and traceback are those of ``error``. One that a copy would not be
    equal to (an exception class may take other arguments than it keeps) is returned itself.
    """
    cls = type(error)
    if any(base.__dict__.get("__slots__") for base in cls.__mro__):
        return error
    try:
        copied = copy.copy(error)
        copied.__dict__.update(error.__dict__)
        if type(copied) is not cls or copied.args != error.args or str(copied) != str(error):
            return error
    except Exception:  # whatever its constructor raises
        return error
    if isinstance(copied, OpenEnvError):
        copied.detail = copied.detail.copy()  # what is added to one is not said of the others
    copied.__cause__, copied.__context__ = error.__cause__, error.__context__
    copied.__suppress_context__ = error.__suppress_context__
    if notes := getattr(error, "__notes__", None):
        copied.__notes__ = list(notes)
    return copied.with_traceback(error.__traceback__)


def _rebuild(
    cls: type[OpenEnvError], message: str, retryable: bool, detail: dict[str, Any]
) -> OpenEnvError:
    return cls(message, retryable=retryable, **detail)


def error_class(code: str) -> type[OpenEnvError]:
    """The class of a wire code; an unknown code (a newer peer) gives ``OpenEnvError``."""
    return _REGISTRY.get(code, OpenEnvError)


def error_from_wire(
    code: str, message: str, retryable: bool, detail: dict[str, Any] | None
) -> OpenEnvError:
    """Rebuild the exception that a peer sent."""
    detail = {k: v for k, v in (detail or {}).items() if k not in ("message", "retryable")}
    cls = error_class(code)
    if cls is OpenEnvError and code != OpenEnvError.code:
        detail["code"] = code
    return cls(message, retryable=retryable, **detail)


# -- the caller ---------------------------------------------------------------------------


class CallerError(OpenEnvError):
    """The call was wrong; change the call."""

    code = "caller_error"
    http_status = 400
    upstream_code = "VALIDATION_ERROR"


class InvalidAction(CallerError, ValueError):
    """The action does not fit the environment's action type."""

    code = "invalid_action"
    http_status = 422


class UnreadableReply(CallerError, ValueError):
    """Raised by a policy when no action can be read from what its model said.

    The environment does not hear of it. The penalty of an episode that ends so is the environment's
    ``invalid_action_reward``, unless the policy gives another one, or none:
    ``UnreadableReply("no JSON", reply=text, reward=None)``.
    """

    code = "unreadable_reply"
    http_status = 422


class InvalidOption(CallerError, ValueError):
    """A reset option is unknown or has the wrong type."""

    code = "invalid_option"
    http_status = 422


class InvalidTasks(CallerError, ValueError):
    """Tasks cannot be read, are not tasks, repeat an id or do not fit the environment."""

    code = "invalid_tasks"
    http_status = 422


class InvalidModel(CallerError, TypeError):
    """A value cannot be encoded, or does not fit the declared model type."""

    code = "invalid_model"
    http_status = 422


class EpisodeNotStarted(CallerError):
    """step() before the first reset()."""

    code = "episode_not_started"
    http_status = 409
    upstream_code = "EXECUTION_ERROR"


class EpisodeEnded(CallerError):
    """step() after the episode ended."""

    code = "episode_ended"
    http_status = 409
    upstream_code = "EXECUTION_ERROR"


class SessionBusy(CallerError):
    """A second call while one is running on the same session."""

    code = "session_busy"
    http_status = 409
    upstream_code = "EXECUTION_ERROR"


class SessionClosed(CallerError):
    """The session was closed, by this side, by the server or by its idle timeout."""

    code = "session_closed"
    http_status = 409
    upstream_code = "SESSION_ERROR"


class SessionNotFound(CallerError):
    """No session has this id (or the secret does not match)."""

    code = "session_not_found"
    http_status = 404
    upstream_code = "SESSION_ERROR"


class PayloadTooLarge(CallerError, ValueError):
    """A message is larger than the limit that was exchanged; ``detail`` has size and limit."""

    code = "payload_too_large"
    http_status = 413


class OperationUnsupported(CallerError):
    """The environment or the peer's dialect cannot do this."""

    code = "unsupported"
    http_status = 501
    upstream_code = "EXECUTION_ERROR"


class OperationCancelled(CallerError):
    """The request was cancelled by its caller."""

    code = "cancelled"
    http_status = 499
    upstream_code = "EXECUTION_ERROR"


class TargetNotFound(CallerError, LookupError):
    """No environment is known by this name, path or ``module:Class``."""

    code = "target_not_found"
    http_status = 404


class WrongTarget(CallerError, TypeError):
    """An object is not a target, or not one that this call takes; nothing was started."""

    code = "wrong_target"
    http_status = 422


class RunError(CallerError):
    """A run folder cannot be begun, gone on with or read."""

    code = "run_error"


class RunBroken(RunError, ValueError):
    """The manifest of a run folder cannot be read, or files of another run lie in the folder."""

    code = "run_broken"


class RunInUse(RunError):
    """Another process writes to the run folder."""

    code = "run_in_use"
    http_status = 409
    retryable_by_default = True


class RunMismatch(RunError, ValueError):
    """A run is not gone on with: its tasks, environment, policy or settings are others now."""

    code = "run_mismatch"
    http_status = 409


class RunNotWritten(RunError, OSError):
    """An outcome could not be written to the run folder, on a full disk for one."""

    code = "run_not_written"
    http_status = 507
    retryable_by_default = True


class Unauthorized(CallerError, PermissionError):
    """The token is missing or wrong."""

    code = "unauthorized"
    http_status = 401
    upstream_code = "SESSION_ERROR"


class AgentRefused(CallerError, PermissionError):
    """The agents' token was shown where only the server's own is taken."""

    code = "agent_refused"
    http_status = 403
    upstream_code = "SESSION_ERROR"


class AccessRefused(CallerError, PermissionError):
    """The token is valid, but does not open this: another environment, or an administrator's."""

    code = "access_refused"
    http_status = 403
    upstream_code = "SESSION_ERROR"


class CallRefused(CallerError, ValueError):
    """Raised when an agent asks the gateway for what it cannot serve, or its session may not."""

    code = "call_refused"
    http_status = 400


class BudgetExhausted(CallRefused):
    """Raised when a session has spent its calls, tokens, cost or time."""

    code = "budget_exhausted"


class OriginRefused(CallerError, PermissionError):
    """A web page of an origin that is not on the allow-list asked."""

    code = "origin_refused"
    http_status = 403
    upstream_code = "SESSION_ERROR"


# -- the environment ----------------------------------------------------------------------


class EnvironmentFailure(OpenEnvError):
    """The environment failed; the runtime around it works."""

    code = "environment_failure"


class EnvironmentStartFailed(EnvironmentFailure):
    """The environment's constructor or factory raised."""

    code = "environment_start_failed"
    upstream_code = "FACTORY_ERROR"


class EnvironmentRaised(EnvironmentFailure):
    """The environment's reset, step, state or close raised; ``detail`` has the type."""

    code = "environment_raised"


class InvalidObservation(EnvironmentFailure):
    """The environment returned what cannot be encoded or is not what it declares."""

    code = "invalid_observation"


class NoReward(EnvironmentFailure):
    """The episode ended and its tests gave no reward: it failed, which is not a reward of 0."""

    code = "no_reward"


class EnvironmentDied(EnvironmentFailure):
    """The process or container that ran the environment is gone."""

    code = "environment_died"


# -- time ---------------------------------------------------------------------------------


class DeadlineExceeded(OpenEnvError, TimeoutError):
    """A deadline passed; ``detail`` names the ``Timeouts`` field and its value in seconds."""

    code = "deadline_exceeded"
    http_status = 504


# -- the peer and the transport -----------------------------------------------------------


class PeerError(OpenEnvError):
    """The other end broke the protocol."""

    code = "peer_error"
    http_status = 400
    upstream_code = "VALIDATION_ERROR"


class ProtocolError(PeerError):
    """A frame is malformed, unknown, out of order or nested too deep."""

    code = "protocol_error"


class VersionMismatch(PeerError):
    """The two ends share no protocol version."""

    code = "version_mismatch"


class AgentFailed(PeerError):
    """Raised when an agent cannot be started, or fails before its episode has ended."""

    code = "agent_failed"


class TransportError(OpenEnvError, ConnectionError):
    """The network failed."""

    code = "transport_error"
    http_status = 502
    upstream_code = "SESSION_ERROR"
    retryable_by_default = True


class ConnectFailed(TransportError):
    """No connection could be made."""

    code = "connect_failed"


class ConnectionLost(TransportError):
    """The connection ended while a request was under way."""

    code = "connection_lost"


class SessionLost(TransportError):
    """The episode is gone for good; ``detail`` has the last acknowledged step."""

    code = "session_lost"
    http_status = 410
    retryable_by_default = False


# -- the server ---------------------------------------------------------------------------


class ServerError(OpenEnvError):
    """The server cannot do this now."""

    code = "server_error"
    upstream_code = "SESSION_ERROR"


class ServerBusy(ServerError):
    """Every session is taken; ``detail`` names the limit, the load and the setting to raise."""

    code = "server_busy"
    http_status = 503
    upstream_code = "CAPACITY_REACHED"
    retryable_by_default = True


class QuotaReached(ServerBusy):
    """The token has used its quota; ``detail`` names it, its limit, and when to come again."""

    code = "quota_reached"
    http_status = 429


class ResourceLimit(ServerError):
    """An operating system limit (file descriptors, memory, threads) was reached."""

    code = "resource_limit"
    http_status = 503
    upstream_code = "CAPACITY_REACHED"
    retryable_by_default = True


class GoingAway(ServerError):
    """The server is shutting down; open the session elsewhere."""

    code = "going_away"
    http_status = 503
    retryable_by_default = True


class JournalFailed(ServerError, OSError):
    """Raised when the journal of a gateway cannot be written, or is not one."""

    code = "journal_failed"


# -- providers ----------------------------------------------------------------------------


class ProviderError(OpenEnvError):
    """A provider (Docker, a process, a cluster) could not do what was asked of it."""

    code = "provider_error"
    http_status = 502
    retryable_by_default = True


class WorkerStartFailed(ProviderError):
    """A worker did not start, or never shook hands; ``log_tail`` has what it wrote."""

    code = "worker_start_failed"


class WorkerDied(ProviderError):
    """The worker that ran the environment ended; its reason, exit code and last lines tell why."""

    code = "worker_died"


class ResponderFailed(ProviderError):
    """The language model that an environment talks to gave no answer."""

    code = "responder_failed"


class ResponderUnavailable(ResponderFailed, ConnectionError):
    """The model's server cannot be reached, fails, or cuts its answers; tries did not help."""

    code = "responder_unavailable"


class ResponderRateLimited(ResponderFailed):
    """The model's server still asks for fewer requests after several tries."""

    code = "responder_rate_limited"


class InvalidCompletion(ResponderFailed):
    """The model's server answered with something other than a chat completion."""

    code = "invalid_completion"
    retryable_by_default = False
