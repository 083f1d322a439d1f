"""HTTPEnvClient: one session of a served environment over plain HTTP.

For what cannot hold a WebSocket. The session's id and secret are made here and every request is
numbered, so a request whose connection was lost is sent again under its number and runs once.

Rules:

- ``open``, ``reset``, ``step``, ``state`` and ``close`` give an awaitable where an event loop
  runs in this thread, and block elsewhere. ``sync()`` always blocks.
- A session is the server's: it may be used from one event loop after another. Sockets are shared
  by all clients of a loop and close with the last of them, at the latest with the loop.
- After a request whose fate is unknown, the next one first asks the server how far it got.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar, cast

import msgspec

from openenv_async.addresses import is_here
from openenv_async.client.loop_thread import background_loop
from openenv_async.client.models import ModelHooks, WireModels, wire_models
from openenv_async.client.sockets import Sockets
from openenv_async.client.tls import Trust, trusted
from openenv_async.depth import check_msgpack_depth
from openenv_async.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    OpenEnvError,
    OperationUnsupported,
    ProtocolError,
    ServerError,
    SessionBusy,
    SessionClosed,
    SessionLost,
    SessionNotFound,
    Unauthorized,
    error_from_wire,
)
from openenv_async.protocol.codec import too_large
from openenv_async.tokens import check_token
from openenv_async.tracing import inject
from openenv_async.types import (
    MAX_DEPTH,
    ActT,
    EpisodeInfo,
    Limits,
    ObsT,
    StateT,
    StepResult,
    Timeouts,
)

if TYPE_CHECKING:
    from ssl import SSLContext

    import aiohttp

    from openenv_async.client.contained import Contained
    from openenv_async.client.sync import SyncEnvClient

__all__ = ["HTTPEnvClient"]

T = TypeVar("T")

_MEDIA: Final = "application/msgpack"
_PAUSES: Final = (0.0, 0.1, 0.5, 1.0)
"""Seconds before each further attempt of a request whose connection was lost."""
_BACKSTOP: Final = 5.0
"""Seconds after the server's deadline at which the client stops waiting for its answer."""
_GATEWAY_ERRORS: Final = (502, 503, 504)


class _Result(msgspec.Struct):
    observation: msgspec.Raw
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False
    info: msgspec.Raw = msgspec.Raw(b"\xc0")  # msgspec reads ``Raw | None`` as None alone
    episode_id: str = ""
    seed: int = 0


class _State(msgspec.Struct):
    state: msgspec.Raw
    episode_id: str | None = None
    seed: int | None = None
    step_count: int = 0


class _Opened(msgspec.Struct):
    seq: int = 0


class _Problem(msgspec.Struct):
    code: str
    message: str
    retryable: bool = False
    detail: dict[str, Any] = {}


class _Failure(msgspec.Struct):
    error: _Problem


class _Calls(Generic[ActT, ObsT, StateT]):
    """The session and its calls, all of them coroutines; ``HTTPEnvClient`` is its façade."""

    def __init__(
        self,
        base_url: str,
        token: str | None,
        timeouts: Timeouts,
        limits: Limits,
        options: dict[str, Any] | None,
        headers: dict[str, str] | None,
        ssl: Trust,
    ) -> None:
        self.base_url = _http_url(base_url)
        self.timeouts = timeouts
        self.limits = limits
        self.contained: Contained | None = None
        self.models: Callable[[], WireModels]
        self.episode: EpisodeInfo | None = None
        self.session_id: str | None = None
        self._secret = ""
        self._options = options
        self._headers = {**(headers or {}), "Accept": _MEDIA}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {check_token(token)}"
        self._ssl = ssl
        self._trust: SSLContext | Literal[True] | None = None
        self._seq = 0
        self._is_unsure = False
        self._is_busy = False
        self._is_closed = False
        self._sockets: Sockets | None = None

    # -- calls --------------------------------------------------------------------------------

    async def open(self) -> None:
        with self._exclusive("open"):
            await self._ready()

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> StepResult[ObsT]:
        wire = self.models()
        body: dict[str, Any] = {
            key: msgspec.Raw(wire.encode_any(value)) for key, value in options.items()
        }
        body |= {"seed": seed, "episode_id": episode_id}
        seconds = self.timeouts.reset if timeout is None else timeout
        with self._exclusive("reset"):
            had = self.session_id is not None
            try:
                reply = await self._numbered("reset", body, _Result, seconds)
            except (SessionLost, SessionClosed):
                if not had or self._is_closed:
                    raise
                # A reset begins anew anyway: in a new session.
                reply = await self._numbered("reset", body, _Result, seconds)
        self.episode = EpisodeInfo(reply.episode_id, reply.seed)
        return self._result(wire, reply)

    async def step(self, action: ActT, *, timeout: float | None = None) -> StepResult[ObsT]:
        wire = self.models()
        body = {"action": msgspec.Raw(wire.encode_action(action))}
        seconds = self.timeouts.step if timeout is None else timeout
        with self._exclusive("step"):
            reply = await self._numbered("step", body, _Result, seconds)
        if self.episode is not None:
            self.episode.step_count += 1
        return self._result(wire, reply)

    async def state(self, *, timeout: float | None = None) -> StateT:
        seconds = self.timeouts.state if timeout is None else timeout
        with self._exclusive("state"):
            reply = await self._numbered("state", None, _State, seconds)
        if reply.episode_id is not None:
            self.episode = EpisodeInfo(reply.episode_id, reply.seed or 0, reply.step_count)
        state = self.models().decode_state(memoryview(reply.state))
        if isinstance(state, dict):
            state.setdefault("episode_id", reply.episode_id)
            state.setdefault("step_count", reply.step_count)
        return cast(StateT, state)

    def stream_step(
        self, action: ActT, *, timeout: float | None = None
    ) -> AsyncGenerator[StepResult[ObsT], None]:
        raise OperationUnsupported("HTTP cannot stream a step: use EnvClient")

    async def close(self) -> None:
        self._is_closed = True
        try:
            if self.session_id is not None:
                await self._numbered("close", {}, dict, self.timeouts.close)
        except OpenEnvError:
            pass  # it is gone, which was the wish
        finally:
            self._forget()
            sockets, self._sockets = self._sockets, None
            if sockets is not None:
                await sockets.release()
            if self.contained is not None:
                await self.contained.aclose()

    # -- inside -------------------------------------------------------------------------------

    def _result(self, wire: WireModels, reply: _Result) -> StepResult[ObsT]:
        return StepResult(
            wire.decode_observation(memoryview(reply.observation)),
            reply.reward,
            reply.terminated,
            reply.truncated,
            wire.decode_any(memoryview(reply.info)) or {},
        )

    def _exclusive(self, what: str) -> _Exclusive:
        if self._is_busy:
            raise SessionBusy(
                f"{what}() while another call of this client is running: await one call before"
                " the next, or make another client",
                session_id=self.session_id,
            )
        return _Exclusive(self)

    def _forget(self) -> None:
        self.session_id = None
        self._seq = 0
        self._is_unsure = False

    async def _ready(self) -> None:
        """Open the session, or learn how far it got when that is unknown."""
        if self._is_closed and self.session_id is None:
            raise SessionClosed("this client was closed: make a new one")
        if self.session_id is not None and not self._is_unsure:
            return
        is_new = self.session_id is None
        if self.contained is not None:
            worker = await self.contained.start()
            self.base_url = worker.url
            self._headers["Authorization"] = f"Bearer {worker.token}"
        if is_new:
            self.session_id, self._secret = secrets.token_hex(16), secrets.token_hex(16)
        body: dict[str, Any] = {"resume": not is_new}
        if is_new and self._options:
            body["options"] = msgspec.Raw(self.models().encode_any(self._options))
        try:
            reply = await self._explained("POST", "/open", body, _Opened, self.timeouts.open, None)
        except BaseException as exc:
            if isinstance(exc, OpenEnvError):
                exc.add_context(session_id=self.session_id, phase="open")
            if is_new or isinstance(exc, SessionLost | SessionClosed | SessionNotFound):
                self._forget()
            raise
        if is_new:
            self.episode = None
        self._seq = reply.seq
        self._is_unsure = False

    async def _numbered(
        self, what: str, body: dict[str, Any] | None, reply: type[T], timeout: float | None
    ) -> T:
        """One request of the session."""
        await self._ready()
        seq = self._seq + 1
        self._is_unsure = True  # until the server has said that it took the number
        method = "GET" if body is None else "POST"
        try:
            return await self._explained(method, f"/{what}", body, reply, timeout, seq)
        except OpenEnvError as exc:
            exc.add_context(session_id=self.session_id, request_id=seq)
            if isinstance(exc, SessionNotFound):
                lost = SessionLost(
                    "the session is gone: the server restarted, or it was idle for too long;"
                    " call reset() for a new one",
                    session_id=self.session_id,
                )
                self._forget()
                raise lost from None
            if isinstance(exc, SessionClosed | SessionLost):
                self._forget()
            raise

    async def _explained(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        reply: type[T],
        timeout: float | None,
        seq: int | None,
    ) -> T:
        """As ``_exchange``; when the container of this client ended, its end is the error."""
        try:
            return await self._exchange(method, path, body, reply, timeout, seq)
        except OpenEnvError as exc:
            if self.contained is None:
                raise
            raise await self.contained.explain(exc.add_context(phase=path[1:])) from None

    async def _exchange(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        reply: type[T],
        timeout: float | None,
        seq: int | None,
    ) -> T:
        """Send a request until it is answered; what is numbered, or names its session, may repeat.

        Raises:
            ConnectFailed: no connection for the first attempt.
            ConnectionLost: none for the further ones.
        """
        import aiohttp

        headers = {
            **self._headers,
            "X-OpenEnv-Session": f"{self.session_id}.{self._secret}",
            "X-OpenEnv-Timeout": f"{0.0 if timeout is None else timeout:.6f}",
        }
        inject(headers)
        if seq is not None:
            headers["X-OpenEnv-Seq"] = str(seq)
        data = None
        if body is not None:
            headers["Content-Type"] = _MEDIA
            data = msgspec.msgpack.encode(body)
            if len(data) > self.limits.max_message_size:
                self._is_unsure = False
                raise too_large(len(data), self.limits.max_message_size)
        client = await self._client()
        if self._trust is None:
            self._trust = trusted(self._ssl) or True
        total = math.inf if timeout is None else timeout + _BACKSTOP
        limits = aiohttp.ClientTimeout(
            total=None if total == math.inf else total, sock_connect=self.timeouts.connect
        )
        lost: Exception | None = None
        for pause in _PAUSES:
            if pause:
                await asyncio.sleep(pause)
            try:
                async with client.request(
                    method,
                    self.base_url + path,
                    data=data,
                    headers=headers,
                    timeout=limits,
                    ssl=self._trust,
                ) as response:
                    answer = await self._read(response)
                    return self._decode(response, answer, reply)
            except OpenEnvError:
                raise  # some are also OSError or TimeoutError
            except aiohttp.ConnectionTimeoutError:
                raise ConnectFailed(
                    f"{self.base_url} did not answer within {self.timeouts.connect:g} s"
                    " (Timeouts.connect)",
                    phase="connect",
                ) from None
            except TimeoutError:
                raise DeadlineExceeded(
                    "the server did not answer within the deadline it was given: it is"
                    " overloaded or the network is stuck",
                    field=path[1:],
                    value=timeout,
                    session_id=self.session_id,
                    request_id=seq,
                ) from None
            except aiohttp.ClientConnectorError as exc:
                if lost is None:
                    raise ConnectFailed(
                        f"cannot connect to {self.base_url}: {exc}", phase="connect"
                    ) from exc
                lost = exc
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as exc:
                lost = exc
            except aiohttp.InvalidURL as exc:
                raise ConnectFailed(f"{self.base_url} is no address: {exc}") from None
            except aiohttp.ClientError as exc:
                raise ProtocolError(f"{self.base_url} does not speak HTTP: {exc}") from exc
        raise ConnectionLost(f"the connection to {self.base_url} was lost: {lost}") from lost

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        limit = self.limits.max_message_size
        parts: list[bytes] = []
        size = 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > limit:
                response.close()
                raise too_large(size, limit)
            parts.append(part)
        return b"".join(parts)

    def _decode(self, response: aiohttp.ClientResponse, answer: bytes, reply: type[T]) -> T:
        """The reply, or the error that it is."""
        taken = response.headers.get("X-OpenEnv-Seq", "")
        if taken.isascii() and taken.isdigit():
            self._seq, self._is_unsure = int(taken), False
        if response.content_type != _MEDIA:
            raise _foreign(self.base_url, response.status, response.reason or "")
        check_msgpack_depth(answer, MAX_DEPTH + 4)
        try:
            if response.status < 400:
                return msgspec.msgpack.decode(answer, type=reply)
            problem = msgspec.msgpack.decode(answer, type=_Failure).error
        except (msgspec.MsgspecError, ValueError) as exc:
            raise ProtocolError(f"{self.base_url} sent an unreadable reply: {exc}") from None
        raise error_from_wire(problem.code, problem.message, problem.retryable, problem.detail)

    async def _client(self) -> aiohttp.ClientSession:
        """The running loop's sockets."""
        loop = asyncio.get_running_loop()
        if self._sockets is None or self._sockets.loop is not loop:
            # Those of a loop that has ended were closed by it.
            self._sockets = await Sockets.acquire(not is_here(self.base_url))
        return self._sockets.client


class _Exclusive:
    """One call at a time."""

    def __init__(self, calls: _Calls[Any, Any, Any]) -> None:
        self._calls = calls

    def __enter__(self) -> None:
        self._calls._is_busy = True

    def __exit__(self, *exc: object) -> None:
        self._calls._is_busy = False


class HTTPEnvClient(ModelHooks[ActT, ObsT, StateT], Generic[ActT, ObsT, StateT]):
    """One session of a served environment, over HTTP requests.

    Typed by its parameters as ``EnvClient`` is. Each call works both ways: awaited inside a
    running event loop, or plainly, where it blocks::

        env = MyEnv(base_url="http://localhost:8000")
        result = env.reset()
        result = env.step(MyAction(command="go"))
        env.close()

    Args:
        base_url: ``http://HOST:PORT`` of the server, with the path it is mounted at.
        token: the server's access token.
        timeouts: deadlines; those of reset, step, state and close are sent with each request.
        limits: sizes this side accepts.
        options: constructor options of the environment, where it opens any to clients.
        headers: more headers of every request.
        ssl: what to trust at https and wss: an ``ssl.SSLContext``, or the path of a file of
            certificates (PEM); by default what the system trusts.

    Raises:
        ConnectFailed, Unauthorized, ServerBusy, EnvironmentStartFailed: by what opens it.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
        options: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        ssl: Trust = None,
    ) -> None:
        self.base_url = base_url
        self._contained: Contained | None = None
        self._settings = (token, timeouts or Timeouts(), limits or Limits(), options, headers, ssl)
        self._calls = self._fresh_calls()

    def _fresh_calls(self) -> _Calls[ActT, ObsT, StateT]:
        calls: _Calls[ActT, ObsT, StateT] = _Calls(self.base_url, *self._settings)
        calls.models = lambda: wire_models(self, "msgpack")
        calls.contained = self._contained
        return calls

    def __getstate__(self) -> dict[str, Any]:
        """The settings: a pickled client opens a session of its own when it is used."""
        return {key: value for key, value in self.__dict__.items() if key != "_calls"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._calls = self._fresh_calls()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """The same as calling the class."""
        return cls(url, **options)

    @classmethod
    def from_docker_image(cls, image: str, port: int = 8000, **options: Any) -> Self:
        """As ``EnvClient.from_docker_image``; the first call starts the container, awaited or not.

        Args:
            image: its name.
            port: where the server in the container listens.
            options: of ``DockerProvider``, and ``timeouts``, ``limits``, ``options`` and
                ``headers`` of the client.
        """
        from openenv_async.client.contained import docker_options

        contained, own = docker_options({"image": image, **options}, port)
        client = cls("http://127.0.0.1", **own)
        client._contained = client._calls.contained = contained
        return client

    @classmethod
    def _from_docker(cls, image: str, port: int = 8000, **options: Any) -> Self:
        """For subclasses whose own ``from_docker_image`` calls it."""
        return HTTPEnvClient.from_docker_image.__func__(cls, image, port, **options)  # type: ignore[attr-defined, no-any-return]  # a bound class method has it

    def __await__(self) -> Generator[Any, None, Self]:
        """Open it: ``env = await MyEnv.from_docker_image(…)``."""

        async def opened() -> Self:
            await self._calls.open()
            return self

        return opened().__await__()

    async def __aenter__(self) -> Self:
        await self._calls.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._calls.close()

    def __enter__(self) -> Self:
        background_loop().run(self._calls.open())
        return self

    def __exit__(self, *exc: object) -> None:
        background_loop().run(self._calls.close())

    @property
    def session_id(self) -> str | None:
        """The id of the open session."""
        return self._calls.session_id

    @property
    def episode(self) -> EpisodeInfo | None:
        """The episode that the last reset began, with the steps taken in it."""
        return self._calls.episode

    def open(self) -> Any:
        """Open the session now; idempotent. Gives (or resolves to) this client."""

        async def opened() -> Any:
            await self._calls.open()
            return self

        return _either(opened())

    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """As ``EnvClient.reset``: a ``StepResult``, or an awaitable of one."""
        return _either(
            self._calls.reset(seed=seed, episode_id=episode_id, timeout=timeout, **options)
        )

    def step(self, action: ActT, *, timeout: float | None = None) -> Any:
        """As ``EnvClient.step``: a ``StepResult``, or an awaitable of one."""
        return _either(self._calls.step(action, timeout=timeout))

    def state(self, *, timeout: float | None = None) -> Any:
        """As ``EnvClient.state``: the state, or an awaitable of it."""
        return _either(self._calls.state(timeout=timeout))

    def close(self) -> Any:
        """As ``EnvClient.close``: ``None``, or an awaitable of it."""
        return _either(self._calls.close())

    def sync(self) -> SyncEnvClient[ActT, ObsT, StateT]:
        """A client that always blocks, typed, over the same session."""
        from openenv_async.client.sync import SyncEnvClient

        return SyncEnvClient.wrap(cast(Any, self._calls))


def _either(call: Coroutine[Any, Any, T]) -> Any:
    """``call`` itself where an event loop runs in this thread, else its result."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return background_loop().run(call)
    return call


def _http_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
    if scheme not in ("http", "https") or not separator or not rest:
        raise ValueError(f"{url!r} is no server address: write http://HOST:PORT (or https)")
    return f"{scheme}://{rest.rstrip('/').removesuffix('/ws')}"


def _foreign(url: str, status: int, reason: str) -> OpenEnvError:
    """The error for an answer that no openenv_async server gave."""
    text = f"{url} answered HTTP {status} {reason}".rstrip()
    if status in (401, 403):
        return Unauthorized(f"{text}: check the token")
    if status in _GATEWAY_ERRORS:
        return ServerError(f"{text}: the server behind it is not reachable", retryable=True)
    return ConnectFailed(f"{text}, and is no openenv_async server", retryable=False)
