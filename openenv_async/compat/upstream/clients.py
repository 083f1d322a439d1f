"""Upstream's clients: its keywords, hooks and two ways to call, over this runtime's client.

Rules:

- A call without ``await`` and outside of an event loop blocks and gives its result. Inside a loop
  a call gives a coroutine once the client was used with ``await``; the very first call gives an
  object that may be awaited, or read at once, which then blocks.
- A client is used in one of the two ways. Blocking ones share one background loop.
- Calls travel in upstream's dialect, so that the hooks ``_step_payload``, ``_parse_result`` and
  ``_parse_state`` see its payloads whatever the server is.
- An error that the server tells is a ``RuntimeError``, as upstream has it, whose ``__cause__`` is
  of ``openenv_async.errors``; deadlines are ``TimeoutError``, lost connections ``ConnectionError``.
- A closed client opens a new session when it is called again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from typing import Any, Final, Generic, Self, TypeVar

from openenv_async.client import env as native
from openenv_async.client.loop_thread import background_loop, on_background_thread
from openenv_async.compat.upstream.client_types import StepResult
from openenv_async.compat.upstream.containers import (
    ContainerProvider,
    LocalDockerProvider,
)
from openenv_async.errors import InvalidModel, InvalidOption, OpenEnvError
from openenv_async.event_loop import is_in_loop
from openenv_async.types import Limits, Timeouts

__all__ = [
    "EnvClient",
    "GenericAction",
    "GenericEnvClient",
    "SyncEnvClient",
    "convert_to_ws_url",
    "hf_space_subdomain",
    "in_words_of_upstream",
]

ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")
StateT = TypeVar("StateT")
T = TypeVar("T")

Call = Callable[[], Coroutine[Any, Any, T]]

_MODES: Final = ("simulation", "production")
_MB: Final = 2**20
_WEBSOCKET: Final = {"http": "ws", "https": "wss"}
_REGISTRY: Final = "registry.hf.space"
"""The registry of the images of Spaces."""
_PASSED: Final = (TimeoutError, ConnectionError, InvalidModel, InvalidOption)
"""Errors that callers of upstream's clients know, or that are about their own arguments."""


class EnvClient(ABC, Generic[ActT, ObsT, StateT]):
    """One session of a served environment, under upstream's names.

    Subclass it and define the three hooks. ``env.reset()`` may be awaited or not; ``with`` and
    ``async with`` both open and close it.

    Args:
        base_url: address of the server; without it the ``provider`` starts one.
        connect_timeout_s: seconds in which the session has to be open.
        message_timeout_s: seconds that a call may take.
        max_message_size_mb: the largest message taken, in MiB.
        websocket_ping_interval_s, websocket_ping_timeout_s: taken and without effect: a server of
            this runtime does the asking.
        provider: what starts the server, and is stopped when the client is closed.
        mode: ``simulation`` or ``production``; by default that of ``OPENENV_CLIENT_MODE``. It
            changes nothing here.
        headers: more headers of the connection request.

    Raises:
        ValueError: neither address nor provider is given, or there is no such mode.
    """

    _style: str | None = None
    """The way in which it is used, once it was: ``sync`` or ``async``."""

    def __init__(
        self,
        base_url: str | None = None,
        connect_timeout_s: float = 10.0,
        message_timeout_s: float = 60.0,
        max_message_size_mb: float = 100.0,
        websocket_ping_interval_s: float | None = 20.0,
        websocket_ping_timeout_s: float | None = 20.0,
        provider: Any = None,
        mode: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if base_url is None and provider is None:
            raise ValueError("EnvClient requires either base_url or provider")
        self._mode = _checked_mode(mode)
        self._base_url = None if base_url is None else base_url.rstrip("/")
        self._starts_provider = base_url is None
        self._provider = provider
        self._provider_runs = provider is not None and base_url is not None
        self._given: dict[str, Any] = {
            "connect_timeout_s": connect_timeout_s,
            "message_timeout_s": message_timeout_s,
            "max_message_size_mb": max_message_size_mb,
            "websocket_ping_interval_s": websocket_ping_interval_s,
            "websocket_ping_timeout_s": websocket_ping_timeout_s,
            "mode": self._mode,
            "headers": headers,
        }
        self._inner: native.EnvClient[Any, Any, Any] | None = None
        self._sync_client: SyncEnvClient[ActT, ObsT, StateT] | None = None
        self._children: list[EnvClient[Any, Any, Any]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_mode" and "_mode" in self.__dict__:
            raise AttributeError("Cannot modify mode after initialization: make another client")
        object.__setattr__(self, name, value)

    @property
    def base_url(self) -> str | None:
        """The address of the server; ``None`` until a provider has started it."""
        return self._base_url

    # -- construction -------------------------------------------------------------------------

    @classmethod
    def from_docker_image(
        cls, image: str, provider: ContainerProvider | None = None, **kwargs: Any
    ) -> Starting[Self]:
        """Make a client with a container of its own, removed when the client is closed.

        The container starts when what this returns is awaited, called or opened.

        Args:
            image: its name.
            provider: starts it in place of the Docker Engine of this machine.
            kwargs: ``env_vars``, and options of ``DockerProvider`` or of the provider's own
                ``start_container``.
        """
        client = cls(provider=ImageProvider(provider, image, kwargs))
        return Starting(client)

    @classmethod
    def from_env(
        cls,
        repo_id: str,
        *,
        use_docker: bool = True,
        provider: Any = None,
        **provider_kwargs: Any,
    ) -> Starting[Self]:
        """Make a client of a Space's image, run here.

        Args:
            repo_id: the Space, as ``owner/name``.
            use_docker: whether to run its image; without, ``provider`` runs it.
            provider: starts it in place of the Docker Engine of this machine.
            provider_kwargs: as for ``from_docker_image``; ``tag`` names the image's.

        Raises:
            ValueError: there is neither an image nor a provider to run it.
        """
        if use_docker:
            name = hf_space_subdomain(repo_id)
            image = f"{_REGISTRY}/{name}:{provider_kwargs.pop('tag', 'latest')}"
            return cls.from_docker_image(image, provider, **provider_kwargs)
        if provider is None:
            raise ValueError(
                f"from_env({repo_id!r}, use_docker=False) needs a provider: a Space is not cloned"
                " and run here unasked; `openenv-async serve FOLDER` serves a copy of it, and"
                " base_url names a server"
            )
        return Starting(cls(provider=_OfRuntime(provider, provider_kwargs)))

    # -- life ---------------------------------------------------------------------------------

    def connect(self) -> Any:
        """Open the session now; gives the client itself."""
        return self._dispatch(self._connect_async)

    def disconnect(self) -> Any:
        """Close the session; the provider goes on."""
        return self._dispatch(self._disconnect_async)

    def close(self) -> Any:
        """Close the session, those of ``new_session``, and stop the provider; idempotent."""
        return self._dispatch(self._close_async)

    def sync(self) -> SyncEnvClient[ActT, ObsT, StateT]:
        """Return a view of this client whose calls block, its own async methods' too."""
        if self._sync_client is None:
            self._sync_client = SyncEnvClient(self)
        return self._sync_client

    async def new_session(self) -> Self:
        """Return another client of the same server, open; it is closed with this one."""
        async with in_words_of_upstream():
            await self._start_provider()
        taken = inspect.signature(type(self)).parameters
        every = any(p.kind is p.VAR_KEYWORD for p in taken.values())
        given = {"base_url": self._base_url, **self._given}
        child = type(self)(
            **{name: value for name, value in given.items() if every or name in taken}
        )
        child._style = self._style
        await child._connect_async()
        self._children.append(child)
        return child

    async def __aenter__(self) -> Self:
        self._claim("async")
        await self._connect_async()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._close_async()

    def __enter__(self) -> Self:
        self._blocking(self._connect_async)
        return self

    def __exit__(self, *exc: object) -> None:
        self._blocking(self._close_async)

    # -- calls --------------------------------------------------------------------------------

    def reset(self, **kwargs: Any) -> Any:
        """Begin an episode.

        Args:
            kwargs: ``seed``, ``episode_id`` and the environment's own options.
        """
        return self._dispatch(lambda: self._reset_async(**kwargs))

    def step(self, action: ActT, **kwargs: Any) -> Any:
        """Take one action.

        Args:
            action: what ``_step_payload`` makes a dict of.
            kwargs: ``timeout_s``, seconds in place of ``message_timeout_s``; others have no effect.
        """
        return self._dispatch(lambda: self._step_async(action, **kwargs))

    def state(self) -> Any:
        """Ask for the environment's state."""
        return self._dispatch(self._state_async)

    async def _connect_async(self) -> Self:
        async with in_words_of_upstream():
            await (await self._opened()).open()
        return self

    async def _disconnect_async(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            await inner.close()

    async def _close_async(self) -> None:
        children, self._children = self._children, []
        try:
            for child in children:
                with contextlib.suppress(OpenEnvError):
                    await child._close_async()
            await self._disconnect_async()
        finally:
            await self._stop_provider()

    async def _reset_async(self, **kwargs: Any) -> StepResult[ObsT]:
        seed, episode_id = kwargs.pop("seed", None), kwargs.pop("episode_id", None)
        async with in_words_of_upstream():
            inner = await self._opened()
            got = await inner.reset(seed=seed, episode_id=episode_id, reset_options=kwargs or None)
        return self._parse_result(_payload(got))

    async def _step_async(self, action: ActT, **kwargs: Any) -> StepResult[ObsT]:
        payload = self._step_payload(action)
        async with in_words_of_upstream():
            inner = await self._opened()
            got = await inner.step(payload, timeout=kwargs.get("timeout_s"))
        return self._parse_result(_payload(got))

    async def _state_async(self) -> StateT:
        async with in_words_of_upstream():
            state = await (await self._opened()).state()
        return self._parse_state(state)

    @abstractmethod
    def _step_payload(self, action: ActT) -> dict[str, Any]:
        """Return an action as the dict that travels."""

    @abstractmethod
    def _parse_result(self, payload: dict[str, Any]) -> StepResult[ObsT]:
        """Return the result of a payload: ``observation``, ``reward``, ``done``, ``metadata``."""

    @abstractmethod
    def _parse_state(self, payload: dict[str, Any]) -> StateT:
        """Return the state of its dict."""

    # -- the client inside --------------------------------------------------------------------

    async def _opened(self) -> native.EnvClient[Any, Any, Any]:
        """The client of this runtime, made when it is needed."""
        if self._inner is None:
            await self._start_provider()
            assert self._base_url is not None
            self._inner = native.GenericEnvClient(
                await self._address(self._base_url), **self._options(), share=False
            )
        return self._inner

    async def _address(self, base_url: str) -> str:
        """The address of the session to be opened."""
        return base_url

    def _options(self) -> dict[str, Any]:
        """The settings of this runtime's client."""
        given = self._given
        seconds, opening = given["message_timeout_s"], given["connect_timeout_s"]
        return {
            "token": getattr(self._provider, "token", None),
            "timeouts": Timeouts(
                connect=opening, open=opening, reset=seconds, step=seconds, state=seconds
            ),
            "limits": Limits(max_message_size=int(given["max_message_size_mb"] * _MB)),
            "headers": given["headers"],
            "subprotocol": "upstream",
        }

    async def _start_provider(self) -> None:
        if self._base_url is None:
            self._base_url = await asyncio.to_thread(_started, self._provider)
            self._provider_runs = True

    async def _stop_provider(self) -> None:
        if not self._provider_runs:
            return
        self._provider_runs = False
        if self._starts_provider:
            self._base_url = None
        await asyncio.to_thread(_stop, self._provider)

    # -- two ways to call ---------------------------------------------------------------------

    def _claim(self, style: str) -> None:
        """Take the client for one of the two ways.

        Raises:
            RuntimeError: it is used in the other one.
        """
        if self._style not in (None, style):
            raise RuntimeError(
                f"EnvClient is already being used in {self._style} mode: make one client for"
                " blocking calls and another one for calls with await"
            )
        self._style = style

    def _blocking(self, call: Call[T]) -> T:
        """Run a call on the background loop and wait for it."""
        if self._style == "async" and not is_in_loop():
            self._style = None  # the loop that it was used in has ended
        self._claim("sync")
        return background_loop().run(call())

    def _dispatch(self, call: Call[Any]) -> Any:
        if self._style == "sync":
            return call() if on_background_thread() else self._blocking(call)
        if not is_in_loop():
            return self._blocking(call)
        return call() if self._style == "async" else _Undecided(self, call)


class _Undecided(Generic[T]):
    """The result of the first call in an event loop: awaited, or read at once."""

    def __init__(self, client: EnvClient[Any, Any, Any], call: Call[T]) -> None:
        self._client = client
        self._call = call
        self._result: list[T] = []

    def __await__(self) -> Generator[Any, None, T]:
        self._client._claim("async")
        return self._call().__await__()

    def _read(self) -> T:
        if not self._result:
            self._result.append(self._client._blocking(self._call))
        return self._result[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._read(), name)

    def __bool__(self) -> bool:
        return bool(self._read())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._read())  # type: ignore[call-overload, no-any-return]  # if it can be

    def __repr__(self) -> str:
        return repr(self._result[0]) if self._result else "<a call that is to be awaited or read>"


class Starting(Coroutine[Any, Any, T]):
    """A client that is to be started: await it, call ``sync()``, or use it as the client it is."""

    def __init__(self, client: T) -> None:
        self._client: Any = client
        self._running: Coroutine[Any, Any, T] | None = None

    def _coroutine(self) -> Coroutine[Any, Any, T]:
        if self._running is None:
            self._client._claim("async")
            self._running = self._client._connect_async()
        return self._running

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coroutine().__await__()

    def send(self, value: Any) -> Any:
        """Drive the coroutine, as an event loop does."""
        return self._coroutine().send(value)

    def throw(self, *args: Any) -> Any:
        """Raise in the coroutine, as an event loop does."""
        return self._coroutine().throw(*args)

    def close(self) -> Any:
        """Close the client, or the coroutine once it was driven."""
        return self._client.close() if self._running is None else self._running.close()

    def sync(self) -> Any:
        """Start it and return a view of the client whose calls block."""
        self._client._blocking(self._client._connect_async)
        return self._client.sync()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def __enter__(self) -> T:
        return self._client.__enter__()  # type: ignore[no-any-return]  # the client

    def __exit__(self, *exc: object) -> None:
        self._client.__exit__(*exc)

    async def __aenter__(self) -> T:
        return await self._client.__aenter__()  # type: ignore[no-any-return]  # the client

    async def __aexit__(self, *exc: object) -> None:
        await self._client.__aexit__(*exc)


class SyncEnvClient(Generic[ActT, ObsT, StateT]):
    """A view of an ``EnvClient`` whose calls block, its own async methods' too."""

    def __init__(self, async_client: EnvClient[ActT, ObsT, StateT]) -> None:
        self._async = async_client

    @property
    def async_client(self) -> EnvClient[ActT, ObsT, StateT]:
        """The client behind."""
        return self._async

    def connect(self) -> Self:
        """Open the session now."""
        self._async._blocking(self._async._connect_async)
        return self

    def disconnect(self) -> None:
        """Close the session; the provider goes on."""
        self._async._blocking(self._async._disconnect_async)

    def reset(self, **kwargs: Any) -> StepResult[ObsT]:
        """Begin an episode."""
        return self._async._blocking(lambda: self._async._reset_async(**kwargs))

    def step(self, action: ActT, **kwargs: Any) -> StepResult[ObsT]:
        """Take one action."""
        return self._async._blocking(lambda: self._async._step_async(action, **kwargs))

    def state(self) -> StateT:
        """Return the environment's state."""
        return self._async._blocking(self._async._state_async)

    def close(self) -> None:
        """Close the session and stop the provider."""
        self._async._blocking(self._async._close_async)

    def new_session(self) -> SyncEnvClient[ActT, ObsT, StateT]:
        """Return another client of the same server."""
        return self._async._blocking(self._async.new_session).sync()

    def __enter__(self) -> Self:
        return self.connect()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._async, name)
        if not inspect.iscoroutinefunction(found):
            return found

        @functools.wraps(found)
        def blocking(*args: Any, **kwargs: Any) -> Any:
            return self._async._blocking(lambda: found(*args, **kwargs))

        return blocking


class GenericEnvClient(EnvClient[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """A client of any environment, for dicts."""

    def _step_payload(self, action: Any) -> dict[str, Any]:
        if isinstance(action, Mapping):
            return dict(action)
        dump = getattr(action, "model_dump", None)
        return dump() if dump is not None else dict(getattr(action, "__dict__", action))

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[dict[str, Any]]:
        return StepResult(
            payload.get("observation", {}),
            payload.get("reward"),
            payload.get("done", False),
            payload.get("metadata"),
        )

    def _parse_state(self, payload: dict[str, Any]) -> dict[str, Any]:
        return payload


class GenericAction(dict[str, Any]):
    """An action as a dict, made of keywords."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(kwargs)

    def __repr__(self) -> str:
        return f"GenericAction({', '.join(f'{name}={value!r}' for name, value in self.items())})"


# -- addresses --------------------------------------------------------------------------------


def convert_to_ws_url(url: str) -> str:
    """Return an address as one of WebSockets."""
    url = url.rstrip("/")
    scheme, separator, rest = url.partition("://")
    if not separator:
        return f"ws://{url}"
    return f"{_WEBSOCKET.get(scheme, scheme)}://{rest}"


def hf_space_subdomain(repo_id: str) -> str:
    """Return the name under which a Space ``owner/name`` is served."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in repo_id.lower())


# -- inside -----------------------------------------------------------------------------------


def _payload(result: Any) -> dict[str, Any]:
    """A result as upstream's messages have it."""
    observation = result.observation
    payload = {"observation": observation, "reward": result.reward, "done": result.done}
    metadata = observation.get("metadata") if isinstance(observation, dict) else None
    return {**payload, "metadata": metadata} if metadata else payload


@contextlib.asynccontextmanager
async def in_words_of_upstream() -> AsyncIterator[None]:
    """Raise what upstream's clients raise."""
    try:
        yield
    except _PASSED:
        raise
    except OpenEnvError as exc:
        code = exc.upstream_code
        raise RuntimeError(f"Server error: {exc.message} (code: {code})") from exc


def _checked_mode(mode: str | None) -> str:
    name = (mode or os.environ.get("OPENENV_CLIENT_MODE", "simulation")).lower()
    if name not in _MODES:
        raise ValueError(
            f"Invalid mode: '{name}'. Must be 'simulation' or 'production', given to the"
            " constructor or in the environment variable OPENENV_CLIENT_MODE"
        )
    return name


def _started(provider: Any) -> str:
    """Start what a provider starts and return its address; blocks.

    A server that does not become ready is stopped again.
    """
    is_container = hasattr(provider, "start_container")
    if not is_container and not hasattr(provider, "start"):
        raise TypeError(
            f"a provider has start_container() or start(), and {type(provider).__name__} has"
            " neither: give a ContainerProvider or a RuntimeProvider"
        )
    url: str = provider.start_container() if is_container else provider.start()
    try:
        provider.wait_for_ready(*[url] if is_container else [])
    except BaseException:
        _stop(provider)
        raise
    return url.rstrip("/")


def _stop(provider: Any) -> None:
    """Stop what a provider started; blocks."""
    stop = getattr(provider, "stop_container", None) or getattr(provider, "stop", None)
    if stop is not None:
        stop()


class ImageProvider:
    """A provider that starts one image.

    Args:
        provider: starts it in place of the Docker Engine of this machine.
        image: its name.
        options: of the provider's ``start_container``.
        wait_timeout: seconds in which it has to be ready; ``None``: the provider's own default.
    """

    def __init__(
        self,
        provider: ContainerProvider | None,
        image: str,
        options: dict[str, Any],
        wait_timeout: float | None = None,
    ) -> None:
        self._provider = provider
        self._image = image
        self._options = options
        self._waiting = {} if wait_timeout is None else {"timeout_s": wait_timeout}

    @property
    def token(self) -> str | None:
        return getattr(self._provider, "token", None)

    def start_container(self) -> str:
        if self._provider is None:
            self._provider = LocalDockerProvider()
        return self._provider.start_container(self._image, **self._options)

    def wait_for_ready(self, base_url: str) -> None:
        assert self._provider is not None
        self._provider.wait_for_ready(base_url, **self._waiting)

    def stop_container(self) -> None:
        if self._provider is not None:
            self._provider.stop_container()


class _OfRuntime:
    """A provider of servers with the options that it starts one with."""

    def __init__(self, provider: Any, options: dict[str, Any]) -> None:
        self._provider = provider
        self._options = options

    def start(self) -> str:
        url: str = self._provider.start(**self._options)
        return url

    def wait_for_ready(self) -> None:
        self._provider.wait_for_ready()

    def stop(self) -> None:
        self._provider.stop()
